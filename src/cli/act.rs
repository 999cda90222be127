//! What all commands that act share: events are drawn meanwhile, Ctrl-C asks to stop, the result is the last line.

use kprov_providers::Events;
use serde_json::{Map, Value};

use super::Shell;
use super::error::{Failure, Kind, Result};
use super::output;
use crate::engine::{Outcome, Stop, Trouble};

/// What an acting command works with.
#[derive(Clone)]
pub(super) struct Act {
    /// Where it tells what it does.
    pub events: Events,
    /// How it hears that it should stop.
    pub stop: Stop,
    /// Events are the output (`-o json`).
    pub json: bool,
}

/// The good end of an acting command.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Fields of the result line.
    pub fields: Map<String, Value>,
    /// What people read, with its line ends.
    pub text: String,
    /// Exit code: 0, or 10 for a dry run with changes where that was asked for.
    pub code: u8,
}

impl End {
    /// An end that only says something.
    pub(super) fn said(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// The same end with one more field.
    #[must_use]
    pub(super) fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

/// Runs an acting command to its end. All events are drawn before the result is.
///
/// # Errors
/// Whatever the work fails with.
pub(super) fn act<F>(shell: &Shell, work: impl FnOnce(Act) -> F) -> Result<u8>
where
    F: Future<Output = Result<End>>,
{
    let runtime = crate::engine::runtime().map_err(Failure::internal)?;
    let format = shell.format;
    let end = runtime.block_on(async {
        let (events, receiver) = Events::channel();
        let reader = output::follow(format, receiver);
        let stop = Stop::new();
        let told = events.clone();
        stop.on_signals(move |now| {
            told.warn(if now { "stopping now" } else { "finishing what runs; once more to stop now" });
        })
        .map_err(Failure::internal)?;
        let end = work(Act { events, stop: stop.clone(), json: format == output::Format::Json }).await;
        // The signal handler keeps a sender for as long as the runtime lives, so the reader is told, not left to notice.
        reader.end().await;
        end
    })?;
    // Work that was left behind (a blocked read) must not hold the command up.
    runtime.shutdown_background();
    output::result(format, end.fields, &end.text)?;
    Ok(end.code)
}

/// What a run of the engine came to, as the command's failure where it did not come to its end. `again` resumes,
/// `undo` takes back.
pub(super) fn outcome(outcome: &Outcome, again: &str, undo: &str) -> Result {
    if outcome.interrupted {
        return Err(Failure { kind: Kind::Cancelled, error: anyhow::anyhow!("interrupted"), hints: Vec::new() }
            .hint(format!("resume with: {again}"))
            .hint(format!("take back with: {undo}")));
    }
    if outcome.ok() {
        return Ok(());
    }
    let kinds = outcome.failures.iter().map(|failure| match &failure.trouble {
        Trouble::Foreign(_) => Kind::User,
        Trouble::Failed(error) => kind_of(error),
    });
    let kind = kinds.max().unwrap_or(Kind::Internal);
    let lines: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    let skipped = outcome.skipped.len();
    let rest = if skipped == 0 { String::new() } else { format!("\n({skipped} steps that need it were not tried)") };
    let mut hints: Vec<String> = Vec::new();
    for failure in &outcome.failures {
        if let Trouble::Failed(error) = &failure.trouble {
            hints.extend(super::clusters::hints(error));
        }
    }
    hints.dedup();
    Err(Failure { kind, error: anyhow::anyhow!("{}{rest}", lines.join("\n")), hints }
        .hint(format!("resume with: {again}"))
        .hint(format!("take back with: {undo}")))
}

/// Whose an error of a step is: the far side's where a connection or a wait is at its bottom, else the user's (a full
/// disk, a file in the way): what is ours to mend shows as a panic or a [`Kind::Internal`] of its own.
pub(super) fn kind_of(error: &anyhow::Error) -> Kind {
    // kprov on a machine has decided it already.
    if let Some(refused) = error.chain().find_map(|cause| cause.downcast_ref::<crate::up::there::Refused>()) {
        return super::clusters::kind(refused.code);
    }
    let remote = error.chain().any(|cause| {
        cause.downcast_ref::<kube::Error>().is_some()
            || cause.downcast_ref::<kprov_providers::kube::Unanswered>().is_some()
            || cause.downcast_ref::<kprov_providers::ssh::Error>().is_some_and(kprov_providers::ssh::Error::passes)
            || cause.downcast_ref::<crate::ready::NotReady>().is_some()
            || cause.downcast_ref::<tokio::time::error::Elapsed>().is_some()
            || cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
                use std::io::ErrorKind as K;
                matches!(
                    error.kind(),
                    K::ConnectionRefused
                        | K::ConnectionReset
                        | K::ConnectionAborted
                        | K::HostUnreachable
                        | K::NetworkUnreachable
                        | K::TimedOut
                        | K::UnexpectedEof
                )
            })
    });
    if remote { Kind::Remote } else { Kind::User }
}

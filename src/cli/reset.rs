//! `kprov reset`: takes back what init or join made on this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use kprov_providers::Machine;
use kprov_providers::machine::this::ThisMachine;

use super::act::{self, Act, End};
use super::error::{Failure, Kind, Result};
use super::{Shell, output};
use crate::cluster;
use crate::cluster::flags::ResetFlags;
use crate::facts::{self, Answers};
use crate::journal::{self, Journal, JournalError, Record};
use crate::preflight::{self, Look, Severity};
use crate::reset::{Reset, ThisKernel};

/// Take back what init or join made on this machine
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What was there before stays: images and binaries of a runtime that ran already, keys that you brought.
The Node object stays in the cluster; remove it with: kubectl delete node NAME

Examples:
  kprov reset --dry-run
  kprov reset --force"
)]
pub(super) struct Args {
    #[command(flatten)]
    flags: ResetFlags,

    /// With --dry-run: exit with 10 where there are changes to make
    #[arg(long, requires = "dry_run", help_heading = "kprov's own")]
    detailed_exitcode: bool,
}

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    act::act(shell, async |act| reset(args, act).await)
}

async fn reset(args: Args, act: Act) -> Result<End> {
    let flags = args.flags;
    let config = flags.common.config.as_ref().map(read).transpose()?;
    let config = config.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let wanted = cluster::load_reset(&flags, config).map_err(super::init::problems)?;
    for problem in &wanted.warnings.0 {
        act.events.warn(problem.to_string());
    }
    let wanted = wanted.reset;
    let machine: Arc<dyn Machine> = Arc::new(ThisMachine::new().map_err(Failure::internal)?);
    let record = Journal::read(journal::DEFAULT).map_err(Failure::user)?;
    check(&act, machine.as_ref(), &record, &wanted.ignore_preflight_errors.clone().unwrap_or_default()).await?;

    let (dry_run, force) = (wanted.dry_run == Some(true), wanted.force == Some(true));
    let reset = Reset {
        machine,
        kernel: Arc::new(ThisKernel),
        config: wanted,
        kubeconfig: flags.kubeconfig.map(|path| path.display().to_string()),
        events: act.events,
        stop: act.stop,
    };
    let lines = reset.preview(&record).await.map_err(Failure::user)?;
    if dry_run {
        let text = match lines.len() {
            0 => "nothing to reset\n".to_owned(),
            n => format!("- {}\n{n} things would be taken back; nothing was changed (--dry-run)\n", lines.join("\n- ")),
        };
        let code = if args.detailed_exitcode && !lines.is_empty() { 10 } else { 0 };
        return Ok(End { code, ..End::said(text) }.field("changes", lines));
    }
    if lines.is_empty() {
        return Ok(End::said("nothing to reset\n").field("changed", false));
    }
    let question = format!(
        "take back {} things that make this machine a node of a cluster (kprov reset --dry-run lists them)?",
        lines.len()
    );
    if !force && !output::consent(&question, "--force")? {
        return Err(Failure::user(anyhow::anyhow!("not confirmed, nothing was changed")));
    }
    finish(&reset).await
}

async fn finish(reset: &Reset) -> Result<End> {
    let journal = Journal::open(journal::DEFAULT).map_err(|error| match error {
        JournalError::Busy { .. } => Failure::user(error).hint("wait until it is done, then run this again"),
        error => Failure::user(error),
    })?;
    let report = reset.run(&journal).await.map_err(Failure::user)?;
    if report.interrupted {
        let error = anyhow::anyhow!("interrupted");
        return Err(Failure { kind: Kind::Cancelled, error, hints: vec!["go on with: kprov reset --force".into()] });
    }
    if !report.failures.is_empty() {
        return Err(Failure::user(anyhow::anyhow!("{}", report.failures.join("\n")))
            .hint("all else was taken back; once more: kprov reset --force"));
    }
    Ok(End::said("this machine is as it was before\n").field("changed", true))
}

/// Preflight: only root can take anything back.
async fn check(act: &Act, machine: &dyn Machine, record: &Record, ignored: &[String]) -> Result {
    let ours = |path: &str| record.made_path(path);
    let facts = facts::gather(machine, Answers::ask(false), &ours, None).await.map_err(Failure::user)?;
    let look = Look { machine, facts: &facts, ours: &ours, bundle: None, now: SystemTime::now() };
    for finding in preflight::ignore(preflight::reset(&look), ignored) {
        match finding.severity {
            Severity::Warning => act.events.warn(finding.message),
            Severity::Error => {
                let failure = Failure::user(anyhow::anyhow!("[{}] {}", finding.name, finding.message));
                return Err(match finding.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                });
            }
        }
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<(String, String)> {
    let text =
        if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|e| Failure::user(anyhow::Error::new(e).context(format!("reading {}", path.display()))))?;
    Ok((path.display().to_string(), text))
}

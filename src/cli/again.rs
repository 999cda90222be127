//! A command on a machine where it came to its end before: it looks, and changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kprov_providers::machine::Command;
use kprov_providers::{Key, Machine, Outputs, Status, Step};

use super::act::Act;
use super::error::{Failure, Kind, Result};
use super::node::{blocked, line, silent};
use crate::engine::{self, Change};
use crate::journal::Record;
use crate::plan::Plan;

/// How long a boot and the components may take: as long as kubeadm gives them.
const LIMIT: Duration = Duration::from_secs(240);

/// Looks whether all is still as wanted. A step of which `theirs` is true follows the cluster, not this command: when it
/// differs, that is told and no failure. Where nothing differs but that components do not answer, they may be on their way,
/// after a boot perhaps: they are waited for.
///
/// # Errors
/// [`Kind::User`] when something differs: a finished machine is changed by `reset` only.
pub(super) async fn still_as_wanted(
    act: &Act,
    (machine, command): (&dyn Machine, &str),
    plan: &Plan,
    record: &Record,
    theirs: impl Fn(&Change) -> bool,
) -> Result {
    let look = async || engine::preview(plan, record.all_outputs(), &silent(act)).await.map_err(Failure::internal);
    let mut changes = look().await?;
    // Only then: what runs as a part of the boot itself would wait for its own end.
    if changes.iter().any(|change| change.changes() || blocked(change).is_some()) {
        booted(machine).await;
        changes = look().await?;
    }
    let waits = only_waiting(plan, &changes, &theirs);
    if !waits.is_empty() {
        wait(act, &waits).await?;
        changes = look().await?;
    }
    let (followed, changes): (Vec<Change>, Vec<Change>) =
        changes.into_iter().partition(|change| change.changes() && theirs(change));
    for change in &followed {
        let what = line(change);
        act.events.warn(format!("the cluster has changed since; this node keeps what it has:\n{}", what.trim_end()));
    }
    let differs = changes.iter().filter(|change| change.changes()).map(|change| (Kind::User, line(change)));
    let (kinds, unlike): (Vec<Kind>, Vec<String>) = differs.chain(changes.iter().filter_map(blocked)).unzip();
    let Some(kind) = kinds.into_iter().max() else { return Ok(()) };
    Err(Failure {
        kind,
        error: anyhow::anyhow!(
            "kprov {command} was finished on this machine before, and something is not as it would make it now:\n{}",
            unlike.concat()
        ),
        hints: Vec::new(),
    }
    .hint("nothing was changed; to start over: kprov reset"))
}

/// The waits that are not over, where they and what needs them are all that is not as wanted; else none.
fn only_waiting(plan: &Plan, changes: &[Change], theirs: &impl Fn(&Change) -> bool) -> Vec<Arc<dyn Step>> {
    let (mut waits, mut behind): (Vec<Arc<dyn Step>>, BTreeSet<&Key>) = (Vec::new(), BTreeSet::new());
    for (step, change) in plan.steps().iter().zip(changes) {
        let follows = step.needs().iter().any(|need| behind.contains(need));
        if follows {
            behind.insert(step.key());
        }
        if theirs(change) || (!change.changes() && blocked(change).is_none()) {
            continue;
        }
        if step.only_waits() {
            behind.insert(step.key());
            waits.push(step.clone());
        } else if !follows {
            return Vec::new();
        }
    }
    waits
}

/// Until the machine's boot is over: units on their way are no difference. One that does not tell is not waited for.
async fn booted(machine: &dyn Machine) {
    let mut command = Command::new("systemctl", ["is-system-running", "--wait"]);
    command.timeout = Some(LIMIT);
    drop(machine.run(command).await);
}

/// Until all of them are over, or the time is; looks only: to start a component anew is not for a finished machine.
async fn wait(act: &Act, waits: &[Arc<dyn Step>]) -> Result {
    let over = async |step: &Arc<dyn Step>| {
        act.events.note(step.describe());
        let mut pause = Duration::from_millis(50);
        while !matches!(step.check(&Outputs::none()).await, Ok(Status::Ready(_))) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    };
    let all = futures_util::future::join_all(waits.iter().map(over));
    tokio::select! {
        // What is not there by then is told as what differs.
        _ = tokio::time::timeout(LIMIT, all) => Ok(()),
        () = act.stop.until_asked() => {
            Err(Failure { kind: Kind::Cancelled, error: anyhow::anyhow!("interrupted"), hints: Vec::new() })
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use kprov_providers::steps::Label;
    use kprov_providers::{Made, Watch};

    use super::*;

    /// A step that stands as it is made to.
    struct Fixed {
        label: Label,
        waits: bool,
        ready: bool,
    }

    #[async_trait]
    impl Step for Fixed {
        kprov_providers::labelled!();

        fn describe(&self) -> String {
            self.key().as_str().to_owned()
        }

        fn only_waits(&self) -> bool {
            self.waits
        }

        async fn check(&self, _: &Outputs) -> anyhow::Result<Status> {
            Ok(if self.ready { Status::Ready(Outputs::none()) } else { Status::Missing })
        }

        async fn made(&self, _: &Outputs) -> anyhow::Result<Vec<Made>> {
            Ok(Vec::new())
        }

        async fn apply(&self, _: &Outputs, _: &Watch) -> anyhow::Result<Outputs> {
            Ok(Outputs::none())
        }
    }

    /// Which steps are waited for, by their keys, when the file, the wait and the object made after it stand so.
    async fn waited(file: bool, wait: bool, object: bool) -> Vec<String> {
        let mut plan = Plan::new();
        plan.add(Fixed { label: Label::new("file", "x"), waits: false, ready: file });
        plan.add(Fixed { label: Label::new("wait", "x").needs(["file"]), waits: true, ready: wait });
        plan.add(Fixed { label: Label::new("object", "x").needs(["wait"]), waits: false, ready: object });
        let events = kprov_providers::Events::channel().0;
        let changes = engine::preview(&plan, Outputs::none(), &events).await.unwrap();
        let waits = only_waiting(&plan, &changes, &|_: &Change| false);
        waits.iter().map(|step| step.key().as_str().to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_waited_for_where_nothing_else_differs() {
        assert_eq!(waited(true, false, false).await, ["wait"]);
        assert_eq!(waited(true, false, true).await, ["wait"]);
        assert!(waited(false, false, false).await.is_empty(), "a file differs");
        assert!(waited(true, true, false).await.is_empty(), "an object is gone");
        assert!(waited(true, true, true).await.is_empty());
    }
}

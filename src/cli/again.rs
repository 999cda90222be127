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

/// How long an API is asked again that does not tell of its objects: one that is silent for a moment looks as if it had
/// none of them.
const MOMENT: Duration = Duration::from_secs(10);

/// Looks whether all is still as wanted. A step of which `theirs` is true follows the cluster, not this command: when it
/// differs, that is told and no failure. Where nothing differs but that components do not answer, they may be on their way,
/// after a boot perhaps: they are waited for. What only they can tell of is looked at again before it counts.
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
    let mut waits = on_its_way(plan, &changes, &theirs);
    if let Some(waits) = waits.as_ref().filter(|waits| !waits.is_empty()) {
        wait(act, waits).await?;
        changes = look().await?;
    }
    let (since, mut pause) = (tokio::time::Instant::now(), Duration::from_millis(200));
    waits = on_its_way(plan, &changes, &theirs);
    while waits.is_some_and(|waits| waits.is_empty()) && since.elapsed() < MOMENT {
        unless_asked(act, tokio::time::sleep(pause)).await?;
        pause = (pause * 2).min(Duration::from_secs(1));
        changes = look().await?;
        waits = on_its_way(plan, &changes, &theirs);
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

/// The waits that are not over, where nothing else differs but what may only seem so: what needs them, and what a component
/// tells of and is missing. `None` where something differs for certain, or nothing does.
fn on_its_way(plan: &Plan, changes: &[Change], theirs: &impl Fn(&Change) -> bool) -> Option<Vec<Arc<dyn Step>>> {
    // What comes after a wait, and after one that is not over.
    let (mut told, mut behind): (BTreeSet<&Key>, BTreeSet<&Key>) = (BTreeSet::new(), BTreeSet::new());
    let (mut waits, mut differs): (Vec<Arc<dyn Step>>, bool) = (Vec::new(), false);
    for (step, change) in plan.steps().iter().zip(changes) {
        let after = |set: &BTreeSet<&Key>| step.needs().iter().any(|need| set.contains(need));
        let (tells, follows) = (after(&told), after(&behind));
        let as_wanted = theirs(change) || (!change.changes() && blocked(change).is_none());
        if tells || step.only_waits() {
            told.insert(step.key());
        }
        if follows || (step.only_waits() && !as_wanted) {
            behind.insert(step.key());
        }
        if as_wanted {
            continue;
        }
        differs = true;
        if step.only_waits() {
            waits.push(step.clone());
        } else if !(follows || tells && matches!(change.status, Ok(Status::Missing))) {
            return None;
        }
    }
    differs.then_some(waits)
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
    // What is not there by then is told as what differs.
    unless_asked(act, async { drop(tokio::time::timeout(LIMIT, all).await) }).await
}

/// Until it is over, or somebody wants to stop.
async fn unless_asked(act: &Act, over: impl Future<Output = ()>) -> Result {
    tokio::select! {
        () = over => Ok(()),
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

    /// Which steps are waited for, by their keys, when the file, the wait, the object made after it and the one made after
    /// another wait, which is over, stand so.
    async fn waited(file: bool, wait: bool, object: bool, other: bool) -> Option<Vec<String>> {
        let mut plan = Plan::new();
        plan.add(Fixed { label: Label::new("file", "x"), waits: false, ready: file });
        plan.add(Fixed { label: Label::new("wait", "x").needs(["file"]), waits: true, ready: wait });
        plan.add(Fixed { label: Label::new("over", "x").needs(["file"]), waits: true, ready: true });
        plan.add(Fixed { label: Label::new("object", "x").needs(["wait"]), waits: false, ready: object });
        plan.add(Fixed { label: Label::new("other", "x").needs(["over"]), waits: false, ready: other });
        let events = kprov_providers::Events::channel().0;
        let changes = engine::preview(&plan, Outputs::none(), &events).await.unwrap();
        let waits = on_its_way(&plan, &changes, &|_: &Change| false)?;
        Some(waits.iter().map(|step| step.key().as_str().to_owned()).collect())
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_waited_for_where_nothing_else_differs() {
        let wait = Some(vec!["wait".to_owned()]);
        assert_eq!(waited(true, false, false, true).await, wait);
        assert_eq!(waited(true, false, true, true).await, wait);
        assert_eq!(waited(true, false, false, false).await, wait, "an API that answers in part");
        assert_eq!(waited(true, true, false, true).await, Some(Vec::new()), "an object that the API does not tell of");
        for object in [false, true] {
            assert_eq!(waited(false, false, object, true).await, None, "a file differs");
            assert_eq!(waited(false, true, object, true).await, None);
        }
        assert_eq!(waited(true, true, true, true).await, None, "nothing differs");
    }
}

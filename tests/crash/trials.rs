//! The trials: killed at every point there is, run again, compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use kprov::cluster::flags::ResetFlags;
use kprov::cluster::load_reset;
use kprov::engine::{Stop, preview};
use kprov::journal::Journal;
use kprov::reset::{Kernel, Reset};
use kprov_providers::Events;
use kprov_providers::machine::fake::FakeMachine;

use crate::api::Objects;
use crate::normal;
use crate::plans;
use crate::run::{Kill, Run};
use crate::world::{ServedCluster, World};

pub(crate) const NAMES: &[&str] = &[
    "a_dry_run_changes_nothing",
    "init_killed_anywhere",
    "reset_of_a_control_plane_killed_anywhere",
    "join_killed_anywhere",
    "reset_of_a_worker_killed_anywhere",
];

pub(crate) async fn run(name: &str, world: &World) -> String {
    match name {
        "a_dry_run_changes_nothing" => a_dry_run_changes_nothing(world).await,
        "init_killed_anywhere" => init_killed_anywhere(world).await,
        "reset_of_a_control_plane_killed_anywhere" => {
            world.api.start_over().await;
            let dir = crate::api::fast_dir();
            let machine = world.machine();
            let bare = machine.dump();
            let mut made = Run::new(machine, dir.path());
            whole(&mut made, world, Kill::Never).await.unwrap();
            reset_killed_anywhere(&made, &bare).await
        }
        "join_killed_anywhere" => join_killed_anywhere(world).await,
        "reset_of_a_worker_killed_anywhere" => {
            let cluster = ServedCluster::make(world).await;
            let dir = crate::api::fast_dir();
            let machine = cluster.worker(world);
            let bare = machine.dump();
            let mut made = Run::new(machine, dir.path());
            joined(&mut made, world, &cluster, Kill::Never).await.unwrap();
            let told = reset_killed_anywhere(&made, &bare).await;
            cluster.must_know_that_the_worker_is_gone(world).await;
            told
        }
        other => panic!("no such trial, {other}"),
    }
}

/// What a run came to, without what is random.
#[derive(PartialEq, Eq)]
struct End {
    lines: BTreeSet<String>,
}

impl End {
    async fn of(run: &Run, world: &World) -> Self {
        let tree = run.machine.dump_with(|_, bytes| Some(normal::text(&String::from_utf8_lossy(bytes)).into_bytes()));
        let mut lines: BTreeSet<String> = tree.lines().map(str::to_owned).collect();
        lines.extend(normal::objects(&world.api.objects().await));
        lines.extend(run.ours().into_iter().map(|made| format!("ours: {made}")));
        Self { lines: lines.iter().map(|line| normal::line(line)).collect() }
    }

    fn must_be(&self, wanted: &Self, when: &str) {
        let only = |a: &Self, b: &Self| a.lines.difference(&b.lines).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(
            self == wanted,
            "{when}: another end than without a kill\nmissing:\n  {}\ntoo much:\n  {}",
            only(wanted, self),
            only(self, wanted)
        );
    }
}

/// All points at which a run of so many lines, so many of them effects, can be killed.
fn kills(run: &Run) -> Vec<Kill> {
    let text = std::fs::read_to_string(&run.journal).unwrap();
    let effects = text.lines().filter(|line| line.contains(r#""line":"done""#) || line.contains(r#""line":"undone""#));
    let after = (1..=text.lines().count()).map(Kill::After);
    after.chain((1..=effects.count()).map(Kill::Between)).collect()
}

async fn whole(run: &mut Run, world: &World, kill: Kill) -> Option<()> {
    let plan = plans::init(world, &run.machine);
    let outcome = run.plan("init", &plan, kill).await?;
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(outcome.ok(), "init failed ({kill:?}, after {}): {}", run.last.lock().unwrap(), failures.join("\n"));
    Some(())
}

async fn joined(run: &mut Run, world: &World, cluster: &ServedCluster, kill: Kill) -> Option<()> {
    let plan = plans::join(world, cluster, &run.machine).await;
    let outcome = run.plan("join", &plan, kill).await?;
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    assert!(outcome.ok(), "join failed ({kill:?}, after {}): {}", run.last.lock().unwrap(), failures.join("\n"));
    Some(())
}

/// Neither on a bare machine, nor on one with a cluster: no file, no unit, no command, no object, no journal; and a second
/// init finds nothing to do.
async fn a_dry_run_changes_nothing(world: &World) -> String {
    let dir = crate::api::fast_dir();
    world.api.start_over().await;
    let mut run = Run::new(world.machine(), dir.path());
    let mut looked = 0;
    for finished in [false, true] {
        if finished {
            whole(&mut run, world, Kill::Never).await.unwrap();
        }
        let now = async || {
            let objects: Objects =
                world.api.objects().await.into_iter().filter(|(key, _)| !crate::api::transient(key)).collect();
            (run.machine.dump(), run.machine.commands().len(), std::fs::read(&run.journal).ok(), objects)
        };
        let changes = run.machine.changes();
        let before = now().await;
        let known = Journal::read(&run.journal).unwrap().all_outputs();
        let found = preview(&plans::init(world, &run.machine), known, &Events::channel().0).await.unwrap();
        let after = now().await;
        // Looking runs programs that only look (a list of images); none of them is a change of the machine.
        assert!(before.0 == after.0 && before.2 == after.2 && before.3 == after.3, "a dry run changed something");
        assert_eq!((run.machine.changes() - changes) as usize, after.1 - before.1, "a dry run wrote");
        assert!(found.iter().all(|change| change.status.is_ok()));
        let wants: Vec<&str> = found.iter().filter(|change| change.changes()).map(|c| c.key.as_str()).collect();
        assert_eq!(wants.is_empty(), finished, "{wants:?}");
        looked += found.len();
    }
    let journal = std::fs::read(&run.journal).unwrap();
    whole(&mut run, world, Kill::Never).await.unwrap();
    assert_eq!(std::fs::read(&run.journal).unwrap(), journal, "a second init wrote into the journal");
    format!("{looked} looks")
}

async fn init_killed_anywhere(world: &World) -> String {
    let dir = crate::api::fast_dir();
    world.api.start_over().await;
    let machine = world.machine();
    let bare = machine.dump();
    let mut unkilled = Run::new(machine, dir.path());
    whole(&mut unkilled, world, Kill::Never).await.unwrap();
    let wanted = End::of(&unkilled, world).await;
    let kills = kills(&unkilled);
    let mut points = 0;
    for kill in kills {
        world.api.start_over().await;
        let mut run = Run::new(world.machine(), dir.path());
        // Which step is at the nth line differs from run to run, and so may the number of lines, by what was made
        // together: a run that comes to its end before the point is no trial.
        if whole(&mut run, world, kill).await.is_some() {
            continue;
        }
        points += 1;
        let when = format!("init killed at {kill:?} ({})", run.last.lock().unwrap());
        taken_back(&run, &bare, &when).await;
        whole(&mut run, world, Kill::Never).await.unwrap();
        End::of(&run, world).await.must_be(&wanted, &when);
        taken_back(&run, &bare, &format!("{when} and run again")).await;
    }
    assert!(points > 20, "{points}");
    format!("{points} kills")
}

async fn join_killed_anywhere(world: &World) -> String {
    let cluster = ServedCluster::make(world).await;
    let dir = crate::api::fast_dir();
    let machine = cluster.worker(world);
    let bare = machine.dump();
    let mut unkilled = Run::new(machine, dir.path());
    joined(&mut unkilled, world, &cluster, Kill::Never).await.unwrap();
    let wanted = End::of(&unkilled, world).await;
    let mut points = 0;
    for kill in kills(&unkilled) {
        cluster.restore(world).await;
        let mut run = Run::new(cluster.worker(world), dir.path());
        if joined(&mut run, world, &cluster, kill).await.is_some() {
            continue;
        }
        points += 1;
        let when = format!("join killed at {kill:?} ({})", run.last.lock().unwrap());
        joined(&mut run, world, &cluster, Kill::Never).await.unwrap();
        End::of(&run, world).await.must_be(&wanted, &when);
        taken_back(&run, &bare, &format!("{when} and run again")).await;
    }
    assert!(points > 20, "{points}");
    format!("{points} kills")
}

/// From any state a reset leaves what was there before; tried on a copy.
async fn taken_back(run: &Run, bare: &str, when: &str) {
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(&run.journal, copy.path()).unwrap();
    let mut copy = Run { machine: run.machine.fork(), journal: copy.path().to_owned(), last: run.last.clone() };
    reset(&mut copy, Kill::Never).await.unwrap();
    same_tree(&copy.machine, bare, &format!("{when}, then reset"));
    assert!(!copy.journal.exists(), "{when}, then reset: the journal stays");
}

fn same_tree(machine: &FakeMachine, wanted: &str, when: &str) {
    let found = machine.dump();
    let (found, wanted): (BTreeSet<&str>, BTreeSet<&str>) = (found.lines().collect(), wanted.lines().collect());
    let (more, less): (Vec<_>, Vec<_>) = (found.difference(&wanted).collect(), wanted.difference(&found).collect());
    assert!(more.is_empty() && less.is_empty(), "{when}: left behind: {more:#?}, missing: {less:#?}");
}

async fn reset(run: &mut Run, kill: Kill) -> Option<()> {
    let reset = Reset {
        machine: Arc::new(run.machine.clone()),
        kernel: Arc::new(NoRules),
        config: load_reset(&ResetFlags::default(), None).unwrap_or_else(|problems| panic!("{problems}")).reset,
        kubeconfig: None,
        events: Events::channel().0,
        stop: Stop::new(),
    };
    let report = run.run(kill, async |journal| reset.run(&journal).await).await?.unwrap();
    assert!(report.ok(), "reset failed: {}", report.failures.join("\n"));
    Some(())
}

/// A kernel without packet-filter rules.
struct NoRules;

impl Kernel for NoRules {
    fn rules(&self) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn remove_rules(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn unmount(&self, _: &str, _: &[String]) -> anyhow::Result<()> {
        Ok(())
    }
}

async fn reset_killed_anywhere(made: &Run, bare: &str) -> String {
    let journal = std::fs::read(&made.journal).unwrap();
    let mut points = 0;
    for kill in (1..).flat_map(|n| [Kill::After(n), Kill::Between(n)]) {
        let place = crate::api::fast_dir();
        let mut run = Run::new(made.machine.fork(), place.path());
        std::fs::write(&run.journal, &journal).unwrap();
        if reset(&mut run, kill).await.is_some() {
            if matches!(kill, Kill::After(_)) {
                break;
            }
            continue;
        }
        points += 1;
        let when = format!("reset killed at {kill:?} ({})", run.last.lock().unwrap());
        reset(&mut run, Kill::Never).await.unwrap();
        same_tree(&run.machine, bare, &when);
    }
    assert!(points > 20, "{points}");
    format!("{points} kills")
}

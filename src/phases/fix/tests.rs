//! Mended, killed anywhere and run again, taken back.

use kprov_providers::Events;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::machine::{Exit, Swap, swaps};

use super::*;
use crate::engine::{self, Engine, Stop};
use crate::journal::{Journal, Moment, What};

const HEAD: &str = "Filename\tType\tSize\tUsed\tPriority\n";
const OLD: &str = "/etc/cni/net.d/05-old.conflist";

/// Two swap areas, one with a priority of its own, and a CNI configuration. Its swapoff and swapon do to /proc/swaps what
/// the kernel does.
fn machine() -> FakeMachine {
    let machine = FakeMachine::new();
    machine.put("/proc/swaps", format!("{HEAD}/dev/sda2 partition 1 0 -2\n/swap\\040file file 1 0 5\n"));
    machine.put("/dev/sda2", "");
    machine.put("/swap file", "");
    machine.put(OLD, "{}");
    machine.on("swapoff", |machine, command| set(machine, &command.args, None));
    machine.on("swapon", |machine, command| {
        let priority = if command.args.len() == 1 { "-2" } else { command.args[1].as_str() };
        set(machine, &command.args, Some(priority))
    });
    machine
}

fn set(machine: &FakeMachine, args: &[String], priority: Option<&str>) -> anyhow::Result<Exit> {
    let device = args.last().unwrap().replace(' ', "\\040");
    let table = String::from_utf8(machine.read("/proc/swaps")?.unwrap()).unwrap();
    let mut lines: Vec<String> = table.lines().filter(|line| !line.starts_with(&device)).map(str::to_owned).collect();
    if let Some(priority) = priority {
        lines.push(format!("{device} x 1 0 {priority}"));
    }
    machine.put("/proc/swaps", lines.join("\n") + "\n");
    Ok(Exit::default())
}

/// What preflight finds, as the command looks for it at each run.
fn found(machine: &FakeMachine) -> Vec<Fix> {
    let mut fixes: Vec<Fix> =
        swaps(machine).unwrap().into_iter().map(|swap| Fix::SwapOff { swap, keep: None }).collect();
    if machine.meta(OLD).unwrap().is_some() {
        fixes.push(Fix::MoveAway(OLD.to_owned()));
    }
    fixes
}

fn plan(machine: &FakeMachine) -> Plan {
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    fix(&found(machine), &this)
}

async fn run(machine: &FakeMachine, journal: Journal) -> bool {
    let engine = Engine::new(Events::channel().0, Stop::new());
    engine.run("fix", &plan(machine), &Arc::new(journal)).await.unwrap().ok()
}

/// Everything but the order of /proc/swaps.
fn state(machine: &FakeMachine) -> (String, Vec<(String, bool)>) {
    let mut on: Vec<(String, bool)> =
        swaps(machine).unwrap().into_iter().map(|s| (s.device, s.priority == 5)).collect();
    on.sort();
    (machine.dump_with(|path, _| (path == "/proc/swaps").then(Vec::new)), on)
}

async fn taken_back(machine: &FakeMachine, path: &std::path::Path) {
    let journal = Journal::open(path).unwrap();
    journal.begin("reset", "");
    let undone = engine::undo(&journal, machine, &Events::channel().0, &Stop::new()).await.unwrap();
    assert!(undone.failures.is_empty(), "{:?}", undone.failures);
}

#[tokio::test]
async fn killed_anywhere_and_run_again_it_is_mended_and_can_be_taken_back() {
    let before = state(&machine());
    let mended = {
        let (machine, dir) = (machine(), tempfile::tempdir().unwrap());
        assert!(run(&machine, Journal::open(dir.path().join("j")).unwrap()).await);
        assert!(swaps(&machine).unwrap().is_empty() && machine.meta(OLD).unwrap().is_none());
        assert!(machine.meta(&format!("{MOVED}/05-old.conflist")).unwrap().is_some());
        assert!(found(&machine).is_empty(), "a second run finds nothing");
        state(&machine)
    };
    let mut kills = 0;
    // After each change of the machine, and after each line of the journal.
    for (changes, lines) in (0..12).map(|n| (Some(n), None)).chain((1..10).map(|n| (None, Some(n)))) {
        let (machine, dir) = (machine(), tempfile::tempdir().unwrap());
        let path = dir.path().join("j");
        if let Some(changes) = changes {
            machine.crash_after(changes);
        }
        let (dying, left) = (machine.clone(), std::sync::atomic::AtomicU32::new(lines.unwrap_or(u32::MAX)));
        let journal = Journal::tapped(
            &path,
            Some(Box::new(move |moment, line: &crate::journal::Line| {
                let over = moment == Moment::After
                    && !matches!(line.what, What::End { .. })
                    && left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1;
                if over {
                    dying.kill();
                    return Err(std::io::Error::other("killed"));
                }
                Ok(())
            })),
        );
        kills += u32::from(!run(&machine, journal.unwrap()).await);
        machine.revive();
        assert!(run(&machine, Journal::open(&path).unwrap()).await, "{changes:?} {lines:?}");
        assert_eq!(state(&machine), mended, "{changes:?} {lines:?}");
        taken_back(&machine, &path).await;
        assert_eq!(state(&machine), before, "{changes:?} {lines:?}: taken back");
        taken_back(&machine, &path).await;
        assert_eq!(state(&machine), before, "{changes:?} {lines:?}: once more");
    }
    assert!(kills >= 8, "{kills}");
}

#[tokio::test]
async fn what_came_into_its_place_since_is_not_overwritten() {
    let (machine, dir) = (machine(), tempfile::tempdir().unwrap());
    let path = dir.path().join("j");
    run(&machine, Journal::open(&path).unwrap()).await;
    machine.put(OLD, "another");
    let journal = Journal::open(&path).unwrap();
    journal.begin("reset", "");
    let undone = engine::undo(&journal, &machine, &Events::channel().0, &Stop::new()).await.unwrap();
    let said: Vec<String> = undone.failures.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("remove one of them"), "{said:?}");
    assert_eq!(machine.read(OLD).unwrap().unwrap(), b"another");
}

#[test]
fn swap_of_a_machine_is_read_with_its_blanks() {
    let wanted = [("/dev/sda2", -2), ("/swap file", 5)].map(|(d, priority)| Swap { device: d.to_owned(), priority });
    assert_eq!(swaps(&machine()).unwrap(), wanted);
}

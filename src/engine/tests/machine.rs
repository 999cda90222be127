//! On a machine in memory: what is undone, killed or only looked at; rules 5 and 7.

use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::steps::WriteFile;

use super::*;

fn on(machine: &FakeMachine) -> Plan {
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    let mut plan = Plan::new();
    for (key, path) in [("a", "/etc/k/a"), ("b", "/etc/k/b"), ("hosts", "/etc/hosts")] {
        plan.add(WriteFile::new(Label::new(key, "test"), this.clone(), path, "content"));
    }
    plan
}

#[tokio::test]
async fn rule_5_undo_takes_back_what_we_made_and_nothing_else() {
    let bench = Bench::new();
    let machine = FakeMachine::new();
    machine.put("/etc/hosts", "content");
    let before = machine.dump();
    let journal = Arc::new(Journal::open(bench.path()).unwrap());
    let events = Events::channel().0;
    assert!(bench.engine().run("init", &on(&machine), &journal).await.unwrap().ok());
    assert_ne!(machine.dump(), before);
    journal.begin("reset", "");
    let undone = undo(&journal, &machine, &events, &bench.stop).await.unwrap();
    assert_eq!((undone.undone.len(), undone.failures.len()), (2, 0));
    assert_eq!(machine.dump(), before);
    assert!(journal.record().entries().is_empty());
    journal.remove().unwrap();
    assert!(!bench.path().exists());
}

#[tokio::test]
async fn rule_5_undo_goes_on_past_failures_and_tries_again_later() {
    let bench = Bench::new();
    let machine = FakeMachine::new();
    let before = machine.dump();
    let journal = Arc::new(Journal::open(bench.path()).unwrap());
    let events = Events::channel().0;
    bench.engine().run("init", &on(&machine), &journal).await.unwrap();
    machine.fail_nth(1);
    let undone = undo(&journal, &machine, &events, &bench.stop).await.unwrap();
    assert_eq!((undone.undone.len(), undone.failures.len()), (2, 1));
    assert_eq!(journal.record().entries().len(), 1);
    let undone = undo(&journal, &machine, &events, &bench.stop).await.unwrap();
    assert_eq!((undone.undone.len(), undone.failures.len()), (1, 0));
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn rule_5_a_kill_at_any_change_of_a_run_or_an_undo_is_made_good() {
    let events = Events::channel().0;
    let whole = FakeMachine::new();
    let empty = whole.dump();
    let bench = Bench::new();
    let journal = Arc::new(Journal::open(bench.path()).unwrap());
    bench.engine().run("init", &on(&whole), &journal).await.unwrap();
    let run_changes = whole.changes();
    let wanted = whole.dump();
    undo(&journal, &whole, &events, &bench.stop).await.unwrap();
    let undo_changes = whole.changes() - run_changes;
    assert!(run_changes > 3 && undo_changes > 3);
    for n in 0..run_changes {
        let (bench, machine) = (Bench::new(), FakeMachine::new());
        machine.crash_after(n);
        {
            let journal = Arc::new(Journal::open(bench.path()).unwrap());
            assert!(!bench.engine().run("init", &on(&machine), &journal).await.unwrap().ok());
        }
        machine.revive();
        let journal = Arc::new(Journal::open(bench.path()).unwrap());
        assert!(bench.engine().run("init", &on(&machine), &journal).await.unwrap().ok());
        assert_eq!(machine.dump(), wanted, "killed after {n} changes");
        for m in (0..undo_changes).rev().take(2) {
            machine.crash_after(m);
            undo(&journal, &machine, &events, &bench.stop).await.unwrap();
            machine.revive();
        }
        undo(&journal, &machine, &events, &bench.stop).await.unwrap();
        assert_eq!(machine.dump(), empty, "killed after {n} changes, then undone");
    }
}

#[tokio::test]
async fn rule_7_a_preview_only_looks() {
    let bench = Bench::new();
    let machine = FakeMachine::new();
    machine.put("/etc/hosts", "other");
    let (before, changes) = (machine.dump(), machine.changes());
    let (events, mut heard) = Events::channel();
    let found = preview(&on(&machine), Outputs::none(), &events).await.unwrap();
    let by_key: BTreeMap<&str, &Status> =
        found.iter().map(|change| (change.key.as_str(), change.status.as_ref().unwrap())).collect();
    assert_eq!(by_key["a"], &Status::Missing);
    assert_eq!(by_key["hosts"], &Status::Differs("-other\n+content".to_owned()));
    assert_eq!((machine.dump(), machine.changes()), (before, changes));
    assert!(!bench.path().exists());
    let mut states = Vec::new();
    while let Ok(event) = heard.try_recv() {
        states.push(event.state.unwrap());
    }
    assert_eq!(states.len(), 3);
    assert!(states.contains(&State::Missing) && states.contains(&State::Differs));
}

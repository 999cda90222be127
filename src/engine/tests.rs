//! The rules of the engine, one test each.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::steps::{Label, WriteFile};
use kprov_providers::{Machine, Made, Status, Watch};

use super::*;
use crate::journal::{Line, Moment, What};

/// What a test's step does, written down in order.
type Log = Arc<Mutex<Vec<String>>>;

/// What a trial step does.
type Apply = Box<dyn Fn(&Outputs) -> anyhow::Result<Outputs> + Send + Sync>;

struct Trial {
    label: Label,
    status: Status,
    apply: Apply,
    takes: Duration,
    log: Log,
}

impl Trial {
    fn new(key: &str, needs: &[&str], log: &Log) -> Self {
        let label = Label::new(key, "test").needs(needs.iter().copied());
        Self {
            label,
            status: Status::Missing,
            apply: Box::new(|_| Ok(Outputs::none())),
            takes: Duration::ZERO,
            log: log.clone(),
        }
    }

    fn status(self, status: Status) -> Self {
        Self { status, ..self }
    }

    fn takes(self, millis: u64) -> Self {
        Self { takes: Duration::from_millis(millis), ..self }
    }

    fn gives(self, name: &'static str, value: &'static str) -> Self {
        Self { apply: Box::new(move |_| Ok(Outputs::none().with(name, value))), ..self }
    }

    fn fails(self) -> Self {
        Self { apply: Box::new(|_| anyhow::bail!("made up")), ..self }
    }

    fn says(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{what} {}", self.label.key));
    }
}

#[async_trait]
impl Step for Trial {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("try {}", self.label.key)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        self.says("check");
        Ok(self.status.clone())
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::File { path: format!("/tmp/{}", self.label.key) }])
    }

    async fn apply(&self, known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        self.says("apply");
        tokio::time::sleep(self.takes).await;
        self.says("applied");
        (self.apply)(known)
    }
}

/// A place for a journal, and an engine that nobody listens to.
struct Bench {
    dir: tempfile::TempDir,
    log: Log,
    stop: Stop,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), log: Log::default(), stop: Stop::new() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("journal.jsonl")
    }

    fn step(&self, key: &str, needs: &[&str]) -> Trial {
        Trial::new(key, needs, &self.log)
    }

    fn engine(&self) -> Engine {
        Engine::new(Events::channel().0, self.stop.clone())
    }

    async fn run(&self, steps: impl IntoIterator<Item = Trial>) -> Outcome {
        let mut plan = Plan::new();
        steps.into_iter().for_each(|step| plan.add(step));
        let journal = Arc::new(Journal::open(self.path()).unwrap());
        self.engine().run("init", &plan, &journal).await.unwrap()
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// The journal's lines as `start one`, without begin and end.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().what);
        lines
            .filter_map(|what| match what {
                What::Start { key, .. } => Some(format!("start {key}")),
                What::Done { key, .. } => Some(format!("done {key}")),
                What::Undone { key } => Some(format!("undone {key}")),
                _ => None,
            })
            .collect()
    }
}

fn keys(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(Key::as_str).collect()
}

#[tokio::test]
async fn rule_1_ready_is_passed_over_and_its_outputs_kept() {
    let bench = Bench::new();
    let ready = bench.step("one", &[]).status(Status::Ready(Outputs::none().with("x", "1")));
    let mut two = bench.step("two", &["one"]);
    two.apply = Box::new(|known| Ok(Outputs::none().with("y", known.get("x").unwrap_or("nothing"))));
    let outcome = bench.run([ready, two]).await;
    assert!(outcome.ok());
    assert_eq!(outcome.outputs.get("y"), Some("1"));
    assert_eq!(bench.log(), ["check one", "check two", "apply two", "applied two"]);
    assert_eq!(bench.lines(), ["start two", "done two"], "what was ready before is not ours");
}

#[tokio::test]
async fn rule_1_foreign_stops_its_branch_alone() {
    let bench = Bench::new();
    let foreign = bench.step("one", &[]).status(Status::Foreign("a file of somebody else's, /etc/x".to_owned()));
    let outcome = bench.run([foreign, bench.step("two", &["one"]), bench.step("three", &[])]).await;
    assert_eq!(outcome.failures[0].to_string(), "try one: a file of somebody else's, /etc/x");
    assert!(matches!(outcome.failures[0].trouble, Trouble::Foreign(_)));
    assert_eq!((keys(&outcome.skipped), keys(&outcome.made)), (vec!["two"], vec!["three"]));
    assert!(!bench.log().contains(&"apply one".to_owned()));
}

#[tokio::test]
async fn rule_2_start_is_on_the_disk_before_apply_and_done_after() {
    let bench = Bench::new();
    let path = bench.path();
    let mut step = bench.step("one", &[]).gives("x", "1");
    let seen = Arc::new(Mutex::new(String::new()));
    let look = seen.clone();
    step.apply = Box::new(move |_| {
        *look.lock().unwrap() = std::fs::read_to_string(&path)?;
        Ok(Outputs::none())
    });
    assert!(bench.run([step]).await.ok());
    let seen = seen.lock().unwrap().clone();
    assert!(seen.contains(r#""line":"start","key":"one","made":[{"kind":"file","path":"/tmp/one"}]"#), "{seen}");
    assert!(!seen.contains("done"));
    assert_eq!(bench.lines(), ["start one", "done one"]);
}

#[tokio::test]
async fn rule_2_a_start_without_done_is_looked_at_again() {
    let bench = Bench::new();
    bench.run([bench.step("one", &[]).fails()]).await;
    assert_eq!(bench.lines(), ["start one"]);
    bench.log();
    // Its effect was there after all: it gets its done line and counts as ours.
    let outcome = bench.run([bench.step("one", &[]).status(Status::Ready(Outputs::none()))]).await;
    assert!(outcome.ok());
    assert_eq!(bench.log(), ["check one"]);
    assert_eq!(bench.lines(), ["start one", "done one"]);
    // It is gone: applied again.
    let outcome = bench.run([bench.step("one", &[])]).await;
    assert!(outcome.ok());
    assert_eq!(bench.lines(), ["start one", "done one", "start one", "done one"]);
}

#[tokio::test]
async fn rule_2_without_a_journal_nothing_is_done() {
    let bench = Bench::new();
    let journal = Journal::tapped(
        bench.path(),
        Some(Box::new(|moment, line| match (moment, &line.what) {
            (Moment::Before, What::Start { .. }) => Err(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            _ => Ok(()),
        })),
    );
    let mut plan = Plan::new();
    plan.add(bench.step("one", &[]));
    plan.add(bench.step("two", &[]));
    let outcome = bench.engine().run("init", &plan, &Arc::new(journal.unwrap())).await.unwrap();
    assert!(!outcome.ok() && !outcome.failures.is_empty());
    assert!(!bench.log().iter().any(|line| line.starts_with("apply")));
}

#[tokio::test]
async fn rule_3_a_failure_stops_what_needs_it_and_all_errors_come_together() {
    let bench = Bench::new();
    let outcome = bench
        .run([
            bench.step("one", &[]).fails(),
            bench.step("two", &[]).takes(30).fails(),
            bench.step("three", &["one"]),
            bench.step("four", &["three"]),
            bench.step("five", &[]).takes(60),
            bench.step("six", &["five"]),
        ])
        .await;
    let failed: Vec<&str> = outcome.failures.iter().map(|failure| failure.key.as_str()).collect();
    assert_eq!(failed, ["one", "two"]);
    assert_eq!(keys(&outcome.skipped), ["three", "four"]);
    assert_eq!(keys(&outcome.made), ["five", "six"]);
    assert!(!outcome.interrupted);
    assert!(!Journal::read(bench.path()).unwrap().finished("init"));
}

#[tokio::test]
async fn rule_4_asked_once_running_steps_finish() {
    let bench = Bench::new();
    let stop = bench.stop.clone();
    let mut first = bench.step("one", &[]).takes(50);
    first.apply = Box::new(|_| Ok(Outputs::none()));
    let asking = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert!(!stop.ask());
    };
    let (outcome, ()) = tokio::join!(bench.run([first, bench.step("two", &["one"])]), asking);
    assert!(outcome.interrupted && !outcome.ok());
    assert_eq!((keys(&outcome.made), keys(&outcome.skipped)), (vec!["one"], vec!["two"]));
    assert_eq!(bench.lines(), ["start one", "done one"]);
}

#[tokio::test]
async fn rule_4_asked_once_nobody_waits_any_longer() {
    use futures_util::FutureExt;
    use kprov_providers::steps::{Answer, WaitFor};
    let bench = Bench::new();
    let mut plan = Plan::new();
    let never = |_| async { Ok(Answer::NotYet(String::new())) }.boxed();
    plan.add(WaitFor::new(Label::new("wait", "test"), "it is so", Duration::from_secs(600), never));
    plan.add(bench.step("after", &["wait"]));
    plan.add(bench.step("other", &[]).takes(50));
    let journal = Arc::new(Journal::open(bench.path()).unwrap());
    let (engine, stop, since) = (bench.engine(), bench.stop.clone(), std::time::Instant::now());
    let asking = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        stop.ask();
    };
    let (outcome, ()) = tokio::join!(engine.run("init", &plan, &journal), asking);
    let outcome = outcome.unwrap();
    assert!(since.elapsed() < Duration::from_secs(60));
    assert!(outcome.interrupted && outcome.failures.is_empty());
    assert_eq!((keys(&outcome.made), keys(&outcome.skipped)), (vec!["other"], vec!["wait", "after"]));
}

#[tokio::test]
async fn rule_4_asked_twice_everything_is_dropped_and_the_journal_is_right() {
    let bench = Bench::new();
    let stop = bench.stop.clone();
    let since = std::time::Instant::now();
    let asking = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        stop.ask();
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert!(stop.ask());
    };
    let (outcome, ()) = tokio::join!(bench.run([bench.step("one", &[]).takes(60_000)]), asking);
    assert!(since.elapsed() < Duration::from_secs(30));
    assert!(outcome.interrupted);
    assert_eq!(keys(&outcome.skipped), ["one"]);
    assert_eq!(bench.lines(), ["start one"], "the next run looks at it again");
}

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
async fn rule_6_one_writer() {
    let bench = Bench::new();
    let journal = Journal::open(bench.path()).unwrap();
    assert!(matches!(Journal::open(bench.path()), Err(crate::journal::JournalError::Busy { .. })));
    drop(journal);
    assert!(Journal::open(bench.path()).is_ok());
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

#[tokio::test]
async fn independent_steps_run_side_by_side_and_limits_hold() {
    let bench = Bench::new();
    let mut plan = Plan::new();
    for key in ["one", "two", "three"] {
        plan.add(bench.step(key, &[]).takes(20));
    }
    let journal = Arc::new(Journal::open(bench.path()).unwrap());
    bench.engine().run("init", &plan, &journal).await.unwrap();
    let log = bench.log();
    assert!(log[..6].iter().all(|line| !line.starts_with("applied")), "{log:?}");
    bench.engine().limit("test", 1).run("init", &plan, &journal).await.unwrap();
    let log = bench.log();
    assert!(log.chunks(3).all(|three| three[2].starts_with("applied")), "{log:?}");
}

#[tokio::test]
async fn outputs_of_earlier_runs_are_known() {
    let bench = Bench::new();
    bench.run([bench.step("one", &[]).gives("x", "1")]).await;
    let mut two = bench.step("two", &["one"]);
    two.apply = Box::new(|known| Ok(Outputs::none().with("y", known.get("x").unwrap_or("nothing"))));
    let outcome = bench.run([bench.step("one", &[]).status(Status::Ready(Outputs::none())), two]).await;
    assert_eq!(outcome.outputs.get("y"), Some("1"));
}

#[tokio::test]
async fn each_step_is_told_of() {
    let bench = Bench::new();
    let (events, mut heard) = Events::channel();
    let mut plan = Plan::new();
    plan.add(bench.step("one", &[]));
    plan.add(bench.step("two", &[]).fails());
    plan.add(bench.step("three", &["two"]));
    plan.add(bench.step("four", &[]).status(Status::Ready(Outputs::none())));
    let journal = Arc::new(Journal::open(bench.path()).unwrap());
    Engine::new(events, Stop::new()).run("init", &plan, &journal).await.unwrap();
    let mut told = BTreeMap::<String, Vec<State>>::new();
    while let Ok(event) = heard.try_recv() {
        told.entry(event.key.unwrap()).or_default().push(event.state.unwrap());
    }
    assert_eq!(told["one"], [State::Start, State::Done]);
    assert_eq!(told["two"], [State::Start, State::Failed]);
    assert_eq!(told["three"], [State::Skipped]);
    assert_eq!(told["four"], [State::Ready]);
}

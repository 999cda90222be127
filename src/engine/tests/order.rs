//! What runs, when, and what comes of it: rules 1 and 3, and what a run tells.

use super::*;

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

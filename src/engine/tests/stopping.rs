//! Asked to stop: rule 4.

use super::*;

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

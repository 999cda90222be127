//! What is on the disk at each moment, and who may write it: rules 2 and 6.

use super::*;
use crate::journal::Moment;

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
async fn rule_6_one_writer() {
    let bench = Bench::new();
    let journal = Journal::open(bench.path()).unwrap();
    assert!(matches!(Journal::open(bench.path()), Err(crate::journal::JournalError::Busy { .. })));
    drop(journal);
    assert!(Journal::open(bench.path()).is_ok());
}

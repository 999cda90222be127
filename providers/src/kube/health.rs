//! A step that waits until a component of this machine says that it is healthy.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::crashes::{KUBELET, lets_wait};
use super::diagnose::{Component, diagnose};
use super::{Backoff, Unanswered};
use crate::machine::UnitVerb;
use crate::steps::Label;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// What counts as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Status 200.
    Healthy,
    /// Any HTTP status: the port is open and the server runs, start-up hooks may still go on.
    Listens,
}

/// Waits for a health URL of this machine.
pub struct Health {
    /// Name, phase, needs.
    pub label: Label,
    /// The machine on which the component runs.
    pub machine: Arc<dyn Machine>,
    /// Who is waited for; its logs are shown when the wait fails.
    pub component: Component,
    /// The URL asked.
    pub url: String,
    /// What counts.
    pub answer: Answer,
    /// How long at most.
    pub timeout: Duration,
}

impl Health {
    async fn ask(&self) -> anyhow::Result<Result<(), String>> {
        Ok(match self.machine.probe(&self.url).await? {
            None => Err("nothing answers".to_owned()),
            Some((200, _)) => Ok(()),
            Some(_) if self.answer == Answer::Listens => Ok(()),
            Some((code, body)) => Err(format!("answers {code}{}", failed_checks(&body))),
        })
    }

    /// What ended again and again before this run may have been mended, and the kubelet would try it only after minutes:
    /// one that is started anew does not remember and tries at once.
    async fn at_once(&self, watch: &Watch) -> anyhow::Result<()> {
        let silent = self.machine.probe(&self.url).await?.is_none();
        if silent && !self.component.unit && lets_wait(self.machine.as_ref(), &self.component.name).await? {
            watch.say(format!("the kubelet is started again, to try {} at once", self.component.name));
            self.machine.unit_do(KUBELET, UnitVerb::Restart).await?;
        }
        Ok(())
    }
}

/// The checks that `/livez` names as failed: ` (poststarthook/rbac/bootstrap-roles)`.
fn failed_checks(body: &str) -> String {
    let failed: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("[-]"))
        .map(|line| line.split_whitespace().next().unwrap_or(line))
        .collect();
    if failed.is_empty() { String::new() } else { format!(" ({})", failed.join(", ")) }
}

#[async_trait]
impl Step for Health {
    crate::labelled!();

    fn describe(&self) -> String {
        let until = match self.answer {
            Answer::Healthy => "is healthy",
            Answer::Listens => "listens",
        };
        format!("wait until {} {until} ({})", self.component.name, self.url)
    }

    fn only_waits(&self) -> bool {
        true
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(if self.ask().await?.is_ok() { Status::Ready(Outputs::none()) } else { Status::Missing })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        // The question stays on this machine and on one connection; what waits for the answer is the whole cluster.
        let mut backoff = Backoff::up_to(Duration::from_millis(50));
        self.at_once(watch).await?;
        loop {
            let Err(why) = self.ask().await? else { return Ok(Outputs::none()) };
            if tokio::time::Instant::now() >= deadline {
                let seconds = self.timeout.as_secs();
                let report = diagnose(&*self.machine, &self.component).await;
                let (name, url) = (&self.component.name, &self.url);
                let text = format!("{name} was not healthy after {seconds} s: {why} at {url}\n{report}");
                return Err(Unanswered(text).into());
            }
            backoff.pause_in(watch).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::machine::fake::FakeMachine;

    #[tokio::test]
    async fn what_crashed_before_is_tried_at_once() {
        // Logs by number and second, and when the kubelet was started, in seconds after the same midnight; restarts of it.
        for (logs, since, restarts) in [
            (vec![(0, 30)], Some(20), 0),
            (vec![(2, 30), (3, 40)], Some(20), 1),
            // A boot: the kubelet has started this container for the first time.
            (vec![(2, 10), (3, 40)], Some(20), 0),
            (vec![(2, 10), (3, 40)], None, 1),
            (vec![(3, 40)], Some(20), 1),
        ] {
            let fake = FakeMachine::new();
            fake.put("/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n");
            for (log, second) in &logs {
                let line = format!("2026-01-01T00:00:{second}Z stderr F bye\n");
                fake.put(&format!("/var/log/pods/kube-system_etcd-x_1/etcd/{log}.log"), &line);
            }
            if let Some(since) = since {
                fake.unit_do("kubelet.service", UnitVerb::Start).await.unwrap();
                fake.put("/proc/stat", "cpu  1 2 3\nbtime 1767225600\n");
                fake.put("/proc/4242/stat", format!("4242 (a (b) {}{since}00 0\n", "x ".repeat(19)));
            }
            let (counted, asked) = (Arc::new(AtomicU32::new(0)), AtomicU32::new(0));
            let seen = counted.clone();
            fake.on_unit(move |_, _, verb| {
                assert_eq!(verb, UnitVerb::Restart);
                seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            fake.on_probe(move |_, _| {
                let up = asked.fetch_add(1, Ordering::Relaxed) > 0;
                async move { up.then(|| (200, "ok".to_owned())) }.boxed()
            });
            let step = Health {
                label: Label::new("wait/etcd", "wait"),
                machine: Arc::new(fake),
                component: Component::pod("etcd"),
                url: "http://127.0.0.1:2381/livez".to_owned(),
                answer: Answer::Healthy,
                timeout: Duration::from_secs(5),
            };
            step.apply(&Outputs::none(), &Watch::quiet()).await.unwrap();
            assert_eq!(counted.load(Ordering::Relaxed), restarts, "{logs:?} {since:?}");
        }
    }

    #[test]
    fn failed_checks_are_named() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed: reason withheld\nlivez check failed";
        assert_eq!(failed_checks(body), " (etcd, poststarthook/x)");
        assert_eq!(failed_checks("ok"), "");
    }
}

//! A step that waits until a component of this machine says that it is healthy.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use async_trait::async_trait;

use super::diagnose::{Component, diagnose};
use super::{Backoff, Unanswered};
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
        let mut backoff = Backoff::up_to(Duration::from_millis(200));
        loop {
            let Err(why) = self.ask().await? else { return Ok(Outputs::none()) };
            if tokio::time::Instant::now() >= deadline {
                let seconds = self.timeout.as_secs();
                let report = diagnose(&*self.machine, &self.component).await;
                let (name, url) = (&self.component.name, &self.url);
                let text = format!("{name} was not healthy after {seconds} s: {why} at {url}\n{report}");
                return Err(Unanswered(text).into());
            }
            tokio::select! {
                () = backoff.pause() => {}
                () = watch.until_cancelled() => bail!("cancelled"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_checks_are_named() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed: reason withheld\nlivez check failed";
        assert_eq!(failed_checks(body), " (etcd, poststarthook/x)");
        assert_eq!(failed_checks("ok"), "");
    }
}

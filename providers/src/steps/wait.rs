//! Waiting until something is so.

use std::time::Duration;

use anyhow::bail;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Label;
use crate::{Made, Outputs, Status, Step, Watch};

/// What one look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is so.
    Yes(Outputs),
    /// Not yet; the text says what it looks like now.
    NotYet(String),
}

/// Looks, never touches. An error means that waiting is of no use.
type Look = Box<dyn Fn(Outputs) -> BoxFuture<'static, anyhow::Result<Answer>> + Send + Sync>;

/// Says more about a wait that failed: last log lines, likely cause.
type Explain = Box<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// Looks again and again, first after 50 ms, at the latest every half second, until it is so.
pub struct WaitFor {
    label: Label,
    what: String,
    limit: Duration,
    look: Look,
    explain: Option<Explain>,
}

impl WaitFor {
    /// Waits for `what` (`the API server answers`), at most `limit`.
    pub fn new(
        label: Label,
        what: impl Into<String>,
        limit: Duration,
        look: impl Fn(Outputs) -> BoxFuture<'static, anyhow::Result<Answer>> + Send + Sync + 'static,
    ) -> Self {
        Self { label, what: what.into(), limit, look: Box::new(look), explain: None }
    }

    /// Adds to the error of a wait that failed.
    #[must_use]
    pub fn explain(mut self, explain: impl Fn() -> BoxFuture<'static, String> + Send + Sync + 'static) -> Self {
        self.explain = Some(Box::new(explain));
        self
    }
}

#[async_trait]
impl Step for WaitFor {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("wait until {}", self.what)
    }

    fn only_waits(&self) -> bool {
        true
    }

    async fn check(&self, known: &Outputs) -> anyhow::Result<Status> {
        Ok(match (self.look)(known.clone()).await {
            Ok(Answer::Yes(outputs)) => Status::Ready(outputs),
            // Apply says what is wrong; a dry run has nothing to wait for.
            Ok(Answer::NotYet(_)) | Err(_) => Status::Missing,
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let end = Instant::now() + self.limit;
        let mut pause = Duration::from_millis(50);
        let mut last = String::new();
        loop {
            // A look that hangs counts as none; the limit holds for it too.
            match tokio::time::timeout_at(end, (self.look)(known.clone())).await {
                Ok(Ok(Answer::Yes(outputs))) => return Ok(outputs),
                Ok(Ok(Answer::NotYet(now))) => {
                    if now != last && !now.is_empty() {
                        watch.say(now.clone());
                        last = now;
                    }
                }
                Ok(Err(e)) => return Err(e),
                Err(_) => {}
            }
            if Instant::now() + pause >= end {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = watch.until_cancelled() => bail!("stopped while waiting until {}", self.what),
            }
            pause = (pause * 3 / 2).min(Duration::from_millis(500));
        }
        let mut text = format!("not so after {} s", self.limit.as_secs());
        if !last.is_empty() {
            text = format!("{text}: {last}");
        }
        if let Some(explain) = &self.explain {
            text = format!("{text}\n{}", explain().await);
        }
        bail!("{text}")
    }
}

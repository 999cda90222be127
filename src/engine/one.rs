//! One step: check, start line, apply, done line.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kprov_providers::event::{Event, State, Type};
use kprov_providers::{Events, Outputs, Status, Step, Watch};
use tokio::sync::Semaphore;

use super::{Stop, step_hash};
use crate::journal::{Journal, JournalError, What};

/// All that one step needs to run in a task of its own.
pub(super) struct One {
    pub(super) step: Arc<dyn Step>,
    pub(super) known: Outputs,
    pub(super) journal: Arc<Journal>,
    pub(super) limit: Option<Arc<Semaphore>>,
    pub(super) events: Events,
    pub(super) stop: Stop,
}

/// How a step ended.
pub(super) enum Ended {
    Made(Outputs),
    Ready(Outputs),
    Foreign(String),
    /// It only waited, and somebody asked to stop.
    Stopped,
    Failed(anyhow::Error),
    /// The journal could not be written: nothing more may be done.
    NoJournal(JournalError),
}

impl One {
    pub(super) async fn run(self) -> Ended {
        let _place = match &self.limit {
            Some(limit) => limit.acquire().await.ok(),
            None => None,
        };
        let since = Instant::now();
        match self.step.check(&self.known).await.context("looking at what is there") {
            Ok(Status::Ready(outputs)) => self.ready(outputs, since),
            Ok(Status::Foreign(what)) => Ended::Foreign(what),
            Ok(Status::Missing | Status::Differs(_)) => self.make(since).await,
            Err(e) => Ended::Failed(e),
        }
    }

    /// Nothing to do. What was killed between its effect and its done line gets that line now.
    fn ready(&self, outputs: Outputs, since: Instant) -> Ended {
        let key = self.step.key();
        let record = self.journal.record();
        let mut all = record.outputs(key).cloned().unwrap_or_default();
        all.merge(outputs);
        if record.started(key)
            && !record.done(key)
            && let Err(e) = self.journal.write(self.done_line(all.clone()))
        {
            return Ended::NoJournal(e);
        }
        self.tell(State::Ready, since);
        Ended::Ready(all)
    }

    async fn make(&self, since: Instant) -> Ended {
        let made = match self.step.made(&self.known).await.context("looking at what would be made") {
            Ok(made) => made,
            Err(e) => return Ended::Failed(e),
        };
        let (key, phase) = (self.step.key(), self.step.phase());
        if let Err(e) = self.journal.write(What::Start { key: key.clone(), made }) {
            return Ended::NoJournal(e);
        }
        self.tell(State::Start, since);
        let watch = Watch::new(self.events.clone(), key.as_str(), phase, self.stop.watch());
        let applied = tokio::select! {
            applied = self.step.apply(&self.known, &watch) => applied,
            () = self.stop.until_asked(), if self.step.only_waits() => return Ended::Stopped,
        };
        let outputs = match applied {
            Ok(outputs) => outputs,
            Err(e) => return Ended::Failed(e),
        };
        if let Err(e) = self.journal.write(self.done_line(outputs.clone())) {
            return Ended::NoJournal(e);
        }
        self.tell(State::Done, since);
        Ended::Made(outputs)
    }

    fn done_line(&self, outputs: Outputs) -> What {
        What::Done { key: self.step.key().clone(), outputs, hash: step_hash(self.step.as_ref()) }
    }

    fn tell(&self, state: State, since: Instant) {
        let event = Event::new(Type::Step, self.step.describe()).about(self.step.key().as_str(), self.step.phase());
        let event = event.state(state);
        self.events.send(if state == State::Start { event } else { event.seconds(since.elapsed().as_secs_f64()) });
    }
}

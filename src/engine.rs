//! Runs a plan: every step whose needs are done, side by side.
//!
//! The rules, each of which is a test:
//! 1. `check` comes first. Ready: passed over, its outputs kept. Foreign: that branch stops, saying what and where.
//! 2. A synced `start` line with what will be made, then `apply`, then a `done` line, which is on the disk before the next
//!    start line is. A start without its done at the next run: `check` decides again.
//! 3. A failing step stops what needs it; the rest finishes; all errors come back together; nothing is rolled back.
//! 4. Asked to stop once: running steps finish, those that only wait are left. Asked twice: everything is dropped; the journal is right anyway.
//! 5. Undoing ([`undo`]) goes backwards over what the journal says we made.
//! 6. The journal has one writer (see [`crate::journal`]).
//! 7. A dry run ([`preview`]) is another function, which calls `check` alone.

mod one;
mod preview;
mod schedule;
mod stop;
mod undo;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kprov_providers::event::{Event, State, Type};
use kprov_providers::{Events, Key, Outputs, Step};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet};

use self::one::{Ended, One};
pub use self::preview::{Change, preview};
use self::schedule::Schedule;
pub use self::stop::Stop;
pub use self::undo::{UndoFailure, Undone, undo};
use crate::journal::Journal;
use crate::plan::{Plan, PlanError};

/// Runs plans: where it tells, how it is stopped, how much it does at once.
#[derive(Clone)]
pub struct Engine {
    events: Events,
    stop: Stop,
    limits: BTreeMap<String, Arc<Semaphore>>,
}

/// Why a step did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Something is there that is not ours.
    #[error("{0}")]
    Foreign(String),
    /// It did not work.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{describe}: {trouble}")]
pub struct Failure {
    /// The step.
    pub key: Key,
    /// Its phase.
    pub phase: String,
    /// Its line for people.
    pub describe: String,
    /// What happened.
    pub trouble: Trouble,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Values of all steps that are done.
    pub outputs: Outputs,
    /// Steps that were made now.
    pub made: Vec<Key>,
    /// Steps that were as wanted already.
    pub ready: Vec<Key>,
    /// Steps that failed, in the order in which they did.
    pub failures: Vec<Failure>,
    /// Steps that were not tried or not finished, because something that they need failed or the run was stopped.
    pub skipped: Vec<Key>,
    /// True when the run was asked to stop before it was at its end.
    pub interrupted: bool,
}

impl Outcome {
    /// True when every step is done.
    pub fn ok(&self) -> bool {
        self.failures.is_empty() && self.skipped.is_empty()
    }
}

/// A runtime for engines. Steps sync what they write on its threads, and a disk takes several syncs at once: so there are
/// more of them than a small machine has processors.
///
/// # Errors
/// When threads cannot be made.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).max(8);
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

impl Engine {
    /// An engine that tells these events and hears this stop.
    pub fn new(events: Events, stop: Stop) -> Self {
        Self { events, stop, limits: BTreeMap::new() }
    }

    /// Lets at most so many steps of a phase run side by side.
    #[must_use]
    pub fn limit(mut self, phase: impl Into<String>, at_once: usize) -> Self {
        self.limits.insert(phase.into(), Arc::new(Semaphore::new(at_once)));
        self
    }

    /// Runs all steps that are not as wanted yet. `command` is written into the journal.
    ///
    /// # Errors
    /// When the plan cannot be run, before anything is touched. What goes wrong in steps is in the [`Outcome`].
    pub async fn run(&self, command: &str, plan: &Plan, journal: &Arc<Journal>) -> Result<Outcome, PlanError> {
        plan.validate()?;
        journal.begin(command, &plan_hash(plan));
        let mut outcome = Outcome { outputs: journal.record().all_outputs(), ..Outcome::default() };
        let mut schedule = Schedule::new(plan);
        let mut running: JoinSet<Ended> = JoinSet::new();
        let mut at: HashMap<Id, Arc<dyn Step>> = HashMap::new();
        loop {
            if self.stop.asked() {
                schedule.close();
            }
            while let Some(step) = schedule.next() {
                let one = self.one(step.clone(), outcome.outputs.clone(), journal.clone());
                at.insert(running.spawn(one.run()).id(), step);
            }
            let joined = tokio::select! {
                biased;
                () = self.stop.until_now() => break,
                () = self.stop.until_asked(), if !schedule.closed() => continue,
                joined = running.join_next_with_id() => joined,
            };
            let (id, ended) = match joined {
                None => break,
                Some(Ok((id, ended))) => (id, ended),
                Some(Err(e)) => {
                    (e.id(), Ended::Failed(anyhow::Error::new(e).context("a step broke off, a defect of kprov")))
                }
            };
            let Some(step) = at.remove(&id) else { continue };
            if matches!(ended, Ended::NoJournal(_)) {
                schedule.close();
            }
            if matches!(ended, Ended::Stopped) {
                // It stays among those that did not end.
                continue;
            }
            let fine = self.settle(step.as_ref(), ended, &mut outcome);
            schedule.ended(step.key(), fine);
        }
        running.shutdown().await;
        self.close(&schedule, journal, &mut outcome);
        Ok(outcome)
    }

    fn one(&self, step: Arc<dyn Step>, known: Outputs, journal: Arc<Journal>) -> One {
        let limit = self.limits.get(step.phase()).cloned();
        One { step, known, journal, limit, events: self.events.clone(), stop: self.stop.clone() }
    }

    /// Books how a step ended; true when it is done.
    fn settle(&self, step: &dyn Step, ended: Ended, outcome: &mut Outcome) -> bool {
        let trouble = match ended {
            Ended::Made(outputs) => {
                outcome.outputs.merge(outputs);
                outcome.made.push(step.key().clone());
                return true;
            }
            Ended::Ready(outputs) => {
                outcome.outputs.merge(outputs);
                outcome.ready.push(step.key().clone());
                return true;
            }
            Ended::Stopped => return false,
            Ended::Foreign(what) => Trouble::Foreign(what),
            Ended::Failed(e) => Trouble::Failed(e),
            Ended::NoJournal(e) => Trouble::Failed(e.into()),
        };
        let failure =
            Failure { key: step.key().clone(), phase: step.phase().to_owned(), describe: step.describe(), trouble };
        self.events.send(
            Event::new(Type::Step, failure.to_string()).about(step.key().as_str(), step.phase()).state(State::Failed),
        );
        outcome.failures.push(failure);
        false
    }

    fn close(&self, schedule: &Schedule, journal: &Journal, outcome: &mut Outcome) {
        for step in schedule.left() {
            let event = Event::new(Type::Step, step.describe()).about(step.key().as_str(), step.phase());
            self.events.send(event.state(State::Skipped));
            outcome.skipped.push(step.key().clone());
        }
        outcome.interrupted = self.stop.asked() && !outcome.skipped.is_empty();
        if let Err(e) = journal.end(outcome.ok())
            && outcome.ok()
        {
            outcome.failures.push(Failure {
                key: "journal".into(),
                phase: String::new(),
                describe: "end the journal".to_owned(),
                trouble: Trouble::Failed(e.into()),
            });
        }
    }
}

/// Hash of a step as planned: its name, phase, needs and line for people. Lower-case hex SHA-256.
pub fn step_hash(step: &dyn Step) -> String {
    let mut hash = Sha256::new();
    feed(&mut hash, step);
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

/// Hash of all steps of a plan.
pub fn plan_hash(plan: &Plan) -> String {
    let mut hash = Sha256::new();
    for step in plan.steps() {
        feed(&mut hash, step.as_ref());
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

fn feed(hash: &mut Sha256, step: &dyn Step) {
    for text in [step.key().as_str(), step.phase(), &step.describe()] {
        hash.update(text);
        hash.update([0]);
    }
    for need in step.needs() {
        hash.update(need.as_str());
        hash.update([0]);
    }
    hash.update([1]);
}

#[cfg(test)]
mod tests;

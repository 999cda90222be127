//! What a run would do: `check` is called, nothing else.

use futures_util::stream::{FuturesUnordered, StreamExt};
use kprov_providers::event::{Event, State, Type};
use kprov_providers::{Events, Key, Outputs, Status, Step};

use super::schedule::Schedule;
use crate::plan::{Plan, PlanError};

/// What a run would do about one step.
#[derive(Debug)]
pub struct Change {
    /// The step.
    pub key: Key,
    /// Its phase.
    pub phase: String,
    /// Its line for people.
    pub describe: String,
    /// What the look showed; an error where it could not look.
    pub status: anyhow::Result<Status>,
}

impl Change {
    /// True when a run would change something here.
    pub fn changes(&self) -> bool {
        matches!(self.status, Ok(Status::Missing | Status::Differs(_)))
    }
}

/// Looks at all steps, in the order of their needs, and tells what a run would do about each; in the plan's order.
/// `known` is what the journal holds.
///
/// # Errors
/// When the plan cannot be run.
pub async fn preview(plan: &Plan, known: Outputs, events: &Events) -> Result<Vec<Change>, PlanError> {
    plan.validate()?;
    let mut known = known;
    let mut schedule = Schedule::new(plan);
    let mut looking = FuturesUnordered::new();
    let mut found = Vec::new();
    loop {
        while let Some(step) = schedule.next() {
            let known = known.clone();
            looking.push(async move {
                let status = step.check(&known).await;
                (step, status)
            });
        }
        let Some((step, status)) = looking.next().await else { break };
        if let Ok(Status::Ready(outputs)) = &status {
            known.merge(outputs.clone());
        }
        tell(step.as_ref(), &status, events);
        schedule.ended(step.key(), true);
        let (key, phase) = (step.key().clone(), step.phase().to_owned());
        found.push(Change { key, phase, describe: step.describe(), status });
    }
    let order = |key: &Key| plan.steps().iter().position(|step| step.key() == key);
    found.sort_by_key(|change| order(&change.key));
    Ok(found)
}

fn tell(step: &dyn Step, status: &anyhow::Result<Status>, events: &Events) {
    let (state, message) = match status {
        Ok(Status::Ready(_)) => (State::Ready, step.describe()),
        Ok(Status::Missing) => (State::Missing, step.describe()),
        Ok(Status::Differs(how)) => (State::Differs, format!("{}\n{how}", step.describe())),
        Ok(Status::Foreign(what)) => (State::Failed, format!("{}: {what}", step.describe())),
        Err(e) => (State::Failed, format!("{}: {e:#}", step.describe())),
    };
    events.send(Event::new(Type::Step, message).about(step.key().as_str(), step.phase()).state(state));
}

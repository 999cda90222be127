//! Takes back what the journal says we made, backwards.

use kprov_providers::event::{Event, State, Type};
use kprov_providers::{Events, Key, Machine, Made};

use super::Stop;
use crate::journal::{Journal, JournalError, What};

/// Something that could not be taken back. It stays in the journal; a later reset tries it again.
#[derive(Debug, thiserror::Error)]
#[error("taking back {made}: {error:#}")]
pub struct UndoFailure {
    /// The step that made it.
    pub key: Key,
    /// What it is.
    pub made: Made,
    /// Why not.
    pub error: anyhow::Error,
}

/// What undoing came to.
#[derive(Debug, Default)]
pub struct Undone {
    /// Steps of which nothing is left.
    pub undone: Vec<Key>,
    /// What could not be taken back.
    pub failures: Vec<UndoFailure>,
    /// True when it was asked to stop before the end.
    pub interrupted: bool,
}

/// Takes back everything that the journal holds, the last first, and goes on past failures. A step's `undone` line is
/// written when all that it made is gone. Safe to run again after a kill: what is gone already is success.
///
/// The caller has said [`Journal::begin`] before and says [`Journal::remove`] or [`Journal::end`] after.
///
/// # Errors
/// When the journal cannot be written.
pub async fn undo(
    journal: &Journal,
    machine: &dyn Machine,
    events: &Events,
    stop: &Stop,
) -> Result<Undone, JournalError> {
    let mut result = Undone::default();
    let mut entries = journal.record().entries().to_vec();
    while let Some(entry) = entries.pop() {
        if stop.asked() {
            result.interrupted = true;
            break;
        }
        for made in entry.made.iter().rev() {
            if let Err(error) = kprov_providers::made::undo(machine, made).await {
                let failure = UndoFailure { key: entry.key.clone(), made: made.clone(), error };
                let event = Event::new(Type::Step, failure.to_string()).about(entry.key.as_str(), "reset");
                events.send(event.state(State::Failed));
                result.failures.push(failure);
            }
        }
        // A step that was started twice is undone when its first start is.
        let earlier = entries.iter().any(|earlier| earlier.key == entry.key);
        if earlier || result.failures.iter().any(|failure| failure.key == entry.key) {
            continue;
        }
        journal.write(What::Undone { key: entry.key.clone() })?;
        let what: Vec<String> =
            entry.made.iter().rev().filter(|made| **made != Made::Nothing).map(ToString::to_string).collect();
        if !what.is_empty() {
            let event = Event::new(Type::Step, what.join(", ")).about(entry.key.as_str(), "reset");
            events.send(event.state(State::Undone));
        }
        result.undone.push(entry.key);
    }
    Ok(result)
}

//! What is told while work goes on. Bars, plain lines and JSON are readers of these events.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

/// Version of the event format (`docs/events.md`).
pub const FORMAT: u32 = 1;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Type {
    /// A step changed its state.
    Step,
    /// News from inside a running step.
    Progress,
    /// Something to know that stops nothing.
    Warning,
    /// One line about what was found or decided.
    Note,
    /// Something failed.
    Error,
    /// The last line of a command.
    Result,
}

/// Where a step, or the whole command, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Begun.
    Start,
    /// Made now.
    Done,
    /// Was as wanted already.
    Ready,
    /// Would be made (dry run).
    Missing,
    /// Would be changed (dry run).
    Differs,
    /// Did not work.
    Failed,
    /// Not tried, because something that it needs failed.
    Skipped,
    /// Taken back (reset).
    Undone,
}

/// One thing that happened. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`FORMAT`].
    pub v: u32,
    /// When, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: Type,
    /// The step, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The step's phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The new state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl Event {
    /// An event of this type, now, without a step.
    pub fn new(kind: Type, message: impl Into<String>) -> Self {
        Self {
            v: FORMAT,
            time: crate::event::now(),
            kind,
            key: None,
            phase: None,
            state: None,
            message: message.into(),
            seconds: None,
        }
    }

    /// The same event, about a step.
    #[must_use]
    pub fn about(mut self, key: &str, phase: &str) -> Self {
        self.key = Some(key.to_owned());
        self.phase = Some(phase.to_owned());
        self
    }

    /// The same event with a state.
    #[must_use]
    pub fn state(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// The same event with a duration.
    #[must_use]
    pub fn seconds(mut self, seconds: f64) -> Self {
        self.seconds = Some((seconds * 1000.0).round() / 1000.0);
        self
    }
}

/// The time now as events and journals write it: RFC 3339, UTC, milliseconds.
pub fn now() -> String {
    rfc3339(std::time::SystemTime::now())
}

/// A time as events and journals write it.
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let t = time::OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

/// The sending end for events; cheap to clone. A reader that went away is no error.
#[derive(Debug, Clone)]
pub struct Events(mpsc::UnboundedSender<Event>);

impl Events {
    /// A sender and the receiver that a reader drains.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (tx, rx) = mpsc::unbounded_channel();
        (Self(tx), rx)
    }

    /// Sends one event.
    pub fn send(&self, event: Event) {
        // The reader is gone only when the command is ending: nobody is left to tell.
        let _ = self.0.send(event);
    }

    /// One line about what was found or decided.
    pub fn note(&self, message: impl Into<String>) {
        self.send(Event::new(Type::Note, message));
    }

    /// Something to know that stops nothing.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::new(Type::Warning, message));
    }
}

/// What a running step may use: a way to tell how far it is, and to hear that it should stop.
#[derive(Debug, Clone)]
pub struct Watch {
    events: Events,
    key: String,
    phase: String,
    cancel: watch::Receiver<bool>,
}

impl Watch {
    /// A watch for one step. `cancel` turns true when the command is to stop now.
    pub fn new(events: Events, key: &str, phase: &str, cancel: watch::Receiver<bool>) -> Self {
        Self { events, key: key.to_owned(), phase: phase.to_owned(), cancel }
    }

    /// A watch that nobody reads and nobody cancels, for tests and one-off calls.
    pub fn quiet() -> Self {
        let (events, _) = Events::channel();
        let (_, cancel) = watch::channel(false);
        Self::new(events, "", "", cancel)
    }

    /// Tells how far the step is.
    pub fn say(&self, message: impl Into<String>) {
        self.events.send(Event::new(Type::Progress, message).about(&self.key, &self.phase));
    }

    /// Tells of something that stops nothing.
    pub fn warn(&self, message: impl Into<String>) {
        self.events.send(Event::new(Type::Warning, message).about(&self.key, &self.phase));
    }

    /// True when the command is to stop now.
    pub fn cancelled(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Ends when the command is to stop now; never, if nobody can cancel it any more.
    pub async fn until_cancelled(&self) {
        let mut cancel = self.cancel.clone();
        if cancel.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

//! Events on a terminal: a spinner for every running step, a line for every finished one.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kprov_providers::Event;
use kprov_providers::event::{State, Type};

use super::lines;

/// The picture on the terminal.
pub(super) struct Bars {
    all: MultiProgress,
    running: BTreeMap<String, ProgressBar>,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self { all: MultiProgress::new(), running: BTreeMap::new() }
    }

    /// Draws one event.
    pub(super) fn show(&mut self, event: &Event) {
        let key = event.key.clone().unwrap_or_default();
        match (event.kind, event.state) {
            (Type::Step, Some(State::Start)) => {
                let bar = self.all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                    bar.set_style(style);
                }
                bar.set_message(event.message.clone());
                bar.enable_steady_tick(Duration::from_millis(100));
                self.running.insert(key, bar);
            }
            (Type::Progress, _) if self.running.contains_key(&key) => {
                if let Some(bar) = self.running.get(&key) {
                    bar.set_message(event.message.clone());
                }
            }
            _ => {
                if event.kind == Type::Step
                    && let Some(bar) = self.running.remove(&key)
                {
                    bar.finish_and_clear();
                }
                if let Some(line) = lines::line(event) {
                    // A terminal that went away is no error of ours.
                    let _ = self.all.println(line);
                }
            }
        }
    }

    /// Takes all spinners away.
    pub(super) fn end(self) {
        for bar in self.running.values() {
            bar.finish_and_clear();
        }
    }
}

//! `kprov reset`: takes back what init or join made on this machine. First what runs is stopped and what grew is
//! removed (kubeadm's known paths of contract A.19 and ours), then the journal is undone backwards. Whatever
//! was there before stays. Every part may be gone already, so a reset may be killed and run again.

mod etcd;
mod kernel;
mod legacy;
mod node;
mod rules;
mod survey;
mod task;

use std::sync::Arc;

use kprov_providers::event::{Event, State, Type};
use kprov_providers::{Events, Machine};

use crate::cluster::kubeadm::ResetConfiguration;
use crate::engine::{self, Stop};
use crate::journal::{Journal, Record};

pub use self::kernel::{Kernel, ThisKernel};
use self::survey::{leftovers, stops};
pub use self::task::Task;

/// Phase name of its events.
pub const PHASE: &str = "reset";

/// What a reset works with.
pub struct Reset {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// Its packet filter and mounts.
    pub kernel: Arc<dyn Kernel>,
    /// What the user asked for.
    pub config: ResetConfiguration,
    /// The kubeconfig with which the cluster is talked to, instead of the kubelet's.
    pub kubeconfig: Option<String>,
    /// Where it tells what it does.
    pub events: Events,
    /// How it hears that it should stop.
    pub stop: Stop,
}

/// What a reset came to.
#[derive(Debug, Default)]
pub struct Report {
    /// How many things were taken back.
    pub done: usize,
    /// What could not be taken back, a sentence each.
    pub failures: Vec<String>,
    /// True when it was asked to stop before its end.
    pub interrupted: bool,
}

impl Report {
    /// True when nothing of a cluster is left.
    pub fn ok(&self) -> bool {
        self.failures.is_empty() && !self.interrupted
    }
}

impl Reset {
    /// What a reset would do, a line each, in its order. Touches nothing.
    ///
    /// # Errors
    /// When the machine cannot be looked at.
    pub async fn preview(&self, record: &Record) -> anyhow::Result<Vec<String>> {
        let mut tasks = self.stops(record).await?;
        tasks.extend(self.leftovers(record).await?);
        let mut lines: Vec<String> = tasks.iter().map(ToString::to_string).collect();
        for entry in record.entries().iter().rev() {
            let made = entry.made.iter().rev().filter(|made| **made != kprov_providers::Made::Nothing);
            lines.extend(made.map(|made| format!("take back {made}")));
        }
        // Of what several entries name, the first one counts.
        let mut seen = std::collections::BTreeSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        Ok(lines)
    }

    /// Takes everything back. What fails is told at the end and stays in the journal; the rest is done nevertheless.
    ///
    /// # Errors
    /// When the machine cannot be looked at or the journal not be written.
    pub async fn run(&self, journal: &Journal) -> anyhow::Result<Report> {
        let mut report = Report::default();
        journal.begin("reset", "");
        let record = journal.record();
        let stopped = self.all(self.stops(&record).await?, &mut report).await;
        if !stopped {
            return Ok(report);
        }
        // Looked for only now: a kube-proxy that just began makes its first rules while it is being ended.
        let left = self.leftovers(&record).await.unwrap_or_else(|error| {
            report.failures.push(format!("looking for what is left: {error:#}"));
            Vec::new()
        });
        if !self.all(left, &mut report).await {
            return Ok(report);
        }
        let undone = engine::undo(journal, self.machine.as_ref(), &self.events, &self.stop).await?;
        report.done += undone.undone.len();
        report.failures.extend(undone.failures.iter().map(ToString::to_string));
        report.interrupted = undone.interrupted;
        if report.ok() {
            journal.remove()?;
        } else {
            journal.end(false)?;
        }
        Ok(report)
    }

    async fn stops(&self, record: &Record) -> anyhow::Result<Vec<Task>> {
        stops(self.machine.as_ref(), &self.config, self.kubeconfig.as_deref(), record).await
    }

    async fn leftovers(&self, record: &Record) -> anyhow::Result<Vec<Task>> {
        leftovers(self.machine.as_ref(), self.kernel.as_ref(), &self.config, record).await
    }

    /// Does these one after the other; false when asked to stop before the last one.
    async fn all(&self, tasks: Vec<Task>, report: &mut Report) -> bool {
        for task in tasks {
            if self.stop.asked() {
                report.interrupted = true;
                return false;
            }
            self.task(&task, report).await;
        }
        true
    }

    async fn task(&self, task: &Task, report: &mut Report) {
        let event = |state: State, message: String| {
            self.events.send(Event::new(Type::Step, message).about(&task.key(), PHASE).state(state));
        };
        event(State::Start, task.to_string());
        match task.run(self.machine.as_ref(), self.kernel.as_ref()).await {
            Ok(()) => {
                report.done += 1;
                event(State::Undone, task.to_string());
            }
            Err(error) if task.optional() => {
                self.events.warn(format!("{task}: {error:#}"));
            }
            Err(error) => {
                let message = format!("{task}: {error:#}");
                event(State::Failed, message.clone());
                report.failures.push(message);
            }
        }
    }
}

#[cfg(test)]
mod tests;

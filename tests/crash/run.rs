//! One run of a command, killed at a given point or not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kprov::engine::{Engine, Outcome, Stop};
use kprov::journal::{Journal, Line, Moment, What};
use kprov::plan::Plan;
use kprov_providers::Events;
use kprov_providers::machine::fake::FakeMachine;
use tokio::sync::Notify;

/// Where a run is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    Never,
    /// When so many lines are on the disk.
    After(usize),
    /// When a step has had its effect, before the nth line that says so (done or undone).
    Between(usize),
}

/// What is left of a run: its machine and its journal; no process.
pub(crate) struct Run {
    pub(crate) machine: FakeMachine,
    pub(crate) journal: PathBuf,
    /// What the last line said before the kill, for messages.
    pub(crate) last: Arc<Mutex<String>>,
}

impl Run {
    pub(crate) fn new(machine: FakeMachine, dir: &Path) -> Self {
        let journal = dir.join("journal.jsonl");
        let _ = std::fs::remove_file(&journal);
        Self { machine, journal, last: Arc::default() }
    }

    /// Runs `work` with a journal of its own; `None` when it was killed. After the kill nothing of it has any effect any
    /// more: its tasks are dropped, and its handle of the machine is dead for good (a thread may still hold it).
    pub(crate) async fn run<T>(&mut self, kill: Kill, work: impl AsyncFnOnce(Arc<Journal>) -> T) -> Option<T> {
        let (killed, dead) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let journal =
            Arc::new(Journal::tapped(&self.journal, Some(self.tap(kill, killed.clone(), dead.clone()))).unwrap());
        let held = Arc::downgrade(&journal);
        let result = tokio::select! {
            biased;
            () = killed.notified() => None,
            result = work(journal) => Some(result),
        };
        // The runtime drops the tasks when it comes by.
        while held.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        // A kill at the very last line leaves no turn to hear of it.
        if dead.load(Ordering::SeqCst) {
            self.machine = self.machine.fork();
            return None;
        }
        result
    }

    fn tap(&self, kill: Kill, killed: Arc<Notify>, dead: Arc<AtomicBool>) -> kprov::journal::Tap {
        let (lines, effects) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (machine, last) = (self.machine.clone(), self.last.clone());
        Box::new(move |moment, line: &Line| {
            let gone = || std::io::Error::other("the process was killed");
            if dead.load(Ordering::SeqCst) {
                return Err(gone());
            }
            let effect = matches!(line.what, What::Done { .. } | What::Undone { .. });
            let now = match moment {
                Moment::Before if effect => kill == Kill::Between(effects.fetch_add(1, Ordering::SeqCst) + 1),
                Moment::Before => false,
                Moment::After => kill == Kill::After(lines.fetch_add(1, Ordering::SeqCst) + 1),
            };
            if !now {
                return Ok(());
            }
            dead.store(true, Ordering::SeqCst);
            *last.lock().unwrap() = format!("{moment:?} {:?}", line.what);
            machine.kill();
            killed.notify_one();
            Err(gone())
        })
    }

    /// Runs a plan as the command does.
    pub(crate) async fn plan(&mut self, command: &str, plan: &Plan, kill: Kill) -> Option<Outcome> {
        self.run(kill, async |journal| {
            Engine::new(Events::channel().0, Stop::new()).run(command, plan, &journal).await.unwrap()
        })
        .await
    }

    /// All that the journal says is ours, each thing once.
    pub(crate) fn ours(&self) -> Vec<String> {
        let record = Journal::read(&self.journal).unwrap();
        let mut all: Vec<String> = record.made().map(ToString::to_string).filter(|made| made != "nothing").collect();
        all.sort();
        all.dedup();
        all
    }
}

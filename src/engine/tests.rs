//! The rules of the engine, one test each, by what they are about; here is the bench that they share.

mod journal;
mod machine;
mod order;
mod stopping;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use kprov_providers::steps::Label;
use kprov_providers::{Made, Status, Watch};

use super::*;
use crate::journal::{Line, What};

/// What a test's step does, written down in order.
type Log = Arc<Mutex<Vec<String>>>;

/// What a trial step does.
type Apply = Box<dyn Fn(&Outputs) -> anyhow::Result<Outputs> + Send + Sync>;

struct Trial {
    label: Label,
    status: Status,
    apply: Apply,
    takes: Duration,
    log: Log,
}

impl Trial {
    fn new(key: &str, needs: &[&str], log: &Log) -> Self {
        let label = Label::new(key, "test").needs(needs.iter().copied());
        Self {
            label,
            status: Status::Missing,
            apply: Box::new(|_| Ok(Outputs::none())),
            takes: Duration::ZERO,
            log: log.clone(),
        }
    }

    fn status(self, status: Status) -> Self {
        Self { status, ..self }
    }

    fn takes(self, millis: u64) -> Self {
        Self { takes: Duration::from_millis(millis), ..self }
    }

    fn gives(self, name: &'static str, value: &'static str) -> Self {
        Self { apply: Box::new(move |_| Ok(Outputs::none().with(name, value))), ..self }
    }

    fn fails(self) -> Self {
        Self { apply: Box::new(|_| anyhow::bail!("made up")), ..self }
    }

    fn says(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{what} {}", self.label.key));
    }
}

#[async_trait]
impl Step for Trial {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("try {}", self.label.key)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        self.says("check");
        Ok(self.status.clone())
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::File { path: format!("/tmp/{}", self.label.key) }])
    }

    async fn apply(&self, known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        self.says("apply");
        tokio::time::sleep(self.takes).await;
        self.says("applied");
        (self.apply)(known)
    }
}

/// A place for a journal, and an engine that nobody listens to.
struct Bench {
    dir: tempfile::TempDir,
    log: Log,
    stop: Stop,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), log: Log::default(), stop: Stop::new() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("journal.jsonl")
    }

    fn step(&self, key: &str, needs: &[&str]) -> Trial {
        Trial::new(key, needs, &self.log)
    }

    fn engine(&self) -> Engine {
        Engine::new(Events::channel().0, self.stop.clone())
    }

    async fn run(&self, steps: impl IntoIterator<Item = Trial>) -> Outcome {
        let mut plan = Plan::new();
        steps.into_iter().for_each(|step| plan.add(step));
        let journal = Arc::new(Journal::open(self.path()).unwrap());
        self.engine().run("init", &plan, &journal).await.unwrap()
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// The journal's lines as `start one`, without begin and end.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().what);
        lines
            .filter_map(|what| match what {
                What::Start { key, .. } => Some(format!("start {key}")),
                What::Done { key, .. } => Some(format!("done {key}")),
                What::Undone { key } => Some(format!("undone {key}")),
                _ => None,
            })
            .collect()
    }
}

fn keys(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(Key::as_str).collect()
}

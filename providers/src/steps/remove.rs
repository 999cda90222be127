//! A file that must not be there any more.

use std::sync::Arc;

use async_trait::async_trait;

use super::Label;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Removes a file.
pub struct RemoveFile {
    label: Label,
    machine: Arc<dyn Machine>,
    path: String,
    before: Vec<String>,
}

impl RemoveFile {
    /// Removes this file or link.
    pub fn new(label: Label, machine: Arc<dyn Machine>, path: impl Into<String>) -> Self {
        Self { label, machine, path: path.into(), before: Vec::new() }
    }

    /// These are synced before: what takes the file's place must not be lost after it is gone.
    #[must_use]
    pub fn once_synced<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.before.extend(paths.into_iter().map(Into::into));
        self
    }
}

#[async_trait]
impl Step for RemoveFile {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("remove {}", self.path)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(match self.machine.meta(&self.path)? {
            None => Status::Ready(Outputs::none()),
            Some(_) => Status::Differs(format!("-{}", self.path)),
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        for path in &self.before {
            self.machine.sync(path)?;
        }
        self.machine.remove(&self.path)?;
        Ok(Outputs::none())
    }
}

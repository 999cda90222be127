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
}

impl RemoveFile {
    /// Removes this file or link.
    pub fn new(label: Label, machine: Arc<dyn Machine>, path: impl Into<String>) -> Self {
        Self { label, machine, path: path.into() }
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
        self.machine.remove(&self.path)?;
        Ok(Outputs::none())
    }
}

//! A symbolic link.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Label, made_file, make_parents};
use crate::machine::Kind;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Makes a symbolic link.
pub struct Link {
    label: Label,
    machine: Arc<dyn Machine>,
    path: String,
    target: String,
}

impl Link {
    /// A link at `path` that names `target`.
    pub fn new(label: Label, machine: Arc<dyn Machine>, path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { label, machine, path: path.into(), target: target.into() }
    }
}

#[async_trait]
impl Step for Link {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("link {} to {}", self.path, self.target)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(match self.machine.meta(&self.path)?.map(|meta| meta.kind) {
            None => Status::Missing,
            Some(Kind::Link(target)) if target == self.target => Status::Ready(Outputs::none()),
            Some(Kind::Link(target)) => Status::Differs(format!("-{target}\n+{}", self.target)),
            Some(_) => Status::Foreign(format!("something that is no link is in its place, {}", self.path)),
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        made_file(self.machine.as_ref(), &self.path)
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        make_parents(self.machine.as_ref(), &self.path)?;
        self.machine.link(&self.path, &self.target)?;
        Ok(Outputs::none())
    }
}

//! A file that is in the way, kept elsewhere until a reset puts it back.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Label, made_parents, make_parents};
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Moves a file away, within one file system.
pub struct MoveAway {
    label: Label,
    machine: Arc<dyn Machine>,
    from: String,
    to: String,
}

impl MoveAway {
    /// Moves the file `from` to the path `to`.
    pub fn new(label: Label, machine: Arc<dyn Machine>, from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { label, machine, from: from.into(), to: to.into() }
    }
}

#[async_trait]
impl Step for MoveAway {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("move {} to {}", self.from, self.to)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        if self.machine.meta(&self.from)?.is_none() {
            return Ok(Status::Ready(Outputs::none()));
        }
        Ok(match self.machine.meta(&self.to)? {
            None => Status::Missing,
            Some(_) => Status::Foreign(format!("a file is there already, {}", self.to)),
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        let mut made = made_parents(self.machine.as_ref(), &self.to)?;
        made.push(Made::Moved { from: self.from.clone(), to: self.to.clone() });
        Ok(made)
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        make_parents(self.machine.as_ref(), &self.to)?;
        self.machine.rename(&self.from, &self.to)?;
        Ok(Outputs::none())
    }
}

//! A directory.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Label, made_parents, make_parents};
use crate::machine::Kind;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Makes a directory and those above it.
pub struct MakeDir {
    label: Label,
    machine: Arc<dyn Machine>,
    path: String,
    mode: u32,
    tree: bool,
}

impl MakeDir {
    /// A directory, mode 0755. When it is taken back it goes only if it is empty.
    pub fn new(label: Label, machine: Arc<dyn Machine>, path: impl Into<String>) -> Self {
        Self { label, machine, path: path.into(), mode: 0o755, tree: false }
    }

    /// With these permission bits, if it has to be made.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// All that grows in it is ours: it is taken back whole.
    #[must_use]
    pub fn tree(mut self) -> Self {
        self.tree = true;
        self
    }
}

#[async_trait]
impl Step for MakeDir {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("make the directory {}", self.path)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(match self.machine.meta(&self.path)? {
            None => Status::Missing,
            Some(meta) if meta.kind == Kind::Dir => Status::Ready(Outputs::none()),
            // A link to a directory (data on another disk) is as good.
            Some(_) if self.machine.list(&self.path)?.is_some() => Status::Ready(Outputs::none()),
            Some(_) => Status::Foreign(format!("something that is no directory is in its place, {}", self.path)),
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        let mut made = made_parents(self.machine.as_ref(), &self.path)?;
        let path = self.path.clone();
        made.push(if self.tree { Made::Tree { path } } else { Made::Dir { path } });
        Ok(made)
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        make_parents(self.machine.as_ref(), &self.path)?;
        self.machine.make_dir(&self.path, self.mode)?;
        Ok(Outputs::none())
    }
}

//! A big file that lies on the machine already and is put in its place.

use std::sync::Arc;

use anyhow::bail;
use async_trait::async_trait;

use super::{Label, made_file, make_parents};
use crate::machine::Kind;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Copies a file of a known hash to its place.
pub struct InstallFile {
    label: Label,
    machine: Arc<dyn Machine>,
    from: String,
    to: String,
    sha256: String,
    mode: u32,
}

impl InstallFile {
    /// Copies `from` to `to`, mode 0755. `sha256` is the content's hash, lower-case hex.
    pub fn new(
        label: Label,
        machine: Arc<dyn Machine>,
        from: impl Into<String>,
        to: impl Into<String>,
        sha256: impl Into<String>,
    ) -> Self {
        Self { label, machine, from: from.into(), to: to.into(), sha256: sha256.into(), mode: 0o755 }
    }

    /// With these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
}

#[async_trait]
impl Step for InstallFile {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("install {}", self.to)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(meta) = self.machine.meta(&self.to)? else { return Ok(Status::Missing) };
        if meta.kind != Kind::File {
            return Ok(Status::Foreign(format!("something that is no file is in its place, {}", self.to)));
        }
        Ok(match self.machine.sha256(&self.to)? {
            Some(there) if there == self.sha256 && meta.mode == self.mode => Status::Ready(Outputs::none()),
            Some(there) if there == self.sha256 => {
                Status::Differs(format!("mode {:04o} becomes {:04o}", meta.mode, self.mode))
            }
            Some(there) => Status::Differs(format!("-sha256:{there}\n+sha256:{}", self.sha256)),
            None => Status::Missing,
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        made_file(self.machine.as_ref(), &self.to)
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        match self.machine.sha256(&self.from)? {
            None => bail!("the file to install is not there, {}", self.from),
            Some(there) if there != self.sha256 => bail!("the file to install is not the one meant, {}", self.from),
            Some(_) => {}
        }
        make_parents(self.machine.as_ref(), &self.to)?;
        self.machine.copy(&self.from, &self.to, self.mode)?;
        Ok(Outputs::none())
    }
}

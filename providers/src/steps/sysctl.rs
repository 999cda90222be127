//! A kernel setting.

use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;

use super::Label;
use crate::made::sysctl_path;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Sets a sysctl now (not for the next boot: that is a file in /etc/sysctl.d).
pub struct Sysctl {
    label: Label,
    machine: Arc<dyn Machine>,
    name: String,
    value: String,
}

impl Sysctl {
    /// Sets `name` (dotted) to `value`.
    pub fn new(label: Label, machine: Arc<dyn Machine>, name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label, machine, name: name.into(), value: value.into() }
    }

    fn now(&self) -> anyhow::Result<Option<String>> {
        let bytes = self.machine.read(&sysctl_path(&self.name))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")))
    }
}

#[async_trait]
impl Step for Sysctl {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("set {} to {}", self.name, self.value)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(match self.now()? {
            Some(now) if now == self.value => Status::Ready(Outputs::none()),
            Some(now) => Status::Differs(format!("-{now}\n+{}", self.value)),
            None => Status::Missing,
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(match self.now()? {
            Some(before) if before != self.value => vec![Made::Sysctl { name: self.name.clone(), before }],
            _ => vec![Made::Nothing],
        })
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        let path = sysctl_path(&self.name);
        if self.machine.meta(&path)?.is_none() {
            bail!("this kernel has no such setting (is a module not loaded?), {}", self.name);
        }
        self.machine
            .write_in_place(&path, self.value.as_bytes())
            .with_context(|| format!("setting {} to {}", self.name, self.value))?;
        Ok(Outputs::none())
    }
}

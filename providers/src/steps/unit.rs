//! A systemd unit that is to run.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::Label;
use crate::machine::{UnitState, UnitVerb};
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Enables and starts a unit, and starts it again when a file that it reads has changed.
#[derive(Clone)]
pub struct UnitStep {
    label: Label,
    machine: Arc<dyn Machine>,
    name: String,
    enable: bool,
    start: bool,
    reads: Vec<String>,
    pods: bool,
    /// What the last look found: a step that is made right after its check need not ask systemd again.
    seen: Arc<Mutex<Option<UnitState>>>,
}

impl UnitStep {
    /// A unit (with its suffix: `kubelet.service`) that is enabled and started.
    pub fn new(label: Label, machine: Arc<dyn Machine>, name: impl Into<String>) -> Self {
        let (name, seen) = (name.into(), Arc::default());
        Self { label, machine, name, enable: true, start: true, reads: Vec::new(), pods: false, seen }
    }

    /// Not enabled: it does not start at boot.
    #[must_use]
    pub fn not_enabled(mut self) -> Self {
        self.enable = false;
        self
    }

    /// Not started now.
    #[must_use]
    pub fn not_started(mut self) -> Self {
        self.start = false;
        self
    }

    /// Files whose content the unit's program reads when it starts (its unit file among them): when they are not what
    /// they were at the last start by this step, the unit is started again.
    #[must_use]
    pub fn restart_on<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.reads.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Pods come to be because this unit runs (the kubelet): they are taken back after it has stopped.
    #[must_use]
    pub fn with_pods(mut self) -> Self {
        self.pods = true;
        self
    }

    /// Name of the output that holds the hash of what the unit read when it was started.
    fn output(&self) -> String {
        format!("unit/{}", self.name)
    }

    fn read_hash(&self) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        for path in &self.reads {
            hash.update(path);
            hash.update(self.machine.sha256(path)?.unwrap_or_default());
        }
        Ok(data_encoding::HEXLOWER.encode(&hash.finalize()))
    }

    /// What the check before found, else what is so now.
    async fn state(&self) -> anyhow::Result<UnitState> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match seen {
            Some(state) => Ok(state),
            None => self.machine.unit(&self.name).await,
        }
    }

    fn is_enabled(state: &UnitState) -> bool {
        matches!(state.enabled.as_str(), "enabled" | "static" | "alias" | "indirect" | "generated")
    }

    /// True when it runs with something else than what its files say now.
    fn stale(&self, known: &Outputs) -> anyhow::Result<bool> {
        Ok(!self.reads.is_empty() && known.get(&self.output()) != Some(&self.read_hash()?))
    }

    /// Starts it, again where it reads something else by now.
    async fn run(&self, state: &UnitState, known: &Outputs) -> anyhow::Result<Outputs> {
        // A run that was killed before it let systemd read a file that it had written.
        if state.outdated {
            self.machine.units_reload().await?;
        }
        // Beside the start, which waits for other processes: a kubelet is a hundred megabytes.
        let own = self.clone();
        let hash = tokio::task::spawn_blocking(move || own.read_hash());
        match state.active.as_str() {
            "active" if !self.stale(known)? => {}
            // `activating`: it is waiting between two tries, perhaps with old files.
            "active" | "activating" | "reloading" => self.machine.unit_do(&self.name, UnitVerb::Restart).await?,
            _ => {
                if state.active == "failed" {
                    self.machine.unit_do(&self.name, UnitVerb::ResetFailed).await?;
                }
                self.machine.unit_do(&self.name, UnitVerb::Start).await?;
            }
        }
        Ok(if self.reads.is_empty() { Outputs::none() } else { Outputs::none().with(self.output(), hash.await??) })
    }
}

#[async_trait]
impl Step for UnitStep {
    crate::labelled!();

    fn describe(&self) -> String {
        match (self.enable, self.start) {
            (true, true) => format!("enable and start {}", self.name),
            (true, false) => format!("enable {}", self.name),
            _ => format!("start {}", self.name),
        }
    }

    async fn check(&self, known: &Outputs) -> anyhow::Result<Status> {
        let state = self.machine.unit(&self.name).await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.clone());
        match state.load.as_str() {
            "not-found" => return Ok(Status::Missing),
            "masked" => return Ok(Status::Foreign(format!("the unit is masked, {}", self.name))),
            _ => {}
        }
        if (self.enable && !Self::is_enabled(&state)) || (self.start && state.active != "active") {
            return Ok(Status::Missing);
        }
        if self.start && self.stale(known)? {
            return Ok(Status::Differs("its files changed since it was started: it is started again".to_owned()));
        }
        Ok(Status::Ready(Outputs::none()))
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        let state = self.state().await?;
        let was = (!self.enable || Self::is_enabled(&state)) && (!self.start || state.active == "active");
        if was {
            return Ok(vec![Made::Nothing]);
        }
        let mut made = Vec::new();
        if self.pods {
            made.push(Made::Pods);
        }
        made.push(Made::Unit { name: self.name.clone() });
        Ok(made)
    }

    async fn apply(&self, known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        let state = self.state().await?;
        let outputs = if self.start { self.run(&state, known).await? } else { Outputs::none() };
        // Afterwards: the program can start meanwhile.
        if self.enable && !Self::is_enabled(&state) {
            self.machine.unit_do(&self.name, UnitVerb::Enable).await?;
        }
        Ok(outputs)
    }
}

//! Swap that is turned off.

use std::sync::Arc;

use anyhow::ensure;
use async_trait::async_trait;

use super::Label;
use crate::machine::{Command, Swap, swaps};
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Turns one swap area off, now: what turns it on at boot stays.
pub struct SwapOff {
    label: Label,
    machine: Arc<dyn Machine>,
    swap: Swap,
}

impl SwapOff {
    /// Turns this one off.
    pub fn new(label: Label, machine: Arc<dyn Machine>, swap: Swap) -> Self {
        Self { label, machine, swap }
    }

    fn is_on(&self) -> anyhow::Result<bool> {
        Ok(swaps(self.machine.as_ref())?.iter().any(|on| on.device == self.swap.device))
    }
}

#[async_trait]
impl Step for SwapOff {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("turn swap off on {}", self.swap.device)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(if self.is_on()? { Status::Missing } else { Status::Ready(Outputs::none()) })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Swap { device: self.swap.device.clone(), priority: self.swap.priority }])
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        // What was swapped out comes back into memory: that takes as long as it takes, and fails where there is no room.
        let exit = self.machine.run(Command::new("swapoff", [self.swap.device.as_str()])).await?;
        ensure!(exit.success(), "swapoff: {}", String::from_utf8_lossy(&exit.stderr).trim());
        Ok(Outputs::none())
    }
}

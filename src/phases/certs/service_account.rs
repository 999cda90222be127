//! The step that makes the pair of keys with which service-account tokens are signed and checked.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use kprov_pki::Key as PrivateKey;
use kprov_providers::machine::New;
use kprov_providers::steps::Label;
use kprov_providers::{Key, Machine, Made, Outputs, Status, Step, Watch};

use super::pair::{OwnKey, made};
use super::{PHASE, Settings};

/// Makes `sa.key`, then `sa.pub`.
#[derive(Clone)]
pub(super) struct ServiceAccount {
    label: Label,
    settings: Arc<Settings>,
    machine: Arc<dyn Machine>,
}

impl ServiceAccount {
    pub(super) fn new(settings: &Arc<Settings>, machine: &Arc<dyn Machine>, needs: &[Key]) -> Self {
        let label = Label::new(super::key("sa"), PHASE).needs(needs.to_vec());
        Self { label, settings: settings.clone(), machine: machine.clone() }
    }

    fn paths(&self) -> [String; 2] {
        ["key", "pub"].map(|suffix| format!("{}/sa.{suffix}", self.settings.dir))
    }

    fn make(&self) -> Result<()> {
        let [key, public] = self.paths();
        let machine = self.machine.as_ref();
        let own = OwnKey::at(machine, key, self.settings.algorithm)?;
        own.write_with(machine, New::File { path: &public, content: own.key.public_pem().as_bytes(), mode: 0o600 })
    }
}

#[async_trait]
impl Step for ServiceAccount {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        let [key, public] = self.paths();
        format!("write {key} and {public}")
    }

    fn content(&self) -> Option<String> {
        Some(format!("key: {} <secret>\n", self.settings.algorithm.name()))
    }

    async fn check(&self, _: &Outputs) -> Result<Status> {
        let [key, public] = self.paths();
        let there = self.machine.read(&public)?;
        let Some(pem) = self.machine.read(&key)? else {
            return Ok(match there {
                None => Status::Missing,
                Some(_) => Status::Foreign(format!("{public} is there, but not its key {key}")),
            });
        };
        let private = match PrivateKey::from_pem(&zeroize::Zeroizing::new(pem)) {
            Ok(private) => private,
            Err(e) => return Ok(Status::Foreign(format!("{key} is {e}"))),
        };
        Ok(match there {
            None => Status::Missing,
            // There may be more than one, while keys are being exchanged.
            Some(keys) if String::from_utf8_lossy(&keys).contains(private.public_pem().trim_end()) => {
                Status::Ready(Outputs::none())
            }
            Some(_) => Status::Foreign(format!("{public} does not belong to {key}")),
        })
    }

    async fn made(&self, _: &Outputs) -> Result<Vec<Made>> {
        made(self.machine.as_ref(), &self.paths())
    }

    async fn apply(&self, _: &Outputs, _: &Watch) -> Result<Outputs> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || own.make()).await??;
        Ok(Outputs::none())
    }
}

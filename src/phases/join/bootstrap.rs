//! bootstrap-kubelet.conf: there until the kubelet has its own certificate, and never again after that.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use kprov_pki::kubeconfig::{Kubeconfig, User};
use kprov_providers::steps::{Label, made_file, make_parents};
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch, labelled};
use zeroize::Zeroizing;

use super::BOOTSTRAP_CONF;
use crate::discovery::{KUBELET_CONF, Met, own};

/// Writes it, unless the kubelet has its certificate.
pub(super) struct Bootstrap {
    label: Label,
    machine: Arc<dyn Machine>,
    node: String,
    content: Zeroizing<String>,
    shown: String,
}

impl Bootstrap {
    pub(super) fn new(label: Label, met: &Met, node: &str, machine: &Arc<dyn Machine>) -> Result<Self> {
        // kubeadm's names.
        let config = |token: &str| {
            let user = User::bearer(token);
            let config =
                Kubeconfig::new("kubernetes", &met.place.server, &met.place.ca_pem, "tls-bootstrap-token-user", user);
            crate::yaml::to_string(&config)
        };
        Ok(Self {
            label,
            machine: machine.clone(),
            node: node.to_owned(),
            content: Zeroizing::new(config(&met.token.reveal())?),
            shown: config("<secret>")?,
        })
    }

    /// The kubelet has what this file is for.
    fn past(&self) -> Result<bool> {
        Ok(own(self.machine.as_ref())?.is_some_and(|own| own.usable && own.node == self.node))
    }
}

#[async_trait]
impl Step for Bootstrap {
    labelled!();

    fn describe(&self) -> String {
        format!("write {BOOTSTRAP_CONF}")
    }

    fn content(&self) -> Option<String> {
        Some(self.shown.clone())
    }

    async fn check(&self, _: &Outputs) -> Result<Status> {
        if self.past()? {
            return Ok(Status::Ready(Outputs::none()));
        }
        Ok(match self.machine.read(BOOTSTRAP_CONF)?.map(Zeroizing::new) {
            None => Status::Missing,
            Some(there) if there.as_slice() == self.content.as_bytes() => Status::Ready(Outputs::none()),
            Some(_) => Status::Differs("another token: <secret>".into()),
        })
    }

    async fn made(&self, _: &Outputs) -> Result<Vec<Made>> {
        let mut made = made_file(self.machine.as_ref(), BOOTSTRAP_CONF)?;
        // The kubelet writes this one, with what it gets for the other.
        made.extend(
            made_file(self.machine.as_ref(), KUBELET_CONF)?.into_iter().filter(|m| matches!(m, Made::File { .. })),
        );
        Ok(made)
    }

    async fn apply(&self, _: &Outputs, _: &Watch) -> Result<Outputs> {
        make_parents(self.machine.as_ref(), BOOTSTRAP_CONF)?;
        self.machine.write(BOOTSTRAP_CONF, self.content.as_bytes(), 0o600)?;
        Ok(Outputs::none())
    }
}

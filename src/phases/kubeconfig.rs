//! Phase `kubeconfig`: the five files with which the init node's people and components reach the API (contract A.6).
//!
//! kubelet.conf already names the file in which the kubelet keeps its rotating certificate, and that file is there: so the
//! kubelet need not be restarted once it has rotated for the first time.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use kprov_pki::Key as PrivateKey;
use kprov_pki::kubeconfig::{Kubeconfig, User};
use kprov_pki::spec::{self, Authority, Client, Server};
use kprov_providers::machine::New;
use kprov_providers::steps::Label;
use kprov_providers::{Key, Machine, Made, Outputs, Status, Step, Watch};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::certs::{self, Settings, Signer, lay_down, made};
use crate::cluster::Cluster;
use crate::plan::Plan;

mod existing;

pub(crate) use self::existing::credentials;

/// Phase name.
pub const PHASE: &str = "kubeconfig";
/// Where they are.
pub const DIR: &str = "/etc/kubernetes";
/// The kubelet's own directory.
pub const KUBELET_DIR: &str = "/var/lib/kubelet";
/// Where the kubelet keeps its certificates.
pub const KUBELET_PKI: &str = "/var/lib/kubelet/pki";
/// The link to the kubelet's certificate and key of the moment.
pub const KUBELET_CURRENT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// Key of the step that writes a kubeconfig: `kubeconfig/admin`.
pub fn key(file: &str) -> Key {
    Key::new(format!("kubeconfig/{}", file.trim_end_matches(".conf")))
}

/// The steps of the phase. Each needs `needs` and the cluster's CA.
///
/// # Errors
/// When the cluster's values are not what validation lets through.
pub fn kubeconfig(cluster: &Cluster, machine: &Arc<dyn Machine>, needs: &[Key]) -> Result<Plan> {
    let settings = Arc::new(Settings::of(cluster)?);
    let mut plan = Plan::new();
    for client in spec::clients(&settings.names.node) {
        let mut needs = needs.to_vec();
        needs.push(certs::key(Authority::Cluster.path()));
        let label = Label::new(key(client.file), PHASE).needs(needs);
        plan.add(WriteKubeconfig { label, client, settings: settings.clone(), machine: machine.clone() });
    }
    Ok(plan)
}

/// Makes a key and a certificate and writes both into a kubeconfig.
#[derive(Clone)]
struct WriteKubeconfig {
    label: Label,
    client: Client,
    settings: Arc<Settings>,
    machine: Arc<dyn Machine>,
}

impl WriteKubeconfig {
    fn path(&self) -> String {
        format!("{DIR}/{}", self.client.file)
    }

    fn server(&self) -> &str {
        match self.client.server {
            Server::Cluster => &self.settings.api_url,
            Server::Local => &self.settings.local_url,
        }
    }

    fn is_kubelets(&self) -> bool {
        self.client.file == "kubelet.conf"
    }

    fn config(&self, ca: &[u8], user: User) -> Kubeconfig {
        Kubeconfig::new(&self.settings.cluster_name, self.server(), ca, &self.client.user, user)
    }

    fn make(&self) -> Result<()> {
        let machine = self.machine.as_ref();
        let ca = self.signer()?.ok_or_else(|| anyhow!("{} is not there", self.ca()))?;
        let (own, user) = if self.is_kubelets() {
            (Some(self.kubelets_own(&ca)?), User::file(KUBELET_CURRENT))
        } else {
            let (cert, key) = self.sign()?;
            (None, User::embedded(cert.as_bytes(), key.as_bytes()))
        };
        let text = Zeroizing::new(crate::yaml::to_string(&self.config(&ca.pem, user))?);
        let mut all = Vec::new();
        if let Some((file, new)) = &own {
            all.extend(new.as_ref().map(|pem| New::File { path: file, content: pem.as_bytes(), mode: 0o600 }));
            all.push(New::Link { path: KUBELET_CURRENT, target: file });
        }
        let path = self.path();
        all.push(New::File { path: &path, content: text.as_bytes(), mode: 0o600 });
        lay_down(machine, &all)
    }

    fn sign(&self) -> Result<(String, Zeroizing<String>)> {
        let private = PrivateKey::generate(self.settings.algorithm)?;
        let cert = certs::sign(self.machine.as_ref(), &self.settings, &self.client.leaf(), &private)?;
        Ok((cert, private.to_pem()?))
    }

    /// The kubelet's certificate and key as it keeps them itself, in a dated file with a link to it: the file, and what to
    /// write there. A good one that a run before us, or the kubelet, has left is used.
    fn kubelets_own(&self, ca: &Signer) -> Result<(String, Option<Zeroizing<String>>)> {
        let machine = self.machine.as_ref();
        let there = machine.list(KUBELET_PKI)?.unwrap_or_default();
        // A run that was killed may have left one that has no name of its own yet, and its name will never come again.
        let (unnamed, there): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|name| name.starts_with(".kubelet-client-2"));
        for name in unnamed {
            machine.remove(&format!("{KUBELET_PKI}/{name}"))?;
        }
        let left = there.into_iter().rev().find_map(|name| {
            let path = (name.starts_with("kubelet-client-2")).then(|| format!("{KUBELET_PKI}/{name}"))?;
            let pem = Zeroizing::new(machine.read(&path).ok()??);
            matches!(certs::fits(&pem, &pem, &self.client.leaf(), ca), Ok(None)).then_some(path)
        });
        if let Some(file) = left {
            return Ok((file, None));
        }
        let (cert, key) = self.sign()?;
        let both = Zeroizing::new(format!("{cert}{}", key.as_str()));
        Ok((format!("{KUBELET_PKI}/kubelet-client-{}.pem", stamp(OffsetDateTime::now_utc())), Some(both)))
    }

    fn signer(&self) -> Result<Option<Signer>> {
        certs::signer(self.machine.as_ref(), &self.settings.dir, Authority::Cluster)
    }

    fn ca(&self) -> String {
        format!("{}/{}.crt", self.settings.dir, Authority::Cluster.path())
    }
}

/// Time in the name of the kubelet's certificate files, as the kubelet writes it.
fn stamp(t: OffsetDateTime) -> String {
    let (month, day) = (u8::from(t.month()), t.day());
    format!("{:04}-{month:02}-{day:02}-{:02}-{:02}-{:02}", t.year(), t.hour(), t.minute(), t.second())
}

#[async_trait]
impl Step for WriteKubeconfig {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("write {}", self.path())
    }

    fn content(&self) -> Option<String> {
        let user = if self.is_kubelets() { User::file(KUBELET_CURRENT) } else { User::default() };
        let mut config = self.config(&[], user);
        if let Some(cluster) = config.clusters.first_mut() {
            cluster.cluster.certificate_authority_data = Some("known after pki/ca".into());
        }
        if let Some(user) = config.users.first_mut().filter(|_| !self.is_kubelets()) {
            user.user.client_certificate_data = Some(format!("known after {}", self.label.key));
            user.user.client_key_data = Some("<secret>".into());
        }
        crate::yaml::to_string(&config).ok()
    }

    async fn check(&self, _: &Outputs) -> Result<Status> {
        let path = self.path();
        let signer = match self.signer() {
            Ok(signer) => signer,
            // The CA's own step says what is wrong with it.
            Err(e) if e.downcast_ref::<kprov_pki::Error>().is_some() => None,
            Err(e) => return Err(e),
        };
        let Some(text) = self.machine.read(&path)? else {
            return Ok(match signer {
                Some(Signer { key: None, .. }) => Status::Foreign(format!(
                    "{path} is not there, and cannot be made: {} has no key beside it",
                    self.ca()
                )),
                _ => Status::Missing,
            });
        };
        let Some(signer) = signer else {
            return Ok(Status::Foreign(format!("{path} is there, but not {}, which it must trust", self.ca())));
        };
        Ok(match existing::unfit(self.machine.as_ref(), &text, &self.client.leaf(), &signer)? {
            None => Status::Ready(Outputs::none()),
            Some(why) => Status::Foreign(format!("{path} {why}")),
        })
    }

    async fn made(&self, _: &Outputs) -> Result<Vec<Made>> {
        let machine = self.machine.as_ref();
        let mut all = Vec::new();
        if self.is_kubelets() {
            if machine.meta(KUBELET_DIR)?.is_none() {
                all.extend(made(machine, &[KUBELET_DIR.to_owned()])?);
                all.retain(|made| matches!(made, Made::Dir { .. }));
                // All ours: the kubelet fills it.
                all.push(Made::Tree { path: KUBELET_DIR.to_owned() });
            } else {
                all.extend(made(machine, &[KUBELET_CURRENT.to_owned()])?);
            }
        }
        all.extend(made(machine, &[self.path()])?);
        Ok(all)
    }

    async fn apply(&self, _: &Outputs, _: &Watch) -> Result<Outputs> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || own.make()).await??;
        Ok(Outputs::none())
    }
}

#[cfg(test)]
mod tests;

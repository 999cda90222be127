//! The step that makes a certificate and its key.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use kprov_pki::spec::{Authority, Leaf, Usage};
use kprov_pki::{Key as PrivateKey, issue};
use kprov_providers::machine::{New, missing_parents};
use kprov_providers::steps::Label;
use kprov_providers::{Key, Machine, Made, Outputs, Status, Step, Watch};
use zeroize::Zeroizing;

use super::judge::{self, Verdict, crt, key};
use super::{PHASE, Settings};

/// What a pair is for.
#[derive(Debug, Clone)]
enum What {
    Authority(Authority),
    Leaf(Leaf),
}

/// Makes `PATH.key`, then `PATH.crt`.
#[derive(Clone)]
pub(super) struct Pair {
    label: Label,
    what: What,
    settings: Arc<Settings>,
    machine: Arc<dyn Machine>,
}

impl Pair {
    pub(super) fn authority(
        what: Authority,
        settings: &Arc<Settings>,
        machine: &Arc<dyn Machine>,
        needs: &[Key],
    ) -> Self {
        Self {
            label: Label::new(super::key(what.path()), PHASE).needs(needs.to_vec()),
            what: What::Authority(what),
            settings: settings.clone(),
            machine: machine.clone(),
        }
    }

    pub(super) fn leaf(leaf: Leaf, settings: &Arc<Settings>, machine: &Arc<dyn Machine>, needs: &[Key]) -> Self {
        let mut needs = needs.to_vec();
        needs.push(super::key(leaf.signer.path()));
        Self {
            label: Label::new(super::key(leaf.path), PHASE).needs(needs),
            what: What::Leaf(leaf),
            settings: settings.clone(),
            machine: machine.clone(),
        }
    }

    fn path(&self) -> &'static str {
        match &self.what {
            What::Authority(authority) => authority.path(),
            What::Leaf(leaf) => leaf.path,
        }
    }

    fn make(&self) -> Result<()> {
        let (dir, machine) = (self.settings.dir.as_str(), self.machine.as_ref());
        let own = OwnKey::at(machine, key(dir, self.path()), self.settings.algorithm)?;
        let pem = match &self.what {
            What::Authority(authority) => {
                issue::authority(authority.common_name(), &own.key, self.settings.authority())?
            }
            What::Leaf(leaf) => sign(machine, &self.settings, leaf, &own.key)?,
        };
        own.write_with(machine, New::File { path: &crt(dir, self.path()), content: pem.as_bytes(), mode: 0o644 })
    }
}

/// A certificate for a key, signed by the authority on the machine.
pub(crate) fn sign(machine: &dyn Machine, settings: &Settings, leaf: &Leaf, private: &PrivateKey) -> Result<String> {
    let signer = judge::signer(machine, &settings.dir, leaf.signer)?;
    let ca = crt(&settings.dir, leaf.signer.path());
    let Some(signer) = signer else { bail!("{ca} is not there") };
    let cert = signer.chain.first().with_context(|| format!("{ca} is empty"))?;
    let signer_key = signer.key.as_ref().with_context(|| format!("{ca} has no key beside it"))?;
    Ok(issue::leaf(leaf, private, cert, signer_key, settings.leaf())?)
}

/// A key of a path.
pub(crate) struct OwnKey {
    /// The key.
    pub key: PrivateKey,
    path: String,
    /// PEM of a new one, which is not there yet.
    new: Option<Zeroizing<String>>,
}

impl OwnKey {
    /// The key that is there, or a new one.
    pub(crate) fn at(machine: &dyn Machine, path: String, algorithm: kprov_pki::Algorithm) -> Result<Self> {
        if let Some(pem) = machine.read(&path)? {
            let key = PrivateKey::from_pem(&Zeroizing::new(pem)).with_context(|| path.clone())?;
            return Ok(Self { key, path, new: None });
        }
        let key = PrivateKey::generate(algorithm)?;
        let new = Some(key.to_pem()?);
        Ok(Self { key, path, new })
    }

    /// Writes the key, where it is new, and then what belongs to it.
    pub(crate) fn write_with(&self, machine: &dyn Machine, other: New<'_>) -> Result<()> {
        let new = self.new.as_ref().map(|pem| New::File { path: &self.path, content: pem.as_bytes(), mode: 0o600 });
        let files: Vec<New<'_>> = new.into_iter().chain([other]).collect();
        lay_down(machine, &files)
    }
}

/// Makes files and links, and the directories above them, as kubeadm does: 0755, but the kubelet's own 0700.
pub(crate) fn lay_down(machine: &dyn Machine, files: &[New<'_>]) -> Result<()> {
    let mut dirs: Vec<String> = Vec::new();
    for file in files {
        let missing = missing_parents(machine, file.path())?;
        dirs.extend(missing.into_iter().filter(|dir| !dirs.contains(dir)).collect::<Vec<_>>());
    }
    let mode = |dir: &str| if dir == super::super::kubeconfig::KUBELET_DIR { 0o700 } else { 0o755 };
    let dirs = dirs.iter().map(|path| New::Dir { path, mode: mode(path) });
    machine.make_all(&dirs.chain(files.iter().copied()).collect::<Vec<_>>())
}

/// What writing these files would newly leave.
pub(crate) fn made(machine: &dyn Machine, paths: &[String]) -> Result<Vec<Made>> {
    let mut all = Vec::new();
    for path in paths {
        let dirs = missing_parents(machine, path)?.into_iter().map(|path| Made::Dir { path });
        for dir in dirs {
            if !all.contains(&dir) {
                all.push(dir);
            }
        }
        if machine.meta(path)?.is_none() {
            all.push(Made::File { path: path.clone() });
        }
    }
    Ok(all)
}

#[async_trait]
impl Step for Pair {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("write {} and its key", crt(&self.settings.dir, self.path()))
    }

    fn content(&self) -> Option<String> {
        let algorithm = self.settings.algorithm.name();
        Some(match &self.what {
            What::Authority(authority) => {
                let (name, hours) = (authority.common_name(), self.settings.ca_length.whole_hours());
                format!("CA: CN={name}\nnames: {name}\nvalid: {hours}h\nkey: {algorithm} <secret>\n")
            }
            What::Leaf(leaf) => {
                let usage = match leaf.usage {
                    Usage::Client => "client",
                    Usage::Server => "server",
                    Usage::Both => "server, client",
                };
                let names: Vec<String> = leaf.sans.iter().map(ToString::to_string).collect();
                let names = if names.is_empty() { String::new() } else { format!("names: {}\n", names.join(", ")) };
                let (name, signer, hours) =
                    (&leaf.common_name, leaf.signer.common_name(), self.settings.length.whole_hours());
                format!(
                    "CN={name}\nsigned by: {signer}\nusage: {usage}\n{names}valid: {hours}h\nkey: {algorithm} <secret>\n"
                )
            }
        })
    }

    async fn check(&self, _: &Outputs) -> Result<Status> {
        let (machine, dir) = (self.machine.as_ref(), self.settings.dir.as_str());
        let verdict = match &self.what {
            What::Authority(authority) => judge::authority(machine, dir, *authority)?,
            What::Leaf(leaf) => judge::leaf(machine, dir, leaf)?,
        };
        Ok(verdict.into())
    }

    async fn made(&self, _: &Outputs) -> Result<Vec<Made>> {
        let dir = &self.settings.dir;
        made(self.machine.as_ref(), &[key(dir, self.path()), crt(dir, self.path())])
    }

    async fn apply(&self, _: &Outputs, _: &Watch) -> Result<Outputs> {
        let own = self.clone();
        // Keys take time, RSA keys a good part of a second: beside the threads that wait.
        tokio::task::spawn_blocking(move || own.make()).await??;
        Ok(Outputs::none())
    }
}

impl From<Verdict> for Status {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Missing => Status::Missing,
            Verdict::Good => Status::Ready(Outputs::none()),
            Verdict::Bad(why) => Status::Foreign(why),
        }
    }
}

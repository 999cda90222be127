//! Everything that would fail later, said before anything is changed: checks under kubeadm's names (contract A.16).
//!
//! Checks look at the machine and never touch it. What kprov's own journal made is passed over, so that a run after a
//! kill, or on a finished machine, finds nothing to complain about.

mod etcd;
mod files;
mod host;
mod images;
mod kernel;
mod leftovers;
mod network;
mod places;
mod ports;
mod routes;
mod runtime;
mod swap;
mod tokens;

use std::time::SystemTime;

use kprov_providers::Machine;
use kprov_providers::machine::Swap;

use crate::bundle::Manifest;
use crate::cluster::kubeadm::NodeRegistration;
use crate::cluster::{Cluster, Joining};
use crate::facts::Facts;

pub use self::network::{Subnet, subnets};

/// Whether a finding stops the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It would fail later.
    Error,
    /// It may work, but not as expected.
    Warning,
}

/// A change that `--fix` makes before anything else; each is safe, and taken back by a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Turn a swap area off.
    SwapOff {
        /// Which.
        swap: Swap,
        /// The command after which it stays off at a boot, where it is known what turns it on.
        keep: Option<String>,
    },
    /// Move a file of `/etc/cni/net.d` away.
    MoveAway(String),
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Name of the check, as `--ignore-preflight-errors` takes it: `Port-6443`.
    pub name: String,
    /// Whether it stops the command.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// The command that mends it, to be pasted.
    pub hint: Option<String>,
    /// What `--fix` would do about it; empty where it can do nothing.
    pub fixes: Vec<Fix>,
}

impl Finding {
    /// Something that would fail later.
    pub fn error(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), severity: Severity::Error, message: message.into(), hint: None, fixes: Vec::new() }
    }

    /// Something that stops nothing.
    pub fn warning(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(name, message) }
    }

    /// The same, with what mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with what `--fix` does about it.
    #[must_use]
    pub fn fixed_by(mut self, fixes: impl IntoIterator<Item = Fix>) -> Self {
        self.fixes.extend(fixes);
        self
    }
}

/// What the checks look at.
pub struct Look<'a> {
    /// The machine.
    pub machine: &'a dyn Machine,
    /// What was learnt about it.
    pub facts: &'a Facts,
    /// True for a path that kprov's journal made.
    pub ours: &'a (dyn Fn(&str) -> bool + Sync),
    /// What will be brought onto the machine.
    pub bundle: Option<&'a Manifest>,
    /// The machine's clock.
    pub now: SystemTime,
}

/// Checks before `init`.
///
/// # Errors
/// When the machine cannot be looked at.
pub async fn init(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let mut found = common(look, &cluster.init.node_registration).await?;
    found.extend(host::control_plane(look));
    found.extend(files::control_plane(look, cluster)?);
    found.extend(ports::control_plane(look, cluster)?);
    found.extend(network::cluster(look, cluster)?);
    found.extend(routes::control_plane(look, cluster)?);
    found.extend(kernel::pod_network(look, cluster)?);
    found.extend(images::cluster(look, cluster).await?);
    found.extend(etcd::external(look, cluster).await?);
    found.extend(tokens::expired(look, cluster));
    Ok(found)
}

/// Checks before `join` as a worker.
///
/// # Errors
/// When the machine cannot be looked at.
pub async fn join(look: &Look<'_>, joining: &Joining) -> anyhow::Result<Vec<Finding>> {
    let node = joining.join.node_registration.clone().unwrap_or_default();
    let mut found = common(look, &Some(node)).await?;
    found.extend(network::resolvers(look, None));
    found.extend(network::other_cni(look, Severity::Warning)?);
    found.extend(leftovers::links(look, Severity::Warning)?);
    found.extend(routes::worker(look)?);
    found.extend(files::worker(look, joining)?);
    found.extend(ports::worker(look)?);
    found.extend(network::endpoint(look, joining));
    found.extend(images::worker(look).await?);
    Ok(found)
}

/// Checks before `reset`.
pub fn reset(look: &Look<'_>) -> Vec<Finding> {
    host::privileged(look).into_iter().collect()
}

async fn common(look: &Look<'_>, node: &Option<NodeRegistration>) -> anyhow::Result<Vec<Finding>> {
    let mut found: Vec<Finding> = host::privileged(look).into_iter().collect();
    found.extend(host::all(look).await?);
    let name = node.as_ref().and_then(|n| n.name.as_deref()).unwrap_or(&look.facts.hostname);
    found.extend(host::node_name(look, name).await?);
    found.extend(swap::all(look)?);
    found.extend(kernel::all(look)?);
    found.extend(network::all(look));
    found.extend(leftovers::k3s(look)?);
    found.extend(places::all(look)?);
    found.extend(files::bundle(look)?);
    found.extend(runtime::all(look, node.as_ref().and_then(|n| n.cri_socket.as_deref())).await?);
    Ok(found)
}

/// Turns errors whose check is named (in any case, or `all`) into warnings.
pub fn ignore(findings: Vec<Finding>, names: &[String]) -> Vec<Finding> {
    findings
        .into_iter()
        .map(|finding| match is_named(&finding.name, names) {
            true => Finding { severity: Severity::Warning, ..finding },
            false => finding,
        })
        .collect()
}

fn is_named(check: &str, names: &[String]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case("all") || name.trim().eq_ignore_ascii_case(check))
}

/// Parts the findings into those that `--fix` mends and the others, to which those belong that were ignored by name.
pub fn fixable(findings: Vec<Finding>, names: &[String]) -> (Vec<Finding>, Vec<Finding>) {
    findings.into_iter().partition(|finding| !finding.fixes.is_empty() && !is_named(&finding.name, names))
}

/// The errors among the findings.
pub fn errors(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity == Severity::Error).collect()
}

/// A check's name for a path: `FileAvailable--etc-kubernetes-kubelet.conf`.
fn path_name(check: &str, path: &str) -> String {
    format!("{check}-{}", path.replace('/', "-"))
}

#[cfg(test)]
mod tests;

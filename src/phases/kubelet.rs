//! Phase `kubelet-start`: the kubelet's unit, its configuration, its flags, and its start. Shared by init and join.

use std::sync::Arc;

use anyhow::{Context, Result};
use kprov_providers::steps::{Label, MakeDir, UnitStep, WriteFile};
use kprov_providers::{Key, Machine};
use serde_json::{Value, json};

use super::kubeconfig::KUBELET_DIR;
use super::static_pod::MANIFESTS;
use crate::cluster::kubeadm::{NodeRegistration, Taint};
use crate::facts::Facts;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "kubelet-start";
/// The kubelet's unit.
pub const UNIT: &str = "kubelet.service";
/// KubeletConfiguration of this node.
pub const CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// What of it belongs to this node alone.
pub const INSTANCE_CONFIG: &str = "/var/lib/kubelet/instance-config.yaml";
/// Flags of this node.
pub const FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
/// What else the kubelet reads when it starts, brought by the bundle.
const UNIT_FILES: [&str; 3] = [
    "/usr/bin/kubelet",
    "/etc/systemd/system/kubelet.service",
    "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
];
/// systemd-resolved's list of the real resolvers: its own stub would make CoreDNS ask itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// A kubelet before its first start.
pub(crate) struct Kubelet<'a> {
    /// KubeletConfiguration as in ConfigMap kubelet-config.
    pub config: &'a Value,
    /// This node.
    pub node: &'a NodeRegistration,
    /// Only workers register with their taints: a control plane gets its own through the API (contract A.4).
    pub register_taints: bool,
    /// This host.
    pub facts: &'a Facts,
}

/// Key of the step that writes [`CONFIG`].
pub const CONFIG_KEY: &str = "kubelet/config";
/// Keys of the steps that write files; the kubelet's start needs them.
const FILES: [&str; 5] = ["kubelet/dir", "kubelet/instance-config", CONFIG_KEY, "kubelet/flags", "kubelet/manifests"];

/// Key of the step that starts the kubelet.
pub fn key() -> Key {
    Key::new("kubelet/start")
}

/// Key of the step that makes the directory of static pods.
pub(crate) fn manifests() -> Key {
    Key::new("kubelet/manifests")
}

/// Files and start. The files need `first`; the start also needs `needs` (binary, unit, kubeconfig, runtime).
///
/// # Errors
/// A configuration that cannot be written as YAML.
pub(crate) fn kubelet(kubelet: &Kubelet<'_>, machine: &Arc<dyn Machine>, first: &[Key], needs: &[Key]) -> Result<Plan> {
    let mut plan = Plan::new();
    let label = |key: &str| Label::new(key, PHASE).needs(first.iter().cloned());
    plan.add(MakeDir::new(label("kubelet/dir"), machine.clone(), KUBELET_DIR).mode(0o700).tree());
    let instance = crate::yaml::to_string(&instance_config(kubelet))?;
    let config = crate::yaml::to_string(&node_config(kubelet))?;
    for (key, path, text) in [
        ("kubelet/instance-config", INSTANCE_CONFIG, instance),
        (CONFIG_KEY, CONFIG, config),
        ("kubelet/flags", FLAGS, flags(kubelet)),
    ] {
        plan.add(WriteFile::new(label(key).needs(["kubelet/dir"]), machine.clone(), path, text));
    }
    plan.add(MakeDir::new(label("kubelet/manifests"), machine.clone(), MANIFESTS).mode(0o700));
    let start = label(key().as_str()).needs(FILES).needs(needs.iter().cloned());
    let reads = UNIT_FILES.into_iter().chain([CONFIG, INSTANCE_CONFIG, FLAGS]);
    plan.add(UnitStep::new(start, machine.clone(), UNIT).restart_on(reads).with_pods());
    Ok(plan)
}

fn socket(node: &NodeRegistration) -> String {
    node.cri_socket.clone().unwrap_or_else(|| "unix:///run/containerd/containerd.sock".into())
}

/// A fragment, as kubeadm writes and reads it: without a kind.
fn instance_config(kubelet: &Kubelet<'_>) -> Value {
    json!({"containerRuntimeEndpoint": socket(kubelet.node)})
}

/// The cluster's KubeletConfiguration with this node's own values over it.
fn node_config(kubelet: &Kubelet<'_>) -> Value {
    let mut config = kubelet.config.clone();
    if let Some(fields) = config.as_object_mut() {
        fields.insert("containerRuntimeEndpoint".into(), socket(kubelet.node).into());
        let better = kubelet.facts.resolv_conf.as_deref().or(kubelet.facts.resolved.then_some(RESOLVED));
        if let Some(path) = better
            && !fields.contains_key("resolvConf")
        {
            fields.insert("resolvConf".into(), path.into());
        }
    }
    config
}

/// kubeadm-flags.env: one line.
fn flags(kubelet: &Kubelet<'_>) -> String {
    let name = kubelet.node.name.clone().unwrap_or_default();
    let mut own: Vec<(&str, String)> = Vec::new();
    if name != kubelet.facts.hostname {
        own.push(("hostname-override", name));
    }
    let taints = kubelet.node.taints.clone().unwrap_or_default();
    if kubelet.register_taints && !taints.is_empty() {
        let taints: Vec<String> = taints.iter().map(taint).collect();
        own.push(("register-with-taints", taints.join(",")));
    }
    let args = super::static_pod::arguments(&own, kubelet.node.kubelet_extra_args.as_ref());
    format!("KUBELET_KUBEADM_ARGS=\"{}\"\n", args.join(" "))
}

/// `key=value:effect`.
fn taint(taint: &Taint) -> String {
    format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect)
}

/// A Go duration of the configuration, or the default.
pub(crate) fn timeout(text: Option<&String>, default: u64) -> Result<std::time::Duration> {
    match text {
        None => Ok(std::time::Duration::from_secs(default)),
        Some(text) => crate::cluster::duration(text).with_context(|| format!("{text} is no duration")),
    }
}

#[cfg(test)]
mod tests;

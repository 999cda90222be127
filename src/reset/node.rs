//! A worker says good-bye: its Node is marked not ready at once, instead of after the cluster's grace period.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kprov_providers::Machine;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

pub(super) use crate::discovery::KUBELET_CONF;

/// Nobody should wait for a cluster that is away, but a slow machine needs seconds for a TLS handshake alone: without
/// this mark it could not join again until the cluster itself has missed it.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

/// For one connection, its TLS handshake included.
const CONNECT: Duration = Duration::from_secs(5);

/// The Node name that this machine's kubelet.conf stands for; `None` without a usable one.
pub(super) fn own_name(machine: &dyn Machine) -> anyhow::Result<Option<String>> {
    Ok(crate::discovery::own(machine)?.map(|own| own.node).filter(|name| !name.is_empty()))
}

/// A kubeconfig with the files that it names (the kubelet's own certificate) taken in: they are the machine's.
fn kubeconfig(machine: &dyn Machine, path: &str) -> anyhow::Result<Option<Kubeconfig>> {
    let Some(text) = machine.read(path)? else { return Ok(None) };
    let doing = || format!("reading {path}");
    let mut config: Value = crate::yaml::from_str(&String::from_utf8(text).with_context(doing)?).with_context(doing)?;
    for (list, item, names) in [
        ("clusters", "cluster", ["certificate-authority"].as_slice()),
        ("users", "user", ["client-certificate", "client-key"].as_slice()),
    ] {
        for entry in config.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(fields) = entry.get_mut(item).and_then(Value::as_object_mut) else { continue };
            for name in names {
                let Some(file) = fields.get(*name).and_then(Value::as_str).filter(|file| !file.is_empty()) else {
                    continue;
                };
                if let Some(bytes) = machine.read(file)? {
                    fields.insert(format!("{name}-data"), data_encoding::BASE64.encode(&bytes).into());
                    fields.remove(*name);
                }
            }
        }
    }
    Ok(Some(serde_json::from_value(config).with_context(doing)?))
}

/// Sets the Ready condition of this machine's Node to False, usually with the kubelet's own identity.
pub(super) async fn not_ready(machine: &dyn Machine, name: &str, path: &str, limit: Duration) -> anyhow::Result<()> {
    let Some(kubeconfig) = kubeconfig(machine, path)? else { return Ok(()) };
    tokio::time::timeout(limit, async {
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(CONNECT);
        let nodes: kube::Api<Node> = kube::Api::all(kube::Client::try_from(config)?);
        let now = kprov_providers::event::now();
        let patch = json!({"status": {"conditions": [{
            "type": "Ready",
            "status": "False",
            "reason": "KubeletStopped",
            "message": "this machine is being reset",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        anyhow::Ok(())
    })
    .await
    .context("the API does not answer")?
}

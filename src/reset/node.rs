//! A worker says good-bye: its Node is marked not ready at once, instead of after the cluster's grace period.

use std::time::Duration;

use anyhow::Context;
use data_encoding::BASE64;
use k8s_openapi::api::core::v1::Node;
use kprov_pki::inspect::Cert;
use kprov_providers::Machine;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

pub(super) const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// Nobody should wait for a cluster that is away.
const LIMIT: Duration = Duration::from_secs(5);

/// The Node name that this machine's kubelet.conf stands for; `None` without one, or when its certificate is not there.
///
/// # Errors
/// When the file or the certificate cannot be read.
pub fn own_name(machine: &dyn Machine) -> anyhow::Result<Option<String>> {
    let Some(kubeconfig) = kubeconfig(machine)? else { return Ok(None) };
    let Some(user) = kubeconfig.auth_infos.first().and_then(|named| named.auth_info.as_ref()) else { return Ok(None) };
    let pem = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => {
            Some(BASE64.decode(data.trim().as_bytes()).context("reading the certificate in kubelet.conf")?)
        }
        (None, Some(path)) => machine.read(path)?,
        (None, None) => None,
    };
    let Some(pem) = pem else { return Ok(None) };
    let chain = Cert::chain_from_pem(&pem).context("reading the kubelet's certificate")?;
    Ok(chain.first().and_then(|cert| cert.common_name().strip_prefix("system:node:")).map(str::to_owned))
}

fn kubeconfig(machine: &dyn Machine) -> anyhow::Result<Option<Kubeconfig>> {
    let Some(text) = machine.read(KUBELET_CONF)? else { return Ok(None) };
    let text = String::from_utf8(text).context("reading kubelet.conf")?;
    Ok(Some(Kubeconfig::from_yaml(&text).context("reading kubelet.conf")?))
}

/// Sets the Ready condition of this machine's Node to False, with the kubelet's own identity.
pub(super) async fn not_ready(machine: &dyn Machine, name: &str) -> anyhow::Result<()> {
    let Some(kubeconfig) = kubeconfig(machine)? else { return Ok(()) };
    tokio::time::timeout(LIMIT, async {
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(Duration::from_secs(2));
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

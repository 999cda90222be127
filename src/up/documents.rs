//! The documents that kprov on a machine is given: kubeadm's own, on its standard input.

use std::net::Ipv4Addr;

use anyhow::Context;
use kprov_pki::inspect::Cert;
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::pin::Pin;
use serde_json::{Value, json};

use crate::cluster::kubeadm::API_VERSION;

/// True where the host swaps: its machines see the host's swap, and a kubelet refuses to start then.
pub fn host_has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// For `kprov init` on a machine. `single`: no worker comes, so pods may run here.
///
/// # Errors
/// When it cannot be written as YAML (a bug).
pub fn init(node: &str, address: Ipv4Addr, version: &str, single: bool, swap: bool) -> anyhow::Result<Vec<u8>> {
    let mut registration = json!({"name": node});
    if single && let Some(fields) = registration.as_object_mut() {
        fields.insert("taints".to_owned(), json!([]));
    }
    let mut documents = vec![
        json!({
            "apiVersion": API_VERSION,
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": address.to_string()},
            "nodeRegistration": registration,
        }),
        json!({"apiVersion": API_VERSION, "kind": "ClusterConfiguration", "kubernetesVersion": version}),
    ];
    if swap {
        documents.push(json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failSwapOn": false,
        }));
    }
    write(&documents)
}

/// For `kprov join` on a machine: the token, and the pin of the CA in the cluster's kubeconfig.
///
/// # Errors
/// When the kubeconfig has no server or CA.
pub fn join(node: &str, token: &str, kubeconfig: &str) -> anyhow::Result<Vec<u8>> {
    let config: Kubeconfig = crate::yaml::from_str(kubeconfig).context("reading the cluster's kubeconfig")?;
    let (cluster, _) = config.current().context("the cluster's kubeconfig has no context in use")?;
    let ca = cluster.ca_pem()?.context("the cluster's kubeconfig has no CA")?;
    let pin = Pin::of(&Cert::from_pem(&ca)?);
    let endpoint = cluster.server.strip_prefix("https://").unwrap_or(&cluster.server);
    write(&[json!({
        "apiVersion": API_VERSION,
        "kind": "JoinConfiguration",
        "discovery": {"bootstrapToken": {
            "apiServerEndpoint": endpoint,
            "token": token,
            "caCertHashes": [pin.to_string()],
        }},
        "nodeRegistration": {"name": node},
    })])
}

fn write(documents: &[Value]) -> anyhow::Result<Vec<u8>> {
    Ok(crate::yaml::to_documents(documents)?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_is_given_kubeadm_documents() {
        let text = init("kprov-cp-1", Ipv4Addr::new(10, 213, 0, 2), "v1.36.3", false, false).unwrap();
        let values = crate::yaml::values(std::str::from_utf8(&text).unwrap()).unwrap();
        assert_eq!(values.len(), 2);
        assert_eq!(values[0]["localAPIEndpoint"]["advertiseAddress"], "10.213.0.2");
        assert!(values[0]["nodeRegistration"].get("taints").is_none(), "absent: the default taint");
        let text = init("a", Ipv4Addr::new(10, 213, 0, 2), "v1.36.3", true, true).unwrap();
        let values = crate::yaml::values(std::str::from_utf8(&text).unwrap()).unwrap();
        assert_eq!(values[0]["nodeRegistration"]["taints"], json!([]));
        assert_eq!(values[2]["failSwapOn"], false);
    }

    #[test]
    fn a_kubeconfig_without_a_ca_cannot_be_joined() {
        let text = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://x:6443'}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\nusers: [{name: a, user: {}}]\n";
        assert!(join("n", "t", text).unwrap_err().to_string().contains("no CA"));
    }
}

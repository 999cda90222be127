//! flannel, the pod network that comes with the bundle: namespace, rights and names as upstream's, an image of our own.
//!
//! It reaches the API at its real address and not at the Service's, so that it does not fail while kube-proxy is not
//! there yet; and it lets the node's pods start only once the Service answers. CoreDNS else loses up to a minute to its
//! first failed watch, as does every pod that talks to the API.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use kprov_providers::kube::objects::Object;
use serde_json::{Value, json};

use crate::bundle::Manifest;
use crate::cluster::{Cluster, subnets};
use crate::phases::certs::Settings;
use crate::phases::rbac;

/// Namespace.
const NAMESPACE: &str = "kube-flannel";

/// The host's CNI plugins, as the pod sees them: a node joined by kubeadm may lack those that flannel needs.
const PLUGINS: &str = "/host/opt/cni/bin";

/// All that flannel needs.
pub(crate) fn objects(cluster: &Cluster, bundle: &Manifest) -> Result<Vec<Object>> {
    let api = Settings::of(cluster)?.api_url;
    let (host, port) = host_and_port(&api).with_context(|| format!("address of the API server {api}"))?;
    let image = bundle.flannel().context("the bundle has no flannel")?.name.clone();
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"k8s-app": "flannel", "pod-security.kubernetes.io/enforce": "privileged"},
        },
    });
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "flannel", "namespace": NAMESPACE, "labels": {"k8s-app": "flannel"}},
    });
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    ]);
    let mut binding = rbac::cluster_binding("flannel", "flannel", &[]);
    if let Some(fields) = binding.as_object_mut() {
        let subject = json!([{"kind": "ServiceAccount", "name": "flannel", "namespace": NAMESPACE}]);
        fields.insert("subjects".into(), subject);
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-flannel-cfg", "namespace": NAMESPACE, "labels": {"app": "flannel", "k8s-app": "flannel"}},
        "data": {"net-conf.json": net_conf(cluster)?},
    });
    let mut command = vec!["flanneld".to_owned(), "--ip-masq".to_owned(), format!("--install-cni={PLUGINS}")];
    if cluster.config.proxy.as_ref().is_none_or(|proxy| proxy.disabled != Some(true)) {
        let services = cluster.config.networking.as_ref().and_then(|n| n.service_subnet.clone()).unwrap_or_default();
        let service = subnets::api_service_address(&services).context("networking.serviceSubnet")?;
        command.push(format!("--wait-for={}", SocketAddr::new(service, 443)));
    }
    let daemons = daemon_set(&image, &command, &host, &port);
    let all = [namespace, account, rbac::cluster_role("flannel", rules), binding, config, daemons];
    Ok(all.into_iter().map(Object::new).collect())
}

/// `https://10.0.0.1:6443`, `https://[fd00::1]:6443`.
fn host_and_port(url: &str) -> Option<(String, String)> {
    let (host, port) = url.strip_prefix("https://")?.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.to_owned()))
}

fn net_conf(cluster: &Cluster) -> Result<String> {
    let network = cluster.config.networking.clone().unwrap_or_default();
    let pods = network.pod_subnet.as_deref().and_then(subnets::subnets).context("networking.podSubnet")?;
    let v4 = pods.iter().find(|subnet| matches!(subnet, IpNet::V4(_)));
    let v6 = pods.iter().find(|subnet| matches!(subnet, IpNet::V6(_)));
    let nft = cluster.proxy.get("mode").and_then(Value::as_str) == Some("nftables");
    let mut conf = serde_json::Map::new();
    conf.insert("EnableIPv4".into(), v4.is_some().into());
    if let Some(v4) = v4 {
        conf.insert("Network".into(), v4.to_string().into());
    }
    if let Some(v6) = v6 {
        conf.insert("EnableIPv6".into(), true.into());
        conf.insert("IPv6Network".into(), v6.to_string().into());
    }
    conf.insert("EnableNFTables".into(), nft.into());
    conf.insert("Backend".into(), json!({"Type": "vxlan"}));
    Ok(format!("{}\n", serde_json::to_string_pretty(&conf)?))
}

fn daemon_set(image: &str, command: &[String], host: &str, port: &str) -> Value {
    let own = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": "kube-flannel-ds",
            "namespace": NAMESPACE,
            "labels": {"app": "flannel", "k8s-app": "flannel"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "flannel"}},
            "template": {
                "metadata": {"labels": {"app": "flannel", "k8s-app": "flannel"}},
                "spec": {
                    "hostNetwork": true,
                    "priorityClassName": "system-node-critical",
                    "serviceAccountName": "flannel",
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "kube-flannel",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": command,
                        "env": [
                            {"name": "POD_NAME", "valueFrom": own("metadata.name")},
                            {"name": "POD_NAMESPACE", "valueFrom": own("metadata.namespace")},
                            {"name": "NODE_NAME", "valueFrom": own("spec.nodeName")},
                            {"name": "KUBERNETES_SERVICE_HOST", "value": host},
                            {"name": "KUBERNETES_SERVICE_PORT", "value": port},
                        ],
                        "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
                        "securityContext": {
                            "privileged": false,
                            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]},
                        },
                        "volumeMounts": [
                            {"name": "cni-plugins", "mountPath": PLUGINS},
                            {"name": "run", "mountPath": "/run/flannel"},
                            {"name": "cni", "mountPath": "/etc/cni/net.d"},
                            {"name": "flannel-cfg", "mountPath": "/etc/kube-flannel"},
                            {"name": "xtables-lock", "mountPath": "/run/xtables.lock"},
                        ],
                    }],
                    "volumes": [
                        {"name": "run", "hostPath": {"path": "/run/flannel", "type": "DirectoryOrCreate"}},
                        {"name": "cni-plugins", "hostPath": {"path": "/opt/cni/bin", "type": "DirectoryOrCreate"}},
                        {"name": "cni", "hostPath": {"path": "/etc/cni/net.d", "type": "DirectoryOrCreate"}},
                        {"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}},
                        {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
                    ],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_s_address_is_taken_apart() {
        assert_eq!(host_and_port("https://10.0.0.1:6443"), Some(("10.0.0.1".into(), "6443".into())));
        assert_eq!(host_and_port("https://[fd00::1]:6443"), Some(("fd00::1".into(), "6443".into())));
    }
}

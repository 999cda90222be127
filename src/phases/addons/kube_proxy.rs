//! kube-proxy (contract A.8).

use anyhow::Result;
use kprov_providers::kube::objects::Object;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::facts::Facts;
use crate::phases::certs::Settings;
use crate::phases::rbac::{self, BOOTSTRAPPERS, Subject};
use crate::phases::static_pod::kubernetes_image;
use crate::phases::upload_config::hash;

/// All that kube-proxy needs.
pub(crate) fn objects(cluster: &Cluster, facts: &Facts) -> Result<Vec<Object>> {
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
    });
    let mut all = vec![
        config(cluster)?,
        account,
        rbac::cluster_binding("kubeadm:node-proxier", "system:node-proxier", &[Subject::Account("kube-proxy")]),
        daemon_set(&kubernetes_image(cluster, "kube-proxy"), facts),
    ];
    all.extend(rbac::config_map_reader("kube-proxy", "kube-system", "kube-proxy", &[BOOTSTRAPPERS]));
    Ok(all.into_iter().map(Object::new).collect())
}

fn config(cluster: &Cluster) -> Result<Value> {
    let server = Settings::of(cluster)?.api_url;
    let config = crate::yaml::to_string(&cluster.proxy)?;
    let kubeconfig = crate::yaml::to_string(&kubeconfig(&server))?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "kube-proxy",
            "namespace": "kube-system",
            "labels": {"app": "kube-proxy"},
            "annotations": hash(&[&config, &kubeconfig], cluster.proxy_from_user),
        },
        "data": {"config.conf": config, "kubeconfig.conf": kubeconfig},
    }))
}

fn kubeconfig(server: &str) -> Value {
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "default",
            "cluster": {"certificate-authority": format!("{account}/ca.crt"), "server": server},
        }],
        "contexts": [{
            "name": "default",
            "context": {"cluster": "default", "namespace": "default", "user": "default"},
        }],
        "current-context": "default",
        "users": [{"name": "default", "user": {"tokenFile": format!("{account}/token")}}],
    })
}

fn daemon_set(image: &str, facts: &Facts) -> Value {
    let mut env = vec![json!({"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})];
    env.extend(facts.proxy.iter().map(|(name, value)| json!({"name": name, "value": value})));
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": {"k8s-app": "kube-proxy"}},
                "spec": {
                    "priorityClassName": "system-node-critical",
                    "containers": [{
                        "name": "kube-proxy",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": [
                            "/usr/local/bin/kube-proxy",
                            "--config=/var/lib/kube-proxy/config.conf",
                            "--hostname-override=$(NODE_NAME)",
                        ],
                        "env": env,
                        "securityContext": {"privileged": true},
                        "volumeMounts": [
                            {"name": "kube-proxy", "mountPath": "/var/lib/kube-proxy"},
                            {"name": "xtables-lock", "mountPath": "/run/xtables.lock"},
                            {"name": "lib-modules", "mountPath": "/lib/modules", "readOnly": true},
                        ],
                    }],
                    "hostNetwork": true,
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "serviceAccountName": "kube-proxy",
                    "tolerations": [{"operator": "Exists"}],
                    "volumes": [
                        {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}},
                        {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
                        {"name": "lib-modules", "hostPath": {"path": "/lib/modules"}},
                    ],
                },
            },
        },
    })
}

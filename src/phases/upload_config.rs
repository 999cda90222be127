//! Phase `upload-config`: what `join` and `upgrade` read (contract A.8).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kprov_providers::Key;
use kprov_providers::kube::Api;
use kprov_providers::kube::objects::{Apply, Object};
use kprov_providers::steps::Label;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::rbac::{self, BOOTSTRAPPERS, NODES};
use crate::cluster::Cluster;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "upload-config";
/// Says that kubeadm (or kprov) made the configuration, and may make it anew on an upgrade.
const HASH: &str = "kubeadm.kubernetes.io/component-config.hash";

/// The steps: kubeadm-config and kubelet-config with who may read them.
pub(crate) fn upload_config(cluster: &Cluster, api: &Arc<Api>, needs: &[Key], patience: Duration) -> Result<Plan> {
    let mut plan = Plan::new();
    let mut add = |key: &str, what: &str, objects: Vec<Value>| {
        plan.add(Apply {
            label: Label::new(key, PHASE).needs(needs.iter().cloned()),
            api: api.clone(),
            what: what.to_owned(),
            objects: objects.into_iter().map(Object::new).collect(),
            patience,
        });
    };
    let mut objects = vec![json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterConfiguration": cluster.config_yaml()?},
    })];
    let name = "kubeadm:nodes-kubeadm-config";
    objects.extend(rbac::config_map_reader(name, "kube-system", "kubeadm-config", &[BOOTSTRAPPERS, NODES]));
    add("config/kubeadm", "ConfigMap kubeadm-config", objects);

    let text = crate::yaml::to_string(&cluster.kubelet)?;
    let mut objects = vec![json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "kubelet-config",
            "namespace": "kube-system",
            "annotations": hash(&[&text], cluster.kubelet_from_user),
        },
        "data": {"kubelet": text},
    })];
    let name = "kubeadm:kubelet-config";
    objects.extend(rbac::config_map_reader(name, "kube-system", "kubelet-config", &[NODES, BOOTSTRAPPERS]));
    add("config/kubelet", "ConfigMap kubelet-config", objects);
    Ok(plan)
}

/// The annotation that a generated component configuration carries; none on a user's own.
pub(crate) fn hash(values: &[&str], from_user: bool) -> Value {
    if from_user {
        return json!({});
    }
    let mut sha = Sha256::new();
    values.iter().for_each(|value| sha.update(value));
    json!({HASH: format!("sha256:{}", data_encoding::HEXLOWER.encode(&sha.finalize()))})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_over_the_values() {
        let sha_of_ab = "sha256:fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603";
        assert_eq!(hash(&["a", "b"], false), json!({HASH: sha_of_ab}));
        assert_eq!(hash(&["a"], true), json!({}));
    }
}

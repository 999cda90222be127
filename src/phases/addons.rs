//! Phase `addon`: cluster DNS, the Services' proxy, the pod network.

pub(crate) mod coredns;
pub(crate) mod flannel;
pub(crate) mod kube_proxy;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kprov_providers::Key;
use kprov_providers::kube::Api;
use kprov_providers::kube::manifest::Manifest as UserManifest;
use kprov_providers::kube::objects::{Apply, Object};
use kprov_providers::steps::Label;

use crate::bundle::Manifest;
use crate::cluster::{Cluster, Cni};
use crate::facts::Facts;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "addon";

/// Key of the step that applies a network add-on that the user brought.
pub(crate) fn user_manifest() -> Key {
    Key::new("addon/cni")
}

/// The steps of the phase, side by side.
pub(crate) fn addons(
    cluster: &Cluster,
    facts: &Facts,
    bundle: &Manifest,
    api: &Arc<Api>,
    needs: &[Key],
    patience: Duration,
) -> Result<Plan> {
    let mut plan = Plan::new();
    let label = |key: &str| Label::new(key, PHASE).needs(needs.iter().cloned());
    let apply = |key: &str, what: &str, objects: Vec<Object>| Apply {
        label: label(key),
        api: api.clone(),
        what: what.to_owned(),
        objects,
        patience,
    };
    if cluster.config.proxy.as_ref().is_none_or(|proxy| proxy.disabled != Some(true)) {
        plan.add(apply("addon/kube-proxy", "add-on kube-proxy", kube_proxy::objects(cluster, facts)?));
    }
    match &cluster.cni {
        Cni::None => {}
        Cni::Flannel => plan.add(apply("addon/flannel", "add-on flannel", flannel::objects(cluster, bundle)?)),
        Cni::Manifest { name, text } => {
            let documents = crate::yaml::values(text).with_context(|| format!("reading {name}"))?;
            plan.add(UserManifest {
                label: label(user_manifest().as_str()),
                api: api.clone(),
                name: name.clone(),
                documents,
                patience,
            });
        }
    }
    if cluster.config.dns.as_ref().is_none_or(|dns| dns.disabled != Some(true)) {
        plan.add(apply("addon/coredns", "add-on CoreDNS", coredns::objects(cluster, bundle)?));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps, core, rbac};
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::Value;

    fn same<T: Serialize + DeserializeOwned>(value: &Value) {
        let typed: T = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), *value);
    }

    fn bundle() -> Manifest {
        serde_json::from_str(include_str!("../../tests/golden/bundle.json")).unwrap()
    }

    fn cluster() -> Cluster {
        let facts = crate::facts::tests::facts();
        crate::cluster::load_init(&Default::default(), None, None, &facts, &bundle()).unwrap()
    }

    /// Fields that Kubernetes does not know, or of a wrong type, do not survive the way through its types.
    #[test]
    fn all_objects_are_what_their_types_allow() {
        let (cluster, bundle) = (cluster(), bundle());
        let mut objects = coredns::objects(&cluster, &bundle).unwrap();
        objects.extend(kube_proxy::objects(&cluster, &crate::facts::tests::facts()).unwrap());
        objects.extend(flannel::objects(&cluster, &bundle).unwrap());
        assert_eq!(objects.len(), 18);
        for Object { value, .. } in &objects {
            match value["kind"].as_str().unwrap() {
                "ConfigMap" => same::<core::v1::ConfigMap>(value),
                "Service" => same::<core::v1::Service>(value),
                "ServiceAccount" => same::<core::v1::ServiceAccount>(value),
                "Namespace" => same::<core::v1::Namespace>(value),
                "Deployment" => same::<apps::v1::Deployment>(value),
                "DaemonSet" => same::<apps::v1::DaemonSet>(value),
                "Role" => same::<rbac::v1::Role>(value),
                "RoleBinding" => same::<rbac::v1::RoleBinding>(value),
                "ClusterRole" => same::<rbac::v1::ClusterRole>(value),
                "ClusterRoleBinding" => same::<rbac::v1::ClusterRoleBinding>(value),
                other => panic!("no type for {other}"),
            }
        }
    }
}

//! Whether a cluster, or one node of it, is Ready: its Nodes, and the pods of the namespaces that carry it. Looked at once,
//! or waited for.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

mod booted;
mod wait;

pub use booted::Booted;
pub use wait::{NotReady, wait, wait_since};

/// Namespaces whose pods belong to the system.
const SYSTEM: [&str; 2] = ["kube-system", "kube-flannel"];

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All Nodes and, where asked for, all system pods. These Nodes must be there; others may.
    Cluster {
        /// Names of Nodes that must be there.
        nodes: BTreeSet<String>,
        /// System pods too.
        pods: bool,
    },
    /// One Node and, where asked for, the system pods on it: what a kubelet's own rights show.
    Node {
        /// Its name.
        name: String,
        /// The system pods on it too.
        pods: bool,
    },
}

impl Scope {
    /// All of a cluster with these Nodes.
    pub fn all(nodes: BTreeSet<String>) -> Self {
        Self::Cluster { nodes, pods: true }
    }

    /// Which Nodes it is about.
    fn nodes(&self) -> ListParams {
        match self {
            Self::Cluster { .. } => ListParams::default(),
            Self::Node { name, .. } => ListParams::default().fields(&format!("metadata.name={name}")),
        }
    }

    /// Which pods it is about.
    fn pods(&self) -> ListParams {
        match self {
            Self::Cluster { .. } => ListParams::default(),
            Self::Node { name, .. } => ListParams::default().fields(&format!("spec.nodeName={name}")),
        }
    }
}

/// A node as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Ready.
    pub ready: bool,
    /// Why not, in the cluster's words; empty where it is.
    #[serde(skip)]
    pub why: String,
    /// `control-plane` or empty.
    pub roles: String,
    /// Its kubelet's version.
    pub version: String,
    /// Its InternalIP.
    pub address: String,
}

/// A look at a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// All nodes, sorted by name.
    pub nodes: Vec<NodeState>,
    /// What is not as it should be, one line each; empty: all is Ready.
    pub waiting: Vec<String>,
    /// A pod that is not Ready: namespace and name.
    #[serde(skip)]
    pub pod: Option<(String, String)>,
}

/// A client from a kubeconfig file.
///
/// # Errors
/// When the file cannot be read or used.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config = Kubeconfig::from_yaml(&text).with_context(|| format!("reading {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    // Machines of this host are never behind a proxy.
    config.proxy_url = None;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(30));
    Ok(Client::try_from(config)?)
}

/// Looks once.
///
/// # Errors
/// When the API cannot be asked.
pub async fn look(client: &Client, scope: &Scope) -> anyhow::Result<Health> {
    look_since(client, scope, &Booted::default()).await
}

async fn look_since(client: &Client, scope: &Scope, booted: &Booted) -> anyhow::Result<Health> {
    let nodes = Api::<Node>::all(client.clone()).list(&scope.nodes()).await.context("listing nodes")?;
    let mut health = Health { nodes: nodes.items.iter().map(node).collect(), ..Health::default() };
    health.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let (wanted, pods) = match scope {
        Scope::Cluster { nodes, pods } => (nodes.clone(), *pods),
        Scope::Node { name, pods } => (BTreeSet::from([name.clone()]), *pods),
    };
    for name in wanted.iter().filter(|name| !health.nodes.iter().any(|node| node.name == **name)) {
        health.waiting.push(format!("node {name} is not registered"));
    }
    for node in health.nodes.iter().filter(|node| !node.ready) {
        let why = if node.why.is_empty() { String::new() } else { format!(" ({})", node.why) };
        health.waiting.push(format!("node {} is not Ready{why}", node.name));
    }
    if !pods {
        return Ok(health);
    }
    // Side by side: a cluster that is coming up takes its time for each answer.
    let [first, second] = SYSTEM.map(|namespace| system(client, scope, booted, namespace));
    let (first, second) = futures_util::try_join!(first, second)?;
    for (waiting, pod) in [first, second] {
        health.waiting.extend(waiting);
        health.pod = health.pod.or(pod);
    }
    Ok(health)
}

/// What is not as it should be in a namespace, and one of its pods that is not Ready.
async fn system(
    client: &Client,
    scope: &Scope,
    booted: &Booted,
    namespace: &str,
) -> anyhow::Result<(Vec<String>, Option<(String, String)>)> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let of = scope.pods();
    let all = async {
        match scope {
            Scope::Cluster { .. } => workloads(client, namespace).await,
            // A kubelet may not see what pods are made from.
            Scope::Node { .. } => Ok(Vec::new()),
        }
    };
    let (mut waiting, pods) = futures_util::try_join!(all, async { Ok(pods.list(&of).await?) })?;
    let mut unready_pod = None;
    for pod in &pods.items {
        let stale = || booted.stale(pod).then(|| " (not seen since the start)".to_owned());
        if let Some(why) = unready(pod).or_else(stale) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            waiting.push(format!("pod {name} is not Ready{why}"));
            unready_pod.get_or_insert((namespace.to_owned(), name));
        }
    }
    Ok((waiting, unready_pod))
}

/// DaemonSets and Deployments that do not have all their pods: a pod that is not made yet can be seen nowhere else.
async fn workloads(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>> {
    let all = ListParams::default();
    let sets = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let (sets, deployments) = futures_util::try_join!(sets.list(&all), deployments.list(&all))?;
    let mut waiting = Vec::new();
    for set in &sets.items {
        let status = set.status.clone().unwrap_or_default();
        let seen = status.observed_generation == set.metadata.generation;
        if !seen || status.number_ready < status.desired_number_scheduled || status.desired_number_scheduled == 0 {
            let name = set.metadata.name.clone().unwrap_or_default();
            let (ready, wanted) = (status.number_ready, status.desired_number_scheduled);
            waiting.push(format!("{name}: {ready} of {wanted} pods are Ready"));
        }
    }
    for deployment in &deployments.items {
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        if ready < wanted {
            let name = deployment.metadata.name.clone().unwrap_or_default();
            waiting.push(format!("{name}: {ready} of {wanted} pods are Ready"));
        }
    }
    Ok(waiting)
}

/// The API's own words, where it said some.
pub fn words(error: &anyhow::Error) -> String {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<kube::Error>())
        .map_or_else(|| format!("{error:#}"), |error| format!("the API: {}", kprov_providers::kube::words(error)))
}

fn node(node: &Node) -> NodeState {
    let status = node.status.clone().unwrap_or_default();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let found = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == "Ready");
    let ready = found.as_ref().is_some_and(|c| c.status == "True");
    let role = "node-role.kubernetes.io/control-plane";
    NodeState {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready,
        why: found.filter(|_| !ready).and_then(|c| c.reason).unwrap_or_default(),
        roles: if labels.contains_key(role) { "control-plane".to_owned() } else { String::new() },
        version: status.node_info.map(|info| info.kubelet_version).unwrap_or_default(),
        address: status
            .addresses
            .unwrap_or_default()
            .into_iter()
            .find(|address| address.type_ == "InternalIP")
            .map(|address| address.address)
            .unwrap_or_default(),
    }
}

/// Why a pod is not Ready; none for one that is, or that has done its work or is going away.
fn unready(pod: &Pod) -> Option<String> {
    let status = pod.status.clone().unwrap_or_default();
    let ended = status.phase.as_deref() == Some("Succeeded") || pod.metadata.deletion_timestamp.is_some();
    let ready = status.conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True");
    if ended || ready {
        return None;
    }
    let why = status.container_statuses.unwrap_or_default().into_iter().find_map(|container| {
        let state = container.state?;
        let waiting = state.waiting.map(|waiting| (waiting.reason, waiting.message));
        let (reason, message) = waiting.or(state.terminated.map(|ended| (ended.reason, ended.message)))?;
        let message = message.map(|text| format!(": {text}")).unwrap_or_default();
        Some(format!(" ({}{message})", reason.unwrap_or_default()))
    });
    Some(why.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_that_is_not_ready_says_why() {
        let waiting =
            pod(serde_json::json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}}]}}));
        assert_eq!(unready(&waiting).unwrap(), " (ErrImagePull: no such host)");
        let ready = pod(serde_json::json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        assert_eq!(unready(&ready), None);
        assert_eq!(unready(&pod(serde_json::json!({"status": {"phase": "Succeeded"}}))), None);
        assert_eq!(unready(&pod(serde_json::json!({}))).unwrap(), "");
    }

    #[test]
    fn a_node_is_read_from_its_status() {
        let object = serde_json::json!({"metadata": {"name": "a", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "10.0.0.2"}]}});
        let state = node(&serde_json::from_value(object).unwrap());
        assert!(state.ready);
        assert_eq!((state.roles.as_str(), state.address.as_str()), ("control-plane", "10.0.0.2"));
    }
}

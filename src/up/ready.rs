//! Whether a cluster's nodes and system pods are Ready, from the API; looked at once, or waited for.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kprov_providers::Watch;
use kube::api::{Api, ListParams, LogParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Namespaces whose pods belong to the system.
const SYSTEM: [&str; 2] = ["kube-system", "kube-flannel"];

/// How long nodes and pods may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How many of the last log lines are shown of a pod that does not come up.
const LOG_LINES: i64 = 20;

/// A node as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Ready.
    pub ready: bool,
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

/// Machines that were booted just now: what the API says of their pods is news only once it names containers that were
/// started since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Booted {
    /// Their nodes.
    pub nodes: BTreeSet<String>,
    /// When, as the API writes times: RFC 3339, UTC, seconds.
    pub since: String,
}

impl Booted {
    /// Machines that are about to be booted.
    pub fn now() -> Self {
        let now = kprov_providers::event::now();
        // The API's times have no fractions, and are rounded down as this one is.
        let seconds = now.split('.').next().unwrap_or_default();
        Self { nodes: BTreeSet::new(), since: format!("{seconds}Z") }
    }

    /// True for a pod of a booted node whose status is from before.
    fn stale(&self, pod: &Pod) -> bool {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if !on.is_some_and(|node| self.nodes.contains(node)) {
            return false;
        }
        let containers = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        containers.iter().any(|container| {
            let running = container.state.as_ref().and_then(|state| state.running.as_ref());
            let started = running.and_then(|running| serde_json::to_value(&running.started_at).ok());
            started.as_ref().and_then(serde_json::Value::as_str).is_some_and(|at| *at < *self.since)
        })
    }
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

/// Looks once. `expected` nodes must be there; others may.
///
/// # Errors
/// When the API cannot be asked.
pub async fn look(client: &Client, expected: &BTreeSet<String>) -> anyhow::Result<Health> {
    look_since(client, expected, &Booted::default()).await
}

async fn look_since(client: &Client, expected: &BTreeSet<String>, booted: &Booted) -> anyhow::Result<Health> {
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list(&all).await.context("listing nodes")?;
    let mut health = Health { nodes: nodes.items.iter().map(node).collect(), ..Health::default() };
    health.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    for name in expected.iter().filter(|name| !health.nodes.iter().any(|node| node.name == **name)) {
        health.waiting.push(format!("node {name} is not registered"));
    }
    for node in health.nodes.iter().filter(|node| !node.ready) {
        health.waiting.push(format!("node {} is not Ready", node.name));
    }
    for namespace in SYSTEM {
        let sets = Api::<DaemonSet>::namespaced(client.clone(), namespace).list(&all).await?;
        for set in &sets.items {
            let status = set.status.clone().unwrap_or_default();
            let seen = status.observed_generation == set.metadata.generation;
            if !seen || status.number_ready < status.desired_number_scheduled || status.desired_number_scheduled == 0 {
                let name = set.metadata.name.clone().unwrap_or_default();
                health.waiting.push(format!(
                    "{name}: {} of {} pods are Ready",
                    status.number_ready, status.desired_number_scheduled
                ));
            }
        }
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace).list(&all).await?;
        for deployment in &deployments.items {
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            if ready < wanted {
                let name = deployment.metadata.name.clone().unwrap_or_default();
                health.waiting.push(format!("{name}: {ready} of {wanted} pods are Ready"));
            }
        }
        let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&all).await?;
        for pod in &pods.items {
            let stale = || booted.stale(pod).then(|| " (not seen since the start)".to_owned());
            if let Some(why) = unready(pod).or_else(stale) {
                let name = pod.metadata.name.clone().unwrap_or_default();
                health.waiting.push(format!("pod {name} is not Ready{why}"));
                health.pod.get_or_insert((namespace.to_owned(), name));
            }
        }
    }
    Ok(health)
}

/// Waits until all is Ready, telling what it waits for.
///
/// # Errors
/// After five minutes: what is not Ready, why, and the last log lines of a pod that is not.
pub async fn wait(client: &Client, expected: &BTreeSet<String>, pods: bool, watch: &Watch) -> anyhow::Result<Health> {
    wait_since(client, expected, pods, &Booted::default(), watch).await
}

/// As [`wait`], after some machines were booted.
///
/// # Errors
/// As [`wait`].
pub async fn wait_since(
    client: &Client,
    expected: &BTreeSet<String>,
    pods: bool,
    booted: &Booted,
    watch: &Watch,
) -> anyhow::Result<Health> {
    let begin = Instant::now();
    let mut told = String::new();
    loop {
        let looked = look_since(client, expected, booted).await.map(|mut health| {
            if !pods {
                health.waiting.retain(|line| line.starts_with("node "));
            }
            health
        });
        let waiting = match &looked {
            Ok(health) if health.waiting.is_empty() => return looked,
            Ok(health) => health.waiting.join("; "),
            Err(error) => words(error),
        };
        if begin.elapsed() > LIMIT {
            let log = match &looked {
                Ok(Health { pod: Some((namespace, name)), .. }) => log(client, namespace, name).await,
                _ => String::new(),
            };
            return Err(anyhow::Error::new(NotReady { seconds: LIMIT.as_secs(), waiting: waiting + &log }));
        }
        let short = looked.as_ref().map_or_else(|_| waiting.clone(), |health| short(&health.waiting));
        if told != short {
            watch.say(format!("waiting: {short}"));
            told = short;
        }
        change(client).await;
    }
}

/// The first few; a person looks on.
fn short(waiting: &[String]) -> String {
    const SHOWN: usize = 3;
    let first: Vec<&str> = waiting.iter().take(SHOWN).map(String::as_str).collect();
    let more = waiting.len().saturating_sub(SHOWN);
    if more == 0 { first.join("; ") } else { format!("{}; and {more} more", first.join("; ")) }
}

/// The API's own words, where it said some.
pub fn words(error: &anyhow::Error) -> String {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<kube::Error>())
        .map_or_else(|| format!("{error:#}"), |error| format!("the API: {}", kprov_providers::kube::words(error)))
}

/// It did not become Ready in time.
#[derive(Debug, thiserror::Error)]
#[error("not Ready after {seconds} s: {waiting}")]
pub struct NotReady {
    /// How long was waited.
    pub seconds: u64,
    /// What is not.
    pub waiting: String,
}

/// Ends when a node or a pod changes, or after two seconds: what a broken watch misses is seen then.
async fn change(client: &Client) {
    let params = WatchParams::default().timeout(5);
    let nodes = Api::<Node>::all(client.clone());
    let pods = Api::<Pod>::all(client.clone());
    let wait = async {
        // From now on: what was before has just been looked at.
        let (Ok(nodes_at), Ok(pods_at)) =
            (nodes.list_metadata(&ListParams::default()).await, pods.list_metadata(&ListParams::default()).await)
        else {
            return std::future::pending::<()>().await;
        };
        let version = |meta: Option<String>| meta.unwrap_or_else(|| "0".to_owned());
        let (Ok(nodes), Ok(pods)) = (
            nodes.watch(&params, &version(nodes_at.metadata.resource_version)).await,
            pods.watch(&params, &version(pods_at.metadata.resource_version)).await,
        ) else {
            return std::future::pending::<()>().await;
        };
        let (mut nodes, mut pods) = (nodes.boxed(), pods.boxed());
        tokio::select! { _ = nodes.next() => {}, _ = pods.next() => {} }
        // Changes come in bursts; one look for all of them.
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), wait).await;
}

async fn log(client: &Client, namespace: &str, name: &str) -> String {
    let params = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
    match Api::<Pod>::namespaced(client.clone(), namespace).logs(name, &params).await {
        Ok(text) if !text.trim().is_empty() => format!("\nlast lines of {name}:\n{}", text.trim_end()),
        _ => String::new(),
    }
}

fn node(node: &Node) -> NodeState {
    let status = node.status.clone().unwrap_or_default();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let role = "node-role.kubernetes.io/control-plane";
    NodeState {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: status.conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True"),
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
    fn a_status_from_before_the_boot_is_no_news() {
        let at = |time: &str| {
            pod(serde_json::json!({"spec": {"nodeName": "n", "containers": []}, "status": {"containerStatuses": [
                {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                 "state": {"running": {"startedAt": time}}}]}}))
        };
        let booted = Booted { nodes: ["n".to_owned()].into(), since: "2026-01-01T10:00:00Z".into() };
        assert!(booted.stale(&at("2026-01-01T09:59:59Z")));
        assert!(!booted.stale(&at("2026-01-01T10:00:00Z")));
        assert!(!Booted { nodes: BTreeSet::new(), ..booted }.stale(&at("2026-01-01T09:59:59Z")));
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
    fn only_a_few_are_told_at_once() {
        let lines: Vec<String> = (1..=5).map(|n| format!("pod {n}")).collect();
        assert_eq!(short(&lines), "pod 1; pod 2; pod 3; and 2 more");
        assert_eq!(short(lines.get(..1).unwrap()), "pod 1");
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

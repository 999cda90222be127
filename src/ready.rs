//! Whether a cluster is Ready: all its Nodes, and all pods of the namespaces that carry it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kprov_providers::Events;
use kprov_providers::kube::Backoff;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

/// Namespaces whose pods are the system's.
pub const SYSTEM: [&str; 2] = ["kube-system", "kube-flannel"];

/// One Node or pod, and whether it is Ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// `node` or `pod`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its Ready condition is True.
    pub ready: bool,
    /// Why not, in the cluster's words; empty where it is.
    pub why: String,
}

/// All Nodes and system pods; a pod that is done for good (a Job's) is left out.
///
/// # Errors
/// When the API does not answer.
pub async fn look(client: &Client) -> kube::Result<Vec<Item>> {
    let all = ListParams::default();
    let (nodes, kube_system, flannel) = tokio::try_join!(
        async { Api::<Node>::all(client.clone()).list(&all).await },
        async { Api::<Pod>::namespaced(client.clone(), SYSTEM[0]).list(&all).await },
        async { Api::<Pod>::namespaced(client.clone(), SYSTEM[1]).list(&all).await },
    )?;
    let mut items: Vec<Item> = nodes.items.iter().map(node).collect();
    items.extend(kube_system.items.iter().chain(&flannel.items).filter(|pod| !done(pod)).map(pod));
    Ok(items)
}

/// Waits until at least `nodes` Nodes are there, and all Nodes and system pods are Ready. Says who is waited for when that
/// changes.
///
/// # Errors
/// After `limit`: who is not Ready, and why.
pub async fn wait(client: &Client, nodes: usize, limit: Duration, events: &Events) -> anyhow::Result<Vec<Item>> {
    let found = async |items: &[Item]| -> Vec<String> {
        let mut missing: Vec<String> = items.iter().filter(|item| !item.ready).map(words).collect();
        let count = items.iter().filter(|item| item.kind == "node").count();
        if count < nodes {
            missing.push(format!("{} more Nodes", nodes - count));
        }
        // The scheduler and CoreDNS come last: a cluster without any system pod is not there yet.
        if !items.iter().any(|item| item.kind == "pod") {
            missing.push("system pods".into());
        }
        missing
    };
    until(client, limit, events, found).await
}

/// Waits until one Node is Ready.
///
/// # Errors
/// After `limit`: why it is not.
pub async fn wait_node(client: &Client, name: &str, limit: Duration, events: &Events) -> anyhow::Result<Vec<Item>> {
    let found = async |items: &[Item]| match items.iter().find(|item| item.kind == "node" && item.name == name) {
        Some(item) if item.ready => Vec::new(),
        Some(item) => vec![words(item)],
        None => vec![format!("node {name} (not registered)")],
    };
    until(client, limit, events, found).await
}

/// The same for one Node and, with `pods`, the system pods on it, with nothing but a kubelet's own rights.
///
/// # Errors
/// When it is not Ready in time.
pub async fn wait_own(
    client: &Client,
    name: &str,
    pods: bool,
    limit: Duration,
    events: &Events,
) -> anyhow::Result<Vec<Item>> {
    let all = async || -> kube::Result<Vec<Item>> {
        let mut items = vec![node(&Api::<Node>::all(client.clone()).get(name).await?)];
        let here = ListParams::default().fields(&format!("spec.nodeName={name}"));
        for namespace in SYSTEM.iter().filter(|_| pods) {
            let found = Api::<Pod>::namespaced(client.clone(), namespace).list(&here).await?;
            items.extend(found.items.iter().filter(|pod| !done(pod)).map(pod));
        }
        Ok(items)
    };
    let not_ready = async |items: &[Item]| items.iter().filter(|item| !item.ready).map(words).collect();
    until_of(all, limit, events, not_ready).await
}

async fn until(
    client: &Client,
    limit: Duration,
    events: &Events,
    missing: impl AsyncFn(&[Item]) -> Vec<String>,
) -> anyhow::Result<Vec<Item>> {
    until_of(async || look(client).await, limit, events, missing).await
}

async fn until_of(
    look: impl AsyncFn() -> kube::Result<Vec<Item>>,
    limit: Duration,
    events: &Events,
    missing: impl AsyncFn(&[Item]) -> Vec<String>,
) -> anyhow::Result<Vec<Item>> {
    let begin = Instant::now();
    let mut pause = Backoff::up_to(Duration::from_millis(500));
    let mut said = String::new();
    loop {
        let still = match look().await {
            Ok(items) => {
                let still = missing(&items).await;
                if still.is_empty() {
                    return Ok(items);
                }
                still.join(", ")
            }
            Err(error) => format!("the API: {}", kprov_providers::kube::words(&error)),
        };
        if begin.elapsed() > limit {
            anyhow::bail!("not Ready within {} s: {still}", limit.as_secs());
        }
        if still != said {
            events.note(format!("waiting for {still}"));
            said = still;
        }
        pause.pause().await;
    }
}

fn words(item: &Item) -> String {
    if item.why.is_empty() {
        format!("{} {}", item.kind, item.name)
    } else {
        format!("{} {} ({})", item.kind, item.name, item.why)
    }
}

fn node(node: &Node) -> Item {
    let name = node.metadata.name.clone().unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let found = conditions.iter().find(|c| c.type_ == "Ready");
    let ready = found.is_some_and(|c| c.status == "True");
    let why = found.filter(|_| !ready).and_then(|c| c.reason.clone()).unwrap_or_default();
    Item { kind: "node", name, ready, why }
}

fn done(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded")
}

fn pod(pod: &Pod) -> Item {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    // A pod of a Node that went away keeps its old condition; one that is being deleted is no part of the system.
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let waiting = status.container_statuses.unwrap_or_default().into_iter().find_map(|c| c.state?.waiting?.reason);
    let why = if ready { String::new() } else { waiting.or(status.phase).unwrap_or_default() };
    Item { kind: "pod", name, ready, why }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_without_a_ready_condition_is_not_ready_and_says_why() {
        let waiting: Pod = serde_json::from_value(json!({"metadata": {"name": "coredns-1"}, "status": {
            "phase": "Pending", "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}]}}))
        .unwrap();
        assert_eq!(
            pod(&waiting),
            Item { kind: "pod", name: "coredns-1".into(), ready: false, why: "ErrImagePull".into() }
        );
    }

    #[test]
    fn a_node_is_ready_by_its_condition_alone() {
        let found: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions":
            [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}}))
        .unwrap();
        assert_eq!(words(&node(&found)), "node n (NodeStatusUnknown)");
    }
}

//! A worker leaves its cluster: cordoned, drained, its Node deleted.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kprov_providers::Watch;
use kube::Client;
use kube::api::{Api, DeleteParams, EvictParams, ListParams};

/// How long pods may take to go; a disruption budget that never allows it is said then.
const LIMIT: Duration = Duration::from_secs(120);

/// Cordons a node and evicts its pods but those of DaemonSets and static ones. No such node is success.
///
/// # Errors
/// When pods stay for two minutes; says which and why.
pub async fn drain(client: &Client, node: &str, watch: &Watch) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    if nodes.get_opt(node).await.context("reading the node")?.is_none() {
        return Ok(());
    }
    watch.say(format!("draining {node}"));
    nodes.cordon(node).await.with_context(|| format!("cordoning {node}"))?;
    let begin = Instant::now();
    let mut pause = Duration::from_millis(50);
    let mut why = String::new();
    loop {
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = Api::<Pod>::all(client.clone()).list(&on_node).await.context("listing pods")?;
        let left: Vec<&Pod> = pods.items.iter().filter(|pod| evictable(pod)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > LIMIT {
            let names: Vec<_> = left.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            bail!("pods stay on {node} after {} s: {}{why}", LIMIT.as_secs(), names.join(", "));
        }
        for pod in left.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let (name, namespace) =
                (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default());
            let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
            match pods.evict(&name, &EvictParams::default()).await {
                Ok(_) => {}
                // Gone already.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                // A disruption budget says: not yet.
                Err(kube::Error::Api(status)) if status.code == 429 => why = format!(" ({})", status.message),
                Err(error) => return Err(error).with_context(|| format!("evicting pod {name}")),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Deletes a Node. None there is success.
///
/// # Errors
/// When the API says no.
pub async fn forget(client: &Client, node: &str) -> anyhow::Result<()> {
    match Api::<Node>::all(client.clone()).delete(node, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting node {node}")),
    }
}

/// A pod that must go: not a DaemonSet's, not a static one's mirror, not one that has ended.
fn evictable(pod: &Pod) -> bool {
    let mirror = pod.metadata.annotations.iter().flatten().any(|(name, _)| name == "kubernetes.io/config.mirror");
    let owners = pod.metadata.owner_references.clone().unwrap_or_default();
    let daemon = owners.iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    !mirror && !daemon && !matches!(phase, "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_the_node_itself_stay() {
        let pod = |value| serde_json::from_value::<Pod>(value).unwrap();
        let owner = |kind: &str| {
            serde_json::json!({"metadata": {"ownerReferences":
                [{"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true}]}})
        };
        assert!(!evictable(&pod(owner("DaemonSet"))));
        assert!(evictable(&pod(owner("ReplicaSet"))));
        assert!(evictable(&pod(serde_json::json!({}))));
        let mirror = serde_json::json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
        assert!(!evictable(&pod(mirror)));
        assert!(!evictable(&pod(serde_json::json!({"status": {"phase": "Failed"}}))));
    }
}

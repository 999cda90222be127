//! Phase `mark-control-plane`: labels and taints of this Node.

use std::sync::Arc;

use anyhow::{Context, Result};
use kprov_providers::kube::Api;
use kprov_providers::kube::node::Mark;
use kprov_providers::steps::Label;
use kprov_providers::{Key, Machine};
use serde_json::json;

use super::kubelet::timeout;
use crate::cluster::Cluster;
use crate::cluster::kubeadm::Taint;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "mark-control-plane";
/// Says that a Node is a control plane; also the key of its default taint.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Keeps load balancers of Services away.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The step. With `--single-node` the Node gets no taint.
pub(crate) fn mark(cluster: &Cluster, api: &Arc<Api>, machine: &Arc<dyn Machine>, needs: &[Key]) -> Result<Plan> {
    let node = cluster.init.node_registration.clone().unwrap_or_default();
    let text = cluster.init.timeouts.as_ref().and_then(|t| t.kubelet_health_check.as_ref());
    let default = Taint { key: CONTROL_PLANE.into(), value: None, effect: "NoSchedule".into() };
    let taints = match (cluster.single_node, node.taints) {
        (true, _) => Vec::new(),
        (false, Some(taints)) => taints,
        (false, None) => vec![default],
    };
    // A machine that also does the work of a worker is a target of load balancers too.
    let labels: &[&str] = if cluster.single_node { &[CONTROL_PLANE] } else { &[CONTROL_PLANE, EXCLUDE] };
    let mut plan = Plan::new();
    plan.add(Mark {
        label: Label::new("node/mark", PHASE).needs(needs.iter().cloned()),
        api: api.clone(),
        machine: machine.clone(),
        node: node.name.context("nodeRegistration.name")?,
        labels: labels.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
        taints: taints.iter().map(|taint| json!(taint)).collect(),
        timeout: timeout(text, 240)?,
    });
    Ok(plan)
}

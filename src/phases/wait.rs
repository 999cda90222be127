//! Phase `wait-control-plane`: until the components answer. Each wait that fails shows the component's own last lines.

use std::sync::Arc;

use anyhow::Result;
use kprov_providers::kube::diagnose::Component;
use kprov_providers::kube::health::{Answer, Health};
use kprov_providers::steps::Label;
use kprov_providers::{Key, Machine};

use super::kubelet::timeout;
use super::static_pod;
use crate::cluster::Cluster;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "wait-control-plane";

/// Key of the wait for the open port of the API server.
pub(crate) fn listens() -> Key {
    Key::new("wait/kube-apiserver-listens")
}

/// Key of the wait for a component's health.
pub(crate) fn healthy(component: &str) -> Key {
    Key::new(format!("wait/{component}"))
}

/// Waits for the kubelet's own health port.
pub(crate) fn kubelet(cluster: &Cluster, machine: &Arc<dyn Machine>, needs: &[Key]) -> Result<Plan> {
    let text = cluster.init.timeouts.as_ref().and_then(|t| t.kubelet_health_check.as_ref());
    let port = cluster.kubelet.get("healthzPort").and_then(serde_json::Value::as_u64).unwrap_or(10248);
    let mut plan = Plan::new();
    plan.add(Health {
        label: Label::new(healthy("kubelet"), PHASE).needs(needs.iter().cloned()),
        machine: machine.clone(),
        component: Component::unit("kubelet"),
        url: format!("http://127.0.0.1:{port}/healthz"),
        answer: Answer::Healthy,
        timeout: timeout(text, 240)?,
    });
    Ok(plan)
}

/// Waits until the API server answers at all: its start-up hooks still run, but objects can be made.
pub(crate) fn api_listens(
    cluster: &Cluster,
    api_server: &static_pod::Component,
    machine: &Arc<dyn Machine>,
    needs: &[Key],
) -> Plan {
    let mut plan = Plan::new();
    plan.add(Health {
        label: Label::new(listens(), PHASE).needs(needs.iter().cloned()),
        machine: machine.clone(),
        component: Component::pod(api_server.name),
        url: api_server.probe.url("/livez"),
        answer: Answer::Listens,
        timeout: static_pod::health_timeout(cluster),
    });
    plan
}

/// Waits until a static pod's component is healthy.
pub(crate) fn component(
    cluster: &Cluster,
    component: &static_pod::Component,
    machine: &Arc<dyn Machine>,
    needs: &[Key],
) -> Plan {
    let mut plan = Plan::new();
    plan.add(Health {
        label: Label::new(healthy(component.name), PHASE).needs(needs.iter().cloned()),
        machine: machine.clone(),
        component: Component::pod(component.name),
        url: component.probe.url(component.paths.0),
        answer: Answer::Healthy,
        timeout: static_pod::health_timeout(cluster),
    });
    plan
}

//! A worker joins (contract A.13): what the kubelet needs to ask for its certificate, its start, and the wait until it
//! has it and its Node is registered. What came before (finding the cluster, reading its configuration) is in
//! [`crate::discovery`].

mod bootstrap;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use kprov_providers::kube::diagnose::{Component, diagnose};
use kprov_providers::kube::health::{self, Health};
use kprov_providers::steps::{Answer, Label, RemoveFile, WaitFor, WriteFile};
use kprov_providers::{Key, Machine, Outputs};
use serde_json::Value;

use self::bootstrap::Bootstrap;
use super::kubeconfig::KUBELET_CURRENT;
use super::kubelet::{self, timeout};
use crate::cluster::Joining;
use crate::discovery::{Api, KUBELET_CONF, Met, Trust, Who, own};
use crate::facts::{Facts, fit};
use crate::plan::Plan;

/// Phase in which the kubelet gets its certificate.
pub const PHASE: &str = "kubelet-wait-bootstrap";
/// With what the kubelet asks for its certificate; removed once it has it.
pub const BOOTSTRAP_CONF: &str = "/etc/kubernetes/bootstrap-kubelet.conf";

/// Key of the last wait: the Node is registered.
pub fn registered() -> Key {
    Key::new("join/node")
}

/// The cluster's KubeletConfiguration as it fits this machine, and one line for each value that was corrected. Only this
/// node's own config.yaml is changed: the cluster's nodes need not be alike.
pub fn fitted(joining: &Joining, facts: &Facts, met: &Met) -> (Value, Vec<String>) {
    let mut config = met.kubelet.clone();
    let mut notes = fit::correct(&mut config, &fit::kubelet_here(facts));
    let ca = ca_path(joining);
    if let Some(file) = config.pointer_mut("/authentication/x509/clientCAFile")
        && *file != ca
    {
        notes.push(format!("the cluster's CA is at {ca} here (authentication.x509.clientCAFile)"));
        *file = ca.into();
    }
    (config, notes)
}

/// The steps. All need `first`; the kubelet's start also needs `needs` (runtime, binaries, images).
///
/// # Errors
/// When the document's values are not what validation lets through.
pub fn worker(
    joining: &Joining,
    facts: &Facts,
    met: &Met,
    machine: &Arc<dyn Machine>,
    first: &[Key],
    needs: &[Key],
) -> Result<Plan> {
    let node = joining.join.node_registration.clone().unwrap_or_default();
    let name = node.name.clone().context("nodeRegistration.name")?;
    let timeouts = joining.join.timeouts.clone().unwrap_or_default();
    let (config, _) = fitted(joining, facts, met);
    let label = |key: &str| Label::new(key, kubelet::PHASE).needs(first.iter().cloned());
    let mut plan = Plan::new();

    let ca = WriteFile::new(label("join/ca"), machine.clone(), ca_path(joining), met.place.ca_pem.clone());
    // A CA that is there is the user's or another cluster's: never changed.
    plan.add(ca.foreign_unless(|_| false));
    plan.add(Bootstrap::new(label("join/bootstrap-kubeconfig"), met, &name, machine)?);
    let mut needs = needs.to_vec();
    needs.extend(["join/ca", "join/bootstrap-kubeconfig"].map(Key::from));
    let own = kubelet::Kubelet { config: &config, node: &node, register_taints: true, facts };
    plan.extend(kubelet::kubelet(&own, machine, first, &needs)?);

    let port = config.get("healthzPort").and_then(Value::as_u64).filter(|port| *port != 0);
    let mut after = kubelet::key();
    if let Some(port) = port.or_else(|| config.get("healthzPort").is_none().then_some(10248)) {
        after = Key::new("join/kubelet-healthy");
        plan.add(Health {
            label: Label::new(after.clone(), PHASE).needs([kubelet::key()]),
            machine: machine.clone(),
            component: Component::unit("kubelet"),
            url: format!("http://127.0.0.1:{port}/healthz"),
            answer: health::Answer::Healthy,
            timeout: timeout(timeouts.kubelet_health_check.as_ref(), 240)?,
        });
    }
    let limit = timeout(timeouts.tls_bootstrap.as_ref(), 300)?;
    plan.add(certificate(after, &name, limit, machine));
    plan.add(node_registered(&name, limit, machine));
    let label = Label::new("join/bootstrap-removed", PHASE).needs([registered()]);
    let own = [KUBELET_CURRENT, KUBELET_CONF];
    plan.add(RemoveFile::new(label, machine.clone(), BOOTSTRAP_CONF).once_synced(own));
    Ok(plan)
}

fn ca_path(joining: &Joining) -> String {
    joining.join.ca_cert_path.clone().unwrap_or_else(|| "/etc/kubernetes/pki/ca.crt".into())
}

/// Until the kubelet has written kubelet.conf and its certificate.
fn certificate(after: Key, node: &str, limit: Duration, machine: &Arc<dyn Machine>) -> WaitFor {
    let label = Label::new("join/kubelet-conf", PHASE).needs([after]);
    let (held, node) = (machine.clone(), node.to_owned());
    let look = move |_: Outputs| {
        let found = own(held.as_ref());
        let node = node.clone();
        async move {
            Ok(match found? {
                Some(own) if own.usable && own.node == node => Answer::Yes(Outputs::none()),
                _ => Answer::NotYet("the kubelet has no certificate yet".into()),
            })
        }
        .boxed()
    };
    explained(WaitFor::new(label, format!("the kubelet has its certificate ({KUBELET_CONF})"), limit, look), machine)
}

/// Until the API server knows the Node, asked with the kubelet's own certificate.
fn node_registered(node: &str, limit: Duration, machine: &Arc<dyn Machine>) -> WaitFor {
    let label = Label::new(registered(), PHASE).needs(["join/kubelet-conf"]);
    let what = format!("Node {node} is registered");
    let (held, node) = (machine.clone(), node.to_owned());
    let look = move |_: Outputs| {
        let found = own(held.as_ref());
        let node = node.clone();
        async move {
            let Some(own) = found? else { return Ok(Answer::NotYet(format!("{KUBELET_CONF} is not there"))) };
            let trust = Trust::Ca(&own.place.ca_pem);
            let who = Who::Certificate(own.identity.clone());
            let api = Api::new(&own.place.server, &trust, who, Duration::from_secs(5)).context(KUBELET_CONF)?;
            Ok(match api.get(&format!("/api/v1/nodes/{node}")).await {
                Ok(answer) if answer.status == 200 => Answer::Yes(Outputs::none()),
                Ok(answer) if answer.status == 404 => {
                    Answer::NotYet("the kubelet has not registered its Node yet".into())
                }
                Ok(answer) => Answer::NotYet(format!("{} answers with status {}", own.place.server, answer.status)),
                Err(why) => Answer::NotYet(format!("cannot reach {}: {why}", own.place.server)),
            })
        }
        .boxed()
    };
    explained(WaitFor::new(label, what, limit, look), machine)
}

fn explained(wait: WaitFor, machine: &Arc<dyn Machine>) -> WaitFor {
    let machine = machine.clone();
    wait.explain(move || {
        let machine = machine.clone();
        async move { diagnose(machine.as_ref(), &Component::unit("kubelet")).await }.boxed()
    })
}

#[cfg(test)]
mod tests;

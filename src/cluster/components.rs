//! KubeletConfiguration and KubeProxyConfiguration: the user's document, what kubeadm fills in, and what fits the init host.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::duration::{duration, duration_text};
use super::input::{Doc, Input};
use super::kubeadm::ClusterConfiguration;
use super::subnets;
use super::tables::Table;
use crate::facts::{Facts, fit};

/// A component's document as its ConfigMap holds it.
#[derive(Debug)]
pub(crate) struct Component {
    /// The document.
    pub(crate) document: Value,
    /// The user wrote part of it, or it was fitted to the host: kubeadm must not make it anew on an upgrade.
    pub(crate) from_user: bool,
    /// One line for each value fitted to the host.
    pub(crate) notes: Vec<String>,
}

/// KubeletConfiguration (contract A.4).
pub(crate) fn kubelet(
    user: Option<Value>,
    config: &ClusterConfiguration,
    facts: &Facts,
    table: &Table,
    input: &mut Input,
) -> Component {
    let networking = config.networking.clone().unwrap_or_default();
    let certificates = config.certificates_dir.clone().unwrap_or_default();
    let mut defaults = vec![
        ("staticPodPath", json!("/etc/kubernetes/manifests")),
        ("authentication.x509.clientCAFile", json!(format!("{certificates}/ca.crt"))),
        ("authentication.anonymous.enabled", json!(false)),
        ("authentication.webhook.enabled", json!(true)),
        ("authorization.mode", json!("Webhook")),
        ("healthzBindAddress", json!("127.0.0.1")),
        ("healthzPort", json!(10248)),
    ];
    if let Some(dns) = networking.service_subnet.as_deref().and_then(subnets::dns_address) {
        defaults.push(("clusterDNS", json!([dns.to_string()])));
    }
    if let Some(domain) = &networking.dns_domain {
        defaults.push(("clusterDomain", json!(domain)));
    }
    let given = user.is_some();
    let mut document = start(Doc::Kubelet, user);
    // kubeadm forces this one: it cannot tell "false" from "left out".
    if let Some(object) = document.as_object_mut() {
        object.insert("rotateCertificates".to_owned(), json!(true));
    }
    let fitted = fit::kubelet(facts);
    let last = [("cgroupDriver", json!("systemd"))];
    let mut component = component(document, given, Doc::Kubelet, &defaults, &fitted, &last, input);
    // For this machine's own file only, but told with the rest.
    let here = fit::kubelet_here(facts).into_iter().filter(|fit| fit.field == "resolvConf");
    let here = here.chain(fit::first_kubelet(facts)).filter(|fit| get(&component.document, fit.field).is_none());
    component.notes.extend(here.map(|fit| fit.note));
    complete(&mut component.document, table.empty.get(Doc::Kubelet.kind()));
    durations(&mut component.document, Doc::Kubelet.kind(), table);
    component
}

/// KubeProxyConfiguration (contract A.8).
pub(crate) fn proxy(
    user: Option<Value>,
    config: &ClusterConfiguration,
    advertise: Option<IpAddr>,
    facts: &Facts,
    table: &Table,
    input: &mut Input,
) -> Component {
    let any = if advertise.is_some_and(|ip| ip.is_ipv6()) { "::" } else { "0.0.0.0" };
    let mut defaults = vec![
        ("bindAddress", json!(any)),
        ("clientConnection.kubeconfig", json!("/var/lib/kube-proxy/kubeconfig.conf")),
    ];
    if let Some(pods) = config.networking.as_ref().and_then(|n| n.pod_subnet.as_ref()) {
        defaults.push(("clusterCIDR", json!(pods)));
    }
    if let Some("nftables") = user.as_ref().and_then(|u| u.get("mode")).and_then(Value::as_str)
        && !facts.nftables
    {
        let hint = "leave mode out: kube-proxy then uses iptables";
        input.bad(Doc::Proxy, "mode", "this machine's kernel has no nf_tables, which mode nftables needs", hint);
    }
    let given = user.is_some();
    let document = start(Doc::Proxy, user);
    let mut component = component(document, given, Doc::Proxy, &defaults, &fit::kube_proxy(facts), &[], input);
    complete(&mut component.document, table.empty.get(Doc::Proxy.kind()));
    durations(&mut component.document, Doc::Proxy.kind(), table);
    component
}

/// The user's document without nulls, under its kind.
fn start(doc: Doc, user: Option<Value>) -> Value {
    let mut document = user.map(without_nulls).filter(Value::is_object).unwrap_or_else(|| json!({}));
    if let Some(object) = document.as_object_mut() {
        object.insert("apiVersion".to_owned(), json!(doc.api_version()));
        object.insert("kind".to_owned(), json!(doc.kind()));
    }
    document
}

fn component(
    mut document: Value,
    given: bool,
    doc: Doc,
    defaults: &[(&'static str, Value)],
    fitted: &[fit::Fit],
    last: &[(&'static str, Value)],
    input: &mut Input,
) -> Component {
    for (path, value) in defaults {
        match get(&document, path).filter(|value| !is_blank(value)) {
            None => put(&mut document, path, value.clone()),
            Some(other) if other != value => {
                let message = format!("kubeadm recommends {value} for {path}, not {other}");
                input.warn(doc, path, message, "");
            }
            Some(_) => {}
        }
    }
    let mut plain = document.clone();
    let notes = fit::fill(&mut document, fitted);
    for (path, value) in last {
        for document in [&mut plain, &mut document] {
            if get(document, path).is_none_or(is_blank) {
                put(document, path, value.clone());
            }
        }
    }
    Component { from_user: given || plain != document, document, notes }
}

/// kubeadm writes a component's fields out even where nothing is set; a document that looks like its own is easier to
/// compare, and means the same.
fn complete(document: &mut Value, empty: Option<&Value>) {
    match (document, empty) {
        (Value::Object(document), Some(Value::Object(empty))) => {
            for (key, value) in empty {
                complete(document.entry(key).or_insert(Value::Null), Some(value));
            }
        }
        (document @ Value::Null, Some(empty)) => *document = empty.clone(),
        _ => {}
    }
}

/// Durations as Go writes them (`1m30s` for `90s`), by the fields' types.
fn durations(value: &mut Value, of: &str, table: &Table) {
    match value {
        Value::String(text) if of == "duration" => {
            if let Some(length) = duration(text) {
                *text = duration_text(length);
            }
        }
        Value::Array(items) => {
            let of = of.strip_prefix("[]").unwrap_or(of);
            items.iter_mut().for_each(|item| durations(item, of, table));
        }
        Value::Object(fields) => match (of.strip_prefix("map:"), table.types.get(of)) {
            (Some(of), _) => fields.values_mut().for_each(|value| durations(value, of, table)),
            (None, Some(types)) => {
                for (name, value) in fields {
                    types.get(name).iter().for_each(|of| durations(value, of, table));
                }
            }
            (None, None) => {}
        },
        _ => {}
    }
}

/// Empty is "left out" to kubeadm as well.
fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// The value of a dotted path.
pub(crate) fn get<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(document, |value, key| value.get(key))
}

/// Sets the value of a dotted path, making the objects on the way. What is no object is replaced.
pub(crate) fn put(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for key in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(object) = place else { return };
        place = object.entry(key).or_insert(Value::Null);
    }
    *place = value;
}

/// Null is "left out" to Kubernetes.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

//! Values that have the right type and still cannot be right. Everything is looked at, so that all of it is told at once.

mod cluster;
mod join;
pub(crate) mod names;
mod network;

use std::collections::BTreeSet;

use super::duration::duration;
use super::input::{Doc, Input};
use super::kubeadm::{
    Arg, BootstrapToken, ClusterConfiguration, InitConfiguration, NodeRegistration, Patches, Taint, Timeouts,
};

pub(crate) use self::join::{join, reset};

/// The input of `init`.
pub(crate) fn init(init: &InitConfiguration, config: &ClusterConfiguration, input: &mut Input) {
    let doc = Doc::Init;
    not_yet(doc, init.skip_phases.as_deref(), init.patches.as_ref(), input);
    if init.certificate_key.as_deref().is_some_and(|key| !key.is_empty()) {
        input.not_yet(doc, "certificateKey", "certificateKey");
    }
    if let Some(node) = &init.node_registration {
        node_registration(doc, node, input);
    }
    if let Some(timeouts) = &init.timeouts {
        self::timeouts(doc, timeouts, input);
    }
    tokens(init.bootstrap_tokens.as_deref().unwrap_or_default(), input);
    cluster::check(config, input);
    network::check(init, config, input);
}

fn not_yet(doc: Doc, phases: Option<&[String]>, patches: Option<&Patches>, input: &mut Input) {
    if phases.is_some_and(|phases| !phases.is_empty()) {
        input.not_yet(doc, "skipPhases", "skipPhases");
    }
    if patches.and_then(|p| p.directory.as_deref()).is_some_and(|dir| !dir.is_empty()) {
        input.not_yet(doc, "patches.directory", "patches");
    }
}

fn node_registration(doc: Doc, node: &NodeRegistration, input: &mut Input) {
    let at = |field: &str| format!("nodeRegistration.{field}");
    let name = node.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        input.bad(doc, &at("name"), "this machine has no host name to take as its node name", "--node-name NAME");
    } else if let Err(why) = names::subdomain(name) {
        let message = format!("{name:?} cannot be a node's name: it {why}");
        input.bad(doc, &at("name"), message, "another one: --node-name NAME");
    } else if !names::label_value(name) {
        // Longer names are well-formed, but no kubelet can register under one.
        let message = format!(
            "{name:?} cannot be a node's name: it has {} characters, and its label kubernetes.io/hostname takes 63",
            name.len()
        );
        input.bad(doc, &at("name"), message, "a shorter one: --node-name NAME");
    }
    if let Some(socket) = &node.cri_socket {
        self::socket(doc, &at("criSocket"), socket, input);
    }
    for (index, taint) in node.taints.iter().flatten().enumerate() {
        self::taint(doc, taint, &format!("{}[{index}]", at("taints")), input);
    }
    arguments(doc, node.kubelet_extra_args.as_deref(), &at("kubeletExtraArgs"), input);
    match node.image_pull_policy.as_deref().unwrap_or("IfNotPresent") {
        // The images come out of the bundle.
        "IfNotPresent" | "Never" => {}
        "Always" => input.not_yet(doc, &at("imagePullPolicy"), "imagePullPolicy: Always"),
        policy => {
            input.bad(doc, &at("imagePullPolicy"), format!("{policy:?} is none of Always, IfNotPresent, Never"), "");
        }
    }
}

fn taint(doc: Doc, taint: &Taint, path: &str, input: &mut Input) {
    if !names::qualified(&taint.key) {
        input.bad(doc, &format!("{path}.key"), format!("{:?} is no key of a taint", taint.key), "as example.org/name");
    }
    let value = taint.value.as_deref().unwrap_or_default();
    if !names::label_value(value) {
        input.bad(doc, &format!("{path}.value"), format!("{value:?} is no value of a taint"), "");
    }
    if !matches!(taint.effect.as_str(), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        let message = format!("{:?} is none of NoSchedule, PreferNoSchedule, NoExecute", taint.effect);
        input.bad(doc, &format!("{path}.effect"), message, "");
    }
}

fn arguments(doc: Doc, arguments: Option<&[Arg]>, path: &str, input: &mut Input) {
    for (index, argument) in arguments.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{index}].name");
        let bare = argument.name.trim_start_matches('-');
        if bare.is_empty() {
            input.bad(doc, &path, "an argument without a name", "");
        } else if bare != argument.name {
            let message = format!("{:?} is written with its dashes", argument.name);
            input.bad(doc, &path, message, format!("without them: {bare}"));
        } else if bare.contains(|c: char| c == '=' || c.is_whitespace()) {
            input.bad(doc, &path, format!("{bare:?} is no name of an argument"), "the value goes into value");
        }
    }
}

fn tokens(tokens: &[BootstrapToken], input: &mut Input) {
    let doc = Doc::Init;
    let mut seen = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let at = |field: &str| format!("bootstrapTokens[{index}].{field}");
        if let Some(text) = &token.token {
            match names::token_id(text) {
                None => {
                    let message = "this is no bootstrap token: 6 characters of a-z and 0-9, a dot, 16 characters";
                    input.bad(doc, &at("token"), message, "make one: kprov token generate");
                }
                Some(id) if !seen.insert(id.to_owned()) => {
                    let message = format!("two tokens have the id {id}, which names their Secret");
                    input.bad(doc, &at("token"), message, "make another: kprov token generate");
                }
                Some(_) => {}
            }
        }
        let usages = token.usages.as_deref().unwrap_or_default();
        for (number, usage) in usages.iter().enumerate() {
            if !matches!(usage.as_str(), "signing" | "authentication") {
                let path = format!("{}[{number}]", at("usages"));
                input.bad(doc, &path, format!("{usage:?} is neither signing nor authentication"), "");
            }
        }
        let groups = token.groups.as_deref().unwrap_or_default();
        if !groups.is_empty() && !usages.iter().any(|usage| usage == "authentication") {
            // kubeadm says the same of its own default group: without the usage nobody is ever in it.
            let hint = "add authentication to usages";
            input.bad(
                doc,
                &at("usages"),
                "groups make sense only for a token that may be used for authentication",
                hint,
            );
        }
        for (number, group) in groups.iter().enumerate() {
            if !names::token_group(group) {
                let path = format!("{}[{number}]", at("groups"));
                input.bad(doc, &path, format!("{group:?} is no group for tokens"), "as system:bootstrappers:NAME");
            }
        }
        if token.expires.is_some() && token.ttl.is_some() {
            input.bad(doc, &at("expires"), "ttl and expires exclude each other", "leave one of them out");
        }
        span(doc, &at("ttl"), token.ttl.as_deref(), input);
    }
}

fn timeouts(doc: Doc, timeouts: &Timeouts, input: &mut Input) {
    for (field, name) in [
        (&timeouts.control_plane_component_health_check, "controlPlaneComponentHealthCheck"),
        (&timeouts.kubelet_health_check, "kubeletHealthCheck"),
        (&timeouts.kubernetes_api_call, "kubernetesAPICall"),
        (&timeouts.etcd_api_call, "etcdAPICall"),
        (&timeouts.tls_bootstrap, "tlsBootstrap"),
        (&timeouts.discovery, "discovery"),
        (&timeouts.upgrade_manifests, "upgradeManifests"),
    ] {
        span(doc, &format!("timeouts.{name}"), field.as_deref(), input);
    }
}

/// A duration; those from a file have been looked at already, flags' have not.
fn span(doc: Doc, path: &str, value: Option<&str>, input: &mut Input) {
    if let Some(value) = value.filter(|value| duration(value).is_none()) {
        input.bad(doc, path, format!("{value:?} is no duration"), "as 30s, 5m or 24h");
    }
}

/// An absolute path that is no directory of the system's own: `reset` empties some of them.
fn path(doc: Doc, field: &str, value: &str, input: &mut Input) {
    let parts: Vec<&str> = value.split('/').filter(|part| !part.is_empty()).collect();
    if !value.starts_with('/') {
        input.bad(doc, field, format!("{value:?} is no absolute path"), "");
    } else if parts.len() < 2 || parts.iter().any(|part| matches!(*part, "." | "..")) {
        input.bad(
            doc,
            field,
            format!("{value:?} is not taken: it must be below a top directory, without . and .."),
            "",
        );
    }
}

fn socket(doc: Doc, path: &str, value: &str, input: &mut Input) {
    if !value.strip_prefix("unix://").is_some_and(|path| path.starts_with('/')) {
        let message = format!("{value:?} is no unix socket");
        input.bad(doc, path, message, "as unix:///run/containerd/containerd.sock");
    }
}

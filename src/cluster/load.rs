//! Flags, a file and facts into what `init`, `join` and `reset` work from.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::flags::{CniChoice, InitFlags, JoinFlags, ResetFlags};
use super::input::{Doc, Input};
use super::kubeadm::{ClusterConfiguration, InitConfiguration};
use super::problems::{Kind, Problem, Problems};
use super::{Cluster, Cni, Joining, Resetting, components, defaults, merge, version};
use crate::bundle::Manifest;
use crate::facts::Facts;
use crate::yaml;

/// The exact version that a flag or the file asks for, before anything else of them is looked at: it decides which
/// bundle is taken. A label (`stable-1`) and a text that is no version decide nothing.
pub fn wanted_version(flag: Option<&str>, config: Option<(&str, &str)>) -> Option<String> {
    let asked = flag.map(str::to_owned).or_else(|| {
        let parsed = yaml::parse(config?.1);
        let documents = parsed.documents.iter().map(|document| &document.root);
        let text = |root: &yaml::Node, field| root.get(field).and_then(yaml::Node::text).map(str::to_owned);
        documents
            .clone()
            .find(|r| text(r, "kind").as_deref() == Some(Doc::Cluster.kind()))
            .and_then(|r| text(r, "kubernetesVersion"))
    })?;
    match version::wanted(&asked)? {
        version::Wanted::Exactly(version) => Some(version.to_string()),
        _ => None,
    }
}

/// The input of `init`: flags and file, with defaults. `cni` is the text of the `--cni` file, where that is one.
///
/// # Errors
/// All problems at once.
pub fn load_init(
    flags: &InitFlags,
    config: Option<(&str, &str)>,
    cni: Option<&str>,
    facts: &Facts,
    bundle: &Manifest,
) -> Result<Cluster, Problems> {
    let mut input = read(config, &flags.ignore_preflight_errors);
    if config.is_some() {
        want(&mut input, &[Doc::Init, Doc::Cluster]);
    }
    let mut init: InitConfiguration = document(&mut input, Doc::Init);
    let mut config: ClusterConfiguration = document(&mut input, Doc::Cluster);
    let cni = match &flags.cni {
        None | Some(CniChoice::Flannel) => Cni::Flannel,
        Some(CniChoice::None) => Cni::None,
        Some(CniChoice::File(path)) => {
            Cni::Manifest { name: path.display().to_string(), text: cni.unwrap_or_default().to_owned() }
        }
    };
    merge::init(flags, &mut init, &mut config, &mut input);
    defaults::cluster(&mut config, &bundle.kubernetes, &cni, &mut input);
    defaults::init(&mut init, &config, facts, flags.single_node, &mut input);

    let user = |doc| input.root(doc).map(yaml::Node::to_value);
    let (kubelet, proxy) = (user(Doc::Kubelet), user(Doc::Proxy));
    let kubelet = components::kubelet(kubelet, &config, facts, &mut input);
    let advertise = init.local_api_endpoint.as_ref().and_then(|e| e.advertise_address.as_deref()?.parse().ok());
    let proxy = components::proxy(proxy, &config, advertise, facts, &mut input);
    input.finish(|warnings| Cluster {
        init,
        config,
        kubelet: kubelet.document,
        proxy: proxy.document,
        kubelet_from_user: kubelet.from_user,
        proxy_from_user: proxy.from_user,
        cni,
        single_node: flags.single_node,
        notes: kubelet.notes.into_iter().chain(proxy.notes).collect(),
        warnings,
    })
}

/// The input of `join`: flags and file, with defaults.
///
/// # Errors
/// All problems at once.
pub fn load_join(flags: &JoinFlags, config: Option<(&str, &str)>, facts: &Facts) -> Result<Joining, Problems> {
    let mut input = read(config, &flags.ignore_preflight_errors);
    if config.is_some() {
        want(&mut input, &[Doc::Join]);
    }
    let mut join = document(&mut input, Doc::Join);
    merge::join(flags, &mut join, &mut input);
    defaults::join(&mut join, facts);
    input.finish(|warnings| Joining { join, warnings })
}

/// The input of `reset`: flags and file, with defaults.
///
/// # Errors
/// All problems at once.
pub fn load_reset(flags: &ResetFlags, config: Option<(&str, &str)>) -> Result<Resetting, Problems> {
    let mut input = read(config, &flags.ignore_preflight_errors);
    if config.is_some() {
        want(&mut input, &[Doc::Reset]);
    }
    let mut reset = document(&mut input, Doc::Reset);
    merge::reset(flags, &mut reset, &mut input);
    defaults::reset(&mut reset);
    input.finish(|warnings| Resetting { reset, warnings })
}

/// Reads the file's documents.
fn read(config: Option<(&str, &str)>, _ignored: &[String]) -> Input {
    let mut input = Input::new(config);
    let Some((_, text)) = config else { return input };
    let parsed = yaml::parse(text);
    for error in parsed.errors {
        let place = input.at(error.span);
        let (kind, field) = (Kind::Invalid, String::new());
        input.problems.0.push(Problem { kind, field, place, message: error.message, hint: None });
    }
    for document in parsed.documents {
        let kind = document.root.get("kind").and_then(yaml::Node::text).unwrap_or_default();
        if let Some(doc) = Doc::ALL.into_iter().find(|doc| doc.kind() == kind) {
            input.keep(doc, document.root);
        }
    }
    input
}

/// At least one of these documents must be there.
fn want(input: &mut Input, docs: &[Doc]) {
    if input.problems.is_empty() && docs.iter().all(|doc| input.root(*doc).is_none()) {
        let kinds: Vec<&str> = docs.iter().map(|doc| doc.kind()).collect();
        let message = format!("{} holds no {}", input.name(), kinds.join(" and no "));
        let (kind, field) = (Kind::Invalid, String::new());
        let place = input.at(yaml::Span { line: 1, column: 1, width: 1 });
        input.problems.0.push(Problem { kind, field, place, message, hint: None });
    }
}

/// A document as its type; its default when it is not there or (a problem then) not of its shape.
fn document<T: DeserializeOwned + Default>(input: &mut Input, doc: Doc) -> T {
    let value = input.root(doc).map_or(Value::Null, yaml::Node::to_value);
    if value.is_null() {
        return T::default();
    }
    serde_json::from_value(value).unwrap_or_else(|error| {
        input.bad(doc, "", error.to_string(), "");
        T::default()
    })
}

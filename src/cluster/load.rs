//! Flags, a file and facts into what `init`, `join` and `reset` work from.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::flags::{CniChoice, InitFlags, JoinFlags, ResetFlags};
use super::input::{Doc, Input};
use super::kubeadm::{ClusterConfiguration, InitConfiguration};
use super::problems::{Kind, Problem, Problems};
use super::tables::table;
use super::{Cluster, Cni, Joining, Resetting, components, defaults, merge, schema, validate, version};
use crate::bundle::Manifest;
use crate::facts::Facts;
use crate::yaml::{self, Data, Node, Span};

/// The exact version that a flag or the file asks for, before anything else of them is looked at: it decides which
/// bundle is taken. A label (`stable-1`) and a text that is no version decide nothing.
pub fn wanted_version(flag: Option<&str>, config: Option<(&str, &str)>) -> Option<String> {
    let asked = peek(flag, config, &[Doc::Cluster], &["kubernetesVersion"])?;
    match version::wanted(&asked)? {
        version::Wanted::Exactly(version) => Some(version.to_string()),
        _ => None,
    }
}

/// The CRI socket that a flag or the file asks for, before anything else of them is looked at: it decides which of
/// several runtimes is looked at.
pub fn wanted_socket(flag: Option<&str>, config: Option<(&str, &str)>) -> Option<String> {
    peek(flag, config, &[Doc::Init, Doc::Join], &["nodeRegistration", "criSocket"])
}

/// The flag, else the text of a field in the first document of these kinds that has it.
fn peek(flag: Option<&str>, config: Option<(&str, &str)>, docs: &[Doc], path: &[&str]) -> Option<String> {
    if let Some(flag) = flag {
        return Some(flag.to_owned());
    }
    let documents = yaml::parse(config?.1).documents;
    documents.iter().map(|document| &document.root).find_map(|root| {
        let kind = root.get("kind").and_then(Node::text)?;
        let field = path.iter().try_fold(root, |node, key| node.get(key))?;
        docs.iter().any(|doc| doc.kind() == kind).then(|| field.text().map(str::to_owned))?
    })
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
    let mut input = read(config, Some(&bundle.kubernetes), &flags.common.ignore_preflight_errors);
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

    defaults::endpoint(&mut config, &init);
    validate::init(&init, &config, &mut input);

    let (kubelet, proxy) = (value(&input, Doc::Kubelet), value(&input, Doc::Proxy));
    let table = table(Some(&bundle.kubernetes));
    let kubelet = components::kubelet(kubelet, &config, facts, table, &mut input);
    let advertise = init.local_api_endpoint.as_ref().and_then(|e| e.advertise_address.as_deref()?.parse().ok());
    let proxy = components::proxy(proxy, &config, advertise, facts, table, &mut input);
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
    let mut input = read(config, None, &flags.common.ignore_preflight_errors);
    if config.is_some() {
        want(&mut input, &[Doc::Join]);
    }
    let mut join = document(&mut input, Doc::Join);
    merge::join(flags, &mut join, &mut input);
    defaults::join(&mut join, facts);
    validate::join(&join, &mut input);
    input.finish(|warnings| Joining { join, warnings })
}

/// The input of `reset`: flags and file, with defaults.
///
/// # Errors
/// All problems at once.
pub fn load_reset(flags: &ResetFlags, config: Option<(&str, &str)>) -> Result<Resetting, Problems> {
    let mut input = read(config, None, &flags.common.ignore_preflight_errors);
    if config.is_some() {
        want(&mut input, &[Doc::Reset]);
    }
    let mut reset = document(&mut input, Doc::Reset);
    merge::reset(flags, &mut reset, &mut input);
    defaults::reset(&mut reset);
    validate::reset(&reset, &mut input);
    input.finish(|warnings| Resetting { reset, warnings })
}

/// Reads the file's documents: what is right of each is kept.
fn read(config: Option<(&str, &str)>, version: Option<&str>, ignored: &[String]) -> Input {
    let mut input = Input::new(config);
    let Some((_, text)) = config else { return input };
    let parsed = yaml::parse(text);
    for error in parsed.errors {
        problem(&mut input, error.span, error.message, None);
    }
    for document in parsed.documents {
        for twice in document.duplicates {
            let message = format!("{} is set twice, first on line {}", twice.key, twice.first.line);
            problem(&mut input, twice.again, message, None);
        }
        let root = document.root;
        if root.data == Data::Null {
            continue;
        }
        let Some(doc) = kind(&root, &mut input) else { continue };
        if let Some(first) = input.root(doc) {
            let message = format!("there is a {} already, on line {}", doc.kind(), first.span.line);
            problem(&mut input, root.span, message, Some("one document of each kind".to_owned()));
            continue;
        }
        let known_unknown = ignored.iter().any(|check| ignores_unknown(check)) || asks_to_ignore(&root);
        let right = schema::check(doc, &root, table(version), known_unknown, &mut input);
        input.keep(doc, right);
    }
    input
}

fn ignores_unknown(check: &str) -> bool {
    ["configunknownfield", "all"].contains(&check.trim().to_lowercase().as_str())
}

/// The document itself may list the checks to ignore.
fn asks_to_ignore(root: &Node) -> bool {
    let list = root.get("nodeRegistration").unwrap_or(root).get("ignorePreflightErrors");
    match list.map(|list| &list.data) {
        Some(Data::List(checks)) => checks.iter().filter_map(Node::text).any(ignores_unknown),
        _ => false,
    }
}

/// Which document it is; a problem when it is none that can be read.
fn kind(root: &Node, input: &mut Input) -> Option<Doc> {
    if !matches!(root.data, Data::Map(_)) {
        problem(input, root.span, "a document must be a map with apiVersion and kind".to_owned(), None);
        return None;
    }
    let text = |key: &str| root.get(key).and_then(Node::text);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let lacking = if text("kind").is_none() { "kind" } else { "apiVersion" };
        let span = root.get(lacking).map_or(root.span, |node| node.span);
        let hint = match Doc::ALL.into_iter().find(|doc| Some(doc.kind()) == text("kind")) {
            Some(doc) => format!("apiVersion: {}", doc.api_version()),
            None => format!("for example kind: {}", Doc::Cluster.kind()),
        };
        problem(input, span, format!("the document has no {lacking}"), Some(hint));
        return None;
    };
    let of_kind = Doc::ALL.into_iter().find(|doc| doc.kind() == kind);
    if let Some(doc) = of_kind.filter(|doc| doc.api_version() == version) {
        return Some(doc);
    }
    let place = |key: &str| root.get(key).map_or(root.span, |node| node.span);
    let group = version.split('/').next().unwrap_or_default();
    let Some(doc) = of_kind.filter(|doc| doc.api_version().split('/').next() == Some(group)) else {
        let kinds: Vec<String> = Doc::ALL.map(|doc| doc.kind().to_owned()).to_vec();
        let hint = match (of_kind, schema::nearest(kind, kinds.iter())) {
            (Some(doc), _) => format!("apiVersion: {}", doc.api_version()),
            (None, Some(near)) => format!("did you mean {near}?"),
            (None, None) => format!("kinds that are read: {}", kinds.join(", ")),
        };
        let key = if of_kind.is_some() { "apiVersion" } else { "kind" };
        problem(input, place(key), format!("{kind} of {version} is not known here"), Some(hint));
        return None;
    };
    let name = input.name().to_owned();
    let hint = if group == "kubeadm.k8s.io" {
        format!("kubeadm config migrate --old-config {name} --new-config NEW")
    } else {
        format!("apiVersion: {}", doc.api_version())
    };
    problem(input, place("apiVersion"), format!("{version} is not read, only {}", doc.api_version()), Some(hint));
    None
}

fn problem(input: &mut Input, span: Span, message: String, hint: Option<String>) {
    let place = input.at(span);
    input.problems.0.push(Problem { kind: Kind::Invalid, field: String::new(), place, message, hint });
}

/// At least one of these documents must be there.
fn want(input: &mut Input, docs: &[Doc]) {
    if input.problems.is_empty() && docs.iter().all(|doc| input.root(*doc).is_none()) {
        let kinds: Vec<&str> = docs.iter().map(|doc| doc.kind()).collect();
        let message = format!("{} holds no {}", input.name(), kinds.join(" and no "));
        problem(input, Span { line: 1, column: 1, width: 1 }, message, None);
    }
}

fn value(input: &Input, doc: Doc) -> Option<Value> {
    input.root(doc).map(Node::to_value)
}

/// A document as its type; its default when it is not there.
fn document<T: DeserializeOwned + Default>(input: &mut Input, doc: Doc) -> T {
    let Some(value) = value(input, doc) else { return T::default() };
    // What does not fit has been told and left out; if the table and the type ever differ, this tells it.
    serde_json::from_value(value).unwrap_or_else(|error| {
        input.bad(doc, "", error.to_string(), "");
        T::default()
    })
}

//! Where each value of the input came from, and the problems found in it so far.

use std::collections::{BTreeMap, BTreeSet};

use super::problems::{Kind, Place, Problem, Problems, without_secrets};
use crate::yaml::{Entry, Node, Span};

/// The documents that a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doc {
    Init,
    Cluster,
    Join,
    Reset,
    Upgrade,
    Kubelet,
    Proxy,
}

impl Doc {
    pub(crate) const ALL: [Self; 7] =
        [Self::Init, Self::Cluster, Self::Join, Self::Reset, Self::Upgrade, Self::Kubelet, Self::Proxy];

    /// Its `kind`.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Init => "InitConfiguration",
            Self::Cluster => "ClusterConfiguration",
            Self::Join => "JoinConfiguration",
            Self::Reset => "ResetConfiguration",
            Self::Upgrade => "UpgradeConfiguration",
            Self::Kubelet => "KubeletConfiguration",
            Self::Proxy => "KubeProxyConfiguration",
        }
    }

    /// Its `apiVersion`.
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet.config.k8s.io/v1beta1",
            Self::Proxy => "kubeproxy.config.k8s.io/v1alpha1",
            _ => super::kubeadm::API_VERSION,
        }
    }
}

/// The file (if any), the flags, and what was found wrong.
#[derive(Debug, Default)]
pub(crate) struct Input {
    name: String,
    lines: Vec<String>,
    /// What is right of each document.
    roots: BTreeMap<Doc, Node>,
    /// Fields of which something is known to be wrong already: what follows from it is not told again.
    told: BTreeSet<String>,
    /// Which field a flag was written into: document, path, flag.
    flags: Vec<(Doc, &'static str, &'static str)>,
    pub(crate) problems: Problems,
    pub(crate) warnings: Problems,
}

impl Input {
    pub(crate) fn new(file: Option<(&str, &str)>) -> Self {
        let (name, text) = file.unwrap_or_default();
        let lines = text.lines().map(without_secrets).collect();
        Self { name: name.to_owned(), lines, ..Self::default() }
    }

    /// Keeps what is right of a document.
    pub(crate) fn keep(&mut self, doc: Doc, root: Node) {
        self.roots.insert(doc, root);
    }

    /// What is right of a document, with its places.
    pub(crate) fn root(&self, doc: Doc) -> Option<&Node> {
        self.roots.get(&doc)
    }

    /// Nothing more is said of this field.
    pub(crate) fn told(&mut self, field: &str) {
        self.told.insert(field.to_owned());
    }

    /// The text of a place.
    pub(crate) fn text(&self, span: Span) -> String {
        let line = self.lines.get(span.line - 1).map(String::as_str).unwrap_or_default();
        line.chars().skip(span.column - 1).take(span.width).collect()
    }

    /// The file's name, for hints.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Remembers that a field's value came from a flag.
    pub(crate) fn came_from(&mut self, doc: Doc, path: &'static str, flag: &'static str) {
        self.flags.push((doc, path, flag));
    }

    /// A place in the file.
    pub(crate) fn at(&self, span: Span) -> Place {
        let line = self.lines.get(span.line - 1).cloned().unwrap_or_default();
        Place::File { name: self.name.clone(), span, line }
    }

    /// Where a field's value came from: its flag, its value in the file, or the nearest thing around it that is there.
    pub(crate) fn place(&self, doc: Doc, path: &str) -> Place {
        let below =
            |of: &str| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if let Some((.., flag)) = self.flags.iter().rev().find(|(d, of, _)| *d == doc && below(of)) {
            return Place::Flag((*flag).to_owned());
        }
        let Some(root) = self.root(doc) else { return Place::Nowhere };
        let mut node = root;
        let mut span = node.entry("kind").map_or(node.span, |e| e.span);
        for part in path.split(['.', '[']).filter(|p| !p.is_empty()) {
            let next = match part.strip_suffix(']') {
                Some(index) => index.parse().ok().and_then(|index| node.item(index)).map(|item| (item, item.span)),
                None => node.entry(part).map(|Entry { span, value, .. }| (value, *span)),
            };
            let Some((value, key)) = next else { return self.at(span) };
            (node, span) = (value, key);
        }
        // A scalar is pointed at itself; a list or map would point at its first line, so its key says it better.
        let scalar =
            !matches!(node.data, crate::yaml::Data::List(_) | crate::yaml::Data::Map(_) | crate::yaml::Data::Null);
        self.at(if scalar { node.span } else { span })
    }

    /// A value that cannot be right.
    pub(crate) fn bad(&mut self, doc: Doc, path: &str, message: impl Into<String>, hint: impl Into<Hint>) {
        self.add(Kind::Invalid, doc, path, message.into(), hint.into());
    }

    /// Something that is not supported yet.
    pub(crate) fn not_yet(&mut self, doc: Doc, path: &str, what: &str) {
        self.add(Kind::NotSupported, doc, path, format!("{what}: not supported yet"), Hint(None));
    }

    /// Flags that do not go together.
    pub(crate) fn usage(&mut self, flag: &str, message: impl Into<String>, hint: impl Into<Hint>) {
        let problem = Problem {
            kind: Kind::Usage,
            field: String::new(),
            place: Place::Flag(flag.to_owned()),
            message: message.into(),
            hint: hint.into().0,
        };
        self.problems.0.push(problem);
    }

    /// A flag that is not supported yet.
    pub(crate) fn flag_not_yet(&mut self, flag: &str) {
        let problem = Problem {
            kind: Kind::NotSupported,
            field: String::new(),
            place: Place::Flag(flag.to_owned()),
            message: format!("{flag}: not supported yet"),
            hint: None,
        };
        self.problems.0.push(problem);
    }

    /// Something odd that does not stop anything.
    pub(crate) fn warn(&mut self, doc: Doc, path: &str, message: impl Into<String>, hint: impl Into<Hint>) {
        let place = self.place(doc, path);
        let field = field(doc, path);
        self.warnings.0.push(Problem {
            kind: Kind::Invalid,
            field,
            place,
            message: message.into(),
            hint: hint.into().0,
        });
    }

    fn add(&mut self, kind: Kind, doc: Doc, path: &str, message: String, hint: Hint) {
        let (place, field) = (self.place(doc, path), field(doc, path));
        if !self.told.contains(&field) {
            self.problems.0.push(Problem { kind, field, place, message, hint: hint.0 });
        }
    }

    /// The value, unless something is wrong.
    pub(crate) fn finish<T>(mut self, value: impl FnOnce(Problems) -> T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            self.warnings.sort();
            return Ok(value(self.warnings));
        }
        self.problems.sort();
        Err(self.problems)
    }
}

fn field(doc: Doc, path: &str) -> String {
    if path.is_empty() { doc.kind().to_owned() } else { format!("{}.{path}", doc.kind()) }
}

/// What to do about a problem; made of text, or of nothing.
pub(crate) struct Hint(pub(crate) Option<String>);

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        Self(if text.is_empty() { None } else { Some(text.to_owned()) })
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}

impl From<Option<String>> for Hint {
    fn from(text: Option<String>) -> Self {
        Self(text)
    }
}

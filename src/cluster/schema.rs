//! Documents against the tables of fields: unknown fields, wrong types, what is missing. What is wrong is left out of the
//! result, so that the rest can still be looked at and all problems are told at once. The result is a tree with places and
//! not a bare value: when the second item of a list is left out, the third must still be found where it stands.

mod scalars;

use std::collections::BTreeMap;

use super::input::{Doc, Input};
use super::problems::{Kind, Problem};
use super::tables::Table;
use crate::yaml::{Data, Entry, Node, Span};

#[cfg(test)]
pub(crate) use self::scalars::SCALARS;
use self::scalars::{name, scalar, what};

/// Fields without which an item means nothing: `(type, field)`.
const REQUIRED: [(&str, &str); 7] = [
    ("Arg", "name"),
    ("EnvVar", "name"),
    ("HostPathMount", "name"),
    ("HostPathMount", "hostPath"),
    ("HostPathMount", "mountPath"),
    ("Taint", "key"),
    ("Taint", "effect"),
];

/// Fields of older kubeadm documents, and where their meaning went.
const MOVED: [(&str, &str); 3] = [
    ("timeoutForControlPlane", "since v1beta4: InitConfiguration.timeouts.controlPlaneComponentHealthCheck"),
    ("useHyperKubeImage", "hyperkube is gone: leave it out"),
    ("clusterStatus", "kubeadm keeps no status any more: leave it out"),
];

/// Checks a document; problems go into `input`, the right part is returned.
pub(crate) fn check(doc: Doc, root: &Node, table: &Table, unknown_is_warning: bool, input: &mut Input) -> Node {
    let mut checker = Checker { doc, table, unknown_is_warning, input };
    let nothing = || Node { span: root.span, data: Data::Map(Vec::new()) };
    checker.fields(root, doc.kind(), "").unwrap_or_else(nothing)
}

struct Checker<'a> {
    doc: Doc,
    table: &'a Table,
    unknown_is_warning: bool,
    input: &'a mut Input,
}

impl Checker<'_> {
    fn value(&mut self, node: &Node, of: &str, path: &str) -> Option<Node> {
        if let Some(of) = of.strip_prefix("[]") {
            return self.list(node, of, path);
        }
        if let Some(of) = of.strip_prefix("map:") {
            return self.map(node, of, path);
        }
        if self.table.types.contains_key(of) {
            return self.fields(node, of, path);
        }
        let quoted = || Some(format!("put it in quotes: {:?}", self.input.text(node.span)));
        match scalar(node, of, path, quoted) {
            Ok(data) => Some(Node { span: node.span, data }),
            Err((message, hint)) => {
                self.problem(Kind::Invalid, path, node.span, message, hint);
                None
            }
        }
    }

    fn list(&mut self, node: &Node, of: &str, path: &str) -> Option<Node> {
        let Data::List(items) = &node.data else {
            let hint = match &node.data {
                Data::Map(entries) if of == "Arg" => arguments_hint(entries),
                Data::Map(_) => None,
                _ => Some(format!("write it as a list: [{}]", shown(node))),
            };
            self.problem(
                Kind::Invalid,
                path,
                node.span,
                format!("{} must be a list, not {}", name(path), what(node)),
                hint,
            );
            return None;
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if item.data == Data::Null {
                self.problem(Kind::Invalid, &path, item.span, format!("{} is empty", name(&path)), None);
            } else {
                values.extend(self.value(item, of, &path));
            }
        }
        Some(Node { span: node.span, data: Data::List(values) })
    }

    /// The entries of a map; something else is a problem.
    fn entries<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Entry]> {
        let Data::Map(entries) = &node.data else {
            let text = format!("{} must be a map, not {}", name(path), what(node));
            self.problem(Kind::Invalid, path, node.span, text, None);
            return None;
        };
        Some(entries)
    }

    fn map(&mut self, node: &Node, of: &str, path: &str) -> Option<Node> {
        let entries = self.entries(node, path)?;
        let mut values = Vec::new();
        for entry in entries.iter().filter(|e| e.value.data != Data::Null) {
            let key = &entry.key;
            let path = if key.contains('.') { format!("{path}[{key}]") } else { format!("{path}.{key}") };
            if let Some(value) = self.value(&entry.value, of, &path) {
                values.push(Entry { key: key.clone(), span: entry.span, value });
            }
        }
        Some(Node { span: node.span, data: Data::Map(values) })
    }

    fn fields(&mut self, node: &Node, of: &str, path: &str) -> Option<Node> {
        let entries = self.entries(node, path)?;
        let fields = self.table.types.get(of)?;
        let mut values = Vec::new();
        for entry in entries {
            let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            let Some(of) = fields.get(&entry.key) else {
                self.unknown(entry, fields, &path);
                continue;
            };
            // Null is "left out" to Kubernetes.
            if entry.value.data == Data::Null {
                continue;
            }
            // An int32 to Go, but a port to everybody.
            let of = if entry.key == "bindPort" { "uint16" } else { of };
            if let Some(value) = self.value(&entry.value, of, &path) {
                values.push(Entry { key: entry.key.clone(), span: entry.span, value });
            }
        }
        let mut complete = true;
        for (_, field) in REQUIRED.iter().filter(|(name, _)| *name == of) {
            if node.get(field).is_none_or(|value| value.data == Data::Null) {
                self.problem(Kind::Invalid, path, node.span, format!("{} has no {field}", name(path)), None);
            }
            complete &= values.iter().any(|entry| entry.key == *field);
        }
        complete.then_some(Node { span: node.span, data: Data::Map(values) })
    }

    fn unknown(&mut self, entry: &Entry, fields: &BTreeMap<String, String>, path: &str) {
        let moved = MOVED.iter().find(|(name, _)| *name == entry.key).map(|(_, hint)| (*hint).to_owned());
        let hint = moved
            .or_else(|| nearest(&entry.key, fields.keys()).map(|near| format!("did you mean {near}?")))
            .or_else(|| self.elsewhere(&entry.key).map(|place| format!("it belongs to {place}")));
        let message = format!("unknown field {} (ConfigUnknownField)", entry.key);
        self.problem(Kind::UnknownField, path, entry.span, message, hint);
    }

    /// The only other place of this document, or of one that comes with it, where a field of that name is known.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let mut found = Vec::new();
        let docs = match self.doc {
            Doc::Init | Doc::Cluster => vec![self.doc, if self.doc == Doc::Init { Doc::Cluster } else { Doc::Init }],
            doc => vec![doc],
        };
        for doc in docs {
            self.search(doc.kind(), key, doc.kind(), 0, &mut found);
        }
        if found.len() == 1 { found.pop() } else { None }
    }

    fn search(&self, of: &str, key: &str, path: &str, depth: usize, found: &mut Vec<String>) {
        let Some(fields) = self.table.types.get(of) else { return };
        if fields.contains_key(key) {
            found.push(format!("{path}.{key}"));
        }
        // Documents nest a few levels; types that name themselves would not end.
        if depth < 4 {
            for (field, of) in fields {
                self.search(of.trim_start_matches("[]"), key, &format!("{path}.{field}"), depth + 1, found);
            }
        }
    }

    fn problem(&mut self, kind: Kind, path: &str, span: Span, message: String, hint: Option<String>) {
        let place = self.input.at(span);
        let field = if path.is_empty() { self.doc.kind().to_owned() } else { format!("{}.{path}", self.doc.kind()) };
        let problem = Problem { kind, field, place, message, hint };
        // An item of a list goes away with what is wrong about it, and its number is another's then.
        if kind == Kind::Invalid && !path.ends_with(']') {
            self.input.told(&problem.field);
        }
        if kind == Kind::UnknownField && self.unknown_is_warning {
            self.input.warnings.0.push(problem);
        } else {
            self.input.problems.0.push(problem);
        }
    }
}

fn shown(node: &Node) -> String {
    match &node.data {
        Data::Text(text) if text.len() <= 40 => text.clone(),
        Data::Bool(value) => value.to_string(),
        Data::Number(number) => number.to_string(),
        _ => "…".to_owned(),
    }
}

/// A map where v1beta4 wants a list of arguments: what v1beta3 had.
fn arguments_hint(entries: &[Entry]) -> Option<String> {
    let first = entries.first()?;
    Some(format!("since v1beta4 arguments are a list: - {{name: {}, value: {:?}}}", first.key, shown(&first.value)))
}

/// The known name that a typing error most likely meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate.as_str()))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters must be put in, taken out, changed or swapped to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    // Names are short; what is not is no typing error.
    for (i, a) in one.chars().take(100).enumerate() {
        let mut next = vec![i + 1];
        for (j, (b, above)) in other.iter().zip(row.windows(2)).enumerate() {
            let (&[diagonal, up], Some(&left)) = (above, next.get(j)) else { continue };
            next.push((diagonal + usize::from(a != *b)).min(up + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_what_was_meant() {
        let known: Vec<String> = ["podSubnet", "serviceSubnet", "dnsDomain"].map(str::to_owned).to_vec();
        for (typed, meant) in [
            ("podSubnets", Some("podSubnet")),
            ("podsubnet", Some("podSubnet")),
            ("pod_subnet", Some("podSubnet")),
            ("DNSDomain", Some("dnsDomain")),
            ("serviceSubnt", Some("serviceSubnet")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known.iter()), meant, "{typed}");
        }
    }
}

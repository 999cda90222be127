//! Documents against the tables of fields: unknown fields, wrong types, what is missing. What is wrong is left out of the
//! result, so that the rest can still be looked at and all problems are told at once. The result is a tree with places and
//! not a bare value: when the second item of a list is left out, the third must still be found where it stands.

use std::collections::BTreeMap;

use serde_json::Number;

use super::duration::duration;
use super::input::{Doc, Input};
use super::problems::{Kind, Problem};
use super::tables::Table;
use crate::yaml::{Data, Entry, Node, Span};

/// Types of the tables that are no structs.
pub(crate) const SCALARS: [&str; 17] = [
    "string",
    "bool",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "duration",
    "time",
    "quantity",
    "duration-or-int",
];

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

    fn map(&mut self, node: &Node, of: &str, path: &str) -> Option<Node> {
        let Data::Map(entries) = &node.data else {
            self.problem(
                Kind::Invalid,
                path,
                node.span,
                format!("{} must be a map, not {}", name(path), what(node)),
                None,
            );
            return None;
        };
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
        let Data::Map(entries) = &node.data else {
            self.problem(
                Kind::Invalid,
                path,
                node.span,
                format!("{} must be a map, not {}", name(path), what(node)),
                None,
            );
            return None;
        };
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
        let message = format!("unknown field {}", entry.key);
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

/// The last part of a path, as people call it: `podSubnet`, `taints[1]`, `memory.available` of a map.
fn name(path: &str) -> &str {
    if let Some((_, key)) = path.strip_suffix(']').and_then(|path| path.rsplit_once('['))
        && key.parse::<usize>().is_err()
    {
        return key;
    }
    match path.rsplit('.').next() {
        Some("") | None => "a document",
        Some(name) => name,
    }
}

/// What a value is, for "must be text, not …".
fn what(node: &Node) -> String {
    match &node.data {
        Data::Null => "nothing".to_owned(),
        Data::Bool(value) => format!("the truth value {value}"),
        Data::Number(number) => format!("the number {number}"),
        Data::Text(_) => "text".to_owned(),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a map".to_owned(),
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

type Wrong = (String, Option<String>);

fn scalar(node: &Node, of: &str, path: &str, quoted: impl Fn() -> Option<String>) -> Result<Data, Wrong> {
    let name = name(path);
    let wrong =
        |wanted: &str, hint: Option<String>| Err((format!("{name} must be {wanted}, not {}", what(node)), hint));
    match (of, &node.data) {
        ("string" | "quantity" | "time" | "duration" | "duration-or-int", Data::Text(text)) => {
            text_like(text, of, name)
        }
        ("quantity" | "duration-or-int" | "float32" | "float64", Data::Number(_))
        | ("bool", Data::Bool(_))
        | ("any", _) => Ok(node.data.clone()),
        ("string" | "time", Data::Bool(_) | Data::Number(_)) => wrong("text", quoted()),
        ("string" | "time" | "quantity", _) => wrong("text", None),
        ("duration" | "duration-or-int", _) => wrong("a duration", Some("as 30s, 5m or 1h30m".to_owned())),
        ("bool", Data::Text(text)) => {
            let quoted = matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no");
            wrong("true or false", quoted.then(|| "leave the quotes out".to_owned()))
        }
        ("bool", _) => wrong("true or false", None),
        (_, Data::Number(number)) => integer(number, of)
            .map(Data::Number)
            .ok_or_else(|| (format!("{name} must be {}, not {number}", range(of)), None)),
        (_, Data::Text(text)) if text.parse::<f64>().is_ok() => {
            wrong("a number", Some("leave the quotes out".to_owned()))
        }
        _ => wrong("a number", None),
    }
}

fn text_like(text: &str, of: &str, name: &str) -> Result<Data, Wrong> {
    let wrong =
        |wanted: &str, hint: &str| Err((format!("{name} must be {wanted}, not {text:?}"), Some(hint.to_owned())));
    match of {
        "duration" | "duration-or-int" if duration(text).is_none() => wrong("a duration", "as 30s, 5m or 1h30m"),
        "quantity" if !is_quantity(text) => wrong("a quantity", "as 100m, 512Mi or 2Gi"),
        "time" if !is_time(text) => wrong("a time", "as 2030-01-31T12:00:00Z"),
        _ => Ok(Data::Text(text.to_owned())),
    }
}

fn is_time(text: &str) -> bool {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
}

/// Kubernetes' resource quantities: a number and one of its suffixes.
fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let digits = number.chars().filter(char::is_ascii_digit).count();
    let dots = number.len() - digits;
    let exponent = |rest: &str| rest.strip_prefix(['+', '-']).unwrap_or(rest).parse::<u32>().is_ok();
    let suffix_is_right = matches!(
        suffix,
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei"
    ) || suffix.strip_prefix(['e', 'E']).is_some_and(exponent);
    digits > 0 && dots <= 1 && suffix_is_right
}

/// A whole number within its type; `1e3` is one as well.
fn integer(number: &Number, of: &str) -> Option<Number> {
    let value = match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(value), ..) => i128::from(value),
        (_, Some(value), _) => i128::from(value),
        // Up to 2^53 every whole f64 is exact.
        (.., Some(value)) if value.fract() == 0.0 && value.abs() < 9e15 => value as i128,
        _ => return None,
    };
    let (low, high) = bounds(of);
    if !(low..=high).contains(&value) {
        return None;
    }
    i64::try_from(value).map(Number::from).or_else(|_| u64::try_from(value).map(Number::from)).ok()
}

fn bounds(of: &str) -> (i128, i128) {
    let bits = of.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(64_u32);
    if of.starts_with('u') { (0, (1 << bits) - 1) } else { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) }
}

fn range(of: &str) -> String {
    let (low, high) = bounds(of);
    if of.ends_with("64") || of == "int" {
        "a whole number".to_owned()
    } else {
        format!("a whole number from {low} to {high}")
    }
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

    #[test]
    fn numbers_fit_their_types() {
        let fits = |n: f64, of| integer(&Number::from_f64(n).unwrap(), of).is_some();
        assert!(fits(1000.0, "int32") && !fits(1.5, "int32") && !fits(3e9, "int32") && fits(3e9, "uint32"));
        assert!(!fits(-1.0, "uint32") && fits(-1.0, "int64") && !fits(1e300, "int"));
        assert!(
            integer(&Number::from(u64::MAX), "uint64").is_some() && integer(&Number::from(u64::MAX), "int64").is_none()
        );
    }

    #[test]
    fn quantities() {
        for fine in ["1", "1.5", ".5", "100m", "2Gi", "1e3", "1E-3", "-1k", "1."] {
            assert!(is_quantity(fine), "{fine}");
        }
        for wrong in ["", "Gi", "1 Gi", "1gi", "1.2.3", "1e", "x"] {
            assert!(!is_quantity(wrong), "{wrong}");
        }
    }
}

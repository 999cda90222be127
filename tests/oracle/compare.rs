//! Differences of two values, one line for each place.

use std::collections::BTreeSet;

use serde_json::Value;

use super::findings::Findings;

/// All differences, each as `PLACE: KUBEADM'S => OURS`.
pub(crate) fn differences(theirs: &Findings, ours: &Findings) -> Vec<String> {
    let mut lines = Vec::new();
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    for name in names {
        values(name, theirs.get(name), ours.get(name), &mut lines);
    }
    lines
}

fn values(place: &str, theirs: Option<&Value>, ours: Option<&Value>, lines: &mut Vec<String>) {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs == ours => {}
        (Some(Value::Object(theirs)), Some(Value::Object(ours))) => {
            let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
            for name in names {
                values(&format!("{place}.{name}"), theirs.get(name), ours.get(name), lines);
            }
        }
        (Some(Value::Array(theirs)), Some(Value::Array(ours))) => lists(place, theirs, ours, lines),
        (theirs, ours) => {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            lines.push(format!("{place}: {} => {}", shown(theirs), shown(ours)));
        }
    }
}

/// Lists of things with names by name, other ones as what is missing and what is too much; the order counts.
fn lists(place: &str, theirs: &[Value], ours: &[Value], lines: &mut Vec<String>) {
    let named = |list: &[Value]| {
        list.iter().map(|item| Some(item.get("name")?.as_str()?.to_owned())).collect::<Option<Vec<_>>>()
    };
    if let (Some(their_names), Some(our_names)) = (named(theirs), named(ours)) {
        let find = |list: &[Value], name: &str| list.iter().find(|item| item["name"] == name).cloned();
        for name in their_names.iter().chain(&our_names).collect::<BTreeSet<_>>() {
            let (theirs, ours) = (find(theirs, name), find(ours, name));
            values(&format!("{place}[{name}]"), theirs.as_ref(), ours.as_ref(), lines);
        }
        let common = |names: &[String], others: &[String]| -> Vec<String> {
            names.iter().filter(|name| others.contains(name)).cloned().collect()
        };
        let (a, b) = (common(&their_names, &our_names), common(&our_names, &their_names));
        if a != b {
            lines.push(format!("{place}: order {} => {}", a.join(" "), b.join(" ")));
        }
        return;
    }
    if theirs.len() == ours.len() && theirs.iter().all(Value::is_object) {
        for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
            values(&format!("{place}[{index}]"), Some(theirs), Some(ours), lines);
        }
        return;
    }
    let before = lines.len();
    for item in theirs.iter().filter(|item| !ours.contains(item)) {
        lines.push(format!("{place}: {item} => nothing"));
    }
    for item in ours.iter().filter(|item| !theirs.contains(item)) {
        lines.push(format!("{place}: nothing => {item}"));
    }
    if lines.len() == before {
        let (theirs, ours) = (Value::from(theirs.to_vec()), Value::from(ours.to_vec()));
        lines.push(format!("{place}: order {theirs} => {ours}"));
    }
}

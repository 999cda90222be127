//! Differences of two values, one line for each place.

use std::collections::{BTreeMap, BTreeSet};

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
    if let (Some(their_names), Some(our_names)) = (names(theirs), names(ours)) {
        let (their_keys, our_keys) = (keys(&their_names, &our_names), keys(&our_names, &their_names));
        let theirs: BTreeMap<Key<'_>, &Value> = their_keys.iter().copied().zip(theirs).collect();
        let ours: BTreeMap<Key<'_>, &Value> = our_keys.iter().copied().zip(ours).collect();
        for key in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
            let place = format!("{place}[{}]", shown(key));
            values(&place, theirs.get(key).copied(), ours.get(key).copied(), lines);
        }
        let (a, b) = (common(&their_keys, &our_keys), common(&our_keys, &their_keys));
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
    let within = |list: &[Value], other: &[Value]| -> (Vec<Value>, Vec<Value>) {
        list.iter().cloned().partition(|item| other.contains(item))
    };
    let ((theirs, missing), (ours, surplus)) = (within(theirs, ours), within(ours, theirs));
    lines.extend(missing.iter().map(|item| format!("{place}: {item} => nothing")));
    lines.extend(surplus.iter().map(|item| format!("{place}: nothing => {item}")));
    if theirs != ours {
        lines.push(format!("{place}: order {} => {}", Value::from(theirs), Value::from(ours)));
    }
}

/// Names of a list's items, if all have one.
fn names(list: &[Value]) -> Option<Vec<&str>> {
    list.iter().map(|item| item.get("name")?.as_str()).collect()
}

/// By what an item of one list is found in the other: its name, and which of that name it is, counted from 1; 0 where
/// neither list has a second one.
type Key<'a> = (&'a str, usize);

/// The keys of a list's items. A name may stand there twice, as a flag that is given twice does; each must be compared.
fn keys<'a>(names: &[&'a str], others: &[&str]) -> Vec<Key<'a>> {
    let count = |names: &[&str], name: &str| names.iter().filter(|other| **other == name).count();
    let items = names.iter().enumerate().map(|(index, &name)| {
        let several = count(names, name) > 1 || count(others, name) > 1;
        (name, if several { count(&names[..=index], name) } else { 0 })
    });
    items.collect()
}

/// A key in a line: `NAME`, or `NAME#2` for the second of several.
fn shown(key: &Key<'_>) -> String {
    match key {
        (name, 0) => (*name).to_owned(),
        (name, nth) => format!("{name}#{nth}"),
    }
}

/// Those of one list that the other has too, in the list's order.
fn common(keys: &[Key<'_>], others: &[Key<'_>]) -> Vec<String> {
    keys.iter().filter(|key| others.contains(key)).map(shown).collect()
}

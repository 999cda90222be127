//! Wanted against found: only the fields that we set count, whatever the API server added.

use serde_json::Value;

/// One line per field that is not as wanted, empty when all are. Of a `secret` object only the places are named.
pub fn differences(want: &Value, found: &Value, secret: bool) -> Vec<String> {
    let mut lines = Vec::new();
    walk(want, found, "", secret, &mut lines);
    lines
}

fn walk(want: &Value, found: &Value, path: &str, secret: bool, lines: &mut Vec<String>) {
    match (want, found) {
        (Value::Object(want), Value::Object(found)) => {
            for (name, value) in want {
                let path = format!("{path}/{name}");
                match found.get(name) {
                    Some(there) => walk(value, there, &path, secret, lines),
                    // The API server drops empty values.
                    None if is_empty(value) => {}
                    None => say(&path, None, value, secret, lines),
                }
            }
        }
        (Value::Array(want_items), Value::Array(found_items)) if want_items.len() == found_items.len() => {
            for (i, (want, found)) in want_items.iter().zip(found_items).enumerate() {
                walk(want, found, &format!("{path}/{i}"), secret, lines);
            }
        }
        (want, found) if want == found => {}
        (want, found) => say(path, Some(found), want, secret, lines),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn say(path: &str, found: Option<&Value>, want: &Value, secret: bool, lines: &mut Vec<String>) {
    if secret {
        lines.push(format!("{path}: <secret> differs"));
        return;
    }
    if let (Some(Value::String(found)), Value::String(want)) = (found, want)
        && (found.contains('\n') || want.contains('\n'))
    {
        lines.push(format!("{path}:"));
        lines.extend(text(found, want));
        return;
    }
    if let Some(found) = found {
        lines.push(format!("- {path}: {found}"));
    }
    lines.push(format!("+ {path}: {want}"));
}

/// The lines that only one of two texts has: `- ` found, `+ ` wanted, in order (longest common part kept).
pub fn text(found: &str, want: &str) -> Vec<String> {
    let old: Vec<&str> = found.lines().collect();
    let new: Vec<&str> = want.lines().collect();
    // Equal heads and tails are cut first, so that the table stays small for the usual one-line change.
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old.iter().skip(head).rev().zip(new.iter().skip(head).rev()).take_while(|(a, b)| a == b).count();
    let old = old.get(head..old.len() - tail).unwrap_or_default();
    let new = new.get(head..new.len() - tail).unwrap_or_default();
    let width = new.len() + 1;
    let mut common = vec![0usize; (old.len() + 1) * width];
    let at = |common: &[usize], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let best =
                if a == b { at(&common, i + 1, j + 1) + 1 } else { at(&common, i + 1, j).max(at(&common, i, j + 1)) };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
            (Some(a), Some(_)) if at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                lines.push(format!("- {a}"));
                i += 1;
            }
            (_, Some(b)) => {
                lines.push(format!("+ {b}"));
                j += 1;
            }
            (Some(a), None) => {
                lines.push(format!("- {a}"));
                i += 1;
            }
            (None, None) => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_added_does_not_count() {
        let want = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "list": [{"name": "x"}]}});
        let found = json!({"metadata": {"name": "a", "uid": "1"}, "spec": {"replicas": 2, "paused": false,
            "list": [{"name": "x", "protocol": "TCP"}]}, "status": {}});
        assert!(differences(&want, &found, false).is_empty());
    }

    #[test]
    fn a_changed_and_a_missing_field_are_named() {
        let want = json!({"data": {"a": "1", "b": "2"}});
        let found = json!({"data": {"a": "3"}});
        assert_eq!(differences(&want, &found, false), ["- /data/a: \"3\"", "+ /data/a: \"1\"", "+ /data/b: \"2\""]);
    }

    #[test]
    fn a_secret_is_never_shown() {
        let lines = differences(&json!({"data": {"k": "aGVsbG8="}}), &json!({"data": {"k": "eA=="}}), true);
        assert_eq!(lines, ["/data/k: <secret> differs"]);
    }

    #[test]
    fn texts_are_compared_by_line() {
        assert_eq!(text("a\nb\nc\nd\n", "a\nx\nc\nd\ne\n"), ["- b", "+ x", "+ e"]);
    }

    #[test]
    fn a_shorter_list_differs() {
        assert_eq!(differences(&json!([1]), &json!([1, 2]), false).len(), 2);
    }
}

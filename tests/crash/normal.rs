//! What is random by nature is replaced by a word, so that two runs can be compared.

use serde_json::Value;

use crate::api::{Objects, transient};

/// Keys, certificates (plain and in base64) and bootstrap tokens become words.
pub(crate) fn text(text: &str) -> String {
    tokens(&base64(&pem(text)))
}

/// The kubelet names its certificates by the second in which they were made.
pub(crate) fn line(text: &str) -> String {
    let Some((before, after)) = text.split_once("/kubelet-client-20") else { return text.to_owned() };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    line(&format!("{before}/kubelet-client-<time>{rest}"))
}

fn pem(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let (before, block) = rest.split_at(start);
        let kind = block["-----BEGIN ".len()..].split("-----").next().unwrap_or_default();
        let end = format!("-----END {kind}-----");
        let Some(at) = block.find(&end) else { break };
        out += &format!("{before}<{kind}>");
        rest = &block[at + end.len()..];
    }
    out + rest
}

/// Base64 of something that begins with `-----`.
fn base64(text: &str) -> String {
    words(text, |word| (word.len() > 60 && word.starts_with("LS0t")).then(|| "<base64 of PEM>".to_owned()))
}

/// Bootstrap tokens: names of secrets, keys of signatures, the tokens themselves.
fn tokens(text: &str) -> String {
    let mut out = text.to_owned();
    for prefix in ["bootstrap-token-", "jws-kubeconfig-"] {
        let mut from = 0;
        while let Some(at) = out[from..].find(prefix) {
            let start = from + at + prefix.len();
            let end = start + out[start..].bytes().take(6).take_while(u8::is_ascii_alphanumeric).count();
            if end - start == 6 {
                out.replace_range(start..end, "<id>");
            }
            from = start;
        }
    }
    out
}

fn words(text: &str, replace: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=') {
            word.push(c);
            continue;
        }
        out += &replace(&word).unwrap_or_else(|| word.clone());
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// All objects without what differs between any two runs. Left out altogether: what the server writes all the time, and
/// what it tells of its own flags and files (the CA that it was given).
pub(crate) fn objects(objects: &Objects) -> Vec<String> {
    let own = "/registry/configmaps/kube-system/extension-apiserver-authentication";
    let kept = objects.iter().filter(|(key, _)| !transient(key) && *key != own);
    let mut lines: Vec<String> = kept.map(|(key, value)| format!("{} {}", tokens(key), object(key, value))).collect();
    lines.sort();
    lines
}

fn object(key: &str, json: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(json) else { return format!("{} bytes", json.len()) };
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("uid");
        meta.remove("creationTimestamp");
        for entry in meta.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            entry.as_object_mut().map(|entry| entry.remove("time"));
        }
        // They stand in the order of their times.
        if let Some(entries) = meta.get_mut("managedFields").and_then(Value::as_array_mut) {
            entries.sort_by_key(|entry| [entry["manager"].to_string(), entry["operation"].to_string()]);
        }
    }
    if key.contains("/bootstrap-token-") {
        // The token and when it ends; which fields there are still counts.
        for name in ["token-id", "token-secret", "expiration"] {
            if let Some(value) = value.pointer_mut(&format!("/data/{name}")) {
                *value = format!("<{name}>").into();
            }
        }
    }
    if key.ends_with("/cluster-info") {
        for (name, value) in value.pointer_mut("/data").and_then(Value::as_object_mut).into_iter().flatten() {
            if name.starts_with("jws-kubeconfig-") {
                *value = "<signature>".into();
            }
        }
    }
    text(&value.to_string())
}

//! The operator's kubeconfig: kubeadm's admin.conf under the cluster's own name, and merging it into another one.

use std::path::Path;

use anyhow::{Context, bail};
use kprov_pki::kubeconfig::Kubeconfig;
use serde_json::{Map, Value};

/// The name of context, cluster and user of a kprov cluster.
pub fn context(name: &str) -> String {
    format!("kprov-{name}")
}

/// admin.conf with context, cluster and user named after the cluster, as YAML.
///
/// # Errors
/// When it is no kubeconfig with a context in use.
pub fn rename(admin_conf: &str, name: &str) -> anyhow::Result<String> {
    let mut config: Kubeconfig = crate::yaml::from_str(admin_conf).context("reading admin.conf")?;
    let (Some(cluster), Some(user), Some(used)) =
        (config.clusters.first_mut(), config.users.first_mut(), config.contexts.first_mut())
    else {
        bail!("admin.conf has no cluster, user or context");
    };
    let to = context(name);
    cluster.name.clone_from(&to);
    user.name.clone_from(&to);
    used.name.clone_from(&to);
    used.context.cluster.clone_from(&to);
    used.context.user.clone_from(&to);
    config.current_context = to;
    Ok(crate::yaml::to_string(&config)?)
}

/// A kubeconfig with the entries of another one put in (those of the same names replaced), whose context is in use
/// then. Whatever else is in it stays.
///
/// # Errors
/// When one of the two is not YAML, or no kubeconfig.
pub fn merge(into: &str, from: &str) -> anyhow::Result<String> {
    let from: Value = crate::yaml::from_str(from).context("reading the cluster's kubeconfig")?;
    let mut into: Map<String, Value> = if into.trim().is_empty() {
        Map::new()
    } else {
        crate::yaml::from_str(into).context("reading the kubeconfig to merge into")?
    };
    for (field, value) in [("apiVersion", "v1"), ("kind", "Config")] {
        let there = into.entry(field).or_insert_with(|| value.into());
        if there != value {
            bail!("{field} of the kubeconfig to merge into is not {value}");
        }
    }
    for list in ["clusters", "contexts", "users"] {
        let entries = from.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let there = into.entry(list).or_insert_with(|| Value::Array(Vec::new()));
        if there.is_null() {
            *there = Value::Array(Vec::new());
        }
        let Value::Array(there) = there else { bail!("{list} of the kubeconfig to merge into is no list") };
        there.retain(|old| !entries.iter().any(|new| new.get("name") == old.get("name")));
        there.extend(entries);
    }
    if let Some(current) = from.get("current-context") {
        into.insert("current-context".into(), current.clone());
    }
    Ok(crate::yaml::to_string(&into)?)
}

/// The context that a kubeconfig uses; empty where it names none, or is none.
pub fn current(text: &str) -> String {
    let config: Value = crate::yaml::from_str(text).unwrap_or_default();
    config.get("current-context").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A kubeconfig without a cluster's entries; none where nothing of it was in it. Where its context was in use, `before`
/// is again, if there still is one of this name.
///
/// # Errors
/// When it is not YAML.
pub fn without(from: &str, name: &str, before: &str) -> anyhow::Result<Option<String>> {
    let mut config: Map<String, Value> = crate::yaml::from_str(from).context("reading the kubeconfig")?;
    let gone = Value::from(context(name));
    let mut changed = false;
    for list in ["clusters", "contexts", "users"] {
        if let Some(Value::Array(entries)) = config.get_mut(list) {
            let before = entries.len();
            entries.retain(|entry| entry.get("name") != Some(&gone));
            changed |= entries.len() != before;
        }
    }
    if config.get("current-context") == Some(&gone) {
        let contexts = config.get("contexts").and_then(Value::as_array);
        let there =
            contexts.is_some_and(|all| all.iter().any(|one| one.get("name").is_some_and(|name| name == before)));
        config.insert("current-context".into(), if there { before } else { "" }.into());
        changed = true;
    }
    if changed { Ok(Some(crate::yaml::to_string(&config)?)) } else { Ok(None) }
}

/// Merges a cluster's kubeconfig into a file, which is made where it is not there (0600).
///
/// # Errors
/// As [`merge`], and when the file cannot be read or written.
pub fn merge_into(path: &Path, from: &str) -> anyhow::Result<()> {
    let into = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let merged = merge(&into, from).with_context(|| format!("merging into {}", path.display()))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    super::places::write(path, merged.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: kubernetes\n  cluster:\n    server: https://10.0.0.2:6443\n    certificate-authority-data: QQ==\ncontexts:\n- name: kubernetes-admin@kubernetes\n  context: {cluster: kubernetes, user: kubernetes-admin}\ncurrent-context: kubernetes-admin@kubernetes\nusers:\n- name: kubernetes-admin\n  user: {client-certificate-data: QQ==, client-key-data: QQ==}\n";

    #[test]
    fn everything_is_named_after_the_cluster() {
        let text = rename(ADMIN, "dev").unwrap();
        assert!(!text.contains("kubernetes-admin"), "{text}");
        let config: Kubeconfig = crate::yaml::from_str(&text).unwrap();
        assert_eq!(config.current_context, "kprov-dev");
        assert_eq!(config.current().unwrap().0.server, "https://10.0.0.2:6443");
        assert!(rename("apiVersion: v1\nkind: Config\n", "dev").is_err());
    }

    #[test]
    fn merging_keeps_what_is_there_and_replaces_its_own() {
        let own = rename(ADMIN, "dev").unwrap();
        let other = "apiVersion: v1\nkind: Config\npreferences: {}\nclusters:\n- {name: work, cluster: {server: https://w}}\ncontexts: null\nusers: []\ncurrent-context: work\n";
        let once = merge(other, &own).unwrap();
        let twice = merge(&once, &own).unwrap();
        assert_eq!(once, twice);
        let value: Value = crate::yaml::from_str(&twice).unwrap();
        assert_eq!(value["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(value["current-context"], "kprov-dev");
        assert!(value.get("preferences").is_some());
        assert_eq!(merge("", &own).unwrap(), merge("", &own).unwrap());
        let without = without(&twice, "dev", "mine").unwrap().unwrap();
        assert!(!without.contains("kprov-dev") && without.contains("work"));
        assert!(super::without(&without, "dev", "mine").unwrap().is_none());
        let two = merge(&other.replace("contexts: null", "contexts: [{name: work}]"), &own).unwrap();
        let then = |before| current(&super::without(&two, "dev", before).unwrap().unwrap());
        assert_eq!((then("work").as_str(), then("gone").as_str()), ("work", ""));
    }

    #[test]
    fn something_else_is_not_merged_into() {
        let own = rename(ADMIN, "dev").unwrap();
        assert!(merge("kind: Pod\n", &own).is_err());
        assert!(merge("clusters: 3\n", &own).is_err());
    }
}

//! All objects of a trial's API, as they lie in its etcd.

use serde_json::Value;

use super::findings::{Findings, Scene};
use super::tree::Tree;
use crate::api::{Objects, transient};

/// What the server makes by itself: allocated addresses, and what it tells of its own flags.
const SERVERS_OWN: [&str; 4] = [
    "/registry/configmaps/kube-system/extension-apiserver-authentication",
    "/registry/ipaddresses/",
    "/registry/ranges/",
    "/registry/servicecidrs/",
];

impl Scene {
    /// All objects that there were not when the server had just started, or that are others now.
    pub(crate) fn objects(&self, tree: &Tree, now: &Objects, first: &Objects) -> Findings {
        let mut found = Findings::new();
        for (key, text) in now {
            if transient(key) || SERVERS_OWN.iter().any(|own| key.starts_with(own)) || first.get(key) == Some(text) {
                continue;
            }
            let object: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{key} is no JSON: {e}"));
            let (name, value) = self.object(object, tree);
            let twice = found.insert(format!("object/{name}"), value);
            assert!(twice.is_none(), "{name} twice");
        }
        found
    }
}

//! Objects of an API as data: what a server or a controller adds by itself is left out, documents inside are read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kprov::yaml;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::corefile;
use super::findings::Scene;
use super::tree::Tree;

/// Kubernetes' fingerprint of a component's configuration.
const HASH: &str = "kubeadm.kubernetes.io/component-config.hash";

impl Scene {
    /// One object, by its kind and name.
    pub(crate) fn object(&self, mut object: Value, tree: &Tree) -> (String, Value) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let meta = object["metadata"].as_object_mut().unwrap();
        for name in ["uid", "creationTimestamp", "managedFields", "resourceVersion"] {
            meta.remove(name);
        }
        let text = |name: &str| meta.get(name).and_then(Value::as_str).map(str::to_owned);
        let (namespace, mut name) = (text("namespace"), text("name").unwrap());
        match kind.as_str() {
            "ConfigMap" => {
                hash(&mut object);
                self.config_map(&name, &mut object, tree);
            }
            "Secret" => name = self.token(&mut object),
            _ => drop(object.as_object_mut().unwrap().remove("status")),
        }
        let place = namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
        (format!("{kind} {place}"), object)
    }

    fn config_map(&self, name: &str, object: &mut Value, tree: &Tree) {
        // kubeadm leaves signing to the controller manager, which is not here; that ours hold is tested elsewhere.
        object["data"].as_object_mut().into_iter().for_each(|data| data.retain(|key, _| !key.starts_with("jws-")));
        for (key, value) in object["data"].as_object_mut().into_iter().flatten() {
            let text = value.as_str().unwrap();
            *value = match (name, key.as_str()) {
                ("cluster-info", "kubeconfig") => self.kubeconfig(yaml::from_str(text).unwrap(), tree),
                ("coredns", "Corefile") => corefile::parse(text),
                ("kube-flannel-cfg", _) => serde_json::from_str(text).unwrap(),
                ("kubeadm-config" | "kubelet-config" | "kube-proxy", _) => yaml::from_str(text).unwrap(),
                other => panic!("{other:?}: a ConfigMap that nobody compares"),
            };
        }
    }

    /// A bootstrap token, readable; random parts become a word. Returns its name with the same word.
    fn token(&self, object: &mut Value) -> String {
        assert_eq!(object["type"], "bootstrap.kubernetes.io/token", "a secret that nobody compares");
        let data = object["data"].as_object_mut().unwrap();
        for value in data.values_mut() {
            let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
            *value = String::from_utf8(bytes).unwrap().into();
        }
        let given = self.input.contains(data["token-id"].as_str().unwrap());
        if !given {
            for (name, length) in [("token-id", 6), ("token-secret", 16)] {
                let value = data[name].as_str().unwrap();
                let fine = value.len() == length && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                data[name] = if fine { json!("<random>") } else { json!("<not of a token's shape>") };
            }
            object["metadata"]["name"] = "bootstrap-token-<random>".into();
        }
        let data = object["data"].as_object_mut().unwrap();
        if let Some(end) = data.get_mut("expiration") {
            let end_at = OffsetDateTime::parse(end.as_str().unwrap(), &Rfc3339).unwrap();
            assert!(end.as_str().unwrap().ends_with('Z'), "not in UTC: {end}");
            // To the quarter of an hour: between the first command and the token some time goes by.
            let quarters = ((end_at - self.time.1).as_seconds_f64() / 900.0).round();
            *end = json!(format!("after {} minutes", quarters * 15.0));
        }
        object["metadata"]["name"].as_str().unwrap().to_owned()
    }
}

/// The fingerprint is right or it is not; its value follows from the data, which is compared.
fn hash(object: &mut Value) {
    let data: Map<String, Value> = object["data"].as_object().cloned().unwrap_or_default();
    let Some(hash) = object["metadata"]["annotations"].get_mut(HASH) else { return };
    let mut sha = Sha256::new();
    data.values().for_each(|value| sha.update(value.as_str().unwrap()));
    let wanted = format!("sha256:{}", data_encoding::HEXLOWER.encode(&sha.finalize()));
    *hash = json!(if *hash == wanted { "of the data" } else { "wrong" });
}

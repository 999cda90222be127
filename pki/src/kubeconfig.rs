//! Kubeconfigs: the file's shape, and what kubeadm writes into it (contract A.6). Values here become YAML or JSON
//! elsewhere; nothing here reads text.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use crate::Error;

/// A kubeconfig. Unknown fields are passed over, absent ones are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Where to go.
    #[serde(deserialize_with = "or_default")]
    pub clusters: Vec<NamedCluster>,
    /// Who goes where.
    #[serde(deserialize_with = "or_default")]
    pub contexts: Vec<NamedContext>,
    /// The context in use.
    #[serde(deserialize_with = "or_default")]
    pub current_context: String,
    /// `Config`.
    pub kind: String,
    /// Who goes.
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<NamedUser>,
}

impl Default for Kubeconfig {
    fn default() -> Self {
        Self {
            api_version: "v1".into(),
            clusters: Vec::new(),
            contexts: Vec::new(),
            current_context: String::new(),
            kind: "Config".into(),
            users: Vec::new(),
        }
    }
}

/// A cluster and its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedCluster {
    /// The cluster.
    #[serde(deserialize_with = "or_default")]
    pub cluster: Cluster,
    /// Its name; empty in ConfigMap cluster-info.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// Where a cluster is and whom to trust there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// Path of the CA's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// The CA, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// URL.
    #[serde(deserialize_with = "or_default")]
    pub server: String,
}

/// A context and its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedContext {
    /// The context.
    #[serde(deserialize_with = "or_default")]
    pub context: Context,
    /// `user@cluster`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// Who goes where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// Name of the cluster.
    #[serde(deserialize_with = "or_default")]
    pub cluster: String,
    /// Name of the user.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
}

/// A user and its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedUser {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The user.
    #[serde(deserialize_with = "or_default")]
    pub user: User,
}

/// How a user shows who it is. `Debug` leaves secrets out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct User {
    /// Path of the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// The certificate, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// Path of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// The key, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// Bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("client_certificate", &self.client_certificate)
            .field("client_key", &self.client_key)
            .finish_non_exhaustive()
    }
}

/// `null` and absent are the same to Go.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl Kubeconfig {
    /// One cluster, one user, one context in use.
    pub fn new(cluster: &str, server: &str, ca_pem: &[u8], name: &str, user: User) -> Self {
        let context = format!("{name}@{cluster}");
        Self {
            clusters: vec![NamedCluster {
                cluster: Cluster {
                    certificate_authority: None,
                    certificate_authority_data: Some(BASE64.encode(ca_pem)),
                    server: server.to_owned(),
                },
                name: cluster.to_owned(),
            }],
            contexts: vec![NamedContext {
                context: Context { cluster: cluster.to_owned(), user: name.to_owned() },
                name: context.clone(),
            }],
            current_context: context,
            users: vec![NamedUser { name: name.to_owned(), user }],
            ..Self::default()
        }
    }

    /// What ConfigMap cluster-info holds: one cluster without a name, nobody to go there.
    pub fn cluster_info(server: &str, ca_pem: &[u8]) -> Self {
        let mut config = Self::new("", server, ca_pem, "", User::default());
        config.contexts.clear();
        config.users.clear();
        config.current_context.clear();
        config
    }

    /// The cluster and the user of the context in use.
    pub fn current(&self) -> Option<(&Cluster, &User)> {
        let context = &self.contexts.iter().find(|c| c.name == self.current_context)?.context;
        let user = &self.users.iter().find(|u| u.name == context.user)?.user;
        Some((self.cluster(&context.cluster)?, user))
    }

    /// The cluster that a joining node means: the one without a name, else that of the context in use.
    pub fn discovered(&self) -> Option<&Cluster> {
        self.cluster("").or_else(|| {
            let context = self.contexts.iter().find(|c| c.name == self.current_context)?;
            self.cluster(&context.context.cluster)
        })
    }

    fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.name == name).map(|c| &c.cluster)
    }
}

impl Cluster {
    /// The embedded CA as PEM; none where it is not embedded.
    ///
    /// # Errors
    /// When it is no base64.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>, Error> {
        decode(self.certificate_authority_data.as_deref())
    }
}

impl User {
    /// Certificate and key inside the file.
    pub fn embedded(cert_pem: &[u8], key_pem: &[u8]) -> Self {
        Self {
            client_certificate_data: Some(BASE64.encode(cert_pem)),
            client_key_data: Some(BASE64.encode(key_pem)),
            ..Self::default()
        }
    }

    /// Certificate and key in one file beside it, as the kubelet keeps its own.
    pub fn file(path: &str) -> Self {
        Self { client_certificate: Some(path.to_owned()), client_key: Some(path.to_owned()), ..Self::default() }
    }

    /// A bearer token.
    pub fn bearer(token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::default() }
    }

    /// The embedded certificate as PEM; none where it is not embedded.
    ///
    /// # Errors
    /// When it is no base64.
    pub fn cert_pem(&self) -> Result<Option<Vec<u8>>, Error> {
        decode(self.client_certificate_data.as_deref())
    }

    /// The embedded key as PEM; none where it is not embedded.
    ///
    /// # Errors
    /// When it is no base64.
    pub fn key_pem(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        Ok(decode(self.client_key_data.as_deref())?.map(Zeroizing::new))
    }
}

fn decode(data: Option<&str>) -> Result<Option<Vec<u8>>, Error> {
    let Some(data) = data.filter(|d| !d.is_empty()) else { return Ok(None) };
    // Hand-made files may have line breaks in their base64, which Go's decoder takes.
    let text: Zeroizing<String> = Zeroizing::new(data.chars().filter(|c| !matches!(c, '\n' | '\r')).collect());
    BASE64.decode(text.as_bytes()).map(Some).map_err(|_| Error::Malformed("base64"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn has_kubeadms_shape() {
        let config = Kubeconfig::new("kubernetes", "https://10.0.0.1:6443", b"CA", "me", User::embedded(b"C", b"K"));
        assert_eq!(
            serde_json::to_value(&config).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "me@kubernetes",
                "clusters": [{"name": "kubernetes", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": "Q0E="}}],
                "contexts": [{"name": "me@kubernetes", "context": {"cluster": "kubernetes", "user": "me"}}],
                "users": [{"name": "me", "user": {"client-certificate-data": "Qw==", "client-key-data": "Sw=="}}],
            })
        );
        let (cluster, user) = config.current().unwrap();
        assert_eq!(cluster.ca_pem().unwrap().unwrap(), b"CA");
        assert_eq!(user.key_pem().unwrap().unwrap().as_slice(), b"K");
    }

    #[test]
    fn cluster_info_with_gos_nulls() {
        let config: Kubeconfig = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "contexts": null, "users": null, "current-context": "",
            "clusters": [{"name": "", "cluster": {"server": "https://x:6443", "certificate-authority-data": "Q0\nE="}}],
        }))
        .unwrap();
        assert_eq!(config.discovered().unwrap().server, "https://x:6443");
        assert_eq!(config.discovered().unwrap().ca_pem().unwrap().unwrap(), b"CA");
        assert!(config.current().is_none());
        let ours = Kubeconfig::cluster_info("https://x:6443", b"CA");
        assert_eq!(ours.discovered().unwrap().ca_pem().unwrap().unwrap(), b"CA");
    }

    #[test]
    fn debug_shows_no_secret() {
        let config =
            Kubeconfig::new("c", "s", b"", "n", User { token: Some("sesame".into()), ..User::embedded(b"C", b"K") });
        let text = format!("{config:?}");
        assert!(!text.contains("sesame") && !text.contains("Sw=="), "{text}");
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), "\\PC{0,8}".prop_map(Value::from)];
        let key = "clusters|cluster|contexts|context|users|user|name|token|server|current-context|certificate-authority-data|kind";
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..5).prop_map(|m| m.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_read_or_refused(value in anything()) {
            if let Ok(config) = serde_json::from_value::<Kubeconfig>(value) {
                let _ = config.current();
                if let Some(cluster) = config.discovered() {
                    let _ = cluster.ca_pem();
                }
                let again: Kubeconfig = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
                prop_assert_eq!(again, config);
            }
        }

        #[test]
        fn what_is_embedded_comes_back(ca: Vec<u8>, cert: Vec<u8>, key: Vec<u8>, server in "\\PC*", name in "\\PC*") {
            let config = Kubeconfig::new("c", &server, &ca, &name, User::embedded(&cert, &key));
            let config: Kubeconfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
            let (cluster, user) = config.current().unwrap();
            prop_assert_eq!(cluster.ca_pem().unwrap().unwrap_or_default(), ca);
            prop_assert_eq!(user.cert_pem().unwrap().unwrap_or_default(), cert);
            prop_assert_eq!(user.key_pem().unwrap().map(|k| k.to_vec()).unwrap_or_default(), key);
            prop_assert_eq!(&cluster.server, &server);
        }
    }
}

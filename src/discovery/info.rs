//! ConfigMap cluster-info: what is in it, and whether it can be believed.

use kprov_pki::inspect::Cert;
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::pin::Pin;
use kprov_pki::token::Token;
use kprov_pki::{inspect, jws};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What we read of the ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The kubeconfig, as it is.
    pub kubeconfig: Option<String>,
    /// Signature for our token.
    pub signature: Option<String>,
    /// Whether there are signatures for other tokens.
    pub others: bool,
    /// When it was made, by the cluster's clock.
    pub created: Option<OffsetDateTime>,
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    creation_timestamp: Option<String>,
}

impl ClusterInfo {
    /// Reads an answer. `None`: it is no ConfigMap.
    pub fn read(body: &[u8], token: &Token) -> Option<Self> {
        let map: ConfigMap = serde_json::from_slice(body).ok()?;
        let mut data = map.data.unwrap_or_default();
        let kubeconfig = data.remove("kubeconfig");
        let signature = data.remove(&jws::key_for(token.id()));
        let others = data.keys().any(|key| key.starts_with(&jws::key_for("")));
        let created = map.metadata.creation_timestamp.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
        Some(Self { kubeconfig, signature, others, created })
    }
}

/// Whether this is how an API server says no: anything else that answers has a 404 of its own making.
pub(super) fn is_status(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|value| value.get("kind").is_some_and(|kind| kind == "Status"))
}

/// A cluster to be joined: whom to speak to, and whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// URL of the API, as the cluster itself names it.
    pub server: String,
    /// Its CA as PEM.
    pub ca_pem: Vec<u8>,
}

/// Where the kubeconfig of a cluster-info leads, and the CAs in it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn place(kubeconfig: &str) -> Result<(Place, Vec<Cert>), String> {
    let config: Kubeconfig = crate::yaml::from_str(kubeconfig).map_err(|_| "holds no kubeconfig")?;
    let cluster = config.discovered().ok_or("names no cluster")?;
    let pem = cluster.ca_pem().map_err(|e| format!("has a CA that is {e}"))?.ok_or("has no CA")?;
    let cas = Cert::chain_from_pem(&pem).map_err(|e| format!("has a CA that is {e}"))?;
    if !cluster.server.starts_with("https://") {
        return Err(format!("names {:?} as the API server, which is no https URL", cluster.server));
    }
    Ok((Place { server: cluster.server.clone(), ca_pem: pem }, cas))
}

/// Whether one of the CAs is pinned.
pub(super) fn pinned(cas: &[Cert], pins: &[Pin]) -> bool {
    cas.iter().any(|ca| pins.contains(&Pin::of(ca)))
}

/// Whether all CAs are over or to come.
pub(super) fn unfit(cas: &[Cert], now: OffsetDateTime) -> Option<inspect::Unfit> {
    let mut why = None;
    for ca in cas {
        match ca.valid_at(now) {
            Ok(()) => return None,
            Err(e) => why = Some(e),
        }
    }
    why
}

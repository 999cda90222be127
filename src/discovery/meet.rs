//! What a joining worker must know before its plan can be made: the cluster, its configuration, and that nobody else has
//! this node's name. Only reads; a dry run does the same.

use std::sync::Arc;

use anyhow::Context;
use kprov_pki::pin::Pin;
use kprov_pki::token::Token;
use kprov_providers::Machine;
use serde::Deserialize;
use serde_json::Value;

use super::own::own;
use super::{Api, Patience, Place, Request, Silence, Trouble, Trust, Wait, Who, discover};
use crate::cluster::Joining;
use crate::cluster::kubeadm::ClusterConfiguration;
use crate::cluster::version::{self, Version};

/// Where there is this, there is a control plane.
const API_SERVER: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// The cluster that is joined.
#[derive(Clone)]
pub struct Met {
    /// Where it is and whom to trust there.
    pub place: Place,
    /// ClusterConfiguration as stored; fields that we do not know are left out.
    pub config: ClusterConfiguration,
    /// KubeletConfiguration as stored.
    pub kubelet: Value,
    /// With what the kubelet asks for its certificate.
    pub token: Token,
    /// True where this machine belongs to the cluster already.
    pub member: bool,
}

/// Finds the cluster (by this machine's own kubelet.conf where it belongs to it already, else by token and pin), reads
/// its configuration, and looks whether this node's name is free. `kubelet` is the version of the kubelet that will run.
///
/// # Errors
/// [`Trouble`] where something outside must be mended; others are about this machine.
pub async fn meet(
    joining: &Joining,
    kubelet: &str,
    machine: &Arc<dyn Machine>,
    say: &(dyn Fn(String) + Sync),
) -> anyhow::Result<Met> {
    let asked = Asked::of(joining)?;
    if machine.meta(API_SERVER)?.is_some() {
        return Err(Trouble::ControlPlane.into());
    }
    let own = own(machine.as_ref())?;
    if let Some(own) = &own {
        own.fits(&asked.node, &asked.request.pins)?;
    }
    let member = own.as_ref().filter(|own| own.usable && !asked.request.pins.is_empty());
    let (place, who) = match member {
        Some(own) => (own.place.clone(), Who::Certificate(own.identity.clone())),
        None => (discover(&asked.request, say).await?, Who::Bearer(asked.bootstrap.reveal())),
    };
    if let Some(own) = &own {
        own.same_cluster(&place)?;
    }
    let reader = Reader::new(&place, who, asked.bootstrap.id(), asked.calls)?;
    let mut wait = Wait::new(asked.request.patience, say);
    let config = reader.config(&mut wait, "kubeadm-config", "ClusterConfiguration").await?;
    let config: ClusterConfiguration =
        serde_json::from_value(config).context("ClusterConfiguration in ConfigMap kubeadm-config")?;
    let stored = reader.config(&mut wait, "kubelet-config", "kubelet").await?;
    fitting(&config, kubelet)?;
    if own.is_none() && reader.ready(&mut wait, &asked.node).await? {
        return Err(Trouble::NodeExists { node: asked.node }.into());
    }
    Ok(Met { place, config, kubelet: stored, token: asked.bootstrap, member: member.is_some() })
}

/// What was typed, read.
struct Asked {
    request: Request,
    /// For calls once the cluster is found (`timeouts.kubernetesAPICall`).
    calls: Patience,
    bootstrap: Token,
    node: String,
}

impl Asked {
    fn of(joining: &Joining) -> anyhow::Result<Self> {
        let join = &joining.join;
        let discovery = join.discovery.clone().unwrap_or_default();
        let typed = discovery.bootstrap_token.unwrap_or_default();
        let token: Token =
            typed.token.as_deref().unwrap_or_default().parse().context("discovery.bootstrapToken.token")?;
        let bootstrap = match discovery.tls_bootstrap_token.as_deref() {
            Some(text) => text.parse().context("discovery.tlsBootstrapToken")?,
            None => token.clone(),
        };
        let pins = typed.ca_cert_hashes.unwrap_or_default();
        let pins = pins.iter().map(|pin| pin.parse::<Pin>()).collect::<Result<Vec<_>, _>>();
        let timeouts = join.timeouts.clone().unwrap_or_default();
        let limit = |field: Option<String>| field.as_deref().and_then(crate::cluster::duration);
        let mut patience = Patience::default();
        patience.all = limit(timeouts.discovery).unwrap_or(patience.all);
        let silence = limit(timeouts.kubernetes_api_call).unwrap_or(patience.silence);
        let node = join.node_registration.as_ref().and_then(|n| n.name.clone()).context("nodeRegistration.name")?;
        Ok(Self {
            request: Request {
                endpoint: typed.api_server_endpoint.context("discovery.bootstrapToken.apiServerEndpoint")?,
                token,
                pins: pins.context("discovery.bootstrapToken.caCertHashes")?,
                patience,
            },
            calls: Patience { silence, ..patience },
            bootstrap,
            node,
        })
    }
}

/// The kubelet that will run must fit the cluster's version.
fn fitting(config: &ClusterConfiguration, kubelet: &str) -> Result<(), Trouble> {
    let text = config.kubernetes_version.as_deref().unwrap_or_default();
    let (Some(cluster), Some(kubelet)) = (Version::parse(text), Version::parse(kubelet)) else { return Ok(()) };
    version::kubelet(&cluster, &kubelet).map_err(|skew| Trouble::Skew { why: skew.to_string() })
}

/// Reads the API with one identity; waits where that may help.
struct Reader<'a> {
    api: Api,
    server: &'a str,
    token: &'a str,
    patience: Patience,
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: std::collections::BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    fn new(place: &'a Place, who: Who, token: &'a str, patience: Patience) -> anyhow::Result<Self> {
        let api = Api::new(&place.server, &Trust::Ca(&place.ca_pem), who, patience.connect)
            .with_context(|| format!("speaking to {}", place.server))?;
        Ok(Self { api, server: &place.server, token, patience })
    }

    /// A document in a ConfigMap of kube-system.
    async fn config(&self, wait: &mut Wait<'_>, name: &str, key: &str) -> Result<Value, Trouble> {
        let path = format!("/api/v1/namespaces/kube-system/configmaps/{name}");
        let bad =
            |why: &str| Trouble::NotReady { endpoint: self.server.into(), why: format!("its ConfigMap {name} {why}") };
        loop {
            let Some(body) = self.get(wait, &path).await? else {
                let why = bad("is not there: it was not made by kubeadm or kprov");
                wait.more(why, self.patience.silence).await?;
                continue;
            };
            let map: ConfigMap = serde_json::from_slice(&body).map_err(|_| bad("cannot be read"))?;
            let text = map.data.get(key).ok_or_else(|| bad(&format!("has no {key}")))?;
            return crate::yaml::from_str(text).map_err(|_| bad(&format!("holds a {key} that is no YAML")));
        }
    }

    /// Whether there is a Node of this name that is Ready.
    async fn ready(&self, wait: &mut Wait<'_>, node: &str) -> Result<bool, Trouble> {
        let Some(body) = self.get(wait, &format!("/api/v1/nodes/{node}")).await? else { return Ok(false) };
        let node: Value = serde_json::from_slice(&body).unwrap_or_default();
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        Ok(conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")))
    }

    /// A body; `None`: not there.
    async fn get(&self, wait: &mut Wait<'_>, path: &str) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            let endpoint = || self.server.to_owned();
            let (why, limit) = match self.api.get(path).await {
                Ok(answer) => match answer.status {
                    200 => return Ok(Some(answer.body)),
                    404 => return Ok(None),
                    401 => (Trouble::TokenRefused { id: self.token.into() }, self.patience.signature),
                    403 => {
                        let why = format!("it does not let a joining node read {path}");
                        (Trouble::NotReady { endpoint: endpoint(), why }, self.patience.silence)
                    }
                    status => {
                        let why = format!("it is not ready (status {status})");
                        (Trouble::NotReady { endpoint: endpoint(), why }, self.patience.silence)
                    }
                },
                Err(Silence::Certificate(why)) => {
                    let text = format!("the certificate of the API server at {} {why}", self.server);
                    return Err(Trouble::Certificate(text));
                }
                Err(why) => {
                    (Trouble::Unreachable { endpoint: endpoint(), why: why.to_string() }, self.patience.silence)
                }
            };
            wait.more(why, limit).await?;
        }
    }
}

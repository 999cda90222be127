//! The cluster's API, reached with a kubeconfig that lies on a machine, and steps that change what is in it.
//!
//! The kubeconfig may not be there yet when a plan is made or looked at: the client is made when a step first needs it.

pub mod compare;
mod crashes;
pub mod diagnose;
pub mod health;
pub mod lend;
pub mod manifest;
pub mod node;
pub mod objects;
pub mod sign;
pub mod token;

use std::sync::Arc;
use std::time::Duration;

use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use ::kube::{Client, Config};
use anyhow::Context;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::Machine;

/// The name under which the API server notes which fields are ours.
pub const FIELD_MANAGER: &str = "kprov";

/// The API as one of several kubeconfigs on a machine opens it.
pub struct Api {
    machine: Arc<dyn Machine>,
    kubeconfigs: Vec<String>,
    server: Option<String>,
    made: Mutex<Option<(Vec<u8>, Client)>>,
}

impl Api {
    /// The first of these kubeconfigs that is on the machine counts. `server` replaces the URL in it: `init` talks to
    /// the API server of its own machine, so that a load balancer may come up later (contract A.9).
    pub fn new<S: Into<String>>(
        machine: Arc<dyn Machine>,
        kubeconfigs: impl IntoIterator<Item = S>,
        server: Option<String>,
    ) -> Self {
        Self { machine, kubeconfigs: kubeconfigs.into_iter().map(Into::into).collect(), server, made: Mutex::new(None) }
    }

    /// A client, or `None` while there is no kubeconfig. It does not say that anything answers.
    ///
    /// # Errors
    /// A kubeconfig that cannot be read or used.
    pub async fn client(&self) -> anyhow::Result<Option<Client>> {
        let Some((path, bytes)) = self.kubeconfig()? else { return Ok(None) };
        let mut made = self.made.lock().await;
        if let Some((of, client)) = made.as_ref()
            && *of == bytes
        {
            return Ok(Some(client.clone()));
        }
        let client = self.open(&bytes).await.with_context(|| format!("using {path}"))?;
        *made = Some((bytes, client.clone()));
        Ok(Some(client))
    }

    /// A client; no kubeconfig is an error.
    ///
    /// # Errors
    /// As [`Self::client`], and when no kubeconfig is there.
    pub async fn need(&self) -> anyhow::Result<Client> {
        self.client()
            .await?
            .with_context(|| format!("no kubeconfig to reach the API with: {}", self.kubeconfigs.join(", ")))
    }

    fn kubeconfig(&self) -> anyhow::Result<Option<(&str, Vec<u8>)>> {
        for path in &self.kubeconfigs {
            if let Some(bytes) = self.machine.read(path)? {
                return Ok(Some((path, bytes)));
            }
        }
        Ok(None)
    }

    async fn open(&self, bytes: &[u8]) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(std::str::from_utf8(bytes)?)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        if let Some(server) = &self.server {
            config.cluster_url = server.parse().with_context(|| format!("server address {server}"))?;
            // The server of this very machine is never reached through a proxy.
            config.proxy_url = None;
        }
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(30));
        config.reset_reader_on_write = true;
        Ok(Client::try_from(config)?)
    }
}

/// One object's place in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `ConfigMap`.
    pub kind: String,
    /// None: cluster-wide.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl Place {
    /// Where an object's own fields say that it belongs.
    ///
    /// # Errors
    /// When apiVersion, kind or name is missing.
    pub fn of(object: &Value) -> anyhow::Result<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            api_version: text("/apiVersion").context("object without apiVersion")?,
            kind: text("/kind").context("object without kind")?,
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").context("object without name")?,
        })
    }

    /// `ConfigMap kube-system/coredns`.
    pub fn show(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// The resource by the plural that all built-in kinds follow; other kinds need discovery ([`manifest`]).
    pub fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind))
    }

    /// The API of this object's kind, in its namespace.
    pub fn api(&self, client: Client) -> ::kube::Api<DynamicObject> {
        self.api_as(client, &self.resource())
    }

    /// The same, with a resource that discovery found.
    pub fn api_as(&self, client: Client, resource: &ApiResource) -> ::kube::Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => ::kube::Api::namespaced_with(client, namespace, resource),
            None => ::kube::Api::all_with(client, resource),
        }
    }
}

/// What an API call's failure means for a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing answers, or not in time.
    Away,
    /// It answers, but not as it will: still starting, overloaded, rights not there yet, a conflict.
    Later,
    /// The object is refused for what it says.
    Refused,
}

/// The API, or a component that was waited for, did not answer or not do what it was asked in time.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// A failed call as an error: [`Unanswered`] where trying again later may help.
pub fn failure(doing: &str, error: &::kube::Error) -> anyhow::Error {
    let text = format!("{doing}: {}", words(error));
    match trouble(error) {
        Trouble::Refused => anyhow::Error::msg(text),
        Trouble::Away | Trouble::Later => Unanswered(text).into(),
    }
}

/// Sorts a failure.
pub fn trouble(error: &::kube::Error) -> Trouble {
    match error {
        ::kube::Error::Api(status) => match status.code {
            400 | 413 | 415 | 422 => Trouble::Refused,
            _ => Trouble::Later,
        },
        ::kube::Error::HyperError(_) | ::kube::Error::Service(_) | ::kube::Error::ReadEvents(_) => Trouble::Away,
        _ => Trouble::Refused,
    }
}

/// A failure in words, without the library's own wrapping.
pub fn words(error: &::kube::Error) -> String {
    match error {
        ::kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(inner) = source {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text = format!("{text}: {inner_text}");
                }
                source = inner.source();
            }
            text
        }
    }
}

/// Pauses between tries: from 50 ms, half as long again each time, to a limit.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Pauses up to `most`.
    pub fn up_to(most: Duration) -> Self {
        Self { next: Duration::from_millis(50), most }
    }

    /// Waits for the next try.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = self.next.mul_f64(1.5).min(self.most);
    }

    /// Waits for the next try of a step.
    ///
    /// # Errors
    /// When the step is to end.
    pub(crate) async fn pause_in(&mut self, watch: &crate::Watch) -> anyhow::Result<()> {
        tokio::select! {
            () = self.pause() => Ok(()),
            () = watch.until_cancelled() => anyhow::bail!("cancelled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(object: Value, path: &str) {
        let place = Place::of(&object).unwrap();
        let resource = place.resource();
        let base = DynamicObjectUrl::of(&resource, place.namespace.as_deref());
        assert_eq!(format!("{base}/{}", place.name), path);
    }

    struct DynamicObjectUrl;

    impl DynamicObjectUrl {
        fn of(resource: &ApiResource, namespace: Option<&str>) -> String {
            <DynamicObject as ::kube::Resource>::url_path(resource, namespace)
        }
    }

    #[test]
    fn built_in_kinds_have_their_usual_urls() {
        check(
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}}),
            "/api/v1/namespaces/b/configmaps/a",
        );
        check(
            serde_json::json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "kubeadm:get-nodes"}}),
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kubeadm:get-nodes",
        );
        check(
            serde_json::json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "a", "namespace": "b"}}),
            "/apis/apps/v1/namespaces/b/daemonsets/a",
        );
    }

    #[test]
    fn an_object_without_a_name_is_refused() {
        let error = Place::of(&serde_json::json!({"apiVersion": "v1", "kind": "Secret"})).unwrap_err();
        assert_eq!(error.to_string(), "object without name");
    }
}

//! A step that applies a user's manifest: any kind, found by discovery.

use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use ::kube::core::{ApiResource, GroupVersionKind};
use ::kube::discovery::{Scope, pinned_kind};
use anyhow::bail;
use async_trait::async_trait;
use serde_json::Value;

use super::objects::{Object, judge, look, put, show};
use super::{Api, Backoff, Place, Trouble, trouble, words};
use crate::steps::Label;
use crate::{Made, Outputs, Status, Step, Watch};

/// Applies the documents of a manifest, namespaces and definitions of kinds first.
pub struct Manifest {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// Where it came from.
    pub name: String,
    /// Its documents, in its own order.
    pub documents: Vec<Value>,
    /// How long to wait for kinds that the manifest itself defines.
    pub patience: Duration,
}

/// The objects of documents: lists taken apart, what others rest on first.
pub fn in_order(documents: &[Value]) -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for document in documents {
        let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
        match document.get("items").and_then(Value::as_array) {
            Some(items) if kind.ends_with("List") => objects.extend(items.iter().cloned()),
            _ if document.is_null() => {}
            _ => objects.push(document.clone()),
        }
    }
    objects.sort_by_key(|object| match object.get("kind").and_then(Value::as_str) {
        Some("Namespace") => 0,
        Some("CustomResourceDefinition") => 1,
        _ => 2,
    });
    objects
}

enum Found {
    Kind(ApiResource, Scope),
    NotYet,
}

async fn discover(client: &Client, place: &Place) -> anyhow::Result<Found> {
    let (group, version) = place.api_version.split_once('/').unwrap_or(("", &place.api_version));
    match pinned_kind(client, &GroupVersionKind::gvk(group, version, &place.kind)).await {
        Ok((resource, capabilities)) => Ok(Found::Kind(resource, capabilities.scope)),
        Err(::kube::Error::Discovery(_)) => Ok(Found::NotYet),
        Err(error) if trouble(&error) == Trouble::Refused => {
            bail!("looking for kind {} of {}: {}", place.kind, place.api_version, words(&error))
        }
        Err(_) => Ok(Found::NotYet),
    }
}

/// Puts an object without namespace into `default` where its kind has namespaces.
fn settle(object: &mut Value, place: &mut Place, scope: &Scope) {
    if *scope == Scope::Namespaced && place.namespace.is_none() {
        place.namespace = Some("default".into());
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".into(), "default".into());
        }
    }
    if *scope == Scope::Cluster {
        place.namespace = None;
    }
}

#[async_trait]
impl Step for Manifest {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("apply {}", self.name)
    }

    fn content(&self) -> Option<String> {
        Some(in_order(&self.documents).iter().map(show).collect::<Vec<_>>().join("\n"))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        for mut object in in_order(&self.documents) {
            let mut place = Place::of(&object)?;
            let Found::Kind(resource, scope) = discover(&client, &place).await? else { return Ok(Status::Missing) };
            settle(&mut object, &mut place, &scope);
            let there = look(&client, &place, &resource).await?;
            if there.is_none() {
                return Ok(Status::Missing);
            }
            found.push(there);
            wanted.push((Object::new(object), place));
        }
        Ok(judge(&wanted, &found))
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        for mut object in in_order(&self.documents) {
            let mut place = Place::of(&object)?;
            let deadline = tokio::time::Instant::now() + self.patience;
            let mut backoff = Backoff::up_to(Duration::from_millis(500));
            let (resource, scope) = loop {
                if let Found::Kind(resource, scope) = discover(&client, &place).await? {
                    break (resource, scope);
                }
                if tokio::time::Instant::now() >= deadline {
                    bail!("{}: the cluster has no kind {} in {}", self.name, place.kind, place.api_version);
                }
                backoff.pause_in(watch).await?;
            };
            settle(&mut object, &mut place, &scope);
            put(&client, &Object::new(object), &resource, &place, self.patience).await?;
        }
        Ok(Outputs::none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_taken_apart_and_namespaces_come_first() {
        let documents = [
            json!({"kind": "ConfigMap", "metadata": {"name": "a"}}),
            Value::Null,
            json!({"kind": "List", "items": [{"kind": "CustomResourceDefinition"}, {"kind": "Namespace"}]}),
        ];
        let kinds: Vec<_> = in_order(&documents).iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["Namespace", "CustomResourceDefinition", "ConfigMap"]);
    }

    #[test]
    fn a_namespaced_object_without_namespace_goes_to_default() {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let mut place = Place::of(&object).unwrap();
        settle(&mut object, &mut place, &Scope::Namespaced);
        assert_eq!(place.show(), "ConfigMap default/a");
        assert_eq!(object["metadata"]["namespace"], "default");
    }
}

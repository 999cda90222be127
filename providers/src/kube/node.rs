//! A step that waits for a Node to register and gives it its labels and taints.

use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Patch, PatchParams};
use anyhow::bail;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::diagnose::{Component, diagnose};
use super::objects::look;
use super::{Api, Backoff, FIELD_MANAGER, Place, Trouble, Unanswered, trouble, words};
use crate::steps::Label;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Labels and taints of one Node. Taints that are there already stay (contract A.8).
pub struct Mark {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// The node's machine, asked why its kubelet does not register.
    pub machine: Arc<dyn Machine>,
    /// The Node's name.
    pub node: String,
    /// Labels to set.
    pub labels: Vec<(String, String)>,
    /// core/v1 taints to add.
    pub taints: Vec<Value>,
    /// How long to wait for the Node.
    pub timeout: Duration,
}

impl Mark {
    fn place(&self) -> Place {
        Place { api_version: "v1".into(), kind: "Node".into(), namespace: None, name: self.node.clone() }
    }

    /// The labels and taints that a found Node lacks, as a merge patch; `None` when it has all.
    fn patch(&self, found: &Value) -> Option<Value> {
        let labels: serde_json::Map<String, Value> = self
            .labels
            .iter()
            .filter(|(name, value)| {
                found.get("metadata").and_then(|m| m.get("labels")).and_then(|l| l.get(name)).and_then(Value::as_str)
                    != Some(value)
            })
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        let there = found.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
        let lacking: Vec<&Value> = self.taints.iter().filter(|taint| !there.iter().any(|t| same(t, taint))).collect();
        if labels.is_empty() && lacking.is_empty() {
            return None;
        }
        let mut metadata = json!({});
        let mut patch = serde_json::Map::new();
        if let Some(metadata) = metadata.as_object_mut() {
            if !labels.is_empty() {
                metadata.insert("labels".into(), labels.into());
            }
            if !lacking.is_empty() {
                // A merge patch replaces the list: only on the version that it was made from.
                let version = found.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
                metadata.insert("resourceVersion".into(), version);
                let taints: Vec<&Value> = lacking.into_iter().chain(&there).collect();
                patch.insert("spec".into(), json!({"taints": taints}));
            }
        }
        patch.insert("metadata".into(), metadata);
        Some(patch.into())
    }
}

/// Taints are one when key, value and effect are.
fn same(a: &Value, b: &Value) -> bool {
    let text = |taint: &Value, field: &str| taint.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    ["key", "value", "effect"].iter().all(|field| text(a, field) == text(b, field))
}

#[async_trait]
impl Step for Mark {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("mark node {} as a control plane", self.node)
    }

    fn content(&self) -> Option<String> {
        let mut text = String::from("labels:\n");
        self.labels.iter().for_each(|(name, value)| text.push_str(&format!("  {name}: {value:?}\n")));
        text.push_str(if self.taints.is_empty() { "taints: []\n" } else { "taints:\n" });
        for taint in &self.taints {
            let field = |name: &str| taint.get(name).and_then(Value::as_str).unwrap_or_default();
            let value = if field("value").is_empty() { String::new() } else { format!("={}", field("value")) };
            text.push_str(&format!("- {}{value}:{}\n", field("key"), field("effect")));
        }
        Some(text)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        let place = self.place();
        Ok(match look(&client, &place, &place.resource()).await? {
            None => Status::Missing,
            Some(found) => match self.patch(&found) {
                None => Status::Ready(Outputs::none()),
                Some(patch) => Status::Differs(format!("{}: + {patch}", place.show())),
            },
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        let place = self.place();
        let api = place.api(client.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut backoff = Backoff::up_to(Duration::from_millis(200));
        loop {
            let why = match look(&client, &place, &place.resource()).await? {
                None => "it has not registered".to_owned(),
                Some(found) => match self.patch(&found) {
                    None => return Ok(Outputs::none()),
                    Some(patch) => match api.patch(&place.name, &params, &Patch::Merge(&patch)).await {
                        Ok(_) => return Ok(Outputs::none()),
                        Err(error) if trouble(&error) == Trouble::Refused => {
                            bail!("marking {}: {}", place.show(), words(&error))
                        }
                        Err(error) => words(&error),
                    },
                },
            };
            if tokio::time::Instant::now() >= deadline {
                let report = diagnose(&*self.machine, &Component::unit("kubelet")).await;
                let (node, seconds) = (&self.node, self.timeout.as_secs());
                let text = format!("node {node} could not be marked after {seconds} s: {why}\n{report}");
                return Err(Unanswered(text).into());
            }
            backoff.pause_in(watch).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(taints: Vec<Value>) -> Mark {
        let machine: Arc<dyn Machine> = Arc::new(crate::machine::fake::FakeMachine::new());
        Mark {
            label: Label::new("mark", "mark-control-plane"),
            api: Arc::new(Api::new(machine.clone(), ["/etc/kubernetes/admin.conf"], None)),
            machine,
            node: "cp".into(),
            labels: vec![("a".into(), String::new())],
            taints,
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn taints_that_are_there_stay() {
        let ours = json!({"key": "cp", "effect": "NoSchedule"});
        let theirs = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let found = json!({"metadata": {"resourceVersion": "7", "labels": {"a": ""}}, "spec": {"taints": [theirs]}});
        let patch = mark(vec![ours.clone()]).patch(&found).unwrap();
        assert_eq!(patch, json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [ours, theirs]}}));
    }

    #[test]
    fn a_marked_node_needs_nothing() {
        let ours = json!({"key": "cp", "effect": "NoSchedule"});
        let found = json!({"metadata": {"labels": {"a": "", "b": "c"}}, "spec": {"taints": [{"key": "cp", "value": "", "effect": "NoSchedule"}]}});
        assert_eq!(mark(vec![ours]).patch(&found), None);
    }

    #[tokio::test]
    async fn without_a_kubeconfig_everything_is_missing() {
        assert_eq!(mark(Vec::new()).check(&Outputs::none()).await.unwrap(), Status::Missing);
    }
}

//! The smallest change that can be looked at, made and taken back.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Made, Watch};

/// Name of a step, stable between runs and releases, unique in a plan: `manifests/etcd`, `pki/ca`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// A key from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Values that finished steps hand to later ones, by name (`api/server`). They go into the journal: never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Outputs(BTreeMap<String, String>);

impl Outputs {
    /// No values.
    pub fn none() -> Self {
        Self::default()
    }

    /// These values and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// A value by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Takes over all of `other`; its values win.
    pub fn merge(&mut self, other: Outputs) {
        self.0.extend(other.0);
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// What a look at the world showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not there, or not all of it: apply makes it.
    Missing,
    /// There, as wanted.
    Ready(Outputs),
    /// Ours or a known file of Kubernetes', with other content: the text says what differs (a diff, secrets as `<secret>`).
    Differs(String),
    /// There and not ours: never changed, never removed. The text says what and where.
    Foreign(String),
}

/// The smallest change that can be looked at, made and taken back. Its size is the unit of undoing.
#[async_trait]
pub trait Step: Send + Sync {
    /// Stable, unique in a plan.
    fn key(&self) -> &Key;

    /// The phase that it belongs to, named as in kubeadm: `certs`, `kubelet-start`. A label for people.
    fn phase(&self) -> &str;

    /// What must be done first. Steps whose needs are done run side by side.
    fn needs(&self) -> &[Key];

    /// One line for people: `write /etc/kubernetes/manifests/etcd.yaml`.
    fn describe(&self) -> String;

    /// What it would write, for people and golden plans: the file's or object's whole text, secrets as `<secret>`,
    /// values of earlier steps as `known after STEP`. `None` where there is nothing to show.
    fn content(&self) -> Option<String> {
        None
    }

    /// True for a step that only waits: whoever asks to stop need not wait with it.
    fn only_waits(&self) -> bool {
        false
    }

    /// Looks, never touches.
    async fn check(&self, known: &Outputs) -> anyhow::Result<Status>;

    /// What applying now would newly leave on the machine, parents first; journalled before `apply`, so that a later
    /// reset can take it back without knowing the plan. Things already there are not listed: they are not ours.
    async fn made(&self, known: &Outputs) -> anyhow::Result<Vec<Made>>;

    /// Makes the change. Safe to run again after a crash at any point.
    async fn apply(&self, known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs>;
}

//! A step that brings objects of built-in kinds into the API by server-side apply.

use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use ::kube::api::{DeleteParams, Patch, PatchParams};
use ::kube::core::ApiResource;
use anyhow::{Context, bail};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::{Api, Backoff, FIELD_MANAGER, Place, Trouble, compare, failure, trouble, words};
use crate::steps::Label;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Works a field out from what is on the machine; `None` while that is not there.
pub type Fill = Arc<dyn Fn(&dyn Machine) -> anyhow::Result<Option<Value>> + Send + Sync>;

/// One object as wanted.
#[derive(Clone)]
pub struct Object {
    /// All fields that we set.
    pub value: Value,
    /// JSON pointers of fields whose value, once there, stays as it is (a Deployment's replicas, an edited Corefile).
    pub keep: Vec<String>,
    /// JSON pointers of fields whose value is only known on the machine; until then `value` says where it comes from.
    pub fill: Vec<(String, Arc<dyn Machine>, Fill)>,
}

impl Object {
    /// An object of which every field is ours.
    pub fn new(value: Value) -> Self {
        Self { value, keep: Vec::new(), fill: Vec::new() }
    }

    /// The same, with a field that is left alone once it is there.
    #[must_use]
    pub fn keeping(mut self, pointer: &str) -> Self {
        self.keep.push(pointer.to_owned());
        self
    }

    /// The same, with a field that is worked out from what is on a machine.
    #[must_use]
    pub fn filling(
        mut self,
        pointer: &str,
        machine: Arc<dyn Machine>,
        fill: impl Fn(&dyn Machine) -> anyhow::Result<Option<Value>> + Send + Sync + 'static,
    ) -> Self {
        self.fill.push((pointer.to_owned(), machine, Arc::new(fill)));
        self
    }

    /// The object with all fields that the machine tells; `None` while one is not known.
    fn filled(&self) -> anyhow::Result<Option<Self>> {
        let mut value = self.value.clone();
        for (pointer, machine, fill) in &self.fill {
            let Some(known) = fill(machine.as_ref())? else { return Ok(None) };
            if let Some(field) = value.pointer_mut(pointer) {
                *field = known;
            }
        }
        Ok(Some(Self { value, ..self.clone() }))
    }

    /// The object with the kept fields as they are found.
    pub(crate) fn over(&self, found: Option<&Value>) -> Value {
        let mut value = self.value.clone();
        for pointer in &self.keep {
            if let Some(there) = found.and_then(|f| f.pointer(pointer))
                && let Some(ours) = value.pointer_mut(pointer)
            {
                *ours = there.clone();
            }
        }
        value
    }
}

/// Brings objects into the API: those that are missing or otherwise, side by side.
pub struct Apply {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// For people: `add-on CoreDNS`.
    pub what: String,
    /// The objects.
    pub objects: Vec<Object>,
    /// How long an API that is still starting may refuse.
    pub patience: Duration,
}

/// What is in the API at a place; `None` when nothing is there or nothing answers yet.
pub(crate) async fn look(client: &Client, place: &Place, resource: &ApiResource) -> anyhow::Result<Option<Value>> {
    match place.api_as(client.clone(), resource).get_opt(&place.name).await {
        Ok(Some(found)) => Ok(Some(serde_json::to_value(found)?)),
        Ok(None) => Ok(None),
        Err(error) if trouble(&error) == Trouble::Refused => bail!("reading {}: {}", place.show(), words(&error)),
        Err(_) => Ok(None),
    }
}

/// Brings one object into the API, trying again while the API is starting.
pub(crate) async fn put(
    client: &Client,
    object: &Object,
    resource: &ApiResource,
    place: &Place,
    patience: Duration,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut backoff = Backoff::up_to(Duration::from_millis(500));
    loop {
        let found = if object.keep.is_empty() { None } else { look(client, place, resource).await? };
        let value = object.over(found.as_ref());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = place.api_as(client.clone(), resource);
        let Err(error) = api.patch(&place.name, &params, &Patch::Apply(&value)).await else { return Ok(()) };
        let now = tokio::time::Instant::now();
        // A Service's address is refused as invalid until the API server has made its own ServiceCIDR.
        let starting = trouble(&error) != Trouble::Refused || (place.kind == "Service" && is_invalid(&error));
        if !starting || now >= deadline {
            return Err(failure(&format!("applying {}", place.show()), &error));
        }
        if place.kind == "Service" && is_invalid(&error) {
            free_own_address(client, place, &value).await;
        }
        backoff.pause().await;
    }
}

/// A run that was killed while the API server made a Service may have left its address allocated and no Service; the
/// server itself gives it back after a minute at the earliest. Best effort: the next try tells.
async fn free_own_address(client: &Client, place: &Place, value: &Value) {
    let Some(ip) = value.pointer("/spec/clusterIP").and_then(Value::as_str) else { return };
    let address = Place {
        api_version: "networking.k8s.io/v1".to_owned(),
        kind: "IPAddress".to_owned(),
        namespace: None,
        name: ip.to_owned(),
    };
    let mut resource = address.resource();
    resource.plural = "ipaddresses".to_owned();
    let Ok(None) = place.api(client.clone()).get_opt(&place.name).await else { return };
    let api = address.api_as(client.clone(), &resource);
    let Ok(Some(found)) = api.get_opt(ip).await else { return };
    let parent = |field: &str| found.data.pointer(&format!("/spec/parentRef/{field}")).and_then(Value::as_str);
    if parent("resource") == Some("services")
        && parent("namespace") == place.namespace.as_deref()
        && parent("name") == Some(&place.name)
    {
        let _ = api.delete(ip, &DeleteParams::default()).await;
    }
}

fn is_invalid(error: &::kube::Error) -> bool {
    matches!(error, ::kube::Error::Api(status) if status.code == 422)
}

/// Compares all objects with what was found.
pub(crate) fn judge(wanted: &[(Object, Place)], found: &[Option<Value>]) -> Status {
    let mut lines = Vec::new();
    for ((object, place), found) in wanted.iter().zip(found) {
        let Some(found) = found else { return Status::Missing };
        let differs = compare::differences(&object.over(Some(found)), found, place.kind == "Secret");
        if !differs.is_empty() {
            lines.push(format!("{}:", place.show()));
            lines.extend(differs.into_iter().map(|line| format!("  {line}")));
        }
    }
    if lines.is_empty() { Status::Ready(Outputs::none()) } else { Status::Differs(lines.join("\n")) }
}

impl Apply {
    /// The objects with their places; `None` while the machine lacks what one of them is made of.
    fn placed(&self) -> anyhow::Result<Option<Vec<(Object, Place)>>> {
        let mut all = Vec::new();
        for object in &self.objects {
            let Some(object) = object.filled()? else { return Ok(None) };
            let place = Place::of(&object.value)?;
            all.push((object, place));
        }
        Ok(Some(all))
    }
}

#[async_trait]
impl Step for Apply {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("apply {}", self.what)
    }

    fn content(&self) -> Option<String> {
        let texts: Vec<String> = self.objects.iter().map(|object| show(&object.value)).collect();
        Some(texts.join("\n"))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        let Some(placed) = self.placed()? else { return Ok(Status::Missing) };
        // One question first: an API that is away is not asked about every object.
        let mut found = Vec::new();
        if let Some((_, place)) = placed.first() {
            let first = look(&client, place, &place.resource()).await?;
            if first.is_none() {
                return Ok(Status::Missing);
            }
            found.push(first);
        }
        let rest = placed.iter().skip(1).map(|(_, place)| {
            let client = client.clone();
            async move { look(&client, place, &place.resource()).await }
        });
        found.extend(try_join_all(rest).await?);
        Ok(judge(&placed, &found))
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        let placed = self.placed()?.with_context(|| format!("what it is made of is not there, {}", self.what))?;
        let work = try_join_all(placed.iter().map(|(object, place)| {
            let client = client.clone();
            async move { put(&client, object, &place.resource(), place, self.patience).await }
        }));
        tokio::select! {
            done = work => done.map(|_| Outputs::none()),
            () = watch.until_cancelled() => bail!("cancelled"),
        }
    }
}

/// An object as people read it: indented JSON with multi-line texts drawn out, a Secret's values hidden.
pub fn show(value: &Value) -> String {
    let mut value = value.clone();
    if value.get("kind").and_then(Value::as_str) == Some("Secret") {
        for field in ["data", "stringData"] {
            if let Some(Value::Object(data)) = value.get_mut(field) {
                data.values_mut().for_each(|v| *v = Value::from("<secret>"));
            }
        }
    }
    let mut text = String::new();
    draw(&value, 0, &mut text);
    text
}

fn draw(value: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                out.push_str(&format!("{pad}{name}:"));
                draw_below(field, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                draw(item, depth + 1, &mut inner);
                let inner = inner.trim_start();
                out.push_str(&format!("{pad}- {inner}"));
            }
        }
        scalar => out.push_str(&format!("{pad}{}\n", plain(scalar))),
    }
}

fn draw_below(field: &Value, depth: usize, out: &mut String) {
    match field {
        Value::Object(inner) if inner.is_empty() => out.push_str(" {}\n"),
        Value::Array(inner) if inner.is_empty() => out.push_str(" []\n"),
        Value::Object(_) => {
            out.push('\n');
            draw(field, depth + 1, out);
        }
        Value::Array(_) => {
            out.push('\n');
            draw(field, depth, out);
        }
        Value::String(text) if text.contains('\n') => {
            out.push_str(" |\n");
            let pad = "  ".repeat(depth + 1);
            for line in text.lines() {
                out.push_str(format!("{pad}{line}").trim_end());
                out.push('\n');
            }
        }
        scalar => out.push_str(&format!(" {}\n", plain(scalar))),
    }
}

fn plain(scalar: &Value) -> String {
    match scalar {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

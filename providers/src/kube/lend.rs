//! Rights that are lent while the API server makes its own, and taken back.
//!
//! An API server that has just begun to listen needs seconds until it has made the default roles. A component that asks
//! for its lease before is refused, and asks again only much later.

use std::sync::Arc;
use std::time::Duration;

use ::kube::api::DeleteParams;
use anyhow::bail;
use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::objects::{Object, look, put, show};
use super::{Api, Place, failure};
use crate::steps::Label;
use crate::{Made, Outputs, Status, Step, Watch};

/// Makes objects, unless what they stand in for is there.
pub struct Lend {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// For people: `the right to lead`.
    pub what: String,
    /// The objects.
    pub objects: Vec<Object>,
    /// While this is there, they are not needed.
    pub until: Place,
    /// How long an API that is still starting may refuse.
    pub patience: Duration,
}

/// Deletes what [`Lend`] made.
pub struct TakeBack {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// As in [`Lend`].
    pub what: String,
    /// Where the objects are.
    pub places: Vec<Place>,
}

#[async_trait]
impl Step for Lend {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("lend {}", self.what)
    }

    fn content(&self) -> Option<String> {
        let texts: Vec<String> = self.objects.iter().map(|object| show(&object.value)).collect();
        Some(texts.join("\n"))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        let there = look(&client, &self.until, &self.until.resource()).await?.is_some();
        Ok(if there { Status::Ready(Outputs::none()) } else { Status::Missing })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        let work = try_join_all(self.objects.iter().map(|object| {
            let client = client.clone();
            async move {
                let place = Place::of(&object.value)?;
                put(&client, object, &place.resource(), &place, self.patience).await
            }
        }));
        tokio::select! {
            done = work => done.map(|_| Outputs::none()),
            () = watch.until_cancelled() => bail!("cancelled"),
        }
    }
}

#[async_trait]
impl Step for TakeBack {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("take back {}", self.what)
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        for place in &self.places {
            match place.api(client.clone()).get_opt(&place.name).await {
                Ok(None) => {}
                // An API that is away says nothing about what is there.
                Ok(Some(_)) | Err(_) => return Ok(Status::Missing),
            }
        }
        Ok(Status::Ready(Outputs::none()))
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        for place in &self.places {
            match place.api(client.clone()).delete(&place.name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(::kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(failure(&format!("deleting {}", place.show()), &error)),
            }
        }
        Ok(Outputs::none())
    }
}

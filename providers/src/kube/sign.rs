//! A step that signs cluster-info for the bootstrap tokens that are there. The controller manager does the same, but only
//! when it leads and all its controllers run, seconds later; machines that join would wait for it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::Client;
use ::kube::api::{Patch, PatchParams};
use anyhow::bail;
use async_trait::async_trait;
use kprov_pki::jws;
use kprov_pki::token::Token;
use serde_json::{Map, Value, json};

use super::objects::look;
use super::token::{Found, list};
use super::{Api, Backoff, FIELD_MANAGER, Place, Trouble, failure, trouble, words};
use crate::steps::Label;
use crate::{Made, Outputs, Status, Step, Watch};

/// Signs cluster-info.
pub struct Sign {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// How long an API that is still starting may refuse.
    pub patience: Duration,
}

/// Where cluster-info is.
pub fn cluster_info() -> Place {
    Place {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        namespace: Some("kube-public".into()),
        name: "cluster-info".into(),
    }
}

/// Signs cluster-info for one token that was just made, where there is no signature for it yet.
///
/// # Errors
/// When there is no cluster-info, or it cannot be read or changed.
pub async fn sign_for(client: &Client, token: &Token) -> anyhow::Result<()> {
    let place = cluster_info();
    let info = look(client, &place, &place.resource()).await?;
    let field = |name: &str| info.as_ref().and_then(|info| info.get("data")?.get(name)?.as_str());
    let key = jws::key_for(token.id());
    match field("kubeconfig") {
        None => bail!("{} cannot be read", place.show()),
        Some(_) if field(&key).is_some() => Ok(()),
        Some(kubeconfig) => {
            let signature = jws::sign(kubeconfig.as_bytes(), token);
            put(client, Map::from_iter([(key, Value::from(signature))])).await
        }
    }
}

async fn put(client: &Client, signatures: Map<String, Value>) -> anyhow::Result<()> {
    let place = cluster_info();
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"data": signatures}));
    match place.api(client.clone()).patch(&place.name, &params, &patch).await {
        Ok(_) => Ok(()),
        Err(error) => Err(failure(&format!("signing {}", place.show()), &error)),
    }
}

/// The signatures that cluster-info lacks: none once it has any, for then the controller manager looks after them.
fn lacking(info: &Value, tokens: &[Found], now: SystemTime) -> Map<String, Value> {
    let data = info.get("data").and_then(Value::as_object);
    let signed = data.is_some_and(|data| data.keys().any(|key| key.starts_with(&jws::key_for(""))));
    let Some(kubeconfig) = data.and_then(|data| data.get("kubeconfig")?.as_str()).filter(|_| !signed) else {
        return Map::new();
    };
    let signing = |found: &&Found| found.lives(now) && found.usages.iter().any(|usage| usage == "signing");
    let sign =
        |found: &Found| (jws::key_for(found.token.id()), Value::from(jws::sign(kubeconfig.as_bytes(), &found.token)));
    tokens.iter().filter(signing).map(sign).collect()
}

impl Sign {
    async fn lacking(&self, client: &Client) -> anyhow::Result<Option<Map<String, Value>>> {
        let place = cluster_info();
        let Some(info) = look(client, &place, &place.resource()).await? else { return Ok(None) };
        match list(client).await {
            Ok(tokens) => Ok(Some(lacking(&info, &tokens, SystemTime::now()))),
            Err(error) if trouble(&error) == Trouble::Refused => bail!("listing tokens: {}", words(&error)),
            Err(_) => Ok(None),
        }
    }

    async fn sign(&self, client: &Client) -> anyhow::Result<()> {
        match self.lacking(client).await? {
            None => bail!("{} cannot be read", cluster_info().show()),
            Some(lacking) if lacking.is_empty() => Ok(()),
            Some(lacking) => put(client, lacking).await,
        }
    }
}

#[async_trait]
impl Step for Sign {
    crate::labelled!();

    fn describe(&self) -> String {
        "sign ConfigMap cluster-info for the bootstrap tokens".to_owned()
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        let lacking = self.lacking(&client).await?;
        let signed = lacking.is_some_and(|lacking| lacking.is_empty());
        Ok(if signed { Status::Ready(Outputs::none()) } else { Status::Missing })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut backoff = Backoff::up_to(Duration::from_millis(500));
        loop {
            match self.sign(&client).await {
                Ok(()) => return Ok(Outputs::none()),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_) => {}
            }
            backoff.pause_in(watch).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, usages: &[&str], expiration: Option<&str>) -> Found {
        Found {
            token: text.parse::<Token>().unwrap(),
            description: String::new(),
            expiration: expiration.map(str::to_owned),
            usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
            groups: Vec::new(),
        }
    }

    #[test]
    fn living_tokens_that_sign_are_signed_for_once() {
        let tokens = [
            token("aaaaaa.0123456789abcdef", &["authentication", "signing"], None),
            token("bbbbbb.0123456789abcdef", &["authentication"], None),
            token("cccccc.0123456789abcdef", &["signing"], Some("2001-01-01T00:00:00Z")),
        ];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut info = json!({"data": {"kubeconfig": "apiVersion: v1\n"}});
        let lacking = lacking(&info, &tokens, now);
        let signature = lacking["jws-kubeconfig-aaaaaa"].as_str().unwrap();
        assert!(jws::verify(b"apiVersion: v1\n", &tokens[0].token, signature));
        assert_eq!(lacking.len(), 1);
        info["data"]["jws-kubeconfig-dddddd"] = "theirs".into();
        assert!(super::lacking(&info, &tokens, now).is_empty());
        assert!(super::lacking(&json!({}), &tokens, now).is_empty());
    }
}

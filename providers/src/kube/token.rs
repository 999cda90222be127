//! Bootstrap tokens as Secrets of kube-system (contract A.10), and the step that makes the first one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::Client;
use ::kube::api::{DeleteParams, ListParams, PostParams};
use ::kube::core::DynamicObject;
use anyhow::{Context, bail};
use async_trait::async_trait;
use data_encoding::BASE64;
use kprov_pki::token::Token;
use serde_json::{Value, json};

use super::objects::look;
use super::{Api, Backoff, Place, Trouble, failure, trouble, words};
use crate::steps::Label;
use crate::{Made, Outputs, Status, Step, Watch};

/// What a token is for, apart from the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// For people; ours is how a rerun finds its own token again.
    pub description: String,
    /// Counted from the moment of making; `None`: never expires.
    pub life: Option<Life>,
    /// `signing`, `authentication`.
    pub usages: Vec<String>,
    /// `system:bootstrappers:…`.
    pub groups: Vec<String>,
}

/// Until when a token lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// From the making on.
    For(Duration),
    /// RFC 3339.
    Until(String),
}

/// A token that was found in the cluster.
#[derive(Clone)]
pub struct Found {
    /// The token.
    pub token: Token,
    /// Description, often empty.
    pub description: String,
    /// RFC 3339; `None`: never.
    pub expiration: Option<String>,
    /// `authentication`, `signing`, sorted.
    pub usages: Vec<String>,
    /// Additional groups.
    pub groups: Vec<String>,
}

impl Found {
    /// True while it may be used. An expiration that cannot be read counts as over, as for the API server.
    pub fn lives(&self, now: SystemTime) -> bool {
        match &self.expiration {
            None => true,
            Some(text) => time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .is_ok_and(|end| end > time::OffsetDateTime::from(now)),
        }
    }

    /// True when a machine can join with it.
    pub fn joins(&self) -> bool {
        ["authentication", "signing"].iter().all(|usage| self.usages.iter().any(|u| u == usage))
    }
}

/// The Secret that holds a token.
///
/// # Errors
/// A life so long that there is no date for its end.
pub fn secret(token: &Token, terms: &Terms, now: SystemTime) -> anyhow::Result<Value> {
    let mut data = serde_json::Map::new();
    let mut put = |name: &str, value: &str| data.insert(name.to_owned(), json!(BASE64.encode(value.as_bytes())));
    put("token-id", token.id());
    put("token-secret", token.secret());
    if !terms.description.is_empty() {
        put("description", &terms.description);
    }
    match &terms.life {
        None => {}
        Some(Life::Until(time)) => {
            put("expiration", time);
        }
        Some(Life::For(life)) => {
            let end = now.checked_add(*life).context("a token's life that ends after all dates")?;
            let end = time::OffsetDateTime::from(end).replace_nanosecond(0)?;
            put("expiration", &end.format(&time::format_description::well_known::Rfc3339)?);
        }
    }
    for usage in &terms.usages {
        put(&format!("usage-bootstrap-{usage}"), "true");
    }
    if !terms.groups.is_empty() {
        put("auth-extra-groups", &terms.groups.join(","));
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": token.secret_name(), "namespace": "kube-system"},
        "data": data,
    }))
}

/// Reads a token's Secret; `None` where it is not a whole one.
pub fn read(secret: &Value) -> Option<Found> {
    let get = |name: &str| {
        let text = secret.get("data")?.get(name)?.as_str()?;
        String::from_utf8(BASE64.decode(text.as_bytes()).ok()?).ok()
    };
    let mut usages: Vec<String> = secret
        .get("data")?
        .as_object()?
        .keys()
        .filter_map(|name| name.strip_prefix("usage-bootstrap-"))
        .filter(|usage| get(&format!("usage-bootstrap-{usage}")).as_deref() == Some("true"))
        .map(str::to_owned)
        .collect();
    usages.sort();
    let groups = get("auth-extra-groups").unwrap_or_default();
    Some(Found {
        token: format!("{}.{}", get("token-id")?, get("token-secret")?).parse().ok()?,
        description: get("description").unwrap_or_default(),
        expiration: get("expiration"),
        usages,
        groups: groups.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect(),
    })
}

fn secrets(client: Client) -> ::kube::Api<DynamicObject> {
    place("").api(client)
}

fn place(name: &str) -> Place {
    Place {
        api_version: "v1".into(),
        kind: "Secret".into(),
        namespace: Some("kube-system".into()),
        name: name.to_owned(),
    }
}

/// All tokens of the cluster, by id.
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn list(client: &Client) -> Result<Vec<Found>, ::kube::Error> {
    let params = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
    let all = secrets(client.clone()).list(&params).await?;
    let mut found: Vec<Found> = all.items.iter().filter_map(|item| read(&serde_json::to_value(item).ok()?)).collect();
    found.sort_by(|a, b| a.token.id().cmp(b.token.id()));
    Ok(found)
}

/// Makes a token's Secret; one of that id there already is an error of the API (409).
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn create(client: &Client, token: &Token, terms: &Terms) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(secret(token, terms, SystemTime::now())?)?;
    let params = PostParams { field_manager: Some(super::FIELD_MANAGER.into()), ..PostParams::default() };
    match secrets(client.clone()).create(&params, &object).await {
        Ok(_) => Ok(()),
        Err(::kube::Error::Api(status)) if status.code == 409 => {
            bail!("a token with this id is there already: {}", token.id())
        }
        Err(error) => Err(failure(&format!("making token {}", token.id()), &error)),
    }
}

/// Deletes a token by its id; `false` when there is none.
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn delete(client: &Client, id: &str) -> Result<bool, ::kube::Error> {
    match secrets(client.clone()).delete(&format!("bootstrap-token-{id}"), &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(::kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes one bootstrap token: the one that a person named, or a new one.
pub struct BootstrapToken {
    /// Name, phase, needs.
    pub label: Label,
    /// The API.
    pub api: Arc<Api>,
    /// What a person typed; `None`: one is generated, and found again by its description.
    pub token: Option<Token>,
    /// What it is for.
    pub terms: Terms,
    /// An object that is only made after the token: while it is there, a generated token that is gone has had its day.
    pub later: Place,
    /// How long an API that is still starting may refuse.
    pub patience: Duration,
}

impl BootstrapToken {
    /// The token as it is in the cluster, living or not.
    async fn there(&self, client: &Client) -> Result<Option<Found>, ::kube::Error> {
        let all = list(client).await?;
        Ok(all.into_iter().find(|found| match &self.token {
            Some(token) => found.token == *token,
            None => found.description == self.terms.description,
        }))
    }
}

#[async_trait]
impl Step for BootstrapToken {
    crate::labelled!();

    fn describe(&self) -> String {
        match &self.token {
            Some(token) => format!("apply bootstrap token {}", token.id()),
            None => "make a bootstrap token".to_owned(),
        }
    }

    fn content(&self) -> Option<String> {
        let life = match &self.terms.life {
            None => "never".to_owned(),
            Some(Life::For(life)) => format!("{} s after it is made", life.as_secs()),
            Some(Life::Until(time)) => time.clone(),
        };
        let Terms { description, usages, groups, .. } = &self.terms;
        Some(format!(
            "token: <secret>\ndescription: {description}\nexpires: {life}\nusages: {}\ngroups: {}\n",
            usages.join(","),
            groups.join(",")
        ))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let Some(client) = self.api.client().await? else { return Ok(Status::Missing) };
        match self.there(&client).await {
            Ok(Some(_)) => Ok(Status::Ready(Outputs::none())),
            Ok(None) if self.token.is_none() => {
                let later = look(&client, &self.later, &self.later.resource()).await?;
                Ok(if later.is_some() { Status::Ready(Outputs::none()) } else { Status::Missing })
            }
            Ok(None) => Ok(Status::Missing),
            Err(error) if trouble(&error) == Trouble::Refused => bail!("listing tokens: {}", words(&error)),
            Err(_) => Ok(Status::Missing),
        }
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let client = self.api.need().await?;
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut backoff = Backoff::up_to(Duration::from_millis(500));
        loop {
            // Asked every time: an earlier try may have arrived although its answer was lost.
            let tried = match self.there(&client).await {
                Ok(Some(_)) => return Ok(Outputs::none()),
                Ok(None) => {
                    let token = match &self.token {
                        Some(token) => token.clone(),
                        None => Token::generate()?,
                    };
                    create(&client, &token, &self.terms).await
                }
                Err(error) => Err(failure("listing tokens", &error)),
            };
            match tried {
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

    fn terms() -> Terms {
        Terms {
            description: "d".into(),
            life: Some(Life::For(Duration::from_secs(86_400))),
            usages: vec!["signing".into(), "authentication".into()],
            groups: vec!["system:bootstrappers:kubeadm:default-node-token".into()],
        }
    }

    #[test]
    fn a_secret_is_read_back_as_it_was_made() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let value = secret(&token, &terms(), now).unwrap();
        assert_eq!(value["metadata"]["name"], "bootstrap-token-abcdef");
        let found = read(&value).unwrap();
        assert!(found.token == token);
        assert_eq!(found.expiration.as_deref(), Some("2023-11-15T22:13:20Z"));
        assert_eq!(found.usages, ["authentication", "signing"]);
        assert!(found.joins());
        assert!(found.lives(now));
        assert!(!found.lives(now + Duration::from_secs(86_401)));
    }

    #[test]
    fn a_secret_that_is_no_token_is_passed_over() {
        assert!(read(&json!({"data": {"token-id": "!!"}})).is_none());
        assert!(read(&json!({})).is_none());
    }
}

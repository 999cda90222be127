//! Images from a registry (OCI distribution): the manifest for one architecture, then blobs by digest.
//!
//! Written here and not taken from a crate for the sake of one path for all transfers: resumed, retried as the server
//! wishes, with one file of credentials.

use std::sync::Mutex;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::FetchError;
use super::credentials::Login;
use super::net::{As, Failed, Net, host, is_loopback};
use crate::bundle::manifest::{is_sha256, sha256_hex};

/// What registries may answer with: indexes and manifests, of OCI and of Docker.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// One repository of a registry, with the token that it gave us.
pub struct Registry<'a> {
    net: &'a Net,
    /// `https://registry.example/v2/team/app`.
    base: String,
    repository: String,
    token: Mutex<Option<HeaderValue>>,
}

/// An image's manifest for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// `sha256:HEX` of it.
    pub digest: String,
    /// Its configuration.
    pub config: Described,
    /// Its layers, lowest first.
    pub layers: Vec<Described>,
}

/// A blob as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    /// `sha256:HEX`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Choice>,
    config: Option<Described>,
    #[serde(default)]
    layers: Vec<Described>,
}

#[derive(Deserialize)]
struct Choice {
    digest: String,
    #[serde(default)]
    platform: Platform,
}

#[derive(Deserialize, Default)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
struct Token {
    // Some send one, some the other, some both.
    #[serde(default)]
    token: Option<Zeroizing<String>>,
    #[serde(default)]
    access_token: Option<Zeroizing<String>>,
}

impl<'a> Registry<'a> {
    /// The repository `repository` of the registry at `base` (scheme and host).
    pub fn new(net: &'a Net, base: &str, repository: &str) -> Self {
        let base = format!("{}/v2/{repository}", base.trim_end_matches('/'));
        Self { net, base, repository: repository.to_owned(), token: Mutex::new(None) }
    }

    fn url(&self, rest: &str) -> Result<Url, FetchError> {
        let text = format!("{}/{rest}", self.base);
        Url::parse(&text).map_err(|e| FetchError::Answer { url: text, why: format!("no address ({e})") })
    }

    /// A blob's address.
    ///
    /// # Errors
    /// When registry and repository make no address.
    pub fn blob(&self, digest: &str) -> Result<Url, FetchError> {
        self.url(&format!("blobs/{digest}"))
    }

    /// The manifest of a tag for Linux on `arch`, or the one with the digest `pinned`.
    ///
    /// # Errors
    /// When it cannot be had, is not what its digest says, or there is none for this architecture.
    pub async fn manifest(&self, tag: &str, arch: &str, pinned: Option<&str>) -> Result<ImageManifest, FetchError> {
        let _slot = self.net.slots.acquire().await;
        let (url, digest, document) = self.document(pinned.unwrap_or(tag), pinned).await?;
        let (url, digest, document) = if document.manifests.is_empty() {
            (url, digest, document)
        } else {
            let fits = |p: &Platform| {
                p.os == "linux" && p.architecture == arch && (arch != "arm64" || matches!(&*p.variant, "" | "v8"))
            };
            let chosen = document.manifests.iter().find(|choice| fits(&choice.platform));
            let chosen = chosen.ok_or_else(|| FetchError::Answer {
                url: url.to_string(),
                why: format!("the image is not for linux/{arch}"),
            })?;
            self.document(&chosen.digest, Some(&chosen.digest)).await?
        };
        let bad = |why: &str| FetchError::Answer { url: url.to_string(), why: why.to_owned() };
        let config = document.config.ok_or_else(|| bad("neither an image's manifest nor an index of such"))?;
        let all = document.layers.iter().chain([&config]);
        if !all.into_iter().all(|blob| blob.digest.strip_prefix("sha256:").is_some_and(is_sha256)) {
            return Err(bad("a digest in it is not of SHA-256"));
        }
        Ok(ImageManifest { digest, config, layers: document.layers })
    }

    /// A manifest or index, its address and its digest, which must be `wanted`.
    async fn document(&self, name: &str, wanted: Option<&str>) -> Result<(Url, String, Document), FetchError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let (said, body) = self
            .net
            .persist(&url, async || {
                let mut headers = HeaderMap::new();
                headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
                let response = self.get(&url, headers).await?.ok_or_else(|| Failed::again("416", false))?;
                let said = response.headers().get("docker-content-digest").and_then(|d| d.to_str().ok());
                let said = said.map(str::to_owned);
                Ok((said, self.net.body(&url, response).await?))
            })
            .await?;
        let found = format!("sha256:{}", sha256_hex(&body));
        let (wanted, by) = match (wanted, said) {
            (Some(wanted), _) => (Some(wanted.to_owned()), "it was asked for by"),
            // Another algorithm's digest cannot be compared.
            (None, Some(said)) => (Some(said).filter(|d| d.starts_with("sha256:")), "the registry says with it"),
            (None, None) => (None, ""),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(FetchError::Digest { url: url.to_string(), wanted, found, by: by.to_owned() });
        }
        let document = serde_json::from_slice(&body)
            .map_err(|e| FetchError::Answer { url: url.to_string(), why: format!("no image manifest ({e})") })?;
        Ok((url, found, document))
    }

    /// One GET, with a token where the registry wants one. None: 416.
    pub(crate) async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Option<Response>, Failed> {
        for challenged in [false, true] {
            let token = self.token().clone();
            let answer = self.net.get_range(url, headers.clone(), As::Header(token.as_ref())).await?;
            match answer {
                Some(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    if challenged {
                        return Err(self.net.refused(url, &response));
                    }
                    let token = self.answer(url, &response).await?;
                    *self.token() = Some(token);
                }
                other => return Ok(other),
            }
        }
        Err(Failed::again("the registry asks for ever", false))
    }

    fn token(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Answers a registry's challenge: who we are, or a token from the place that it names.
    async fn answer(&self, url: &Url, response: &Response) -> Result<HeaderValue, Failed> {
        let login = self.net.login(url)?;
        let bad = |why: String| FetchError::Answer { url: url.to_string(), why };
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        for text in headers.iter().filter_map(|header| header.to_str().ok()) {
            let challenges = http_auth::parse_challenges(text).map_err(|_| bad(format!("its challenge is {text}")))?;
            for challenge in challenges {
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    let Some(login) = login else { return Err(self.net.refused(url, response)) };
                    return Ok(basic(login)?);
                }
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let realm = parameter("realm").unwrap_or_default();
                    let mut realm = Url::parse(&realm).map_err(|_| bad(format!("its realm is {realm:?}")))?;
                    let scope = parameter("scope").unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                    realm.query_pairs_mut().append_pair("scope", &scope);
                    if let Some(service) = parameter("service") {
                        realm.query_pairs_mut().append_pair("service", &service);
                    }
                    return self.bearer(url, &realm, login).await;
                }
            }
        }
        Err(self.net.refused(url, response))
    }

    async fn bearer(&self, url: &Url, realm: &Url, login: Option<&Login>) -> Result<HeaderValue, Failed> {
        if realm.scheme() != "https" && !is_loopback(realm) {
            let why = format!("it sends us for a token to {}, which is not https", host(realm));
            return Err(FetchError::Answer { url: url.to_string(), why }.into());
        }
        let who = login.map(basic).transpose()?;
        let response = self.net.get(realm, HeaderMap::new(), As::Header(who.as_ref())).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.net.refused(url, &response));
        }
        let body = Zeroizing::new(self.net.body(realm, response).await?);
        let token = serde_json::from_slice::<Token>(&body).ok().and_then(|found| found.token.or(found.access_token));
        let none = || FetchError::Answer { url: realm.to_string(), why: "no token in its answer".into() };
        let token = token.filter(|token| !token.is_empty()).ok_or_else(none)?;
        Ok(secret(&Zeroizing::new(format!("Bearer {}", *token)))?)
    }
}

fn basic(login: &Login) -> Result<HeaderValue, FetchError> {
    let both = Zeroizing::new(format!("{}:{}", login.user, *login.password));
    secret(&Zeroizing::new(format!("Basic {}", data_encoding::BASE64.encode(both.as_bytes()))))
}

/// A header that no log shows.
fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut header = HeaderValue::from_str(text).map_err(|_| FetchError::Answer {
        url: AUTHORIZATION.to_string(),
        why: "the token has characters that no header may have".into(),
    })?;
    header.set_sensitive(true);
    Ok(header)
}

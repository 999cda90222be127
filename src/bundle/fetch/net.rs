//! One request: who we are, how long silence is borne, when it is worth asking again.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::tls::{Certificate, Version};
use reqwest::{Client, Response, StatusCode, Url};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::sync::Semaphore;

use crate::discovery::get::wrapped;

use super::FetchError;
use super::credentials::{Credentials, Login};

/// So often something is tried again that makes no progress.
const TRIES: u32 = 6;
/// The first pause, doubled from then on.
const PAUSE: Duration = Duration::from_millis(200);
/// No pause of our own is longer.
const LONGEST: Duration = Duration::from_secs(10);
/// A server that asks for more patience than this is left.
const PATIENCE: Duration = Duration::from_secs(120);
/// Documents (sums, manifests) are no longer, in bytes.
const DOCUMENT: usize = 4 << 20;

/// What the user chose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Users and passwords by host.
    pub credentials: Credentials,
    /// CA certificates (PEM) that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// A transfer in which no byte comes for so long is cut and resumed.
    pub stall: Duration,
    /// Transfers at a time.
    pub parallel: usize,
    /// Where files are kept.
    pub cache: PathBuf,
}

/// Told of what happens: what it is about, and words.
pub type Tell = Arc<dyn Fn(&str, String) + Send + Sync>;

/// The way to servers.
pub struct Net {
    client: Client,
    pub(super) settings: Settings,
    pub(super) slots: Semaphore,
    pub(super) tell: Tell,
}

/// Why one try failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Another try may do better. `progress`: bytes came.
    Again { why: String, after: Option<Duration>, progress: bool },
    /// It will not.
    Finally(FetchError),
}

impl From<FetchError> for Failed {
    fn from(error: FetchError) -> Self {
        Self::Finally(error)
    }
}

impl Failed {
    pub(crate) fn again(why: impl Into<String>, progress: bool) -> Self {
        Self::Again { why: why.into(), after: None, progress }
    }
}

/// Who we are in a request.
#[derive(Clone, Copy)]
pub(crate) enum As<'a> {
    /// The login that is known for the host, or nobody.
    Host,
    /// Whoever this header says.
    Header(Option<&'a HeaderValue>),
}

impl Net {
    /// A client.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(settings: Settings, tell: Tell) -> Result<Self, FetchError> {
        let mut builder = Client::builder()
            .user_agent(concat!("kprov/", env!("CARGO_PKG_VERSION")))
            .tls_version_min(Version::TLS_1_2)
            .connect_timeout(settings.stall)
            .read_timeout(settings.stall)
            .redirect(Policy::custom(|attempt| {
                let was_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
                if attempt.previous().len() > 10 {
                    attempt.error("too many redirects")
                } else if was_https && attempt.url().scheme() != "https" {
                    attempt.error("it redirects from https to http")
                } else {
                    attempt.follow()
                }
            }));
        if let Some(path) = &settings.ca {
            let bad = |why: String| FetchError::Setting { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))?;
            if certificates.is_empty() {
                return Err(bad("no certificate in it (PEM)".into()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|error| FetchError::Setting {
            path: settings.ca.clone().unwrap_or_else(|| "the system's CA certificates".into()),
            why: error.source().map_or_else(|| error.to_string(), ToString::to_string),
        })?;
        Ok(Self { client, slots: Semaphore::new(settings.parallel.max(1)), settings, tell })
    }

    /// Does something until it succeeds, or fails finally, or makes no progress any more.
    pub(crate) async fn persist<T>(
        &self,
        url: &Url,
        mut work: impl AsyncFnMut() -> Result<T, Failed>,
    ) -> Result<T, FetchError> {
        let (mut tries, mut pause) = (0, PAUSE);
        loop {
            let (why, after, progress) = match work().await {
                Ok(done) => return Ok(done),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::Again { why, after, progress }) => (why, after, progress),
            };
            if progress {
                (tries, pause) = (0, PAUSE);
            }
            tries += 1;
            let url = url.to_string();
            if tries >= TRIES {
                return Err(FetchError::Trouble { url, why, tries });
            }
            let wait = after.unwrap_or(pause);
            if wait > PATIENCE {
                return Err(FetchError::Later { url, why, wait });
            }
            (self.tell)(&url, format!("{why}; again in {:.1} s", wait.as_secs_f64()));
            tokio::time::sleep(wait).await;
            pause = pause.saturating_mul(2).min(LONGEST);
        }
    }

    /// One GET. 401 comes back as an answer where `who` is a header: a registry's challenge is in it.
    pub(crate) async fn get(&self, url: &Url, headers: HeaderMap, who: As<'_>) -> Result<Response, Failed> {
        let mut request = self.client.get(url.clone()).headers(headers);
        match who {
            As::Host => {
                if let Some(login) = self.login(url)? {
                    request = request.basic_auth(&login.user, Some(login.password.as_str()));
                }
            }
            As::Header(Some(header)) => request = request.header(AUTHORIZATION, header),
            As::Header(None) => {}
        }
        let response = request.send().await.map_err(|error| unanswered(url, &error))?;
        let status = response.status();
        if status.is_success() || (status == StatusCode::UNAUTHORIZED && matches!(who, As::Header(_))) {
            return Ok(response);
        }
        Err(self.refused(url, &response))
    }

    /// The login for a URL's host. None is ever sent in the clear over a network.
    pub(crate) fn login(&self, url: &Url) -> Result<Option<&Login>, FetchError> {
        let host = host(url);
        let Some(login) = self.settings.credentials.at(&host) else { return Ok(None) };
        if url.scheme() == "https" || is_loopback(url) {
            return Ok(Some(login));
        }
        Err(FetchError::Refused {
            url: url.to_string(),
            status: "not asked".into(),
            why: format!("the password for {host} would go over http in the clear; use https://"),
        })
    }

    /// What a status that is no success means.
    pub(crate) fn refused(&self, url: &Url, response: &Response) -> Failed {
        let status = response.status();
        let (url_text, shown) = (url.to_string(), status.to_string());
        match status.as_u16() {
            401 | 403 => {
                let host = host(url);
                let mut why = self.settings.credentials.advice(&host);
                if status == StatusCode::FORBIDDEN && self.settings.credentials.at(&host).is_some() {
                    why = format!("the user for {host} may not read this; ask the server's keeper for the right to");
                }
                FetchError::Refused { url: url_text, status: shown, why }.into()
            }
            404 | 410 => FetchError::Absent { url: url_text, status: shown }.into(),
            408 | 425 | 429 | 500 | 502 | 503 | 504 => {
                Failed::Again { why: shown, after: retry_after(response.headers()), progress: false }
            }
            _ => FetchError::Answer { url: url_text, why: format!("the server says {shown}") }.into(),
        }
    }

    /// A small document, and the headers that came with it.
    ///
    /// # Errors
    /// When it cannot be had, or is no small document.
    pub async fn document(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        let _slot = self.slots.acquire().await;
        self.persist(url, async || {
            let response = self.get(url, HeaderMap::new(), As::Host).await?;
            self.body(url, response).await
        })
        .await
    }

    /// The body of an answer that is a small document.
    pub(crate) async fn body(&self, url: &Url, mut response: Response) -> Result<Vec<u8>, Failed> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unanswered(url, &error))? {
            if body.len().saturating_add(piece.len()) > DOCUMENT {
                return Err(FetchError::Answer { url: url.to_string(), why: "longer than 4 MiB".into() }.into());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

/// `host` or `host:port`, as credentials name it.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// True for this host's own addresses.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = SystemTime::from(OffsetDateTime::parse(text, &Rfc2822).ok()?);
    Some(then.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Why there was no answer, or no more of it.
pub(crate) fn unanswered(url: &Url, error: &reqwest::Error) -> Failed {
    let mut last = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let tls = cause.downcast_ref::<rustls::Error>().or_else(|| wrapped(cause));
        if let Some(rustls::Error::InvalidCertificate(why)) = tls {
            return FetchError::Untrusted { url: url.to_string(), why: why.to_string() }.into();
        }
        last = cause.to_string();
        at = cause.source();
    }
    if error.is_redirect() {
        return FetchError::Answer { url: url.to_string(), why: last }.into();
    }
    let why = if error.is_timeout() { "silence for too long".to_owned() } else { last };
    Failed::again(why, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_wish_for_patience_is_read() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(with("7"), Some(Duration::from_secs(7)));
        assert_eq!(with("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(with("Fri, 31 Dec 2100 23:59:59 GMT").unwrap() > PATIENCE);
        assert_eq!(with("soon"), None);
    }

    #[test]
    fn hosts_are_told_apart_by_their_ports() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert_eq!(host(&url("https://a.example/x")), "a.example");
        assert_eq!(host(&url("https://a.example:5000/x")), "a.example:5000");
        assert!(is_loopback(&url("http://127.0.0.1:1/")) && is_loopback(&url("http://[::1]:1/")));
        assert!(!is_loopback(&url("http://10.0.0.1/")));
    }
}

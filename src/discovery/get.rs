//! GET from an API server over TLS, with words for why there was no answer.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use kprov_pki::inspect::Cert;
use reqwest::redirect::Policy;
use reqwest::tls::{Certificate, Identity, TlsInfo, Version};
use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use zeroize::Zeroizing;

/// An answer larger than this is none of ours.
const LARGEST: usize = 4 << 20;

/// Whom to believe.
pub(crate) enum Trust<'a> {
    /// Anybody: only to read what is proven otherwise.
    Anybody,
    /// Certificates of this CA (PEM) alone; the system's roots never.
    Ca(&'a [u8]),
}

/// Who asks.
pub(crate) enum Who {
    /// `system:anonymous`
    Anonymous,
    /// The holder of a token.
    Bearer(Zeroizing<String>),
    /// The holder of a certificate: PEM of certificate and key.
    Certificate(Zeroizing<Vec<u8>>),
}

/// An API server and how it is spoken to.
pub(crate) struct Api {
    client: reqwest::Client,
    base: String,
    bearer: Option<Zeroizing<String>>,
}

/// What an API server said.
pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Its clock.
    pub date: Option<OffsetDateTime>,
    /// Its certificate.
    pub leaf: Option<Cert>,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Silence {
    #[error("the name cannot be resolved")]
    Unresolved,
    #[error("connection refused")]
    Refused,
    #[error("no answer in time")]
    Late,
    #[error("no route to that host")]
    NoRoute,
    #[error("what answers there does not speak TLS")]
    NotTls,
    #[error("it speaks no TLS 1.2 or newer")]
    OldTls,
    #[error("the API server's certificate {0}")]
    Certificate(Untrusted),
    #[error("{0}")]
    Other(String),
}

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untrusted {
    #[error("has expired")]
    Expired,
    #[error("is not valid yet")]
    NotYet,
    #[error("is not signed by the cluster's CA")]
    Issuer,
    #[error("does not cover that name (it covers {0})")]
    Name(String),
    #[error("is not accepted: {0}")]
    Other(String),
}

impl Api {
    /// A client. `base` is a URL without a path: `https://10.0.0.1:6443`.
    pub(crate) fn new(base: &str, trust: &Trust<'_>, who: Who, patience: Duration) -> reqwest::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(Policy::none())
            .tls_version_min(Version::TLS_1_2)
            .tls_info(true)
            .connect_timeout(patience)
            .timeout(patience * 2)
            // One connection a question: each must show its certificate.
            .pool_max_idle_per_host(0);
        builder = match trust {
            Trust::Anybody => builder.tls_danger_accept_invalid_certs(true),
            Trust::Ca(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem)?),
        };
        let mut bearer = None;
        match who {
            Who::Anonymous => {}
            Who::Bearer(token) => bearer = Some(token),
            Who::Certificate(pem) => builder = builder.identity(Identity::from_pem(&pem)?),
        }
        Ok(Self { client: builder.build()?, base: base.trim_end_matches('/').to_owned(), bearer })
    }

    /// Asks for a path.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Silence> {
        let mut request = self.client.get(format!("{}{path}", self.base)).header("Accept", "application/json");
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token.as_str());
        }
        let mut response = request.send().await.map_err(|e| silence(&e))?;
        let leaf = response.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
        let leaf = leaf.and_then(|der| Cert::from_der(der).ok());
        let date = response.headers().get("date").and_then(|value| value.to_str().ok());
        let date = date.and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok());
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| silence(&e))? {
            if body.len() + piece.len() > LARGEST {
                return Err(Silence::Other("the answer is too long for an API server's".into()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, body, date, leaf })
    }
}

/// The first cause in an error's chain that we have words for.
fn silence(error: &reqwest::Error) -> Silence {
    let mut at = error.source();
    let mut last = error.to_string();
    while let Some(cause) = at {
        if let Some(known) = cause.downcast_ref::<rustls::Error>().or_else(|| wrapped(cause)) {
            return tls(known);
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Silence::Refused,
                io::ErrorKind::TimedOut => return Silence::Late,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => return Silence::NoRoute,
                _ => {}
            }
        }
        last = cause.to_string();
        // hyper-util keeps the type of this one to itself.
        if last.starts_with("dns error") {
            return Silence::Unresolved;
        }
        at = cause.source();
    }
    if error.is_timeout() { Silence::Late } else { Silence::Other(last) }
}

/// A TLS error inside I/O errors, however deep; `source` steps over them.
/// An error of TLS within errors of reading and writing, however deep.
pub(crate) fn wrapped<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner: &'a (dyn std::error::Error + 'static) = cause.downcast_ref::<io::Error>()?.get_ref()?;
    inner.downcast_ref().or_else(|| wrapped(inner))
}

fn tls(error: &rustls::Error) -> Silence {
    use CertificateError as E;
    let rustls::Error::InvalidCertificate(why) = error else {
        return match error {
            rustls::Error::InvalidMessage(_) => Silence::NotTls,
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => Silence::OldTls,
            other => Silence::Other(other.to_string()),
        };
    };
    Silence::Certificate(match why {
        E::Expired | E::ExpiredContext { .. } => Untrusted::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => Untrusted::NotYet,
        // A CA of the same name with another key shows as a bad signature, with a key of another kind as the third.
        E::UnknownIssuer | E::BadSignature | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            Untrusted::Issuer
        }
        E::NotValidForNameContext { presented, .. } => Untrusted::Name(presented.join(", ")),
        other => Untrusted::Other(other.to_string()),
    })
}

//! A TLS server that says what a test wants, and the certificates it shows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kprov_pki::inspect::Cert;
use kprov_pki::issue::{self, Validity};
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::spec::{Authority, Leaf, San, Usage};
use kprov_pki::token::Token;
use kprov_pki::{Algorithm, Key, jws};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A CA and a server certificate for 127.0.0.1.
pub(super) struct Pki {
    pub(super) ca: Cert,
    ca_key: Key,
    leaf: String,
    key: Key,
}

impl Pki {
    pub(super) fn new() -> Self {
        Self::at(OffsetDateTime::now_utc())
    }

    /// Made at some other time.
    pub(super) fn at(now: OffsetDateTime) -> Self {
        let ca_key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let pem =
            issue::authority("kubernetes", &ca_key, Validity { now, length: time::Duration::days(3650) }).unwrap();
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let mut pki = Self { ca: Cert::from_pem(pem.as_bytes()).unwrap(), ca_key, leaf: String::new(), key };
        pki.leaf_at(now, time::Duration::days(365));
        pki
    }

    /// Another server certificate.
    pub(super) fn leaf_at(&mut self, now: OffsetDateTime, length: time::Duration) {
        let leaf = Leaf {
            path: "",
            signer: Authority::Cluster,
            common_name: "kube-apiserver".into(),
            organization: None,
            usage: Usage::Server,
            sans: vec![San::new("127.0.0.1")],
        };
        self.leaf = issue::leaf(&leaf, &self.key, &self.ca, &self.ca_key, Validity { now, length }).unwrap();
    }

    fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(self.leaf.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.to_pem().unwrap().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// ConfigMap cluster-info, made just now, signed for a token or for none.
pub(super) fn cluster_info(pki: &Pki, token: Option<&Token>) -> String {
    let config = Kubeconfig::cluster_info("https://api.example.org:6443", pki.ca.to_pem().as_bytes());
    let text = crate::yaml::to_string(&config).unwrap();
    let mut map = json!({"kind": "ConfigMap", "metadata": {"name": "cluster-info"}, "data": {"kubeconfig": text}});
    if let Some(token) = token {
        map["data"][jws::key_for(token.id())] = jws::sign(text.as_bytes(), token).into();
    }
    map.to_string()
}

type Handler = dyn Fn(usize) -> (u16, String) + Send + Sync;

/// Answers the nth question with a status and a body.
pub(super) struct Server {
    port: u16,
    handler: Arc<Mutex<Arc<Handler>>>,
    asked: Arc<AtomicUsize>,
    clock: Arc<Mutex<Option<OffsetDateTime>>>,
}

impl Server {
    pub(super) async fn start(pki: &Pki, answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            handler: Arc::new(Mutex::new(Arc::new(answer))),
            asked: Arc::default(),
            clock: Arc::default(),
        };
        let (acceptor, handler) = (pki.acceptor(), server.handler.clone());
        let (asked, clock) = (server.asked.clone(), server.clock.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // A client that does not trust us hangs up here.
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match tls.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                if !head.starts_with(b"GET /api/v1/namespaces/kube-public/configmaps/cluster-info HTTP/1.1\r\n") {
                    continue;
                }
                let handler = handler.lock().unwrap().clone();
                let (status, body) = handler(asked.fetch_add(1, Ordering::SeqCst));
                let date = clock.lock().unwrap().unwrap_or_else(OffsetDateTime::now_utc).format(&Rfc2822).unwrap();
                // As Go writes it.
                let date = date.replace("+0000", "GMT");
                let text = format!(
                    "HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = tls.write_all(text.as_bytes()).await;
                let _ = tls.shutdown().await;
            }
        });
        server
    }

    pub(super) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn answer(&self, answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Arc::new(answer);
    }

    /// Lets the server's clock stand at some time.
    pub(super) fn clock(&self, at: OffsetDateTime) {
        *self.clock.lock().unwrap() = Some(at);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Something that speaks no TLS.
pub(super) async fn plain() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        }
    });
    endpoint
}

/// Something that takes connections and never says a word.
pub(super) async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            held.push(tcp);
        }
    });
    endpoint
}

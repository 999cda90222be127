//! A TLS server that says what a test wants, and the certificates it shows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kprov_pki::inspect::Cert;
use kprov_pki::issue::{self, Validity};
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::spec::{Authority, Leaf, San, Usage};
use kprov_pki::token::Token;
use kprov_pki::{Algorithm, Key, jws};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A CA and a server certificate for 127.0.0.1.
pub(crate) struct Pki {
    pub(crate) ca: Cert,
    ca_key: Key,
    leaf: String,
    key: Key,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::at(OffsetDateTime::now_utc())
    }

    /// Made at some other time.
    pub(crate) fn at(now: OffsetDateTime) -> Self {
        Self::made(now, Algorithm::EcdsaP256)
    }

    /// With kubeadm's default kind of CA key.
    pub(crate) fn rsa() -> Self {
        Self::made(OffsetDateTime::now_utc(), Algorithm::Rsa2048)
    }

    fn made(now: OffsetDateTime, algorithm: Algorithm) -> Self {
        let ca_key = Key::generate(algorithm).unwrap();
        let pem =
            issue::authority("kubernetes", &ca_key, Validity { now, length: time::Duration::days(3650) }).unwrap();
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let mut pki = Self { ca: Cert::from_pem(pem.as_bytes()).unwrap(), ca_key, leaf: String::new(), key };
        pki.leaf_at(now, time::Duration::days(365));
        pki
    }

    /// Another server certificate.
    pub(crate) fn leaf_at(&mut self, now: OffsetDateTime, length: time::Duration) {
        let leaf = Leaf {
            path: "",
            signer: Authority::Cluster,
            common_name: "kube-apiserver".into(),
            organization: None,
            usage: Usage::Server,
            sans: vec![San::new("127.0.0.1"), San::new("::1")],
        };
        self.leaf = issue::leaf(&leaf, &self.key, &self.ca, &self.ca_key, Validity { now, length }).unwrap();
    }

    /// A client certificate and its key, PEM.
    pub(crate) fn client(&self, name: &str, group: &str) -> String {
        let leaf = Leaf {
            path: "",
            signer: Authority::Cluster,
            common_name: name.into(),
            organization: Some(group.into()),
            usage: Usage::Client,
            sans: Vec::new(),
        };
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let validity = Validity { now: OffsetDateTime::now_utc(), length: time::Duration::days(365) };
        let cert = issue::leaf(&leaf, &key, &self.ca, &self.ca_key, validity).unwrap();
        format!("{cert}{}", key.to_pem().unwrap().as_str())
    }

    fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(self.leaf.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.to_pem().unwrap().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.ca.der().to_vec())).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// ConfigMap cluster-info, made just now, signed for a token or for none.
pub(crate) fn cluster_info(pki: &Pki, token: Option<&Token>) -> String {
    cluster_info_of("https://api.example.org:6443", pki, token)
}

/// The same, naming another server.
pub(crate) fn cluster_info_of(server: &str, pki: &Pki, token: Option<&Token>) -> String {
    let config = Kubeconfig::cluster_info(server, pki.ca.to_pem().as_bytes());
    let text = crate::yaml::to_string(&config).unwrap();
    let mut map = json!({"kind": "ConfigMap", "metadata": {"name": "cluster-info"}, "data": {"kubeconfig": text}});
    if let Some(token) = token {
        map["data"][jws::key_for(token.id())] = jws::sign(text.as_bytes(), token).into();
    }
    map.to_string()
}

type Handler = dyn Fn(usize) -> (u16, String) + Send + Sync;
/// Is told who asks: `anonymous`, `bearer TOKEN`, or the name in the client's certificate.
type Route = dyn Fn(&str) -> (u16, String) + Send + Sync;

/// Answers the nth question with a status and a body.
pub(crate) struct Server {
    port: u16,
    handler: Arc<Mutex<Arc<Handler>>>,
    routes: Arc<Mutex<BTreeMap<String, Arc<Route>>>>,
    asked: Arc<AtomicUsize>,
    clock: Arc<Mutex<Option<OffsetDateTime>>>,
}

const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

impl Server {
    pub(crate) async fn start(pki: &Pki, answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::listen("0.0.0.0:0", pki, answer).await
    }

    /// On IPv6 loopback alone.
    pub(crate) async fn start_v6(pki: &Pki, answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::listen("[::1]:0", pki, answer).await
    }

    async fn listen(address: &str, pki: &Pki, answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            handler: Arc::new(Mutex::new(Arc::new(answer))),
            routes: Arc::default(),
            asked: Arc::default(),
            clock: Arc::default(),
        };
        let (acceptor, handler) = (pki.acceptor(), server.handler.clone());
        let (asked, clock, routes) = (server.asked.clone(), server.clock.clone(), server.routes.clone());
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
                let head = String::from_utf8(head).unwrap();
                let Some(path) = head.split(' ').nth(1) else { continue };
                let cert = tls.get_ref().1.peer_certificates().map(|all| Cert::from_der(&all[0]).unwrap());
                let who = match (cert, header(&head, "authorization")) {
                    (Some(cert), _) => cert.common_name().to_owned(),
                    (None, Some(value)) => value.replace("Bearer", "bearer"),
                    (None, None) => "anonymous".into(),
                };
                let route = routes.lock().unwrap().get(path).cloned();
                let handler = handler.lock().unwrap().clone();
                let (status, body) = match route {
                    Some(route) => route(&who),
                    None if path == CLUSTER_INFO => handler(asked.fetch_add(1, Ordering::SeqCst)),
                    None => (404, r#"{"kind":"Status"}"#.into()),
                };
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

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn answer(&self, answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Arc::new(answer);
    }

    /// Answers another path.
    pub(crate) fn on(&self, path: &str, answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) {
        self.routes.lock().unwrap().insert(path.to_owned(), Arc::new(answer));
    }

    /// Lets the server's clock stand at some time.
    pub(crate) fn clock(&self, at: OffsetDateTime) {
        *self.clock.lock().unwrap() = Some(at);
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Something that speaks no TLS.
pub(crate) async fn plain() -> String {
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
pub(crate) async fn silent() -> String {
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

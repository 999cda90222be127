//! A real etcd and a real kube-apiserver on loopback, of which a trial can be sure that nothing of the last one is left.
//!
//! The server takes the certificates that a trial makes: it reads its files again when they change. Objects lie in etcd
//! as JSON, so that what is there can be compared, and put back, in one go.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kprov_pki::inspect::Cert;
use kprov_pki::issue::{Validity, authority, leaf};
use kprov_pki::spec::{Authority, Leaf, San, Usage};
use kprov_pki::{Algorithm, Key};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// What is in etcd: key → JSON text.
pub(crate) type Objects = BTreeMap<String, String>;

pub(crate) struct Api {
    dir: tempfile::TempDir,
    host: IpAddr,
    port: u16,
    etcd_port: u16,
    http: reqwest::Client,
    /// What there was when the server had just started.
    pub(crate) baseline: Objects,
    // The server first: etcd is killed after it.
    _server: Process,
    _etcd: Process,
}

/// Killed when dropped, and (where setpriv is there) when this test is.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(dir: &Path, binary: &Path, args: &[String]) -> Process {
    let name = binary.file_name().unwrap().to_str().unwrap();
    let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
        command
    } else {
        Command::new(binary)
    };
    let child = command.args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
    Process(child.unwrap_or_else(|e| panic!("starting {}: {e}", binary.display())))
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Api {
    /// Starts both from the binaries `etcd` and `kube-apiserver` in a directory. `services` is the service subnet.
    pub(crate) async fn start(binaries: &Path, services: &str) -> Self {
        Self::start_at(binaries, services, Ipv4Addr::LOCALHOST.into(), free_port()).await
    }

    /// The same, with the API server at this address of this host.
    pub(crate) async fn start_at(binaries: &Path, services: &str, host: IpAddr, port: u16) -> Self {
        let dir = fast_dir();
        let (etcd_port, peer_port) = (free_port(), free_port());
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let args = [
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let etcd = spawn(dir.path(), &binaries.join("etcd"), &args);
        first_certificates(dir.path());
        let args = [
            format!("--etcd-servers={etcd_url}"),
            format!("--secure-port={port}"),
            format!("--bind-address={host}"),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--service-cluster-ip-range={services}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            format!("--client-ca-file={}", at("ca.crt")),
            format!("--tls-cert-file={}", at("apiserver.crt")),
            format!("--tls-private-key-file={}", at("apiserver.key")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--enable-bootstrap-token-auth=true".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--storage-media-type=application/json".to_owned(),
        ];
        let server = spawn(dir.path(), &binaries.join("kube-apiserver"), &args);
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        let mut api = Self { dir, host, port, etcd_port, http, baseline: Objects::new(), _server: server, _etcd: etcd };
        api.wait().await;
        api.baseline = api.objects().await;
        api
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }

    async fn wait(&self) {
        let since = Instant::now();
        let mut stable = 0;
        let mut last = Objects::new();
        loop {
            // Ready, and no start-up hook makes anything any more.
            if self.get("/readyz").await.is_some_and(|(status, _)| status == 200) {
                let now = self.objects().await;
                stable = if now == last && now.len() > 50 { stable + 1 } else { 0 };
                last = now;
                if stable >= 5 {
                    return;
                }
            }
            assert!(
                since.elapsed() < Duration::from_secs(120),
                "no API: see {}\n{}",
                self.dir.path().display(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("kube-apiserver.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// GET without verifying the server, as a health probe does.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        let response = self.http.get(format!("{}{path}", self.url())).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// Lets the server use these certificates, as if it had been started with them; returns when it does.
    pub(crate) async fn serve_with(&self, ca: &[u8], cert: &[u8], key: &[u8]) {
        let dir = self.dir.path();
        if std::fs::read(dir.join("ca.crt")).unwrap() == ca && std::fs::read(dir.join("apiserver.crt")).unwrap() == cert
        {
            return;
        }
        // The certificate last: while it does not fit its key the server goes on with the old pair.
        for (name, content) in [("ca.crt", ca), ("apiserver.key", key), ("apiserver.crt", cert)] {
            let beside = dir.join(format!("{name}.new"));
            std::fs::write(&beside, content).unwrap();
            std::fs::rename(&beside, dir.join(name)).unwrap();
        }
        let trusting = trusting(ca).build().unwrap();
        let since = Instant::now();
        while trusting.get(format!("{}/readyz", self.url())).send().await.is_err() {
            assert!(since.elapsed() < Duration::from_secs(90), "new certificates are not taken\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a Node as its kubelet does; there already is as good.
    pub(crate) async fn register(&self, name: &str, ca: &[u8], identity: &[u8]) {
        let client = trusting(ca).identity(reqwest::Identity::from_pem(identity).unwrap()).build().unwrap();
        // By this label kubeadm sees that the kubelet has told about itself.
        let labels = json!({"kubernetes.io/hostname": name});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        let url = format!("{}/api/v1/nodes", self.url());
        // The server takes the CA of its clients a moment after its own certificate.
        let since = Instant::now();
        loop {
            let failed = match client.post(&url).json(&node).send().await {
                Ok(answer) if matches!(answer.status().as_u16(), 201 | 409) => return,
                Ok(answer) => format!("{} {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(e) => format!("{e:?}"),
            };
            assert!(since.elapsed() < Duration::from_secs(90), "registering {name}: {failed}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All objects.
    pub(crate) async fn objects(&self) -> Objects {
        let range = json!({"key": b64("/registry/"), "range_end": b64("/registry0")});
        let answer = self.etcd("range", &range).await;
        let pairs = answer["kvs"].as_array().cloned().unwrap_or_default();
        pairs.iter().map(|pair| (text(&pair["key"]), text(&pair["value"]))).collect()
    }

    /// Makes all objects what they were when the server had just started.
    pub(crate) async fn start_over(&self) {
        let wanted = self.baseline.clone();
        self.become_(&wanted).await;
    }

    /// Makes all objects these. Services go before their addresses, which the server would give back to them; until
    /// nothing comes back any more.
    pub(crate) async fn become_(&self, wanted: &Objects) {
        loop {
            let now = self.objects().await;
            let mut gone: Vec<_> = now.keys().filter(|key| !wanted.contains_key(*key) && !transient(key)).collect();
            gone.sort_by_key(|key| !key.starts_with("/registry/services/"));
            let other: Vec<_> =
                wanted.iter().filter(|(key, value)| now.get(*key) != Some(*value) && !transient(key)).collect();
            if gone.is_empty() && other.is_empty() {
                return;
            }
            for key in gone {
                self.etcd("deleterange", &json!({"key": b64(key)})).await;
            }
            for (key, value) in other {
                self.etcd("put", &json!({"key": b64(key), "value": b64(value)})).await;
            }
        }
    }

    async fn etcd(&self, call: &str, body: &Value) -> Value {
        let url = format!("http://127.0.0.1:{}/v3/kv/{call}", self.etcd_port);
        match self.http.post(url).body(body.to_string()).send().await {
            Ok(response) => serde_json::from_str(&response.text().await.unwrap()).unwrap(),
            Err(_) => Value::Null,
        }
    }
}

/// What the server starts with; a trial brings its own.
fn first_certificates(dir: &Path) {
    let validity = Validity { now: OffsetDateTime::now_utc(), length: time::Duration::days(1) };
    let key = || Key::generate(Algorithm::EcdsaP256).unwrap();
    let (ca_key, server_key, tokens) = (key(), key(), key());
    let ca = authority("first", &ca_key, validity).unwrap();
    let server = Leaf {
        path: "",
        signer: Authority::Cluster,
        common_name: "first".to_owned(),
        organization: None,
        usage: Usage::Server,
        sans: vec![San::new("127.0.0.1")],
    };
    let cert = leaf(&server, &server_key, &Cert::from_pem(ca.as_bytes()).unwrap(), &ca_key, validity).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("ca.crt", &ca);
    write("apiserver.crt", &cert);
    write("apiserver.key", &server_key.to_pem().unwrap());
    write("sa.key", &tokens.to_pem().unwrap());
    write("sa.pub", &tokens.public_pem());
}

/// Objects that the server itself writes all the time.
pub(crate) fn transient(key: &str) -> bool {
    ["/registry/leases/", "/registry/masterleases/", "/registry/peerserverleases/", "/registry/events/"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(&STANDARD.decode(value.as_str().unwrap()).unwrap()).into_owned()
}

/// A client that trusts this authority alone.
fn trusting(ca: &[u8]) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(ca).unwrap()])
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(5))
}

/// In memory where possible: what is tested here is the order of things, not the disk.
pub(crate) fn fast_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() && tempfile::tempfile_in(shm).is_ok() {
        tempfile::Builder::new().prefix("kprov-crash-").tempdir_in(shm).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

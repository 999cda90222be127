//! A machine in memory on which Kubernetes seems to run, and a real API behind it.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use kprov::bundle::locate::Found;
use kprov::bundle::sets::Set;
use kprov::cluster::flags::InitFlags;
use kprov::cluster::kubeadm::Timeouts;
use kprov::cluster::{Cluster, load_init};
use kprov::facts::{Answers, Facts, gather};
use kprov_pki::inspect::Cert;
use kprov_pki::issue::Validity;
use kprov_pki::kubeconfig::{Kubeconfig, User};
use kprov_pki::pin::Pin;
use kprov_pki::spec::{Leaf, Usage};
use kprov_pki::token::Token;
use kprov_pki::{Algorithm, Key, jws};
use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::machine::{Command, Exit, UnitVerb};
use serde_json::Value;
use time::OffsetDateTime;

use crate::api::{Api, Objects};
use crate::run::{Kill, Run};
use crate::{plans, synthetic};

/// Name of the machine that joins.
const WORKER: &str = "worker-1";

pub(crate) struct World {
    pub(crate) api: Arc<Api>,
    pub(crate) cluster: Cluster,
    pub(crate) facts: Facts,
    pub(crate) bundle: Found,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn start(binaries: &Path) -> Self {
        let api = Arc::new(Api::start(binaries, "10.96.0.0/12").await);
        let dir = crate::api::fast_dir();
        let bundle = synthetic::bundle(dir.path());
        let facts = facts(&bare("cp-1")).await;
        let flags = InitFlags {
            apiserver_advertise_address: Some("192.0.2.10".to_owned()),
            apiserver_bind_port: Some(api.port()),
            ..InitFlags::default()
        };
        let cluster = load_init(&flags, None, None, &facts, &bundle.manifest);
        let mut cluster = cluster.unwrap_or_else(|problems| panic!("{problems}"));
        // No other machine is to reach it.
        let endpoint = cluster.init.local_api_endpoint.get_or_insert_default();
        endpoint.advertise_address = Some("127.0.0.1".to_owned());
        // Nothing here takes long: what does not come soon does not come.
        let soon = Some("20s".to_owned());
        cluster.init.timeouts = Some(Timeouts {
            control_plane_component_health_check: soon.clone(),
            kubelet_health_check: soon.clone(),
            kubernetes_api_call: soon,
            ..cluster.init.timeouts.unwrap_or_default()
        });
        Self { api, cluster, facts, bundle, _dir: dir }
    }

    /// A bare machine. Its components answer their health ports when what the kubelet would start them from is there.
    pub(crate) fn machine(&self) -> FakeMachine {
        let machine = self.with_programs("cp-1");
        let api = self.api.clone();
        machine.on_probe(move |machine, url| {
            let api = api.clone();
            async move { probe(&machine, &api, &url).await }.boxed()
        });
        machine
    }

    /// A bare machine whose programs answer when they are run.
    fn with_programs(&self, name: &str) -> FakeMachine {
        let machine = bare(name);
        give_programs(&machine, &self.bundle);
        machine
    }
}

/// Lets a machine's programs answer when they are run.
pub(crate) fn give_programs(machine: &FakeMachine, bundle: &Found) {
    machine.on_unit(|machine, name, verb| {
        if name == "containerd.service" && matches!(verb, UnitVerb::Start | UnitVerb::Restart) {
            machine.put("/run/containerd/containerd.sock", "");
        }
        Ok(())
    });
    machine.on("modprobe", |_, _| Ok(Exit::default()));
    machine.on("ip", |_, _| Ok(Exit::default()));
    machine.on("/usr/local/bin/crictl", |_, _| Ok(Exit::default()));
    let ctr = bundle.manifest.files.iter().find(|file| file.path.ends_with("/ctr")).unwrap();
    let ctr = format!("{}/files/{}", kprov::bundle::steps::folder(&bundle.id), ctr.sha256().unwrap());
    let images: Vec<(String, String)> =
        bundle.manifest.images.iter().map(|image| (image.name.clone(), image.digest.clone())).collect();
    machine.on(&ctr, move |machine, command| Ok(answer_ctr(machine, command, &images)));
}

/// A cluster that init has made, with a worker's way in.
pub(crate) struct ServedCluster {
    pub(crate) token: Token,
    pub(crate) pin: Pin,
    pub(crate) facts: Facts,
    objects: Objects,
    kubelet: Arc<Authority>,
}

/// Who signs the kubelet's certificate, in the place of the controller manager.
struct Authority {
    ca: Vec<u8>,
    key: Vec<u8>,
}

impl ServedCluster {
    pub(crate) async fn make(world: &World) -> Self {
        world.api.start_over().await;
        let dir = crate::api::fast_dir();
        let mut init = Run::new(world.machine(), dir.path());
        let plan = plans::init(world, &init.machine);
        assert!(init.plan("init", &plan, Kill::Never).await.unwrap().ok());
        let mut objects = world.api.objects().await;
        let token = token(&objects);
        sign(&mut objects, &token);
        world.api.become_(&objects).await;
        let read = |name: &str| init.machine.read(&format!("/etc/kubernetes/pki/{name}")).unwrap().unwrap();
        let kubelet = Arc::new(Authority { ca: read("ca.crt"), key: read("ca.key") });
        let pin = Pin::of(&Cert::from_pem(&kubelet.ca).unwrap());
        Self { token, pin, facts: facts(&bare(WORKER)).await, objects, kubelet }
    }

    /// All objects as they were when the cluster was made.
    pub(crate) async fn restore(&self, world: &World) {
        world.api.become_(&self.objects).await;
    }

    /// A bare machine whose kubelet, once it runs, gets a certificate and registers its Node.
    pub(crate) fn worker(&self, world: &World) -> FakeMachine {
        let machine = world.with_programs(WORKER);
        let (api, authority) = (world.api.clone(), self.kubelet.clone());
        machine.on_probe(move |machine, url| {
            let (api, authority) = (api.clone(), authority.clone());
            async move {
                let active = machine.unit("kubelet.service").await.ok()?.active == "active";
                if !active || !url.contains(":10248/") {
                    return None;
                }
                authority.bootstrap(&machine, &api).await;
                Some((200, "ok".to_owned()))
            }
            .boxed()
        });
        machine
    }

    pub(crate) async fn must_know_that_the_worker_is_gone(&self, world: &World) {
        let objects = world.api.objects().await;
        let node: Value = serde_json::from_str(&objects[&format!("/registry/minions/{WORKER}")]).unwrap();
        let ready = node["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["status"], "False", "{node}");
    }
}

impl Authority {
    /// What the kubelet does with its bootstrap kubeconfig, and, where it has been there before, without.
    async fn bootstrap(&self, machine: &FakeMachine, api: &Api) {
        let (conf, pem) = ("/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/pki/kubelet-client-current.pem");
        if machine.read(conf).ok().flatten().is_none() {
            let text = machine.read("/etc/kubernetes/bootstrap-kubelet.conf").ok().flatten();
            let text = String::from_utf8(text.expect("no bootstrap kubeconfig when the kubelet starts")).unwrap();
            let server = text.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap().trim_matches('"');
            machine.put(pem, self.identity());
            let config = Kubeconfig::new("default-cluster", server, &self.ca, "default-auth", User::file(pem));
            machine.put(conf, kprov::yaml::to_string(&config).unwrap());
        }
        let identity = machine.read(pem).ok().flatten().expect("kubelet.conf without its certificate");
        api.register(WORKER, &self.ca, &identity).await;
    }

    fn identity(&self) -> String {
        let key = Key::generate(Algorithm::EcdsaP256).unwrap();
        let leaf = Leaf {
            path: "",
            signer: kprov_pki::spec::Authority::Cluster,
            common_name: format!("system:node:{WORKER}"),
            organization: Some("system:nodes".to_owned()),
            usage: Usage::Client,
            sans: Vec::new(),
        };
        let validity = Validity { now: OffsetDateTime::now_utc(), length: time::Duration::days(1) };
        let (ca, ca_key) = (Cert::from_pem(&self.ca).unwrap(), Key::from_pem(&self.key).unwrap());
        let cert = kprov_pki::issue::leaf(&leaf, &key, &ca, &ca_key, validity).unwrap();
        cert + key.to_pem().unwrap().as_str()
    }
}

/// The token that init made.
fn token(objects: &Objects) -> Token {
    let (_, secret) = objects.iter().find(|(key, _)| key.contains("/kube-system/bootstrap-token-")).unwrap();
    let secret: Value = serde_json::from_str(secret).unwrap();
    let field = |name: &str| {
        let bytes = STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    format!("{}.{}", field("token-id"), field("token-secret")).parse().unwrap()
}

/// What the controller manager adds to cluster-info.
fn sign(objects: &mut Objects, token: &Token) {
    let info = objects.get_mut("/registry/configmaps/kube-public/cluster-info").unwrap();
    let mut value: Value = serde_json::from_str(info).unwrap();
    let signature = jws::sign(value["data"]["kubeconfig"].as_str().unwrap().as_bytes(), token);
    value["data"][jws::key_for(token.id())] = signature.into();
    *info = value.to_string();
}

/// A machine with what planning asks for.
pub(crate) fn bare(name: &str) -> FakeMachine {
    let machine = FakeMachine::new();
    machine.put("/proc/sys/kernel/hostname", format!("{name}\n"));
    for (path, text) in [
        ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0\n"),
        ("/proc/sys/kernel/osrelease", "6.1.0\n"),
        ("/etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
        ("/etc/resolv.conf", "nameserver 192.0.2.1\n"),
        ("/proc/self/status", "Cpus_allowed_list:\t0-1\nCapBnd:\t000001ffffffffff\n"),
        ("/proc/sys/kernel/cap_last_cap", "40\n"),
        ("/proc/meminfo", "MemTotal:        4000000 kB\n"),
        ("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
    ] {
        machine.put(path, text);
    }
    machine
}

async fn facts(machine: &FakeMachine) -> Facts {
    let answers = Answers { root: true, nftables: true, sources: vec![[192, 0, 2, 10].into()], ..Answers::default() };
    gather(machine, answers, &|_| false, None).await.unwrap()
}

/// What containerd has lies in its directory, a file for each image.
fn answer_ctr(machine: &FakeMachine, command: &Command, images: &[(String, String)]) -> Exit {
    let store = "/var/lib/containerd/images";
    let words: Vec<&str> = command.args.iter().map(String::as_str).collect();
    let file = |name: &str| format!("{store}/{}", name.replace('/', "_"));
    if words.contains(&"import") {
        let archive = words.last().copied().unwrap_or_default();
        for (name, digest) in images.iter().filter(|(name, _)| archive.ends_with(&Set::of(name).archive())) {
            machine.put(&file(name), format!("{name} type {digest} 1 MiB linux/amd64 io.cri-containerd.pinned=pinned"));
        }
    }
    let known = images.iter().filter_map(|(name, digest)| Some((name, digest, machine.read(&file(name)).ok()??)));
    let lines: Vec<String> = known
        .map(|(name, digest, line)| match words.contains(&"check") {
            true => format!("{name} type {digest} complete (1/1) 1 MiB/1 MiB true"),
            false => String::from_utf8(line).unwrap(),
        })
        .collect();
    Exit { stdout: lines.join("\n").into_bytes(), ..Exit::default() }
}

async fn probe(machine: &FakeMachine, api: &Api, url: &str) -> Option<(u16, String)> {
    let there = |path: &str| machine.meta(path).ok().flatten().is_some();
    let manifest = |name: &str| there(&format!("/etc/kubernetes/manifests/{name}.yaml"));
    let fine = Some((200, "ok".to_owned()));
    if machine.unit("kubelet.service").await.ok()?.active != "active" {
        return None;
    }
    let port = url.rsplit(':').next()?.split('/').next()?;
    match port {
        "10248" => fine,
        "10257" if manifest("kube-controller-manager") => fine,
        "10259" if manifest("kube-scheduler") => fine,
        "2381" | "2379" if manifest("etcd") => fine,
        port if port == api.port().to_string() && manifest("kube-apiserver") && manifest("etcd") => {
            serve(machine, api, "/etc/kubernetes/pki", "cp-1").await
        }
        _ => None,
    }
}

/// The API server with this machine's certificates, and the kubelet, which registers its Node with its own.
pub(crate) async fn serve(machine: &FakeMachine, api: &Api, pki: &str, node: &str) -> Option<(u16, String)> {
    let read = |name: &str| machine.read(&format!("{pki}/{name}")).ok().flatten();
    let ca = read("ca.crt")?;
    api.serve_with(&ca, &read("apiserver.crt")?, &read("apiserver.key")?).await;
    let answer = api.get("/livez").await?;
    let identity = machine.read("/var/lib/kubelet/pki/kubelet-client-current.pem").ok().flatten()?;
    api.register(node, &ca, &identity).await;
    Some(answer)
}

//! A machine in memory on which Kubernetes seems to run, and a real API behind it.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use kprov::bundle::locate::Found;
use kprov::cluster::flags::InitFlags;
use kprov::cluster::kubeadm::Timeouts;
use kprov::cluster::{Cluster, load_init};
use kprov::facts::{Answers, Facts, gather};
use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::machine::{Command, Exit, UnitVerb};

use crate::api::Api;
use crate::synthetic;

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
        let facts = facts(&bare()).await;
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
        let machine = bare();
        let api = self.api.clone();
        machine.on_probe(move |machine, url| {
            let api = api.clone();
            async move { probe(&machine, &api, &url).await }.boxed()
        });
        machine.on_unit(|machine, name, verb| {
            if name == "containerd.service" && matches!(verb, UnitVerb::Start | UnitVerb::Restart) {
                machine.put("/run/containerd/containerd.sock", "");
            }
            Ok(())
        });
        machine.on("modprobe", |_, _| Ok(Exit::default()));
        machine.on("ip", |_, _| Ok(Exit::default()));
        machine.on("/usr/local/bin/crictl", |_, _| Ok(Exit::default()));
        let ctr = self.bundle.manifest.files.iter().find(|file| file.path.ends_with("/ctr")).unwrap();
        let ctr = format!("{}/files/{}", kprov::bundle::steps::folder(&self.bundle.id), ctr.sha256().unwrap());
        let images: Vec<(String, String)> =
            self.bundle.manifest.images.iter().map(|image| (image.name.clone(), image.digest.clone())).collect();
        machine.on(&ctr, move |machine, command| Ok(answer_ctr(machine, command, &images)));
        machine
    }
}

/// A machine with what planning asks for.
fn bare() -> FakeMachine {
    let machine = FakeMachine::new();
    for (path, text) in [
        ("/proc/sys/kernel/hostname", "cp-1\n"),
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
        for (name, digest) in images {
            machine.put(&file(name), format!("{name} type {digest} 1 MiB linux/amd64 io.cri-containerd.pinned=pinned"));
        }
    }
    let known = images.iter().filter_map(|(name, _)| machine.read(&file(name)).ok().flatten());
    let lines: Vec<String> = known.map(|line| String::from_utf8(line).unwrap()).collect();
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
            serve(machine, api).await
        }
        _ => None,
    }
}

/// The API server with this machine's certificates, and the kubelet, which registers its Node with its own.
async fn serve(machine: &FakeMachine, api: &Api) -> Option<(u16, String)> {
    let read = |name: &str| machine.read(&format!("/etc/kubernetes/pki/{name}")).ok().flatten();
    let ca = read("ca.crt")?;
    api.serve_with(&ca, &read("apiserver.crt")?, &read("apiserver.key")?).await;
    let answer = api.get("/livez").await?;
    let identity = machine.read("/var/lib/kubelet/pki/kubelet-client-current.pem").ok().flatten()?;
    api.register("cp-1", &ca, &identity).await;
    Some(answer)
}

//! Two bare machines; `kprov init` and `kprov join` typed there over ssh; a workload; a power cut; reset; init again.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::host::{Clock, Host};
use crate::image;
use crate::kubectl::{Kubectl, name, ready, wait};
use crate::remote::Remote;
use crate::tree::Tree;
use crate::watch::Watch;
use crate::{secrets, tls};

/// How long nodes and system pods may take until they are Ready.
const READY: Duration = Duration::from_secs(180);

/// How long after its pods are Ready a Service may take until it answers.
const ANSWER: Duration = Duration::from_secs(20);

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut machines = host.bare("bare", &["cp-1", "worker-1"])?;
    let (cp, worker) = (machines.remote("cp-1")?, machines.remote("worker-1")?);
    for machine in [&cp, &worker] {
        bring(host, machine)?;
    }
    let addresses = (machines.address("cp-1")?, machines.address("worker-1")?);
    let before = (Tree::of(&cp, &addresses.0)?, Tree::of(&worker, &addresses.1)?);
    let mut clock = Clock::new();
    tls::joiner(host, &worker, &addresses.1)?;
    clock.lap("join turns away from TLS 1.1");

    secrets::dry_run(&cp)?;
    clock.lap("init --dry-run with a token");

    let watch = Watch::start();
    let joining = cp.run("/root/kprov init 2>&1")?;
    clock.lap("init");
    let line = join_line(&joining)?;
    let planned = worker.run(&format!("/root/kprov join {line} --dry-run 2>&1"))?;
    clock.lap("join --dry-run");
    fails_closed(&worker, &line)?;
    Tree::of(&worker, &addresses.1)?.same_as(&before.1).context("the worker after joins that were refused")?;
    clock.lap("join turns away from a wrong hash and a wrong token, and leaves nothing");
    let joined = worker.run(&format!("/root/kprov join {line} 2>&1"))?;
    clock.lap("join");
    let kubectl = Kubectl(cp.clone());
    kubectl.wait_all_ready(2, READY)?;
    clock.lap("all nodes and system pods Ready");
    again_changes_nothing(&cp)?;
    join_again_changes_nothing(&kubectl, &worker, &line)?;
    clock.lap("init and join again, nothing to do");
    let seen = watch.end(&["/root/kprov init", "/root/kprov join "])?;
    let token = line.split(' ').skip_while(|word| *word != "--token").nth(1).context("no token in the join line")?;
    let dry = cp.run("/root/kprov init --dry-run 2>&1; /root/kprov reset --force --dry-run 2>&1")?;
    let said = unasked(&joining) + &planned + &joined + &dry + &kubectl.run("get events -A -o json")? + &seen;
    for (machine, address, before) in [(&cp, &addresses.0, &before.0), (&worker, &addresses.1, &before.1)] {
        secrets::check(machine, before, &Tree::of(machine, address)?, token, &said)?;
    }
    clock.lap("modes and owners of all new files; no secret in the open");
    wait(READY, || tls::servers(&addresses.0, tls::CONTROL_PLANE))?;
    wait(READY, || tls::servers(&addresses.1, tls::WORKER))?;
    clock.lap("no port speaks TLS 1.1");

    let nodes = (machines.hostname("cp-1"), machines.hostname("worker-1"));
    workload(host, &kubectl, &[(&cp, LOAD), (&worker, LOAD)], &nodes, Duration::from_secs(60), true)?;
    network(&kubectl, &nodes, &addresses, ANSWER, true)?;
    clock.lap("DNS, ClusterIP, NodePort and hostPort across nodes");

    power_cut(&mut machines, &kubectl, &nodes)?;
    clock.lap("power cut of the worker, its pod is back");

    reset_while_queued(&worker)?;
    cp.run("/root/kprov reset --force 2>&1")?;
    clock.lap("reset of both, of one whose kubelet was about to be started by its boot");
    Tree::of(&worker, &addresses.1)?.same_as(&before.1).context("the worker after its reset")?;
    Tree::of(&cp, &addresses.0)?.same_as(&before.0).context("the control plane after its reset")?;
    clock.lap("both as before");
    let events = cp.run("/root/kprov init -o json 2>&1")?;
    ensure!(events.contains("kprov join "), "init after reset prints no join line:\n{events}");
    secrets::unsaid(&secrets::secrets(&|command| cp.run(command), None)?, &unasked(&events))?;
    kubectl.wait_all_ready(1, READY)?;
    clock.lap("init again as JSON without a secret, Ready");
    Ok(())
}

/// A reset right after a boot: the kubelet's start is queued behind another unit's, which is over in the middle of the
/// reset. The kubelet does not start.
fn reset_while_queued(machine: &Remote) -> anyhow::Result<()> {
    machine.run(
        "systemctl stop kubelet && cd /run/systemd/system && mkdir kubelet.service.d && \
         printf '[Unit]\nAfter=slow.service\n[Service]\nExecStartPre=/bin/touch /run/started\n' >kubelet.service.d/slow.conf && \
         printf '[Service]\nType=oneshot\nTimeoutStartSec=60\nExecStart=/bin/sh -c \
         \"while pgrep -x kube-proxy; do sleep 0.02; done\"\n' >slow.service && \
         systemctl daemon-reload && systemctl start --no-block slow.service kubelet.service",
    )?;
    let jobs = machine.run("systemctl list-jobs")?;
    ensure!(jobs.contains("kubelet.service"), "the kubelet's start is not queued, this is no test:\n{jobs}");
    machine.run("/root/kprov reset --force 2>&1")?;
    let slow = machine.run("systemctl is-active slow.service || true")?;
    ensure!(slow.trim() == "inactive", "what the kubelet waits for is {}, this is no test", slow.trim());
    machine.run("test ! -e /run/started").context("the kubelet was started in the middle of a reset")?;
    machine.run("cd /run/systemd/system && rm -r kubelet.service.d slow.service && systemctl daemon-reload")?;
    Ok(())
}

/// Without the line to join with, which holds a token because it was asked for.
fn unasked(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.contains("kprov join "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// What follows `kprov join ` in what init says.
pub fn join_line(said: &str) -> anyhow::Result<String> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("kprov join "));
    line.map(str::to_owned).with_context(|| format!("init prints no join line:\n{said}"))
}

/// With a wrong hash of the CA, and with a wrong secret half of the token: one clear error, and nothing else.
fn fails_closed(worker: &Remote, line: &str) -> anyhow::Result<()> {
    // The last digit becomes another one.
    let other = |word: &str| {
        let (start, last) = word.split_at(word.len() - 1);
        format!("{start}{}", if last == "0" { "1" } else { "0" })
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1).copied();
    let hash = after("--discovery-token-ca-cert-hash").context("no hash in the join line")?;
    let token = after("--token").context("no token in the join line")?;
    for (right, error) in [(hash, "the CA hash does not match"), (token, "was not made with the secret half")] {
        let wrong = line.replace(right, &other(right));
        let output = worker.output(&format!("/root/kprov join {wrong} 2>&1"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1), "join with something wrong ends with {}:\n{said}", output.status);
        ensure!(said.contains(error), "join does not say {error:?}:\n{said}");
    }
    Ok(())
}

/// kprov and the bundle, beside each other, as a user would bring them.
pub fn bring(host: &Host, machine: &Remote) -> anyhow::Result<()> {
    machine.upload(&host.kprov, "/root/kprov", "755")?;
    let name = host.bundle.file_name().and_then(|name| name.to_str()).context("the bundle has no name")?;
    machine.upload(&host.bundle, &format!("/root/{name}"), "644")
}

fn again_changes_nothing(cp: &Remote) -> anyhow::Result<()> {
    let before = cp.run("sha256sum /var/lib/kprov/journal.jsonl")?;
    let said = cp.run("/root/kprov init 2>&1")?;
    ensure!(said.contains("nothing to do"), "a second init does not say that there is nothing to do:\n{said}");
    ensure!(cp.run("sha256sum /var/lib/kprov/journal.jsonl")? == before, "a second init wrote into the journal");
    Ok(())
}

/// Also when the cluster's kubelet-config is another one meanwhile: that is told, and the node keeps what it has.
fn join_again_changes_nothing(kubectl: &Kubectl, worker: &Remote, line: &str) -> anyhow::Result<()> {
    let sums = "sha256sum /var/lib/kprov/journal.jsonl /var/lib/kubelet/config.yaml";
    let before = worker.run(sums)?;
    let again = || worker.run(&format!("/root/kprov join {line} 2>&1"));
    let said = again()?;
    ensure!(said.contains("nothing to do") && !said.contains("has changed"), "a second join says:\n{said}");
    let map = kubectl.get("-n kube-system configmap kubelet-config")?;
    let config = map["data"]["kubelet"].as_str().context("no kubelet in kubelet-config")?;
    let put = |config: &str| {
        let patch = json!({"data": {"kubelet": config}});
        kubectl.0.run(&format!("cat >/root/patch.json <<'E'\n{patch}\nE"))?;
        kubectl.run("-n kube-system patch configmap kubelet-config --type merge --patch-file /root/patch.json")?;
        kubectl.0.run("rm /root/patch.json")
    };
    ensure!(!config.contains("maxPods"), "kubelet-config names maxPods already:\n{config}");
    put(&format!("{}\nmaxPods: 42\n", config.trim_end()))?;
    let said = again();
    put(config)?;
    let said = said?;
    let told =
        said.contains("nothing to do") && said.contains("the cluster has changed since") && said.contains("maxPods");
    ensure!(told, "a second join after the cluster's kubelet-config changed says:\n{said}");
    ensure!(worker.run(sums)? == before, "a second join changed something");
    Ok(())
}

/// Brings an image onto a node, by kprov.
pub const LOAD: &str = "/root/kprov image load";

/// The image onto both nodes, each by its own command, then the pods and services, with `hostPort` or without; waits
/// until the pods are Ready.
pub fn workload(
    host: &Host,
    kubectl: &Kubectl,
    all: &[(&Remote, &str)],
    nodes: &(String, String),
    limit: Duration,
    host_port: bool,
) -> anyhow::Result<()> {
    let archive = host.state("probe.tar");
    image::write(&host.probe, &archive)?;
    for (machine, load) in all {
        machine.upload(&archive, "/root/probe.tar", "644")?;
        machine.run(&format!("{load} /root/probe.tar 2>&1 && rm /root/probe.tar"))?;
    }
    let mut manifest = include_str!("workload.yaml").replace("NODE_CP", &nodes.0).replace("NODE_WORKER", &nodes.1);
    if !host_port {
        manifest = manifest.replace(", hostPort: 8081", "");
    }
    let path = host.state("workload.yaml");
    std::fs::write(&path, manifest)?;
    kubectl.0.upload(&path, "/root/workload.yaml", "644")?;
    kubectl.run("apply -f /root/workload.yaml")?;
    wait(limit, || {
        for pod in ["web-cp", "web-worker", "client-cp", "client-worker"] {
            let found = kubectl.get(&format!("pod {pod}"))?;
            ensure!(ready(&found), "pod {} is not Ready: {}", name(&found), found["status"]);
        }
        Ok(())
    })
}

/// From a pod on each node to the server on the other one: by its own address, by name, by NodePort of both nodes, by
/// hostPort where there is one.
pub fn network(
    kubectl: &Kubectl,
    nodes: &(String, String),
    addresses: &(String, String),
    limit: Duration,
    host_port: bool,
) -> anyhow::Result<()> {
    for (client, server, node, address) in
        [("client-cp", "web-worker", &nodes.1, &addresses.1), ("client-worker", "web-cp", &nodes.0, &addresses.0)]
    {
        let port = if server == "web-cp" { 30080 } else { 30081 };
        let service = kubectl.get(&format!("service {server}"))?;
        let wanted = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        let name = format!("{server}.default.svc.cluster.local");
        wait(limit, || {
            let found = kubectl.run(&format!("exec {client} -- /probe resolve {name}"))?;
            ensure!(found.trim() == wanted, "DNS in {client} says {name} is {found}, its ClusterIP is {wanted}");
            Ok(())
        })?;
        let pod = kubectl.get(&format!("pod {server}"))?;
        let pod = pod["status"]["podIP"].as_str().context("the pod has no address")?.to_owned();
        let ways = [
            ("the pod's own address", format!("{pod}:8080")),
            ("ClusterIP by name", format!("{server}:80")),
            ("NodePort of cp", format!("{}:{port}", addresses.0)),
            ("NodePort of worker", format!("{}:{port}", addresses.1)),
            ("hostPort", format!("{address}:8081")),
        ];
        for (what, target) in ways.into_iter().filter(|(what, _)| host_port || *what != "hostPort") {
            fetch(kubectl, client, &target, node, limit).with_context(|| format!("{what}: {target} from {client}"))?;
        }
    }
    Ok(())
}

/// GET from a pod; the answer must come from the server on that node.
fn fetch(kubectl: &Kubectl, client: &str, target: &str, node: &str, limit: Duration) -> anyhow::Result<()> {
    wait(limit, || {
        let page = kubectl.run(&format!("exec {client} -- /probe get {target}"))?;
        ensure!(page.trim() == format!("from {node}"), "answered: {page}");
        Ok(())
    })
}

/// The worker loses its power and comes back: the same pod, restarted once, and its Service answers from the other node.
fn power_cut(machines: &mut crate::host::Bare<'_>, kubectl: &Kubectl, nodes: &(String, String)) -> anyhow::Result<()> {
    let before = kubectl.get("pod web-worker")?;
    machines.power_cut("worker-1")?;
    machines.start("worker-1")?;
    wait(Duration::from_secs(120), || {
        let after = kubectl.get("pod web-worker")?;
        ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "the pod is another one");
        let restarts = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        ensure!(restarts(&after) == restarts(&before).map(|n| n + 1), "restartCount {:?}", restarts(&after));
        ensure!(ready(&after), "not Ready: {}", after["status"]);
        Ok(())
    })?;
    fetch(kubectl, "client-cp", "web-worker:80", &nodes.1, ANSWER)
}

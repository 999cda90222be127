//! kprov and the real kubeadm: two machines of the same documents, compared; then on each other's clusters: join, flannel,
//! pods that reach each other, reset, join and init again at once, and kubeadm's commands that look at a cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::bare::{bring, network, workload};
use crate::foreign::Kit;
use crate::host::{Bare, Clock, Host};
use crate::kubectl::{Kubectl, items, name, ready, wait};
use crate::remote::Remote;
use crate::twins::{Twin, same};

const READY: Duration = Duration::from_secs(180);
/// How long pods may take to reach each other.
const MEET: Duration = Duration::from_secs(60);
/// Takes back with kprov what either tool made.
pub const OUR_RESET: &str = "/root/kprov reset --force 2>&1";
/// The same with kubeadm.
pub const THEIR_RESET: &str = "kubeadm reset --force 2>&1";
/// Brings an image onto a node without kprov.
const CTR: &str = "ctr -n k8s.io images import";
/// What of kubeadm's preflight a machine on this host cannot fulfil.
pub const IGNORE: &str = "--ignore-preflight-errors=SystemVerification,Swap,NumCPU,Mem";
/// Where kubeadm's documents are put.
pub const CONFIG: &str = "/root/kubeadm.yaml";

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let kit = Kit::prepare(host)?;
    let machines = host.bare("interop", &["cp-1", "worker-1"])?;
    let (cp, worker) = (machines.remote("cp-1")?, machines.remote("worker-1")?);
    bring(host, &cp)?;
    cp.upload(&host.kubeadm, "/root/kubeadm", "755")?;
    kit.install(&worker)?;
    clock.lap("machines, one of them as users of kubeadm have it");

    let line = twins(&machines, &cp, &worker)?;
    clock.lap("kprov init and kubeadm init of the same documents: the same machines");
    let plugins = worker.run("ls -A /opt/cni/bin /etc/cni/net.d 2>/dev/null; true")?;
    ensure!(
        !plugins.contains("bridge") && !plugins.contains("list"),
        "the machine has a pod network before: {plugins}"
    );
    worker.run("kubeadm reset --force 2>&1")?;
    worker.run(&format!("kubeadm join {line} {IGNORE} 2>&1"))?;
    let kubectl = Kubectl(cp.clone());
    kubectl.wait_all_ready(2, READY)?;
    clock.lap("kubeadm reset of its own, kubeadm join to ours at once: all Ready");
    let nodes = (machines.hostname("cp-1"), machines.hostname("worker-1"));
    let addresses = (machines.address("cp-1")?, machines.address("worker-1")?);
    let meet = || {
        workload(host, &kubectl, &[(&cp, CTR), (&worker, CTR)], &nodes, MEET, false)?;
        network(&kubectl, &nodes, &addresses, MEET, false)
    };
    meet().context("our control plane, kubeadm's worker")?;
    clock.lap("their pods reach each other");
    looks(&cp)?;
    clock.lap("kubeadm certs check-expiration, token list, upgrade plan");
    let flannel = flannel(&kubectl)?;

    bring(host, &worker)?;
    let ours = format!("/root/kprov join {line} 2>&1");
    let theirs = format!("kubeadm join {line} {IGNORE} 2>&1");
    for (reset, join, what) in [
        (THEIR_RESET, &ours, "kubeadm reset of a kubeadm node, kprov join at once"),
        (THEIR_RESET, &theirs, "kubeadm reset of a kprov node, kubeadm join at once"),
        (OUR_RESET, &theirs, "kprov reset of a kubeadm node, kubeadm join at once"),
        (OUR_RESET, &ours, "kprov reset of a kubeadm node, kprov join at once"),
    ] {
        worker.run(reset)?;
        if reset == THEIR_RESET {
            // As kubeadm's documentation says: its reset leaves the Node there, and Ready, which its join refuses.
            kubectl.run(&format!("delete node {}", nodes.1))?;
        } else {
            gone(&worker)?;
        }
        worker.run(join)?;
        kubectl.wait_all_ready(2, READY)?;
        clock.lap(what);
    }
    own_checks(host, &cp)?;
    clock.lap("kubeadm's own checks of a cluster of kprov init and kprov join (e2e_kubeadm)");
    worker.run(OUR_RESET)?;
    gone(&worker)?;

    cp.run("/root/kubeadm reset --force 2>&1")?;
    let line = their_init(&cp, "/root/kubeadm")?;
    put(host, &cp, &flannel)?;
    worker.run(&format!("/root/kprov join {line} 2>&1"))?;
    kubectl.wait_all_ready(2, READY)?;
    clock.lap("kubeadm reset of a kprov control plane, kubeadm init, flannel, kprov join: all Ready");
    meet().context("kubeadm's control plane, our worker")?;
    clock.lap("their pods reach each other");

    for machine in [&worker, &cp] {
        machine.run("/root/kprov reset --force 2>&1")?;
        gone(machine)?;
    }
    clock.lap("kprov reset of a kubeadm control plane and its worker");
    cp.run("/root/kprov init 2>&1")?;
    kubectl.wait_all_ready(1, READY)?;
    clock.lap("kprov init at once: all Ready");
    Ok(())
}

/// Ours and kubeadm's first control plane, of the same documents, and what they are. The join line of ours.
fn twins(machines: &Bare<'_>, cp: &Remote, worker: &Remote) -> anyhow::Result<String> {
    let twin = |machine: &Remote, name: &str| -> anyhow::Result<Twin> {
        let address = machines.address(name)?;
        let documents = documents(machine, &address)?;
        Ok(Twin::new(machine, machines.hostname(name), address, &documents))
    };
    let (ours, theirs) = (twin(cp, "cp-1")?, twin(worker, "worker-1")?);
    let (said, their_said) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| their_init(worker, "kubeadm"));
        (cp.run(&format!("/root/kprov init --config {CONFIG} 2>&1")), beside.join())
    });
    their_said.map_err(|_| anyhow::anyhow!("kubeadm init broke off"))??;
    let line = line(&said?)?;
    for machine in [cp, worker] {
        settled(&Kubectl(machine.clone()), 4)?;
    }
    // Controllers and flannel go on writing after init has returned: a difference is one that stays.
    wait(READY, || same(&theirs, &ours))?;
    Ok(line)
}

/// The kubelet has told of all static pods, so many, and that they are Ready.
pub fn settled(kubectl: &Kubectl, many: usize) -> anyhow::Result<()> {
    wait(READY, || {
        let pods = items(&kubectl.get("-n kube-system pods -l tier=control-plane")?);
        ensure!(pods.len() == many, "{} static pods", pods.len());
        let unready = pods.iter().find(|pod| !ready(pod));
        ensure!(unready.is_none(), "{} is not Ready", unready.map(name).unwrap_or_default());
        Ok(())
    })
}

/// What comes after `join` in the line that a tool prints.
pub fn line(said: &str) -> anyhow::Result<String> {
    let lines = said.replace("\\\n", " ");
    let found =
        lines.lines().find_map(|line| line.trim().split_once("join ").filter(|(_, rest)| rest.contains("--token")));
    Ok(found.with_context(|| format!("no join line:\n{said}"))?.1.to_owned())
}

/// kubeadm's commands that look at a cluster: they work, and have nothing to complain of.
fn looks(cp: &Remote) -> anyhow::Result<()> {
    for command in
        ["certs check-expiration", "token list", "upgrade plan v1.36.3 --ignore-preflight-errors=SystemVerification"]
    {
        let output = cp.output(&format!("/root/kubeadm {command} 2>&1"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "kubeadm {command}: {}\n{said}", output.status);
        let complaint = said.lines().find(|line| {
            let line = line.to_lowercase();
            ["warning", "error", "missing", "invalid", "unsupported"].iter().any(|word| line.contains(word))
        });
        ensure!(complaint.is_none(), "kubeadm {command} complains: {complaint:?}\n{said}");
    }
    Ok(())
}

/// kubeadm's checks of a finished cluster that do not apply here (part of the name, how many), and why.
const NOT_APPLICABLE: [(&str, usize, &str); 2] = [
    ("[copy-certs]", 3, "of the Secret kubeadm-certs, which only an init with --upload-certs makes"),
    ("] dual-stack podSubnet ", 1, "they skip themselves in a cluster of one IP family"),
];

/// Runs them. All others must pass: a suite that finds nothing to do does not count.
fn own_checks(host: &Host, cp: &Remote) -> anyhow::Result<()> {
    cp.upload(&host.checks, "/root/e2e_kubeadm.test", "755")?;
    let output = cp.output(
        "cd /root && ./e2e_kubeadm.test --kubeconfig /etc/kubernetes/admin.conf --ginkgo.no-color --ginkgo.skip copy-certs \
         --ginkgo.json-report checks.json 2>&1",
    )?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "kubeadm's own checks: {}\n{said}", output.status);
    let report: Value = serde_json::from_str(&cp.run("cat /root/checks.json")?)?;
    let reports = report[0]["SpecReports"].as_array().context("no report of kubeadm's own checks")?;
    let specs: Vec<_> = reports.iter().filter(|spec| spec["LeafNodeType"] == "It").collect();
    let mut left_out = Vec::new();
    for spec in specs.iter().filter(|spec| spec["State"] != "passed") {
        let above = spec["ContainerHierarchyTexts"].as_array().cloned().unwrap_or_default();
        let words: Vec<&str> = above.iter().chain([&spec["LeafNodeText"]]).filter_map(Value::as_str).collect();
        left_out.push(words.join(" "));
    }
    for (part, count, why) in NOT_APPLICABLE {
        let found: Vec<String> = left_out.extract_if(.., |name| name.contains(part)).collect();
        ensure!(found.len() == count, "kubeadm's checks {part}: {} left out, not {count}", found.len());
        println!("           left out: {} ({why})", found.join("; "));
    }
    ensure!(left_out.is_empty(), "left out without a reason: {}", left_out.join("\n"));
    let passed = specs.iter().filter(|spec| spec["State"] == "passed").count();
    println!("           {passed} of kubeadm's {} own checks passed", specs.len());
    ensure!(specs.len() >= 36, "kubeadm has only {} checks of its own", specs.len());
    Ok(())
}

/// Nothing of kubeadm's is left that another init or join would stumble over.
fn gone(machine: &Remote) -> anyhow::Result<()> {
    let left = machine.run(
        "find /etc/kubernetes /var/lib/kubelet /var/lib/etcd -type f 2>/dev/null; ls /etc/cni/net.d 2>/dev/null; \
         ip -o link show | grep -oE 'cni0|flannel.1' ; grep -o '/var/lib/kubelet/.*' /proc/self/mounts; true",
    )?;
    ensure!(left.trim().is_empty(), "left behind:\n{left}");
    Ok(())
}

/// Documents for both tools: what such hosts need of the kubelet and kube-proxy (kprov finds it out by itself), and
/// kprov's kind of keys. They are written onto the machine, too.
pub fn documents(machine: &Remote, address: &str) -> anyhow::Result<String> {
    let v1 = machine.run("stat -fc %T /sys/fs/cgroup")?.trim() != "cgroup2fs";
    let cgroups = if v1 { "cgroupDriver: cgroupfs\nfailCgroupV1: false\n" } else { "" };
    let documents = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: {address}}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
encryptionAlgorithm: ECDSA-P256
networking: {{podSubnet: 10.244.0.0/16}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
{cgroups}---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
conntrack: {{maxPerCore: 0, min: 0}}
"
    );
    machine.run(&format!("cat >{CONFIG} <<'E'\n{documents}E\n"))?;
    Ok(documents)
}

/// A cluster made by kubeadm of the documents on this machine; its join line.
pub fn their_init(machine: &Remote, kubeadm: &str) -> anyhow::Result<String> {
    line(&machine.run(&format!("{kubeadm} init --config {CONFIG} {IGNORE} 2>&1"))?)
}

/// flannel's objects as a user would have them in a file.
pub fn flannel(kubectl: &Kubectl) -> anyhow::Result<Vec<Value>> {
    let mut all = vec![json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "kube-flannel", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    })];
    for what in ["clusterrole flannel", "clusterrolebinding flannel"] {
        all.push(kubectl.get(what)?);
    }
    let own = items(&kubectl.get("-n kube-flannel serviceaccount,configmap,daemonset")?);
    all.extend(own.into_iter().filter(|object| !matches!(name(object), "default" | "kube-root-ca.crt")));
    for object in &mut all {
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(meta) = object["metadata"].as_object_mut() {
            for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "annotations"] {
                meta.remove(field);
            }
        }
    }
    Ok(all)
}

fn put(host: &Host, cp: &Remote, objects: &[Value]) -> anyhow::Result<()> {
    let path = host.state("flannel.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    cp.upload(&path, "/root/flannel.json", "644")?;
    let kubectl = Kubectl(cp.clone());
    wait(Duration::from_secs(30), || kubectl.run("apply -f /root/flannel.json").map(drop))
}

//! kprov and the real kubeadm on each other's clusters: join, flannel, reset, join and init again at once, and kubeadm's
//! commands that look at a cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::bare::bring;
use crate::foreign::Kit;
use crate::host::{Bare, Clock, Host};
use crate::kubectl::{Kubectl, items, name, wait};
use crate::remote::Remote;

const READY: Duration = Duration::from_secs(180);
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

    let line = line(&cp.run("/root/kprov init 2>&1")?)?;
    worker.run(&format!("kubeadm join {line} {IGNORE} 2>&1"))?;
    let kubectl = Kubectl(cp.clone());
    kubectl.wait_all_ready(2, READY)?;
    clock.lap("kprov init, kubeadm join: all Ready");
    looks(&cp)?;
    clock.lap("kubeadm certs check-expiration, token list, upgrade plan");
    own_checks(host, &cp)?;
    clock.lap("kubeadm's own checks of a cluster (e2e_kubeadm)");
    let flannel = flannel(&kubectl)?;

    let node = machines.hostname("worker-1");
    bring(host, &worker)?;
    worker.run("kubeadm reset --force 2>&1")?;
    joined_again(&kubectl, &node, || worker.run(&format!("/root/kprov join {line} 2>&1")))?;
    clock.lap("kubeadm reset of a kubeadm node, kprov join at once");
    worker.run("kubeadm reset --force 2>&1")?;
    joined_again(&kubectl, &node, || worker.run(&format!("kubeadm join {line} {IGNORE} 2>&1")))?;
    clock.lap("kubeadm reset of a kprov node, kubeadm join at once");
    worker.run("/root/kprov reset --force 2>&1")?;
    gone(&worker)?;
    clock.lap("kprov reset of a kubeadm node");

    cp.run("/root/kubeadm reset --force 2>&1")?;
    let line = theirs(&cp, &machines)?;
    put(host, &cp, &flannel)?;
    worker.run(&format!("/root/kprov join {line} 2>&1"))?;
    kubectl.wait_all_ready(2, READY)?;
    clock.lap("kubeadm reset of a kprov control plane, kubeadm init, flannel, kprov join: all Ready");

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

/// kubeadm's checks of a finished cluster that do not apply here, and why.
const NOT_APPLICABLE: [(&str, &str); 1] =
    [("copy-certs", "looks for the Secret kubeadm-certs, which only an init with --upload-certs makes")];

/// Runs them; at least 30 must have run, so that a suite that finds nothing to do does not count.
fn own_checks(host: &Host, cp: &Remote) -> anyhow::Result<()> {
    cp.upload(&host.checks, "/root/e2e_kubeadm.test", "755")?;
    let skip = NOT_APPLICABLE.map(|(name, _)| name).join("|");
    let output = cp.output(&format!(
        "cd /root && ./e2e_kubeadm.test --kubeconfig /etc/kubernetes/admin.conf --ginkgo.no-color --ginkgo.skip '{skip}' 2>&1"
    ))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "kubeadm's own checks: {}\n{said}", output.status);
    let summary = said.lines().find(|line| line.starts_with("Ran ")).with_context(|| format!("no summary:\n{said}"))?;
    println!("           {summary}");
    let ran: u32 = summary.split(' ').nth(1).and_then(|count| count.parse().ok()).context("a count")?;
    ensure!(ran >= 30, "only {ran} of kubeadm's own checks ran:\n{said}");
    Ok(())
}

/// The Node is as another tool left it: deleted first, as both tools' documentation says, then it comes back.
fn joined_again(kubectl: &Kubectl, node: &str, join: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
    kubectl.run(&format!("delete node {node}"))?;
    join()?;
    kubectl.wait_all_ready(2, READY)
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

/// A cluster made by kubeadm on this machine; its join line.
fn theirs(cp: &Remote, machines: &Bare<'_>) -> anyhow::Result<String> {
    documents(cp, &machines.address("cp-1")?)?;
    let said = cp.run(&format!("/root/kubeadm init --config {CONFIG} {IGNORE} 2>&1"))?;
    line(&said)
}

/// Writes kubeadm's documents for a control plane on this machine.
pub fn documents(cp: &Remote, address: &str) -> anyhow::Result<()> {
    let v1 = cp.run("stat -fc %T /sys/fs/cgroup")?.trim() != "cgroup2fs";
    let cgroups = if v1 { "cgroupDriver: cgroupfs\nfailCgroupV1: false\n" } else { "" };
    let documents = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: {address}}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
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
    cp.run(&format!("cat >{CONFIG} <<'E'\n{documents}E\n")).map(drop)
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

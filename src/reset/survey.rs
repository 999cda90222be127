//! Looks for everything that a cluster leaves on a machine beside what the journal names, in the order of removal: first
//! what runs, then what it left.

use kprov_providers::machine::Kind;
use kprov_providers::{Machine, Made};

use super::kernel::Kernel;
use super::task::Task;
use super::{etcd, legacy, node};
use crate::cluster::kubeadm::ResetConfiguration;
use crate::facts::net;
use crate::journal::Record;
use crate::phases::{host, kubelet};

const KUBELET: &str = "kubelet.service";
const CONTAINERD: &str = "containerd.service";
const KUBELET_DIR: &str = "/var/lib/kubelet";
const ETCD_DIR: &str = "/var/lib/etcd";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const API_MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// Files that kubelet and kubeadm write under these names on every node.
const NODE_FILES: [&str; 2] = ["/etc/kubernetes/bootstrap-kubelet.conf", node::KUBELET_CONF];
/// kubeadm's other kubeconfigs.
const KUBECONFIGS: [&str; 4] = [
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
];
/// Static pods of a control plane.
const STATIC_PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// Links of flannel, the bridge plugin and kube-proxy's former IPVS mode.
const LINKS: [&str; 4] = ["flannel.1", "flannel-v6.1", "cni0", "kube-ipvs0"];
/// Directories that are emptied where the journal says that we made them: programs have filled them since.
const FILLED: [&str; 8] = [
    MANIFESTS,
    "/etc/kubernetes/pki",
    "/etc/kubernetes/tmp",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/etc/containerd",
    "/var/lib/containerd",
    ETCD_DIR,
];

/// What is to be stopped, in this order: what it made since can be seen only once it has ended.
///
/// # Errors
/// When the machine cannot be looked at.
pub(super) async fn stops(
    machine: &dyn Machine,
    config: &ResetConfiguration,
    kubeconfig: Option<&str>,
    record: &Record,
) -> anyhow::Result<Vec<Task>> {
    let traces = traces(machine)?;
    let mut tasks = Vec::new();
    if !is_ours(record) && !traces {
        return Ok(tasks);
    }
    if traces {
        tasks.extend(running(machine, config, pki(config), kubeconfig).await?);
    }
    tasks.push(Task::Pods(config.cri_socket.clone()));
    let slice = "kubepods.slice";
    if is_active(machine, slice).await {
        tasks.push(Task::Stop(slice.to_owned()));
    }
    if record.made_unit(CONTAINERD) {
        tasks.push(Task::Stop(CONTAINERD.to_owned()));
        tasks.push(Task::File("/run/containerd/containerd.sock".to_owned()));
    }
    Ok(tasks)
}

/// What is left of a cluster where nothing of it runs any more: mounts, files, then links and rules of the pod network.
///
/// # Errors
/// When the machine cannot be looked at.
pub(super) async fn leftovers(
    machine: &dyn Machine,
    kernel: &dyn Kernel,
    config: &ResetConfiguration,
    record: &Record,
) -> anyhow::Result<Vec<Task>> {
    let traces = traces(machine)?;
    let mut tasks = Vec::new();
    if is_ours(record) || traces {
        for mount in mounts_below(machine, KUBELET_DIR)? {
            let flags = config.unmount_flags.clone().unwrap_or_default();
            if !flags.is_empty() {
                tasks.push(Task::Unmount(mount, flags));
            }
        }
        tasks.extend(files(machine, config, record, pki(config), traces)?);
    }
    tasks.extend(network(machine, kernel).await?);
    Ok(tasks)
}

/// True when a journal of ours tells of this machine.
fn is_ours(record: &Record) -> bool {
    record.last_command().is_some() && !record.entries().is_empty()
}

fn pki(config: &ResetConfiguration) -> &str {
    config.certificates_dir.as_deref().unwrap_or("/etc/kubernetes/pki")
}

/// True when there is, or was about to be, a node of a cluster here.
fn traces(machine: &dyn Machine) -> anyhow::Result<bool> {
    for path in NODE_FILES.into_iter().chain([kubelet::CONFIG]) {
        if machine.meta(path)?.is_some() {
            return Ok(true);
        }
    }
    for name in STATIC_PODS {
        if machine.meta(&format!("{MANIFESTS}/{name}.yaml"))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True when the journal is that of a node, with its control plane if there is one: then it also tells what was there before, and only that
/// goes which cannot have been. Of a node that another tool made, perhaps beside our bundle, all of kubeadm's paths go, as
/// kubeadm does it.
fn made_by_us(machine: &dyn Machine, record: &Record) -> anyhow::Result<bool> {
    let within = |path: &str| ["/etc/kubernetes", KUBELET_DIR].iter().any(|dir| path.starts_with(dir));
    let node = record.made().any(|made| match made {
        Made::File { path } | Made::Dir { path } | Made::Tree { path } => within(path),
        _ => false,
    });
    Ok(node && (machine.meta(API_MANIFEST)?.is_none() || record.made_path(API_MANIFEST)))
}

/// What runs: leave etcd while it does, stop the kubelet, say so to the cluster.
async fn running(
    machine: &dyn Machine,
    config: &ResetConfiguration,
    pki: &str,
    kubeconfig: Option<&str>,
) -> anyhow::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    let timeouts = config.timeouts.clone().unwrap_or_default();
    let limit = |field: Option<String>| field.as_deref().and_then(crate::cluster::duration);
    if machine.meta("/etc/kubernetes/manifests/etcd.yaml")?.is_some() {
        let limit = limit(timeouts.etcd_api_call).unwrap_or(etcd::LIMIT);
        tasks.push(Task::LeaveEtcd { pki: pki.to_owned(), limit });
    }
    if is_active(machine, KUBELET).await {
        tasks.push(Task::Stop(KUBELET.to_owned()));
    }
    // A control plane, also one that was never finished, stops its own API: whoever is left notices.
    let mut worker = true;
    for path in KUBECONFIGS.into_iter().chain([API_MANIFEST]) {
        worker &= machine.meta(path)?.is_none();
    }
    if worker && let Ok(Some(name)) = node::own_name(machine) {
        let limit = limit(timeouts.kubernetes_api_call).unwrap_or(node::LIMIT);
        tasks.push(Task::NotReady(name, kubeconfig.unwrap_or(node::KUBELET_CONF).to_owned(), limit));
    }
    Ok(tasks)
}

/// Without systemd's answer nothing is known to run.
async fn is_active(machine: &dyn Machine, unit: &str) -> bool {
    machine.unit(unit).await.is_ok_and(|state| state.runs())
}

fn files(
    machine: &dyn Machine,
    config: &ResetConfiguration,
    record: &Record,
    pki: &str,
    traces: bool,
) -> anyhow::Result<Vec<Task>> {
    let mut wanted: Vec<Task> = Vec::new();
    // Grown since: all of it, where the directory itself is ours.
    let made_dir = |path: &str| record.made().any(|m| matches!(m, Made::Dir { path: p } if p == path));
    for path in FILLED.into_iter().chain(host::TREES) {
        if made_dir(path) {
            wanted.push(Task::Tree(path.to_owned()));
        }
    }
    if traces {
        wanted.extend(STATIC_PODS.map(|name| Task::File(format!("{MANIFESTS}/{name}.yaml"))));
        wanted.extend(NODE_FILES.map(|path| Task::File(path.to_owned())));
        wanted.push(Task::Empty(KUBELET_DIR.to_owned()));
        // As its links: a node that an earlier kubeadm reset left has it from before us, and it leads nowhere any more.
        wanted.push(Task::File("/etc/cni/net.d/10-flannel.conflist".to_owned()));
        if etcd_was_here(machine)? {
            wanted.push(Task::Empty(ETCD_DIR.to_owned()));
        }
    }
    if traces && !made_by_us(machine, record)? {
        wanted.push(Task::Empty(ETCD_DIR.to_owned()));
        wanted.extend(KUBECONFIGS.map(|path| Task::File(path.to_owned())));
        wanted.push(Task::Empty(MANIFESTS.to_owned()));
        wanted.push(Task::Empty(pki.to_owned()));
        let grown = ["/var/lib/cni", "/run/flannel", "/var/log/pods", "/var/log/containers"];
        wanted.extend(grown.map(|path| Task::Tree(path.to_owned())));
    }
    if config.cleanup_tmp_dir == Some(true) {
        wanted.push(Task::Tree("/etc/kubernetes/tmp".to_owned()));
    }
    let mut tasks = Vec::new();
    for task in wanted {
        let there = match &task {
            Task::File(path) | Task::Tree(path) => machine.meta(path)?.is_some(),
            Task::Empty(path) => machine.list(path)?.is_some_and(|names| !names.is_empty()),
            _ => true,
        };
        if there && !tasks.contains(&task) {
            tasks.push(task);
        }
    }
    Ok(tasks)
}

fn etcd_was_here(machine: &dyn Machine) -> anyhow::Result<bool> {
    Ok(machine.meta("/etc/kubernetes/manifests/etcd.yaml")?.is_some())
}

/// Links, namespaces, routes and rules of the pod network.
async fn network(machine: &dyn Machine, kernel: &dyn Kernel) -> anyhow::Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for name in machine.list("/run/netns")?.unwrap_or_default() {
        if name.starts_with("cni-") {
            tasks.push(Task::Namespace(name));
        }
    }
    // Before the links go: routes to other nodes' pods that leave by an ordinary link (flannel's host-gw).
    let networks = flannel_networks(&net::text(machine, "/run/flannel/subnet.env")?);
    for route in net::routes(machine)? {
        let within = networks.iter().any(|network: &ipnet::IpNet| network.contains(&route.to));
        if within && !route.is_default() && !net::is_pod_link(&route.link) {
            tasks.push(Task::Route(route.to.to_string(), route.link));
        }
    }
    let links = kprov_providers::machine::links(machine)?;
    for name in LINKS {
        if links.iter().any(|link| link == name) {
            tasks.push(Task::Link(name.to_owned()));
        }
    }
    let rules = kernel.rules()?;
    if !rules.is_empty() {
        tasks.push(Task::Rules(rules));
    }
    if legacy::any(machine).await {
        tasks.push(Task::LegacyRules);
    }
    Ok(tasks)
}

/// `FLANNEL_NETWORK=10.244.0.0/16` and its IPv6 sister.
fn flannel_networks(env: &str) -> Vec<ipnet::IpNet> {
    env.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| matches!(*name, "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK"))
        .flat_map(|(_, nets)| nets.split(',').filter_map(|n| n.trim().parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Mount points strictly below a directory, the last mounted first.
fn mounts_below(machine: &dyn Machine, dir: &str) -> anyhow::Result<Vec<String>> {
    if !machine.meta(dir)?.is_some_and(|meta| meta.kind == Kind::Dir) {
        return Ok(Vec::new());
    }
    let mounts = net::text(machine, "/proc/self/mounts")?;
    let below = format!("{dir}/");
    let mut found: Vec<String> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|p| p.starts_with(&below))
        .map(str::to_owned)
        .collect();
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_flannel() {
        let env = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:10::/56\nFLANNEL_MTU=1450\n";
        let found: Vec<String> = flannel_networks(env).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.244.0.0/16", "fd00:10::/56"]);
    }
}

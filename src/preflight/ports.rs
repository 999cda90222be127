//! Ports that the node's components listen on must be free, or be held by those components already.

use std::collections::BTreeMap;

use kprov_providers::Machine;
use kprov_providers::machine::Kind;

use super::{Finding, Look, leftovers};
use crate::cluster::Cluster;
use crate::facts::net::text;

/// A port, the program that will hold it, and the file whose being ours says that it may do so already.
struct Wanted {
    port: u16,
    program: &'static str,
    because: &'static str,
}

const KUBELET: &str = "/etc/systemd/system/kubelet.service";
const MANIFESTS: [(&str, &str); 4] = [
    ("kube-apiserver", "/etc/kubernetes/manifests/kube-apiserver.yaml"),
    ("kube-scheduler", "/etc/kubernetes/manifests/kube-scheduler.yaml"),
    ("kube-controller-manager", "/etc/kubernetes/manifests/kube-controller-manager.yaml"),
    ("etcd", "/etc/kubernetes/manifests/etcd.yaml"),
];

pub(super) fn control_plane(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let api = cluster.init.local_api_endpoint.as_ref().and_then(|e| e.bind_port).unwrap_or(6443);
    let stacked = cluster.config.etcd.as_ref().is_none_or(|etcd| etcd.external.is_none());
    let mut wanted = node();
    for (program, because) in MANIFESTS {
        let ports: &[u16] = match program {
            "kube-apiserver" => &[api],
            "kube-scheduler" => &[10259],
            "kube-controller-manager" => &[10257],
            _ if stacked => &[2379, 2380, 2381],
            _ => &[],
        };
        wanted.extend(ports.iter().map(|port| Wanted { port: *port, program, because }));
    }
    check(look, &wanted)
}

pub(super) fn worker(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    check(look, &node())
}

fn node() -> Vec<Wanted> {
    let ports = [(10250, "kubelet"), (10248, "kubelet"), (10249, "kube-proxy"), (10256, "kube-proxy")];
    ports.map(|(port, program)| Wanted { port, program, because: KUBELET }).into_iter().collect()
}

fn check(look: &Look<'_>, wanted: &[Wanted]) -> anyhow::Result<Vec<Finding>> {
    let mut held = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        held.extend(listening(&text(look.machine, table)?));
    }
    let taken: Vec<(&Wanted, u64)> = wanted.iter().filter_map(|w| held.get(&w.port).map(|inode| (w, *inode))).collect();
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let inodes: Vec<u64> = taken.iter().map(|(_, inode)| *inode).collect();
    let holders = holders(look.machine, &inodes)?;
    let mut found = Vec::new();
    for (wanted, inode) in taken {
        let holder = holders.get(&inode);
        if (look.ours)(wanted.because) && holder.is_none_or(|holder| holder.program == wanted.program) {
            continue;
        }
        // k3s is told as a whole.
        if let Some(holder) = holder
            && leftovers::is_k3s(look, &holder.program)?
        {
            continue;
        }
        let (name, port) = (format!("Port-{}", wanted.port), wanted.port);
        found.push(match holder {
            Some(Holder { pid, program, .. }) if program == wanted.program => {
                Finding::error(name, format!("port {port} is held by {program} of another cluster (process {pid})"))
                    .hint("kprov reset --force")
            }
            Some(Holder { pid: 1, .. }) => {
                Finding::error(name, format!("port {port} is held by systemd, for a unit that it starts on demand"))
                    .hint(format!("systemctl list-sockets | grep ':{port} ', then systemctl disable --now UNIT"))
            }
            Some(Holder { pid, program, unit: Some(unit) }) => {
                Finding::error(name, format!("port {port} is held by {program} (process {pid} of {unit})"))
                    .hint(format!("systemctl disable --now {unit}"))
            }
            Some(Holder { pid, program, unit: None }) => {
                Finding::error(name, format!("port {port} is held by {program} (process {pid})"))
                    .hint(format!("kill {pid}"))
            }
            None => Finding::error(name, format!("port {port} is in use"))
                .hint(format!("ss -ltnp 'sport = :{port}', and end what it shows")),
        });
    }
    Ok(found)
}

/// Listening ports of a /proc/net/tcp with the inodes of their sockets.
fn listening(table: &str) -> Vec<(u16, u64)> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (*words.get(1)?, *words.get(3)?, *words.get(9)?);
            let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
            (state == "0A").then_some((port, inode.parse().ok()?))
        })
        .collect()
}

/// Who holds a socket.
struct Holder {
    pid: u32,
    program: String,
    /// The service that it is part of.
    unit: Option<String>,
}

/// Who holds each of these sockets, as far as it can be seen.
fn holders(machine: &dyn Machine, inodes: &[u64]) -> anyhow::Result<BTreeMap<u64, Holder>> {
    let mut found = BTreeMap::new();
    for pid in machine.list("/proc")?.unwrap_or_default().iter().filter_map(|name| name.parse::<u32>().ok()) {
        // Processes end while they are looked at.
        let Ok(Some(fds)) = machine.list(&format!("/proc/{pid}/fd")) else { continue };
        for fd in fds {
            let Ok(Some(meta)) = machine.meta(&format!("/proc/{pid}/fd/{fd}")) else { continue };
            let Kind::Link(target) = meta.kind else { continue };
            let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']')).and_then(|t| t.parse().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let unit = unit(&text(machine, &format!("/proc/{pid}/cgroup")).unwrap_or_default());
                let holder = Holder { pid, program: name(machine, pid), unit };
                // Of a unit that systemd started on demand both hold it: the program says more.
                if pid != 1 {
                    found.insert(inode, holder);
                } else {
                    found.entry(inode).or_insert(holder);
                }
            }
        }
    }
    Ok(found)
}

/// The service of systemd that a process is in, by its cgroups (`1:name=systemd:/system.slice/x.service`, or `0::…`).
fn unit(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let name = parts.next()?;
        (name == "name=systemd" || name.is_empty()).then(|| parts.next()).flatten()
    })?;
    let unit = path.rsplit('/').find(|part| part.ends_with(".service"))?;
    (!unit.starts_with("user@")).then(|| unit.to_owned())
}

/// The last part of a process's first argument: its short name is cut after 15 characters.
fn name(machine: &dyn Machine, pid: u32) -> String {
    let line = text(machine, &format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = line.split('\0').next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_processes() {
        for (cgroups, wanted) in [
            ("0::/system.slice/nginx.service\n", Some("nginx.service")),
            ("5:cpu:/x\n1:name=systemd:/system.slice/a.service/b\n", Some("a.service")),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/user.slice/user-0.slice/user@0.service/app.slice\n", None),
            ("", None),
        ] {
            assert_eq!(unit(cgroups).as_deref(), wanted, "{cgroups}");
        }
    }

    #[test]
    fn reads_listening_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n\
            1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n\
            2: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4713 1 0\n";
        assert_eq!(listening(table), [(8080, 4711), (6443, 4713)]);
    }
}

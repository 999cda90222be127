//! Learns the facts of the machine.

use std::net::IpAddr;

use anyhow::Context;
use kprov_providers::Machine;

use super::answers::Answers;
use super::features::{self, Has, Kernel};
use super::net::{self, text};
use super::{Cgroups, Facts, runtimes};

/// Certificate directories of distributions (contract A.7).
const CA_DIRS: [&str; 5] = [
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// Gathers the facts. `ours` says whether a path was made by kprov (the journal knows); `socket` is the CRI socket that
/// the user chose, which decides between several runtimes.
///
/// # Errors
/// When the machine's files cannot be read.
pub async fn gather(
    machine: &dyn Machine,
    answers: Answers,
    ours: &(dyn Fn(&str) -> bool + Sync),
    socket: Option<&str>,
) -> anyhow::Result<Facts> {
    let foreign = runtimes::foreign(machine, ours);
    let resolved = machine.unit("systemd-resolved.service");
    // Both wait for other processes: side by side.
    let (foreign, resolved) = tokio::join!(foreign, resolved);
    let foreign = foreign.context("looking for container runtimes")?;
    // Without systemd (or D-Bus) there is no such unit either.
    let resolved = resolved.is_ok_and(|unit| unit.active == "active");

    let one_line = |path: &str| -> anyhow::Result<String> { Ok(text(machine, path)?.trim().to_owned()) };
    let routes = net::routes(machine)?;
    let addresses = net::addresses(machine, &routes)?;
    let status = text(machine, "/proc/self/status")?;
    let mounts = text(machine, "/proc/self/mounts")?;
    let resolvers = net::nameservers(&text(machine, "/etc/resolv.conf")?);
    let loopback = !resolvers.is_empty() && resolvers.iter().all(IpAddr::is_loopback);
    let kernel = Kernel::read(machine)?;
    let mut ca_dirs = Vec::new();
    for dir in CA_DIRS {
        if machine.list(dir)?.is_some() {
            ca_dirs.push(dir.to_owned());
        }
    }
    Ok(Facts {
        hostname: one_line("/proc/sys/kernel/hostname")?.to_lowercase(),
        arch: arch(std::env::consts::ARCH).to_owned(),
        os: os(&text(machine, "/etc/os-release")?),
        kernel: one_line("/proc/sys/kernel/osrelease")?,
        root: answers.root,
        systemd: machine.list("/run/systemd/system")?.is_some(),
        cpus: field(&status, "Cpus_allowed_list:").map_or(1, cpus),
        memory_mb: memory_mb(&text(machine, "/proc/meminfo")?),
        default_addresses: default_addresses(answers.sources, &routes, &addresses),
        addresses,
        routes: routes.iter().filter(|r| !r.is_default()).map(|r| r.to).collect(),
        cgroups: cgroups(&mounts),
        missing_capabilities: missing_capabilities(&status, &one_line("/proc/sys/kernel/cap_last_cap")?),
        apparmor: one_line("/sys/module/apparmor/parameters/enabled")? == "Y",
        swap: text(machine, "/proc/swaps")?.lines().count() > 1,
        nftables: answers.nftables,
        modules: modules(&kernel),
        bridge_netfilter: matches!(kernel.has(features::BR_NETFILTER)?, Has::Now | Has::Loadable),
        conntrack_writable: conntrack_writable(machine, &mounts)?,
        page_size: page_size(&text(machine, "/proc/self/smaps")?),
        sync_micros: answers.sync_micros,
        var_free_mb: answers.var_free_mb,
        var_total_mb: answers.var_total_mb,
        resolved,
        loopback_resolver_only: loopback && !resolved,
        resolv_conf: resolv_conf(machine, resolved, &resolvers)?,
        resolvers,
        ca_dirs,
        runtime: choose(&foreign, socket),
        runtimes: foreign,
        proxy: answers.proxy,
    })
}

/// The runtime to use: the one that the user named, else the only one.
fn choose(foreign: &[super::Runtime], socket: Option<&str>) -> Option<super::Runtime> {
    let same = |a: &str, b: &str| a.replace("/var/run/", "/run/") == b.replace("/var/run/", "/run/");
    match (socket, foreign) {
        (Some(socket), all) => all.iter().find(|r| same(&r.socket, socket)).cloned(),
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    }
}

/// The file with the real resolvers: systemd-resolved's as kubeadm takes it, NetworkManager's where a local cache answers.
/// Where there is no resolver at all, the kubelet could not start a pod without a file of ours.
fn resolv_conf(machine: &dyn Machine, resolved: bool, resolvers: &[IpAddr]) -> anyhow::Result<Option<String>> {
    const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
    const NETWORK_MANAGER: &str = "/run/NetworkManager/no-stub-resolv.conf";
    if resolved {
        return Ok(Some(RESOLVED.to_owned()));
    }
    if resolvers.is_empty() {
        return Ok(Some(super::NO_RESOLVERS.to_owned()));
    }
    if !resolvers.iter().all(IpAddr::is_loopback) {
        return Ok(None);
    }
    let real = net::nameservers(&text(machine, NETWORK_MANAGER)?);
    Ok(real.iter().any(|r| !r.is_loopback()).then(|| NETWORK_MANAGER.to_owned()))
}

/// Those of the modules that Kubernetes needs which are files of this kernel: they are loaded now and at boot.
fn modules(kernel: &Kernel<'_>) -> Vec<String> {
    let wanted = [features::OVERLAY, features::BR_NETFILTER, features::VXLAN, features::NF_TABLES, features::CONNTRACK];
    wanted.iter().map(|feature| feature.module).filter(|module| kernel.is_file(module)).map(str::to_owned).collect()
}

/// Kubernetes' names of architectures.
fn arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os(release: &str) -> String {
    let value = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".to_owned())
}

/// The rest of the line that begins with a name.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Processors in a list like `0-3,8`.
fn cpus(list: &str) -> u32 {
    list.split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            (to.parse::<u32>().ok()?).checked_sub(from.parse().ok()?)?.checked_add(1)
        })
        .sum()
}

fn memory_mb(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal:").and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024) / 1_000_000
}

fn page_size(smaps: &str) -> u32 {
    let kib =
        field(smaps, "KernelPageSize:").and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse::<u32>().ok());
    kib.map_or(4096, |kib| kib.saturating_mul(1024))
}

/// One hierarchy where /sys/fs/cgroup itself is a cgroup2 file system.
fn cgroups(mounts: &str) -> Cgroups {
    let unified = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("/sys/fs/cgroup") && words.next() == Some("cgroup2")
    });
    if unified { Cgroups::V2 } else { Cgroups::V1 }
}

/// Names of capabilities in the order of their bits (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

fn missing_capabilities(status: &str, last: &str) -> Vec<String> {
    let Some(bounding) = field(status, "CapBnd:").and_then(|hex| u64::from_str_radix(hex, 16).ok()) else {
        return Vec::new();
    };
    let last = last.parse::<usize>().unwrap_or(CAPABILITIES.len());
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| *bit <= last && bounding & (1 << bit) == 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// In every network namespace but the first the kernel shows the limit read-only; a container may mount it so. Not
/// there: the module is not loaded yet, which can only be so where the namespace is the first one.
fn conntrack_writable(machine: &dyn Machine, mounts: &str) -> anyhow::Result<bool> {
    writable(machine, mounts, "/proc/sys/net/netfilter/nf_conntrack_max")
}

/// Whether root can write a file below /proc/sys: by its mode and by how its file system is mounted (the text of
/// /proc/self/mounts). What is not there counts as writable.
///
/// # Errors
/// When the file cannot be looked at.
pub(crate) fn writable(machine: &dyn Machine, mounts: &str, path: &str) -> anyhow::Result<bool> {
    let covers =
        |dir: &str| dir == "/" || dir == path || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let read_only = mounts
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            Some((*words.get(1)?, *words.get(3)?))
        })
        .filter(|(dir, _)| covers(dir))
        // Later mounts hide earlier ones of the same place.
        .max_by_key(|(dir, _)| dir.len())
        .is_some_and(|(_, options)| options.split(',').any(|o| o == "ro"));
    Ok(!read_only && machine.meta(path)?.is_none_or(|meta| meta.mode & 0o200 != 0))
}

/// What the kernel chose, but only for families that have a default route; an address of that link where it chose none.
fn default_addresses(sources: Vec<IpAddr>, routes: &[net::Route], addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for v4 in [true, false] {
        if !routes.iter().any(|r| r.is_default() && r.to.addr().is_ipv4() == v4) {
            continue;
        }
        let chosen = sources.iter().chain(addresses).find(|a| a.is_ipv4() == v4);
        found.extend(chosen);
    }
    found
}

#[cfg(test)]
mod tests {
    use kprov_providers::machine::fake::FakeMachine;

    use super::*;

    fn machine() -> FakeMachine {
        let machine = FakeMachine::new();
        for (path, text) in [
            ("/proc/sys/kernel/hostname", "Node-1\n"),
            ("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
            ("/proc/sys/kernel/cap_last_cap", "40\n"),
            ("/etc/os-release", "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            ("/proc/self/status", "Name:\tx\nCapBnd:\t000001fffeffffff\nCpus_allowed_list:\t0-2,7\n"),
            ("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
            ("/proc/self/smaps", "x\nKernelPageSize:        16 kB\n"),
            ("/proc/meminfo", "MemTotal:        4000000 kB\n"),
            ("/proc/swaps", "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"),
            ("/proc/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n"),
            (
                "/proc/net/route",
                "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                 eth1 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                 eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                 eth1 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
                 cni0 0000F40A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n",
            ),
            (
                "/proc/net/fib_trie",
                "|-- 10.0.0.5\n /32 host LOCAL\n|-- 10.244.0.1\n /32 host LOCAL\n|-- 192.0.2.7\n /32 host LOCAL\n",
            ),
            ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
            ("/usr/share/ca-certificates/x.crt", ""),
            ("/lib/modules/6.1.0-18-amd64/modules.dep", "kernel/net/bridge/br_netfilter.ko.xz: kernel/a.ko\n"),
        ] {
            machine.put(path, text);
        }
        machine
    }

    #[tokio::test]
    async fn facts_of_an_ordinary_machine() {
        let sources = vec!["192.0.2.7".parse().unwrap()];
        let answers = Answers { root: true, sources, ..Answers::default() };
        let facts = gather(&machine(), answers, &|_| false, None).await.unwrap();
        let shown = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(facts.hostname, "node-1");
        assert_eq!(facts.os, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!((facts.cpus, facts.memory_mb, facts.page_size), (4, 4096, 16384));
        assert_eq!(shown(&facts.addresses), ["192.0.2.7", "10.0.0.5"], "the default route's link first, no pod link");
        assert_eq!(shown(&facts.default_addresses), ["192.0.2.7"]);
        assert_eq!(facts.routes.len(), 3);
        assert_eq!(facts.missing_capabilities, ["CAP_SYS_RESOURCE"]);
        assert_eq!((facts.cgroups, facts.swap, facts.systemd), (Cgroups::V2, true, true));
        assert!(facts.loopback_resolver_only && facts.resolv_conf.is_none());
        assert_eq!(facts.ca_dirs, ["/usr/share/ca-certificates"]);
        assert_eq!(facts.modules, ["br_netfilter"]);
        assert!(facts.bridge_netfilter && facts.conntrack_writable);
        assert_eq!(facts.runtime, None);
    }

    #[tokio::test]
    async fn a_machine_without_resolvers_gets_a_file_for_its_pods() {
        let machine = machine();
        machine.remove("/etc/resolv.conf").unwrap();
        let facts = gather(&machine, Answers::default(), &|_| false, None).await.unwrap();
        assert_eq!(facts.resolv_conf.as_deref(), Some(crate::facts::NO_RESOLVERS));
        assert!(!facts.loopback_resolver_only);
    }

    #[tokio::test]
    async fn runtimes_are_found_by_their_sockets() {
        let machine = machine();
        let line = |path: &str| format!("0: 00000002 00000000 00010000 0001 01 1 {path}\n");
        let both = line("/run/containerd/containerd.sock") + &line("/var/run/crio/crio.sock");
        machine.put("/proc/net/unix", format!("Num\n{both}"));
        for program in ["containerd", "crio"] {
            machine.on(program, |_, _| {
                Ok(kprov_providers::machine::Exit { stdout: b"x 2.1.3\n".to_vec(), ..Default::default() })
            });
        }
        let facts = gather(&machine, Answers::default(), &|_| false, None).await.unwrap();
        assert_eq!((facts.runtimes.len(), facts.runtime), (2, None), "the user has to choose");
        let chosen = Some("unix:///var/run/containerd/containerd.sock");
        let facts = gather(&machine, Answers::default(), &|_| false, chosen).await.unwrap();
        assert_eq!(facts.runtime.map(|r| (r.name, r.version)), Some(("containerd".to_owned(), "2.1.3".to_owned())));
        let ours = |path: &str| path == "/etc/systemd/system/containerd.service";
        let facts = gather(&machine, Answers::default(), &ours, None).await.unwrap();
        assert_eq!(facts.runtime.map(|r| r.name), Some("cri-o".to_owned()), "our own is not foreign");
    }
}

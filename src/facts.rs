//! What we learn about a machine before planning.

mod answers;
pub(crate) mod features;
pub mod fit;
mod gather;
pub(crate) mod net;
mod runtimes;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::answers::Answers;
pub use self::gather::gather;
pub(crate) use self::gather::writable;

/// The file that pods get as resolv.conf where the machine has no resolver; phase `host` writes it.
pub const NO_RESOLVERS: &str = "/etc/kubernetes/resolv.conf";

/// Which cgroup hierarchy the machine runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    /// Controllers mounted separately.
    V1,
    /// One unified hierarchy.
    V2,
}

/// A container runtime that runs on the machine and is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// `containerd`, `cri-o`, …
    pub name: String,
    /// Its version, without a leading `v`.
    pub version: String,
    /// Its CRI socket: `unix:///run/containerd/containerd.sock`.
    pub socket: String,
}

/// What the machine is. Gathered once, then an input of planning; also a test's `facts.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// Lower-cased host name.
    pub hostname: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// True when it runs as root.
    pub root: bool,
    /// True when PID 1 is systemd.
    pub systemd: bool,
    /// Processors that may be used.
    pub cpus: u32,
    /// Memory in MB (10^6 bytes).
    pub memory_mb: u64,
    /// Addresses on the links with a default route first, then all others; no loopback, no link-local.
    pub addresses: Vec<IpAddr>,
    /// Source addresses of the default routes (one a family at most), IPv4 first.
    pub default_addresses: Vec<IpAddr>,
    /// Destinations of all routes but the default ones.
    pub routes: Vec<IpNet>,
    /// cgroup hierarchy.
    pub cgroups: Cgroups,
    /// Names of capabilities that the bounding set lacks, as `CAP_SYS_RESOURCE`.
    pub missing_capabilities: Vec<String>,
    /// AppArmor is enabled in the kernel.
    pub apparmor: bool,
    /// Any swap is on, or comes back at a boot because kprov only turned it off.
    pub swap: bool,
    /// `nft` works on this machine's kernel.
    pub nftables: bool,
    /// Kernel modules that Kubernetes needs and this kernel loads from files.
    #[serde(default)]
    pub modules: Vec<String>,
    /// The kernel can pass bridged packets through its packet filter, now or after loading a module.
    #[serde(default)]
    pub bridge_netfilter: bool,
    /// The conntrack limits may be written here (not in a container whose kernel forbids it).
    pub conntrack_writable: bool,
    /// Page size in bytes.
    pub page_size: u32,
    /// Time of one synced 4 KiB write below /var/lib, in microseconds.
    pub sync_micros: u64,
    /// Free space of the file system of /var/lib, in MB; none where it is not known.
    #[serde(default)]
    pub var_free_mb: Option<u64>,
    /// Size of the file system of /var/lib, in MB.
    #[serde(default)]
    pub var_total_mb: Option<u64>,
    /// systemd-resolved is active.
    pub resolved: bool,
    /// Only loopback resolvers are in /etc/resolv.conf, and resolved is not active.
    pub loopback_resolver_only: bool,
    /// Name servers of /etc/resolv.conf.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
    /// What pods should get instead of /etc/resolv.conf, where that is of no use to them.
    #[serde(default)]
    pub resolv_conf: Option<String>,
    /// Those of the host's certificate directories that exist (contract A.7).
    pub ca_dirs: Vec<String>,
    /// The runtime to use that runs already and is not ours: the user's choice, else the only one there is.
    pub runtime: Option<Runtime>,
    /// All runtimes that run and are not ours.
    #[serde(default)]
    pub runtimes: Vec<Runtime>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` and their lower-case forms, as set.
    pub proxy: Vec<(String, String)>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ordinary machine, for tests to change.
    pub(crate) fn facts() -> Facts {
        let v4: IpAddr = "192.0.2.10".parse().unwrap();
        Facts {
            hostname: "cp-1".to_owned(),
            arch: "amd64".to_owned(),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            kernel: "6.1.0".to_owned(),
            root: true,
            systemd: true,
            cpus: 2,
            memory_mb: 4000,
            addresses: vec![v4],
            default_addresses: vec![v4],
            routes: vec!["192.0.2.0/24".parse().unwrap()],
            cgroups: Cgroups::V2,
            missing_capabilities: Vec::new(),
            apparmor: true,
            swap: false,
            nftables: true,
            modules: Vec::new(),
            bridge_netfilter: true,
            conntrack_writable: true,
            page_size: 4096,
            sync_micros: 300,
            var_free_mb: Some(50_000),
            var_total_mb: Some(100_000),
            resolved: false,
            loopback_resolver_only: false,
            resolvers: vec!["192.0.2.1".parse().unwrap()],
            resolv_conf: None,
            ca_dirs: Vec::new(),
            runtime: None,
            runtimes: Vec::new(),
            proxy: Vec::new(),
        }
    }
}

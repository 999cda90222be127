//! What we learn about a machine before planning.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
    /// Any swap is on.
    pub swap: bool,
    /// `nft` works on this machine's kernel.
    pub nftables: bool,
    /// The conntrack limits may be written here (not in a container whose kernel forbids it).
    pub conntrack_writable: bool,
    /// Page size in bytes.
    pub page_size: u32,
    /// Time of one synced 4 KiB write below /var/lib, in microseconds.
    pub sync_micros: u64,
    /// systemd-resolved is active.
    pub resolved: bool,
    /// Only loopback resolvers are in /etc/resolv.conf, and resolved is not active.
    pub loopback_resolver_only: bool,
    /// Those of the host's certificate directories that exist (contract A.7).
    pub ca_dirs: Vec<String>,
    /// A runtime that runs and is not ours.
    pub runtime: Option<Runtime>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` and their lower-case forms, as set.
    pub proxy: Vec<(String, String)>,
}

//! Whether the kernel can do something, asked in the places where kernels and distributions say so.

use std::io::Read;

use kprov_providers::Machine;

use super::net::text;

/// Whether the kernel has a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Has {
    /// There now.
    Now,
    /// A module that can be loaded.
    Loadable,
    /// Not in this kernel.
    No,
    /// Nothing on this machine tells.
    Unknown,
}

/// A kernel feature that pods, Services or the pod network need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feature {
    /// Module name.
    pub(crate) module: &'static str,
    /// Name in the kernel's configuration, without `CONFIG_`.
    pub(crate) option: &'static str,
    /// A path that exists once it works, `""` if none does.
    pub(crate) sign: &'static str,
    /// What needs it.
    pub(crate) why: &'static str,
}

pub(crate) const OVERLAY: Feature =
    Feature { module: "overlay", option: "OVERLAY_FS", sign: "", why: "container images are stacked with it" };
pub(crate) const BRIDGE: Feature =
    Feature { module: "bridge", option: "BRIDGE", sign: "", why: "pods of a node meet on a bridge" };
pub(crate) const BR_NETFILTER: Feature = Feature {
    module: "br_netfilter",
    option: "BRIDGE_NETFILTER",
    sign: "/proc/sys/net/bridge/bridge-nf-call-iptables",
    why: "without it a Service cannot be reached from a pod of the same node",
};
pub(crate) const VETH: Feature =
    Feature { module: "veth", option: "VETH", sign: "", why: "pods are connected with it" };
pub(crate) const VXLAN: Feature =
    Feature { module: "vxlan", option: "VXLAN", sign: "", why: "the pod network between nodes runs over it" };
pub(crate) const CONNTRACK: Feature = Feature {
    module: "nf_conntrack",
    option: "NF_CONNTRACK",
    sign: "/proc/sys/net/netfilter/nf_conntrack_max",
    why: "Services track their connections with it",
};
pub(crate) const NF_TABLES: Feature =
    Feature { module: "nf_tables", option: "NF_TABLES", sign: "", why: "Service and hostPort rules are made with it" };
pub(crate) const IP_TABLES: Feature = Feature {
    module: "ip_tables",
    option: "IP_NF_IPTABLES",
    sign: "/proc/net/ip_tables_names",
    why: "Service rules are made with it",
};

/// The kernel's own lists, read once.
pub(crate) struct Kernel<'a> {
    machine: &'a dyn Machine,
    /// Paths of built-in and loadable modules; none where the machine has no module tree for this kernel.
    builtin: Option<String>,
    loadable: Option<String>,
    /// The kernel's configuration.
    config: Option<String>,
    loaded: String,
    filesystems: String,
}

impl<'a> Kernel<'a> {
    /// Reads what is there.
    ///
    /// # Errors
    /// When files of the machine cannot be read.
    pub(crate) fn read(machine: &'a dyn Machine) -> anyhow::Result<Self> {
        let release = text(machine, "/proc/sys/kernel/osrelease")?;
        let release = release.trim();
        let optional = |path: String| -> anyhow::Result<Option<String>> {
            Ok(machine.read(&path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let config = match machine.read("/proc/config.gz")? {
            Some(packed) => unpack(&packed),
            None => optional(format!("/boot/config-{release}"))?,
        };
        Ok(Self {
            machine,
            builtin: optional(format!("/lib/modules/{release}/modules.builtin"))?,
            loadable: optional(format!("/lib/modules/{release}/modules.dep"))?,
            config,
            loaded: text(machine, "/proc/modules")?,
            filesystems: text(machine, "/proc/filesystems")?,
        })
    }

    /// True when a module is a file of this kernel, loaded or not.
    pub(crate) fn is_file(&self, module: &str) -> bool {
        listed(self.loadable.as_deref(), module)
    }

    /// Whether the kernel has a feature.
    ///
    /// # Errors
    /// When files of the machine cannot be looked at.
    pub(crate) fn has(&self, feature: Feature) -> anyhow::Result<Has> {
        let Feature { module, option, sign, .. } = feature;
        if (!sign.is_empty() && self.machine.meta(sign)?.is_some())
            || self.machine.meta(&format!("/sys/module/{module}"))?.is_some()
            || self.loaded.lines().any(|line| line.split(' ').next() == Some(module))
            || self.filesystems.lines().any(|line| line.split_whitespace().last() == Some(module))
        {
            return Ok(Has::Now);
        }
        if listed(self.builtin.as_deref(), module) {
            return Ok(Has::Now);
        }
        if listed(self.loadable.as_deref(), module) {
            return Ok(Has::Loadable);
        }
        let set = |value: &str| {
            let line = format!("CONFIG_{option}={value}");
            self.config.as_deref().is_some_and(|config| config.lines().any(|l| l == line))
        };
        if set("y") {
            return Ok(Has::Now);
        }
        if set("m") {
            // Its file is not here (a container's file system): only the host can load it, and may not have.
            return Ok(if self.builtin.is_some() { Has::No } else { Has::Unknown });
        }
        Ok(if self.config.is_some() || (self.builtin.is_some() && self.loadable.is_some()) {
            Has::No
        } else {
            Has::Unknown
        })
    }
}

/// A module in a modules.builtin or modules.dep: `kernel/net/bridge/br_netfilter.ko.xz:` …
fn listed(list: Option<&str>, module: &str) -> bool {
    list.is_some_and(|list| {
        list.lines().any(|line| {
            let path = line.split(':').next().unwrap_or_default();
            let file = path.rsplit('/').next().unwrap_or_default();
            file.split_once(".ko").is_some_and(|(name, _)| name.replace('-', "_") == module)
        })
    })
}

fn unpack(packed: &[u8]) -> Option<String> {
    let mut text = String::new();
    // 4 MiB is many times a kernel configuration.
    flate2::read::GzDecoder::new(packed).take(4 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

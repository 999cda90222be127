//! The kernel: version, cgroup controllers, features, sysctls that can be set.

use super::{Finding, Look, path_name};
use crate::cluster::{Cluster, Cni};
use crate::facts::Cgroups;
use crate::facts::features::{self, Feature, Has, Kernel};
use crate::facts::net::text;
use crate::facts::writable;

const NAME: &str = "SystemVerification";

pub(super) fn all(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let mut found = version(&look.facts.kernel, look.facts.cgroups);
    found.extend(controllers(look)?);
    let wanted = [features::OVERLAY, features::BRIDGE, features::BR_NETFILTER, features::VETH, features::CONNTRACK];
    let kernel = Kernel::read(look.machine)?;
    let mut unknown = false;
    for feature in wanted {
        unknown |= kernel.has(feature)? == Has::Unknown;
        found.extend(missing(look, feature, &kernel)?);
    }
    if unknown {
        found.extend(replaced(look)?);
    }
    // Service rules go through nf_tables, or through the older tables where the kernel has only those.
    if !look.facts.nftables
        && kernel.has(features::NF_TABLES)? != Has::Loadable
        && kernel.has(features::IP_TABLES)? == Has::No
    {
        found.push(Finding::error(NAME, absent(features::NF_TABLES)).hint(bring(look, features::NF_TABLES)?));
    }
    found.extend(sysctls(look, false)?);
    Ok(found)
}

/// What only the pod network of this cluster needs.
pub(super) fn pod_network(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    if cluster.cni == Cni::Flannel {
        found.extend(missing(look, features::VXLAN, &Kernel::read(look.machine)?)?);
    }
    let networking = cluster.config.networking.clone().unwrap_or_default();
    let v6 = [networking.pod_subnet, networking.service_subnet].iter().flatten().any(|s| s.contains(':'));
    if v6 {
        found.extend(sysctls(look, true)?);
    }
    Ok(found)
}

/// kubelet 1.36 and its runtime need Linux 4.19; cgroup v2 works fully from 5.8 on.
fn version(release: &str, cgroups: Cgroups) -> Vec<Finding> {
    let mut numbers = release.split(['.', '-', '+']).map(|n| n.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return vec![Finding::warning(NAME, format!("the kernel's version cannot be read: {release:?}"))];
    };
    let mut found = Vec::new();
    if (major, minor) < (4, 19) {
        found.push(
            Finding::error(NAME, format!("the kernel is {release}, Kubernetes needs 4.19 or newer"))
                .hint("install a newer kernel and reboot"),
        );
    } else if cgroups == Cgroups::V2 && (major, minor) < (5, 8) {
        found.push(Finding::warning(NAME, format!("cgroup v2 works fully from Linux 5.8 on, this is {release}")));
    }
    if cgroups == Cgroups::V1 {
        found.push(Finding::warning(
            NAME,
            "this machine runs cgroup v1, which Kubernetes gives up: the kubelet is told to accept it (failCgroupV1: false)",
        ));
    }
    found
}

/// Controllers that the kubelet insists on.
fn controllers(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let (wanted, present): (&[&str], Vec<String>) = match look.facts.cgroups {
        Cgroups::V2 => {
            let list = text(look.machine, "/sys/fs/cgroup/cgroup.controllers")?;
            (&["cpu", "cpuset", "memory", "pids"], list.split_whitespace().map(str::to_owned).collect())
        }
        Cgroups::V1 => {
            let mounts = text(look.machine, "/proc/self/mounts")?;
            (&["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"], v1_controllers(&mounts))
        }
    };
    Ok(wanted
        .iter()
        .filter(|name| !present.iter().any(|p| p == *name))
        .map(|name| {
            let finding = Finding::error(NAME, format!("the kernel gives no cgroup controller {name}"));
            match *name {
                // Raspberry Pi's firmware turns it off.
                "memory" => finding.hint("add 'cgroup_enable=memory' to the kernel's command line and reboot"),
                _ => finding.hint(format!("remove cgroup_disable={name} from the kernel's command line and reboot")),
            }
        })
        .collect())
}

/// Controllers of all mounted v1 hierarchies: they are among the mounts' options.
fn v1_controllers(mounts: &str) -> Vec<String> {
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| words.get(2) == Some(&"cgroup"))
        .filter_map(|words| words.get(3).copied())
        .flat_map(|options| options.split(',').map(str::to_owned))
        .collect()
}

fn missing(look: &Look<'_>, feature: Feature, kernel: &Kernel<'_>) -> anyhow::Result<Option<Finding>> {
    // A loadable one is loaded by a step of its own; where nothing tells, the kernel is given the benefit of the doubt.
    Ok(match kernel.has(feature)? {
        Has::Now | Has::Loadable | Has::Unknown => None,
        Has::No => Some(Finding::error(NAME, absent(feature)).hint(bring(look, feature)?)),
    })
}

/// What brings a feature into the kernel; in a container only its host can.
fn bring(look: &Look<'_>, feature: Feature) -> anyhow::Result<String> {
    Ok(if contained(look)? {
        format!("on the host of this machine: modprobe {}", feature.module)
    } else if look.facts.os.contains("Ubuntu") {
        format!("apt-get install -y linux-modules-extra-{}", look.facts.kernel)
    } else {
        format!("install a kernel with CONFIG_{} and reboot", feature.option)
    })
}

/// systemd says so in a container.
fn contained(look: &Look<'_>) -> anyhow::Result<bool> {
    Ok(look.machine.meta("/run/systemd/container")?.is_some())
}

/// A kernel that was upgraded and still runs: its modules went with its package.
fn replaced(look: &Look<'_>) -> anyhow::Result<Option<Finding>> {
    let release = &look.facts.kernel;
    let installed = look.machine.list("/lib/modules")?.unwrap_or_default();
    if contained(look)? || installed.is_empty() || installed.contains(release) {
        return Ok(None);
    }
    let message = format!("the modules of the running kernel, {release}, are not on this machine any more");
    Ok(Some(Finding::error(NAME, message).hint("reboot")))
}

fn absent(feature: Feature) -> String {
    format!("this kernel has no {} (CONFIG_{}): {}", feature.module, feature.option, feature.why)
}

/// Sysctls that Kubernetes needs are set by a step: here it is only said where that cannot work.
fn sysctls(look: &Look<'_>, v6: bool) -> anyhow::Result<Vec<Finding>> {
    let wanted: &[&str] = if v6 {
        &["/proc/sys/net/ipv6/conf/default/forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"]
    } else {
        &["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/bridge/bridge-nf-call-iptables"]
    };
    let mounts = text(look.machine, "/proc/self/mounts")?;
    let mut found = Vec::new();
    for path in wanted {
        let Some(value) = look.machine.read(path)? else {
            if v6 {
                let message =
                    format!("IPv6 is off on this machine, the cluster's subnets have it: {path} is not there");
                found.push(
                    Finding::error(path_name("FileContent", path), message)
                        .hint("remove ipv6.disable=1 from the kernel's command line and reboot"),
                );
            }
            continue;
        };
        if value.trim_ascii() != b"1" && !writable(look.machine, &mounts, path)? {
            let name = path.strip_prefix("/proc/sys/").unwrap_or(path).replace('/', ".");
            found.push(
                Finding::error(path_name("FileContent", path), format!("{path} must be 1 and cannot be set from here"))
                    .hint(format!("on the host of this machine: sysctl -w {name}=1")),
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        let count = |release, cgroups| {
            let found = version(release, cgroups);
            let errors = super::super::errors(&found).len();
            (errors, found.len() - errors)
        };
        assert_eq!(count("6.1.0-18-amd64", Cgroups::V2), (0, 0));
        assert_eq!(count("5.4.0", Cgroups::V2), (0, 1));
        assert_eq!(count("4.18.0-553.el8", Cgroups::V2), (1, 0));
        assert_eq!(count("4.19.0", Cgroups::V1), (0, 1));
        assert_eq!(count("odd", Cgroups::V2), (0, 1));
    }

    #[test]
    fn controllers_of_v1_are_mount_options() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            tmpfs /sys/fs/cgroup tmpfs rw,memory 0 0\n";
        let found = v1_controllers(mounts);
        assert!(found.contains(&"cpuacct".to_owned()));
        assert!(!found.contains(&"memory".to_owned()));
    }
}

//! What this host must have to carry machines; all that is missing is said in one error.

mod seen;

use std::path::Path;

use self::seen::{Groups, Seen};
use super::tool;

/// Everything that is missing on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this host cannot carry machines: {}", .problems.join("; "))]
pub struct Unfit {
    /// What is missing, one entry each.
    pub problems: Vec<String>,
    /// The command that installs what a package manager can bring; none where that would not help.
    pub command: Option<String>,
}

/// A program and the Debian package that it is in.
const PROGRAMS: [(&str, &str); 8] = [
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("modprobe", "kmod"),
];

/// The key that signs Debian's packages, where debootstrap looks for it, and its package.
const KEYRING: (&str, &str) = ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring");

/// What a container often takes from its root, and machines cannot be made without: names and numbers
/// (linux/capability.h).
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_SYS_ADMIN", 21), ("CAP_NET_ADMIN", 12), ("CAP_MKNOD", 27), ("CAP_SYS_CHROOT", 18)];

/// Controllers that the kubelet and runc do not start without, as kubeadm's SystemVerification has them.
const CONTROLLERS_V1: [&str; 7] = ["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];
const CONTROLLERS_V2: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Kernel parts that machines' links are made of.
const PARTS: [&str; 4] = ["bridge", "veth", "nf_tables", "nft_masq"];

/// Kernel parts that may be modules on the host and cannot be loaded from inside a machine.
const MODULES: [&str; 19] = [
    "overlay",
    "bridge",
    "br_netfilter",
    "veth",
    "vxlan",
    "loop",
    "btrfs",
    "nf_tables",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_compat",
    "nft_chain_nat",
    "nf_conntrack",
    "xt_conntrack",
    "xt_comment",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_statistic",
];

/// Checks that this host can carry machines whose disks are in `cache`.
///
/// # Errors
/// [`Unfit`], naming all that is missing.
pub fn check(cache: &Path) -> Result<(), Unfit> {
    judge(&Seen::here(cache))
}

fn judge(seen: &Seen) -> Result<(), Unfit> {
    let mut problems = Vec::new();
    let mut packages = Vec::new();
    if !seen.root {
        problems.push("not running as root (sudo)".to_owned());
    } else if seen.user_namespace {
        problems.push("root of a user namespace only (a rootless container), not of the host".to_owned());
    }
    // Without root they are missing anyway; saying so would hide what is to be done.
    let lacks = |number: &u32| seen.root && seen.capabilities >> number & 1 == 0;
    let lacking: Vec<&str> = CAPABILITIES.iter().filter(|(_, n)| lacks(n)).map(|(name, _)| *name).collect();
    if !lacking.is_empty() {
        problems.push(format!("no {} here (a container without privileges)", lacking.join(", ")));
    }
    for (program, package) in PROGRAMS {
        // modprobe is only needed where there are modules to load.
        if !seen.programs.contains(program) && (program != "modprobe" || seen.modular) {
            problems.push(format!("{program} not found"));
            packages.push(package);
        }
    }
    if !seen.keyring {
        problems.push(format!("{} not found", KEYRING.0));
        packages.push(KEYRING.1);
    }
    // The kubelet does not start without it.
    if !seen.kmsg {
        problems.push("no /dev/kmsg".to_owned());
    }
    problems.extend(groups(seen));
    for part in PARTS.iter().filter(|part| seen.absent.contains(*part)) {
        problems.push(format!("the kernel has no {part}"));
    }
    problems.extend(seen.disks.clone());
    if problems.is_empty() {
        return Ok(());
    }
    packages.dedup();
    let command = (!packages.is_empty()).then(|| {
        let packages = packages.join(" ");
        if seen.apt {
            format!("apt-get install -y {packages}")
        } else {
            format!("install (Debian's names): {packages}")
        }
    });
    Err(Unfit { problems, command })
}

/// What is wrong with the host's cgroups.
fn groups(seen: &Seen) -> Vec<String> {
    let (version, wanted, there) = match &seen.groups {
        Groups::None => return vec!["no cgroups mounted on /sys/fs/cgroup".to_owned()],
        Groups::V1(there) => ("v1", &CONTROLLERS_V1[..], there),
        Groups::V2(there) => ("v2", &CONTROLLERS_V2[..], there),
    };
    let mut problems = Vec::new();
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !there.contains(*name)).collect();
    if !missing.is_empty() {
        problems.push(format!(
            "cgroup {version} here has no controller {} (cgroup_disable= or cgroup_no_v1= on the kernel's command line, \
             or a container that is not given it)",
            missing.join(", ")
        ));
    }
    if !seen.groups_writable {
        problems.push("/sys/fs/cgroup is read-only here (a container without privileges)".to_owned());
    } else if seen.groups_busy && !seen.systemd {
        problems.push(
            "cgroup v2 without systemd, and /sys/fs/cgroup has processes of its own beside which it passes no controllers on \
             (a container; move them into a group below it)"
                .to_owned(),
        );
    }
    problems
}

/// Loads the kernel modules that machines need, where they are modules. What is built in or unknown is passed over:
/// what is then really missing shows where it is used, by name.
pub async fn load_modules() {
    if !Path::new("/lib/modules").is_dir() {
        return;
    }
    for module in MODULES {
        if !Path::new("/sys/module").join(module).is_dir() {
            tool::try_run("modprobe", &["--quiet", module]).await;
        }
    }
}

/// True where systemd runs this host, and machines are made its units.
pub(crate) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// True unless it is known that this kernel cannot mount this type.
pub(super) fn can_mount(kind: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.trim_start_matches("nodev").trim() == kind) || seen::loadable(kind)
}

#[cfg(test)]
mod tests;

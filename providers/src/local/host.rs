//! What this host must have to carry machines; all that is missing is said in one error.

use std::path::Path;

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

/// Checks that this host can carry machines.
///
/// # Errors
/// [`Unfit`], naming all that is missing.
pub fn check() -> Result<(), Unfit> {
    let mut problems = Vec::new();
    let mut packages = Vec::new();
    if !rustix::process::geteuid().is_root() {
        problems.push("not running as root".to_owned());
    }
    for (program, package) in PROGRAMS {
        // modprobe is only needed where there are modules to load.
        if program == "modprobe" && !Path::new("/lib/modules").is_dir() {
            continue;
        }
        if tool::find(program).is_none() {
            problems.push(format!("{program} not found"));
            packages.push(package);
        }
    }
    if !Path::new(KEYRING.0).is_file() {
        problems.push(format!("{} not found", KEYRING.0));
        packages.push(KEYRING.1);
    }
    // The kubelet does not start without it.
    if !Path::new("/dev/kmsg").exists() {
        problems.push("no /dev/kmsg".to_owned());
    }
    if !Path::new("/sys/fs/cgroup").is_dir() {
        problems.push("no cgroups mounted on /sys/fs/cgroup".to_owned());
    }
    if problems.is_empty() {
        return Ok(());
    }
    packages.dedup();
    let command = (!packages.is_empty()).then(|| format!("apt-get install -y {}", packages.join(" ")));
    Err(Unfit { problems, command })
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

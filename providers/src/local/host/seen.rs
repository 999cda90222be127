//! What this host shows of itself.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;

use super::{CONTROLLERS_V1, KEYRING, PARTS, PROGRAMS, has_systemd};
use crate::local::{cgroups, store, tool};

/// The host's cgroup controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Groups {
    /// Nothing is mounted on /sys/fs/cgroup.
    None,
    /// Controllers with hierarchies of their own; one that only cgroup v2 has beside them is of no use.
    V1(BTreeSet<String>),
    /// One hierarchy.
    V2(BTreeSet<String>),
}

/// All that [`super::judge`] wants to know: a value, so that its test can show hosts that it does not run on.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) root: bool,
    /// Somebody else outside is our uid 0.
    pub(super) user_namespace: bool,
    /// Effective ones, a bit each.
    pub(super) capabilities: u64,
    /// Those of [`PROGRAMS`] that were found.
    pub(super) programs: BTreeSet<&'static str>,
    pub(super) keyring: bool,
    pub(super) apt: bool,
    /// Kernel modules are files here.
    pub(super) modular: bool,
    pub(super) kmsg: bool,
    pub(super) systemd: bool,
    pub(super) groups: Groups,
    pub(super) groups_writable: bool,
    /// cgroup v2, and our root group, which is not the kernel's, has processes and passes no controllers on.
    pub(super) groups_busy: bool,
    /// Those of [`PARTS`] that this kernel has not.
    pub(super) absent: Vec<&'static str>,
    /// Why there can be no disks.
    pub(super) disks: Option<String>,
}

impl Seen {
    /// Looks around.
    pub(super) fn here(cache: &Path) -> Self {
        let cgroup = Path::new("/sys/fs/cgroup");
        let busy = cgroup.join("cgroup.type").exists()
            && !words(&cgroup.join("cgroup.procs")).is_empty()
            && words(&cgroup.join("cgroup.subtree_control")).is_empty();
        Self {
            root: rustix::process::geteuid().is_root(),
            user_namespace: user_namespace(&read("/proc/self/uid_map")),
            capabilities: capabilities(&read("/proc/self/status")),
            programs: PROGRAMS.iter().map(|(name, _)| *name).filter(|name| tool::find(name).is_some()).collect(),
            keyring: Path::new(KEYRING.0).is_file(),
            apt: tool::find("apt-get").is_some(),
            modular: Path::new("/lib/modules").is_dir(),
            kmsg: Path::new("/dev/kmsg").exists(),
            systemd: has_systemd(),
            groups: groups(cgroups::controllers(), &words(&cgroup.join("cgroup.controllers"))),
            // Whoever is not root may not write there either; that is another problem.
            groups_writable: rustix::fs::access(cgroup, Access::WRITE_OK) != Err(Errno::ROFS),
            groups_busy: busy,
            absent: PARTS.into_iter().filter(|part| known_absent(part)).collect(),
            disks: store::unfit(cache),
        }
    }
}

/// What is mounted below /sys/fs/cgroup, and what cgroup v2 has where it is mounted there itself.
fn groups(mounted: Vec<String>, unified: &BTreeSet<String>) -> Groups {
    let labels = mounted.iter().filter(|label| !label.is_empty());
    let v1: BTreeSet<String> = labels.flat_map(|label| label.split(',')).map(str::to_owned).collect();
    if CONTROLLERS_V1.iter().any(|name| v1.contains(*name)) {
        return Groups::V1(v1);
    }
    if mounted.iter().any(String::is_empty) { Groups::V2(unified.clone()) } else { Groups::None }
}

/// True for anything but "all ids are their own".
fn user_namespace(uid_map: &str) -> bool {
    let first: Vec<&str> = uid_map.lines().next().unwrap_or_default().split_whitespace().collect();
    !first.is_empty() && first != ["0", "0", "4294967295"]
}

/// `CapEff` of /proc/PID/status.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// The kernel's modules are known, and this one is not among them, not built in and not loaded.
fn known_absent(part: &str) -> bool {
    let dir = modules();
    dir.join("modules.dep").is_file() && !Path::new("/sys/module").join(part).is_dir() && !loadable(part)
}

/// A module of the running kernel, as a file or built in.
pub(super) fn loadable(part: &str) -> bool {
    let dir = modules();
    ["modules.dep", "modules.builtin"].iter().any(|list| listed(&read(dir.join(list)), part))
}

/// A list of modules: `kernel/fs/overlayfs/overlay.ko.xz: …`; in file names `-` may stand for `_`.
fn listed(list: &str, part: &str) -> bool {
    list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default().split(".ko").next().unwrap_or_default();
        name.replace('-', "_") == part
    })
}

fn modules() -> std::path::PathBuf {
    let name = rustix::system::uname();
    Path::new("/lib/modules").join(name.release().to_string_lossy().as_ref())
}

fn words(path: &Path) -> BTreeSet<String> {
    read(path).split_whitespace().map(str::to_owned).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn hierarchies_are_told_apart() {
        let none = BTreeSet::new();
        assert_eq!(groups(vec![], &none), Groups::None);
        assert_eq!(groups(vec!["name=systemd".into()], &none), Groups::None);
        let v2 = set(&["cpu", "memory"]);
        assert_eq!(groups(vec![String::new()], &v2), Groups::V2(v2.clone()));
        // Hybrid: cgroup v2 lies beside it with what v1 left over.
        let hybrid = groups(vec!["cpu,cpuacct".into(), "name=systemd".into(), String::new()], &none);
        assert_eq!(hybrid, Groups::V1(set(&["cpu", "cpuacct", "name=systemd"])));
    }

    #[test]
    fn a_user_namespace_is_known_by_its_map() {
        assert!(!user_namespace("         0          0 4294967295\n"));
        assert!(user_namespace("         0       1000          1\n         1     100000      65536\n"));
        assert!(!user_namespace(""), "no such kernel feature");
    }

    #[test]
    fn capabilities_are_read() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t00000000a80425fb\n"), 0xa804_25fb);
        assert_eq!(capabilities(""), u64::MAX, "not known");
    }

    #[test]
    fn modules_are_found_in_their_lists() {
        let dep = "kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/netfilter/nf-tables.ko: kernel/lib/libcrc32c.ko\n";
        assert!(listed(dep, "overlay") && listed(dep, "nf_tables"));
        assert!(!listed(dep, "over") && !listed(dep, "libcrc32c"));
    }
}

use std::collections::BTreeSet;

use super::*;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A host that lacks nothing.
fn fit() -> Seen {
    Seen {
        root: true,
        user_namespace: false,
        capabilities: u64::MAX,
        programs: PROGRAMS.iter().map(|(name, _)| *name).collect(),
        keyring: true,
        apt: true,
        modular: true,
        kmsg: true,
        systemd: true,
        groups: Groups::V2(set(&["cpuset", "cpu", "io", "memory", "hugetlb", "pids"])),
        groups_writable: true,
        groups_busy: false,
        absent: Vec::new(),
        disks: None,
    }
}

/// A host, what is said of it (each a part of one problem), and the command.
type Case = (&'static str, fn(&mut Seen), &'static [&'static str], Option<&'static str>);

const CASES: &[Case] = &[
    ("all there", |_| {}, &[], None),
    ("systemd's root group has processes and is systemd's", |seen| seen.groups_busy = true, &[], None),
    (
        "no modprobe where nothing is a module",
        |seen| {
            seen.modular = false;
            seen.programs.remove("modprobe");
        },
        &[],
        None,
    ),
    (
        "hybrid cgroups with all controllers on v1",
        |seen| {
            seen.systemd = false;
            seen.groups = Groups::V1(set(&CONTROLLERS_V1));
        },
        &[],
        None,
    ),
    (
        "not root: capabilities are not spoken of",
        |seen| {
            seen.root = false;
            seen.capabilities = 0;
        },
        &["not running as root (sudo)"],
        None,
    ),
    (
        "no nspawn, no debootstrap",
        |seen| {
            seen.programs.remove("systemd-nspawn");
            seen.programs.remove("debootstrap");
        },
        &["debootstrap not found", "systemd-nspawn not found"],
        Some("apt-get install -y debootstrap systemd-container"),
    ),
    (
        "two programs of one package",
        |seen| {
            seen.programs.remove("mount");
            seen.programs.remove("losetup");
        },
        &["mount not found", "losetup not found"],
        Some("apt-get install -y mount"),
    ),
    (
        "no apt",
        |seen| {
            seen.apt = false;
            seen.keyring = false;
            seen.programs.remove("nft");
        },
        &["nft not found", "debian-archive-keyring.gpg not found"],
        Some("install (Debian's names): nftables debian-archive-keyring"),
    ),
    (
        "no file system for disks",
        |seen| seen.disks = Some("/c: machines need btrfs or overlayfs".to_owned()),
        &["/c: machines need btrfs or overlayfs"],
        None,
    ),
    (
        "docker run",
        |seen| {
            // Docker's default set.
            seen.capabilities = 0xa804_25fb;
            seen.systemd = false;
            seen.groups_writable = false;
            seen.groups_busy = true;
            seen.kmsg = false;
        },
        &["no CAP_SYS_ADMIN, CAP_NET_ADMIN here (a container", "no /dev/kmsg", "/sys/fs/cgroup is read-only"],
        None,
    ),
    (
        "docker run --privileged",
        |seen| {
            seen.systemd = false;
            seen.groups_busy = true;
        },
        &["cgroup v2 without systemd"],
        None,
    ),
    ("rootless podman", |seen| seen.user_namespace = true, &["root of a user namespace only"], None),
    ("no cgroups", |seen| seen.groups = Groups::None, &["no cgroups mounted"], None),
    (
        "a Raspberry Pi's memory",
        |seen| seen.groups = Groups::V2(set(&["cpuset", "cpu", "io", "pids"])),
        &["cgroup v2 here has no controller memory (cgroup_disable="],
        None,
    ),
    (
        "hybrid cgroups with a controller on v2 only",
        |seen| {
            seen.groups = Groups::V1(set(&["cpu", "cpuacct", "cpuset", "devices", "freezer", "name=systemd"]));
        },
        &["cgroup v1 here has no controller memory, pids"],
        None,
    ),
    (
        "a kernel without bridges",
        |seen| seen.absent = vec!["bridge", "nft_masq"],
        &["the kernel has no bridge", "the kernel has no nft_masq"],
        None,
    ),
];

#[test]
fn all_that_is_missing_is_said_at_once() {
    for (name, change, wanted, command) in CASES {
        let mut seen = fit();
        change(&mut seen);
        let (problems, said) = match judge(&seen) {
            Ok(()) => (Vec::new(), None),
            Err(unfit) => (unfit.problems, unfit.command),
        };
        assert_eq!(problems.len(), wanted.len(), "{name}: {problems:#?}");
        for (problem, part) in problems.iter().zip(*wanted) {
            assert!(problem.contains(part), "{name}: {problem}");
        }
        assert_eq!(said.as_deref(), *command, "{name}");
    }
}

#[test]
fn everything_at_once_is_one_line_and_one_command() {
    let mut seen = fit();
    for (_, change, ..) in CASES.iter().filter(|(name, ..)| *name != "no apt" && !name.starts_with("not root")) {
        change(&mut seen);
    }
    let unfit = judge(&seen).unwrap_err();
    let text = unfit.to_string();
    assert!(text.starts_with("this host cannot carry machines: ") && !text.contains('\n'), "{text}");
    assert!(unfit.problems.len() > 8, "{text}");
    assert_eq!(unfit.command.as_deref(), Some("apt-get install -y debootstrap systemd-container mount"));
}

#[test]
fn this_host_can_be_looked_at() {
    let seen = Seen::here(&std::env::temp_dir());
    assert_eq!(seen.root, rustix::process::geteuid().is_root());
}

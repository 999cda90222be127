//! Odd hosts, each with what is said of it, to the letter: one message and the command that mends it. From the machine's
//! files through the facts, the documents and the checks, as the commands do it. docs/hosts.md is the table for people.

mod network;
mod others;

use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;

use super::bundle;
use crate::cluster::flags::{InitFlags, JoinFlags, NodeFlags};
use crate::cluster::{load_init, load_join};
use crate::facts::{Answers, fit, gather};
use crate::preflight::{Finding, Look, Severity, init, join};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
const DEFAULT: &str = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
const MODULES: [&str; 7] = ["overlay", "bridge", "br_netfilter", "veth", "nf_conntrack", "vxlan", "nf_tables"];
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

/// A machine on which nothing is odd.
fn ordinary() -> FakeMachine {
    let machine = FakeMachine::new();
    for tool in ["/usr/bin/mount", "/usr/sbin/losetup", "/bin/cp", "/usr/sbin/nft", "/usr/sbin/apparmor_parser"] {
        machine.put(tool, "");
    }
    for (path, text) in [
        ("/etc/hosts", "127.0.0.1 localhost\n192.0.2.10 cp-1\n"),
        ("/etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
        ("/etc/resolv.conf", "nameserver 192.0.2.1\n"),
        ("/proc/meminfo", "MemTotal:        4000000 kB\n"),
        ("/proc/net/fib_trie", "|-- 192.0.2.10\n /32 host LOCAL\n"),
        ("/proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
        ("/proc/self/status", "CapBnd:\t000001ffffffffff\nCpus_allowed_list:\t0-1\n"),
        ("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
        ("/proc/sys/kernel/cap_last_cap", "40\n"),
        ("/proc/sys/kernel/hostname", "cp-1\n"),
        ("/proc/sys/kernel/osrelease", "6.1.0\n"),
        ("/lib/modules/6.1.0/modules.dep", ""),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("/sys/module/apparmor/parameters/enabled", "Y\n"),
    ] {
        machine.put(path, text);
    }
    machine.put("/proc/net/route", format!("{ROUTES}{DEFAULT}"));
    machine.put("/lib/modules/6.1.0/modules.builtin", MODULES.map(|m| format!("kernel/x/{m}.ko\n")).concat());
    machine
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn answers() -> Answers {
    Answers { root: true, nftables: true, sources: vec!["192.0.2.10".parse().unwrap()], ..Answers::default() }
}

/// `error|warning [NAME] MESSAGE => HINT`, and `; --fix` where that mends it too.
fn lines(found: Vec<Finding>) -> Vec<String> {
    let line = |finding: Finding| {
        let kind = if finding.severity == Severity::Error { "error" } else { "warning" };
        let fix = if finding.fixes.is_empty() { "" } else { " (or --fix)" };
        format!("{kind} [{}] {} => {}{fix}", finding.name, finding.message, finding.hint.unwrap_or_default())
    };
    found.into_iter().map(line).collect()
}

/// What `init` says on this machine: problems of the documents, else findings.
async fn init_on(machine: &FakeMachine, flags: InitFlags, config: Option<&str>, now: SystemTime) -> Vec<String> {
    let facts = gather(machine, answers(), &|_| false, None).await.unwrap();
    let bundle = bundle();
    let cluster = match load_init(&flags, config.map(|text| ("c.yaml", text)), None, &facts, &bundle) {
        Ok(cluster) => cluster,
        Err(problems) => {
            return problems
                .0
                .iter()
                .map(|p| format!("{} => {}", p.message, p.hint.as_deref().unwrap_or_default()))
                .collect();
        }
    };
    let look = Look { machine, facts: &facts, ours: &|_| false, bundle: Some(&bundle), now };
    let before = machine.dump();
    let found = init(&look, &cluster).await.unwrap();
    assert_eq!(machine.dump(), before, "checks touch nothing");
    lines(found)
}

/// The same for `join` to an endpoint.
async fn join_on(machine: &FakeMachine, endpoint: &str) -> Vec<String> {
    let facts = gather(machine, answers(), &|_| false, None).await.unwrap();
    let flags = JoinFlags {
        endpoint: Some(endpoint.to_owned()),
        token: Some("abcdef.0123456789abcdef".to_owned()),
        discovery_token_unsafe_skip_ca_verification: true,
        ..JoinFlags::default()
    };
    let joining = load_join(&flags, None, &facts).unwrap_or_else(|problems| panic!("{problems}"));
    let bundle = bundle();
    let look = Look { machine, facts: &facts, ours: &|_| false, bundle: Some(&bundle), now: now() };
    lines(join(&look, &joining).await.unwrap())
}

/// What is said of an ordinary machine with one oddity.
async fn said(oddity: impl FnOnce(&FakeMachine)) -> Vec<String> {
    let machine = ordinary();
    oddity(&machine);
    init_on(&machine, InitFlags::default(), None, now()).await
}

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn an_ordinary_host() {
    assert_eq!(said(|_| ()).await, NOTHING);
    assert_eq!(join_on(&ordinary(), "192.0.2.1:6443").await, NOTHING);
}

#[tokio::test]
async fn a_clock_that_is_years_behind() {
    let then = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    assert_eq!(
        init_on(&ordinary(), InitFlags::default(), None, then).await,
        ["error [Clock] the clock is years behind: no certificate would be valid yet => timedatectl set-ntp true"]
    );
}

#[tokio::test]
async fn a_host_name_with_capitals() {
    let machine = ordinary();
    machine.put("/proc/sys/kernel/hostname", "CP-1\n");
    assert_eq!(init_on(&machine, InitFlags::default(), None, now()).await, NOTHING);
    let facts = gather(&machine, answers(), &|_| false, None).await.unwrap();
    let flags = |name: &str| InitFlags {
        node: NodeFlags { node_name: Some(name.to_owned()), ..NodeFlags::default() },
        ..InitFlags::default()
    };
    for (flags, wanted) in [(InitFlags::default(), "cp-1"), (flags("Node-7"), "node-7")] {
        let cluster = load_init(&flags, None, None, &facts, &bundle()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(cluster.init.node_registration.unwrap().name.unwrap(), wanted);
    }
}

#[tokio::test]
async fn a_host_name_of_64_characters() {
    let long = "n".repeat(64);
    let wanted = format!(
        "{long:?} cannot be a node's name: it has 64 characters, and its label kubernetes.io/hostname takes 63 => a shorter one: --node-name NAME"
    );
    assert_eq!(said(|m| m.put("/proc/sys/kernel/hostname", format!("{long}\n"))).await, [wanted]);
    let no_dns_name = said(|m| m.put("/proc/sys/kernel/hostname", "my_host\n")).await;
    assert!(
        matches!(no_dns_name.as_slice(), [one] if one.contains("my_host") && one.ends_with("--node-name NAME")),
        "{no_dns_name:?}"
    );
}

#[tokio::test]
async fn a_read_only_file_system() {
    for (at, dirs) in [
        ("/usr", "/usr/bin, /usr/libexec/kubernetes, /usr/local/bin"),
        ("/etc", "/etc/cni, /etc/kubernetes, /etc/systemd/system"),
        ("/opt", "/opt/cni/bin"),
        ("/var", "/var/lib"),
    ] {
        let mounts = format!(
            "/dev/sda1 / ext4 rw 0 0\n/dev/sda2 {at} ext4 ro,relatime 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
        );
        let wanted = format!(
            "error [ReadOnly-{}] the file system at {at} is read-only, and kprov writes into {dirs} => \
             mount -o remount,rw {at}",
            at.replace('/', "-")
        );
        assert_eq!(said(|m| m.put("/proc/self/mounts", mounts)).await, [wanted]);
    }
}

#[tokio::test]
async fn apparmor() {
    let machine = ordinary();
    let facts = gather(&machine, answers(), &|_| false, None).await.unwrap();
    assert!(!fit::containerd(&facts).0.disable_apparmor, "its profile is used");
    assert_eq!(
        said(|m| m.remove("/usr/sbin/apparmor_parser").unwrap()).await,
        [
            "warning [FileExisting-apparmor_parser] AppArmor is on, and without apparmor_parser containers run without its \
          profile => apt-get install -y apparmor"
        ]
    );
    // Not on: nothing to say, and containerd is told.
    let off = |m: &FakeMachine| {
        m.put("/sys/module/apparmor/parameters/enabled", "N\n");
        m.remove("/usr/sbin/apparmor_parser").unwrap();
    };
    assert_eq!(said(off).await, NOTHING);
    machine.put("/sys/module/apparmor/parameters/enabled", "N\n");
    let facts = gather(&machine, answers(), &|_| false, None).await.unwrap();
    assert!(fit::containerd(&facts).0.disable_apparmor);
}

#[tokio::test]
async fn swap_that_is_on() {
    let table = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n";
    let on = |m: &FakeMachine| {
        m.put("/proc/swaps", table);
        m.put("/dev/sda2", "");
        m.put("/etc/fstab", "# swap\n/dev/sda2 none swap sw 0 0\n");
    };
    assert_eq!(
        said(on).await,
        ["warning [Swap] swap is on (/dev/sda2): the kubelet is told to accept it, pods do not use it => \
          swapoff -a; and for the next boot: sed -i '2s/^/#/' /etc/fstab (or --fix)"]
    );
    let container = said(|m| m.put("/proc/swaps", table)).await;
    assert_eq!(
        container,
        ["warning [Swap] swap is on (/dev/sda2): the kubelet is told to accept it, pods do not use it => \
          on the host of this machine: swapoff -a"]
    );
}

#[tokio::test]
async fn a_kernel_without_a_feature() {
    let without = |m: &FakeMachine| {
        let modules = MODULES.iter().filter(|m| **m != "vxlan").map(|m| format!("kernel/x/{m}.ko\n"));
        m.put("/lib/modules/6.1.0/modules.builtin", modules.collect::<String>());
    };
    let line = "error [SystemVerification] this kernel has no vxlan (CONFIG_VXLAN): the pod network between nodes runs over it";
    assert_eq!(said(without).await, [format!("{line} => install a kernel with CONFIG_VXLAN and reboot")]);
    let ubuntu = |m: &FakeMachine| {
        without(m);
        m.put("/etc/os-release", "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\n");
    };
    assert_eq!(said(ubuntu).await, [format!("{line} => apt-get install -y linux-modules-extra-6.1.0")]);
    let container = |m: &FakeMachine| {
        without(m);
        m.put("/run/systemd/container", "lxc\n");
    };
    assert_eq!(said(container).await, [format!("{line} => on the host of this machine: modprobe vxlan")]);
    let upgraded = |m: &FakeMachine| {
        for file in ["modules.builtin", "modules.dep"] {
            m.put(&format!("/lib/modules/6.1.1/{file}"), "");
        }
        m.remove_tree("/lib/modules/6.1.0").unwrap();
    };
    assert_eq!(
        said(upgraded).await,
        [
            "error [SystemVerification] the modules of the running kernel, 6.1.0, are not on this machine any more => reboot"
        ]
    );
}

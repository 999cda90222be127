use std::sync::atomic::{AtomicBool, Ordering};

use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::machine::{Exit, UnitVerb};
use kprov_providers::{Key, Made};

use super::*;
use crate::journal::What;

const DEV: &str = "Inter-|   Receive\n face |bytes\n  eth0: 1 2\n";

/// A packet filter with one table of kube-proxy's, or none.
#[derive(Default)]
struct FakeKernel(AtomicBool);

impl Kernel for FakeKernel {
    fn rules(&self) -> anyhow::Result<Vec<String>> {
        Ok(if self.0.load(Ordering::SeqCst) { vec!["table ip kube-proxy".to_owned()] } else { Vec::new() })
    }

    fn remove_rules(&self) -> anyhow::Result<()> {
        self.0.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn unmount(&self, _: &str, _: &[String]) -> anyhow::Result<()> {
        Ok(())
    }
}

fn machine() -> FakeMachine {
    let machine = FakeMachine::new();
    machine.on("ip", |machine, command| {
        match command.args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["-o", "link", "show", "master", _] => {}
            ["link", "delete", "dev", name] => {
                let table = String::from_utf8(machine.read("/proc/net/dev")?.unwrap_or_default())?;
                let rest = table.lines().filter(|line| !line.trim().starts_with(&format!("{name}:")));
                let rest: String = rest.map(|line| format!("{line}\n")).collect();
                machine.write_in_place("/proc/net/dev", rest.as_bytes())?;
            }
            ["netns", "delete", name] => machine.remove(&format!("/run/netns/{name}"))?,
            other => anyhow::bail!("not expected: ip {other:?}"),
        }
        Ok(Exit::default())
    });
    machine
}

fn reset(machine: &FakeMachine) -> Reset {
    let (events, _) = Events::channel();
    Reset {
        machine: Arc::new(machine.clone()),
        kernel: Arc::new(FakeKernel(AtomicBool::new(true))),
        config: ResetConfiguration::default(),
        kubeconfig: None,
        events,
        stop: Stop::new(),
    }
}

fn tree(path: &str) -> Made {
    Made::Tree { path: path.to_owned() }
}

fn dir(path: &str) -> Made {
    Made::Dir { path: path.to_owned() }
}

fn file(path: &str) -> Made {
    Made::File { path: path.to_owned() }
}

/// What a join leaves, as journal and as things on the machine.
async fn joined(machine: &FakeMachine, journal: &Journal) {
    journal.begin("join", "");
    let start = |key: &str, made: Vec<Made>| {
        journal.write(What::Start { key: Key::new(key), made }).unwrap();
    };
    start("host", vec![tree("/var/log/pods"), tree("/etc/cni")]);
    start("kubelet/dir", vec![dir("/var/lib/kubelet")]);
    start("kubelet/unit", vec![file("/etc/systemd/system/kubelet.service")]);
    start("ca", vec![dir("/etc/kubernetes"), dir("/etc/kubernetes/pki"), file("/etc/kubernetes/pki/ca.crt")]);
    start("kubelet/start", vec![Made::Unit { name: "kubelet.service".to_owned() }]);
    for path in ["/etc/kubernetes", "/etc/kubernetes/pki", "/var/lib/kubelet", "/var/lib/kubelet/pki"] {
        machine.make_dir(path, 0o755).unwrap();
    }
    for path in [
        "/etc/systemd/system/kubelet.service",
        "/etc/kubernetes/pki/ca.crt",
        "/etc/kubernetes/kubelet.conf",
        "/var/lib/kubelet/config.yaml",
        "/var/lib/kubelet/pki/kubelet.key",
    ] {
        machine.write(path, b"apiVersion: v1\nkind: Config\n", 0o600).unwrap();
    }
    for path in ["/var/log/pods/a/0.log", "/etc/cni/net.d/10-flannel.conflist"] {
        machine.put(path, "x");
    }
    machine.put("/run/netns/cni-1234", "");
    machine.put("/proc/net/dev", format!("{DEV}  cni0: 1 2\n"));
    machine.unit_do("kubelet.service", UnitVerb::Enable).await.unwrap();
    machine.unit_do("kubelet.service", UnitVerb::Start).await.unwrap();
}

/// A machine with something of its user's below directories that a cluster uses too.
fn lived_in() -> FakeMachine {
    let machine = machine();
    machine.put("/opt/cni/bin/mine", "mine");
    machine.put("/run/netns/mine", "");
    machine.put("/var/log/mine.log", "mine");
    machine.put("/proc/net/dev", DEV);
    machine
}

#[tokio::test]
async fn all_goes_and_what_was_there_before_stays() {
    let machine = lived_in();
    let before = machine.dump();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kprov/journal.jsonl");
    let journal = Journal::open(&path).unwrap();
    joined(&machine, &journal).await;
    let reset = reset(&machine);
    let report = reset.run(&journal).await.unwrap();
    assert!(report.ok(), "{report:?}");
    assert_eq!(machine.dump(), before);
    assert!(!path.exists());
    assert!(reset.kernel.rules().unwrap().is_empty());
    // And once more: nothing to do is success.
    let journal = Journal::open(&path).unwrap();
    assert!(reset.run(&journal).await.unwrap().ok());
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn rules_that_are_made_while_pods_end_go_too() {
    let machine = lived_in();
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().join("journal.jsonl")).unwrap();
    joined(&machine, &journal).await;
    machine.put("/run/containerd/containerd.sock", "");
    let kernel = Arc::new(FakeKernel::default());
    let filter = kernel.clone();
    // kube-proxy's first rules, the moment before it is ended.
    machine.on("crictl", move |_, _| {
        filter.0.store(true, Ordering::SeqCst);
        Ok(Exit::default())
    });
    let reset = Reset { kernel: kernel.clone(), ..reset(&machine) };
    assert!(reset.run(&journal).await.unwrap().ok());
    assert!(kernel.rules().unwrap().is_empty());
}

#[tokio::test]
async fn killed_anywhere_and_run_again_the_end_is_the_same() {
    let expected = lived_in().dump();
    for n in 0.. {
        let machine = lived_in();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let journal = Journal::open(&path).unwrap();
        joined(&machine, &journal).await;
        machine.crash_after(n);
        let killed = reset(&machine).run(&journal).await.map_or(true, |report| !report.ok());
        machine.revive();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let report = reset(&machine).run(&journal).await.unwrap();
        assert!(report.ok(), "killed after {n} changes: {report:?}");
        assert_eq!(machine.dump(), expected, "killed after {n} changes");
        if !killed {
            assert!(n > 10, "the crash must have come into play");
            break;
        }
    }
}

#[tokio::test]
async fn without_a_journal_kubeadms_paths_go() {
    let machine = lived_in();
    machine.put("/etc/kubernetes/manifests/.keep", "");
    machine.remove("/etc/kubernetes/manifests/.keep").unwrap();
    machine.put("/etc/kubernetes/pki/.keep", "");
    machine.remove("/etc/kubernetes/pki/.keep").unwrap();
    machine.put("/var/lib/etcd/.keep", "");
    machine.remove("/var/lib/etcd/.keep").unwrap();
    machine.put("/var/lib/kubelet/.keep", "");
    machine.remove("/var/lib/kubelet/.keep").unwrap();
    let before = machine.dump();
    for path in [
        "/etc/kubernetes/manifests/etcd.yaml",
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        "/etc/kubernetes/pki/ca.key",
        "/etc/kubernetes/pki/etcd/ca.key",
        "/etc/kubernetes/admin.conf",
        "/etc/kubernetes/kubelet.conf",
        "/var/lib/kubelet/config.yaml",
        "/var/lib/etcd/member/wal",
        "/var/log/pods/a/0.log",
    ] {
        machine.put(path, "x");
    }
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().join("journal.jsonl")).unwrap();
    let report = reset(&machine).run(&journal).await.unwrap();
    assert!(report.ok(), "{report:?}");
    assert_eq!(machine.dump(), before);
}

/// `kprov bundle install`, then another tool's join: the journal knows the bundle alone.
#[tokio::test]
async fn what_another_tool_made_beside_our_bundle_goes_too() {
    let machine = lived_in();
    for dir in ["/etc/kubernetes", "/etc/kubernetes/pki", "/etc/kubernetes/manifests", "/var/lib/kubelet"] {
        machine.make_dir(dir, 0o755).unwrap();
    }
    let before = machine.dump();
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().join("journal.jsonl")).unwrap();
    journal.begin("bundle-install", "");
    let unit = "/etc/systemd/system/kubelet.service";
    let made = vec![file(unit), file("/usr/bin/kubelet")];
    journal.write(What::Start { key: Key::new("bundle/files"), made }).unwrap();
    for path in [unit, "/usr/bin/kubelet"] {
        machine.put(path, "[Service]\nExecStart=/usr/bin/kubelet\n");
    }
    for path in [
        "/etc/kubernetes/pki/ca.crt",
        "/etc/kubernetes/kubelet.conf",
        "/etc/kubernetes/admin.conf",
        "/var/lib/kubelet/config.yaml",
        "/var/log/pods/a/0.log",
    ] {
        machine.put(path, "x");
    }
    let report = reset(&machine).run(&journal).await.unwrap();
    assert!(report.ok(), "{report:?}");
    assert_eq!(machine.dump(), before);
}

/// Ours, reset by kubeadm (which leaves our journal), then a control plane by kubeadm.
#[tokio::test]
async fn a_control_plane_that_the_journal_does_not_name_goes_whole() {
    let machine = lived_in();
    let before = machine.dump();
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().join("kprov/journal.jsonl")).unwrap();
    joined(&machine, &journal).await;
    for path in [
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        "/etc/kubernetes/pki/ca.key",
        "/etc/kubernetes/pki/etcd/ca.key",
        "/etc/kubernetes/admin.conf",
    ] {
        machine.put(path, "x");
    }
    let report = reset(&machine).run(&journal).await.unwrap();
    assert!(report.ok(), "{report:?}");
    // An empty directory that kubeadm made stays, as it does after its own reset.
    machine.remove_dir("/etc/kubernetes/manifests").unwrap();
    machine.remove_dir("/etc/kubernetes").unwrap();
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn a_machine_without_a_cluster_is_left_alone() {
    let machine = lived_in();
    // Keys that somebody laid down for a later init, no node yet.
    machine.put("/etc/kubernetes/pki/ca.key", "mine");
    let before = machine.dump();
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().join("journal.jsonl")).unwrap();
    assert!(reset(&machine).run(&journal).await.unwrap().ok());
    assert_eq!(machine.dump(), before);
}

#[tokio::test]
async fn a_preview_touches_nothing_and_names_all() {
    let machine = lived_in();
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().join("journal.jsonl")).unwrap();
    joined(&machine, &journal).await;
    let (before, changes) = (machine.dump(), machine.changes());
    let lines = reset(&machine).preview(&journal.record()).await.unwrap();
    assert_eq!((machine.dump(), machine.changes()), (before, changes));
    for expected in [
        "stop kubelet.service",
        "stop and remove all pods",
        "delete the network link cni0",
        "delete the network namespace cni-1234",
        "remove nftables rules: table ip kube-proxy",
        "take back file /etc/kubernetes/pki/ca.crt",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:#?}");
    }
}

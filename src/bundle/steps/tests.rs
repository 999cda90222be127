use std::path::{Path, PathBuf};
use std::sync::Arc;

use kprov_providers::machine::fake::FakeMachine;
use kprov_providers::machine::{Command, Exit, UnitVerb};
use kprov_providers::steps::Label;
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch};

use super::content::BLOBS;
use super::*;
use crate::bundle::locate::Found;
use crate::bundle::sets::Set;
use crate::bundle::synthetic::{Synthetic, elf, layer};
use crate::engine::{Engine, Stop, undo};
use crate::facts::Runtime;
use crate::facts::tests::facts;
use crate::journal::Journal;
use crate::phases::bundle::{AtBoot, SOCKET, bundle};
use crate::plan::Plan;

/// A bundle like the real one, only small, as a file.
fn found(dir: &Path, kubelet: &[u8]) -> Found {
    let mut bundle = Synthetic::new("amd64");
    for name in ["containerd", "containerd-shim-runc-v2", "ctr", "runc", "crictl"] {
        bundle.file(&format!("/usr/local/bin/{name}"), elf("amd64", name.as_bytes()));
    }
    bundle.file("/opt/cni/bin/bridge", elf("amd64", b"bridge"));
    bundle.file("/usr/bin/kubelet", elf("amd64", kubelet));
    bundle.file("/usr/local/bin/nft", elf("amd64", b"nft"));
    bundle.manifest.files.last_mut().unwrap().unless.push("/usr/sbin/nft".into());
    bundle.host("/usr/local/bin/k", crate::bundle::manifest::Content::Link("kubectl".into()));
    bundle.image("registry.k8s.io/pause:3.10.1", &[layer(&[("pause", b"pause")])]);
    bundle.image("registry.k8s.io/etcd:3.6.8-0", &[layer(&[("etcd", b"etcd")])]);
    bundle.image("registry.k8s.io/kube-proxy:v1.36.3", &[layer(&[("kube", b"kube")])]);
    bundle.manifest.arrange();
    let id = bundle.manifest.id().unwrap();
    let path = dir.join(format!("{id}.tar.zst"));
    std::fs::write(&path, bundle.bytes()).unwrap();
    Found { path, id, manifest: bundle.manifest }
}

/// A containerd that keeps its images in a file of the machine.
fn with_containerd(machine: &FakeMachine, found: &Found, socket: &'static str) {
    let ctr = found.manifest.files.iter().find(|f| f.path.ends_with("/ctr")).unwrap().sha256().unwrap();
    let images = found.manifest.images.clone();
    machine.on(&format!("{}/files/{ctr}", folder(&found.id)), move |machine, command| {
        ctr_answers(machine, command, &images)
    });
    machine.on_unit(move |machine, name, verb| {
        if name == "containerd.service" && matches!(verb, UnitVerb::Start | UnitVerb::Restart) {
            machine.make_dir("/var/lib/containerd", 0o711)?;
            machine.make_dir("/run/containerd", 0o711)?;
            machine.write(socket, b"", 0o600)?;
        }
        Ok(())
    });
}

const STORE: &str = "/var/lib/containerd/images";

/// Names a blob that containerd has an entry for, and not the blob.
const LOST: &str = "/var/lib/containerd/lost";

fn ctr_answers(
    machine: &FakeMachine,
    command: &Command,
    images: &[crate::bundle::manifest::Image],
) -> anyhow::Result<Exit> {
    let stored = machine.read(STORE)?.unwrap_or_default();
    let mut lines: Vec<String> = String::from_utf8(stored)?.lines().map(str::to_owned).collect();
    let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["--address", _, "--namespace", "k8s.io", "images", "list"] => {}
        ["--address", _, "--namespace", "k8s.io", "images", "check"] => {
            let name = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
            let rows = lines.iter().map(|line| format!("{} type digest complete (3/3) 1 MiB/1 MiB true", name(line)));
            let stdout = rows.collect::<Vec<_>>().join("\n").into_bytes();
            return Ok(Exit { stdout, ..Exit::default() });
        }
        [
            "--address",
            _,
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--local",
            "--sync-fs",
            "--label",
            PINNED,
            archive,
        ] => {
            if !machine.read(archive)?.is_some_and(|tar| tar.ends_with(&[0; 1024])) {
                return Ok(Exit { code: 1, stderr: b"ctr: unexpected EOF".to_vec(), ..Exit::default() });
            }
            // What is there is taken for what it is named after, and its layers cannot be unpacked.
            for name in machine.list(BLOBS)?.unwrap_or_default() {
                if machine.sha256(&format!("{BLOBS}/{name}"))?.is_some_and(|found| found != name) {
                    return Ok(Exit { code: 1, stderr: b"ctr: content digest: not found".to_vec(), ..Exit::default() });
                }
            }
            if machine.meta(LOST)?.is_some() {
                return Ok(Exit { code: 1, stderr: b"ctr: blob not found".to_vec(), ..Exit::default() });
            }
            for image in images.iter().filter(|image| archive.ends_with(&Set::of(&image.name).archive())) {
                lines.retain(|line| !line.starts_with(&format!("{} ", image.name)));
                lines.push(format!("{} type {} 1.0 MiB linux/amd64 {PINNED}", image.name, image.digest));
            }
        }
        ["--address", _, "--namespace", "k8s.io", "images", "remove", name] => {
            lines.retain(|line| !line.starts_with(&format!("{name} ")));
        }
        ["--address", _, "--namespace", "k8s.io", "content", "ls", "--quiet"] => {
            let lost = machine.read(LOST)?.unwrap_or_default();
            return Ok(Exit { stdout: [b"sha256:".as_slice(), &lost].concat(), ..Exit::default() });
        }
        ["--address", _, "--namespace", "k8s.io", "content", "rm", digest] => {
            let lost = machine.read(LOST)?.unwrap_or_default();
            if digest.strip_prefix("sha256:").is_some_and(|hex| hex.as_bytes() == lost) {
                machine.remove(LOST)?;
            }
            return Ok(Exit::default());
        }
        other => panic!("{other:?}"),
    }
    machine.write(STORE, lines.join("\n").as_bytes(), 0o600)?;
    let stdout = format!("REF TYPE DIGEST SIZE PLATFORMS LABELS\n{}\n", lines.join("\n")).into_bytes();
    Ok(Exit { stdout, ..Exit::default() })
}

fn plan(found: &Found, facts: &crate::facts::Facts, machine: &FakeMachine) -> Plan {
    let machine: Arc<dyn Machine> = Arc::new(machine.clone());
    let (plan, keys) = bundle(found, facts, &machine, AtBoot::NotEnabled, &[]).unwrap();
    plan.validate().unwrap();
    for key in keys.all() {
        assert!(plan.steps().iter().any(|s| *s.key() == key), "{key}");
    }
    plan
}

struct Run {
    dir: tempfile::TempDir,
    machine: FakeMachine,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), machine: FakeMachine::new() }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal.jsonl")
    }
}

impl Run {
    async fn run(&self, found: &Found, facts: &crate::facts::Facts) -> Result<(Vec<String>, Vec<String>), String> {
        let journal = Arc::new(Journal::open(self.journal()).unwrap());
        let (events, _keep) = kprov_providers::Events::channel();
        let plan = plan(found, facts, &self.machine);
        let outcome = Engine::new(events, Stop::new()).run("bundle-install", &plan, &journal).await.unwrap();
        let names = |keys: &[kprov_providers::Key]| keys.iter().map(|k| k.as_str().to_owned()).collect::<Vec<_>>();
        match outcome.failures.first() {
            Some(failure) => Err(failure.to_string()),
            None => Ok((names(&outcome.made), names(&outcome.ready))),
        }
    }

    async fn undo(&self) {
        let journal = Journal::open(self.journal()).unwrap();
        let (events, _keep) = kprov_providers::Events::channel();
        let undone = undo(&journal, &self.machine, &events, &Stop::new()).await.unwrap();
        assert!(undone.failures.is_empty(), "{:?}", undone.failures);
        journal.remove().unwrap();
    }
}

#[tokio::test]
async fn a_bare_machine_gets_everything_and_the_second_time_nothing() {
    let run = Run::new();
    let before = run.machine.dump();
    let found = found(run.dir.path(), b"one");
    with_containerd(&run.machine, &found, SOCKET);
    let (made, ready) = run.run(&found, &facts()).await.unwrap();
    assert!(ready.is_empty(), "{ready:?}");
    for (path, mode) in [("/usr/bin/kubelet", 0o755), ("/opt/cni/bin/bridge", 0o755), ("/usr/local/bin/nft", 0o755)] {
        assert_eq!(run.machine.meta(path).unwrap().unwrap().mode, mode, "{path}");
    }
    assert_eq!(run.machine.read("/usr/bin/kubelet").unwrap().unwrap(), elf("amd64", b"one"));
    let config = String::from_utf8(run.machine.read("/etc/containerd/config.toml").unwrap().unwrap()).unwrap();
    assert!(config.contains("sandbox = \"registry.k8s.io/pause:3.10.1\""), "{config}");
    assert_eq!(run.machine.unit("containerd.service").await.unwrap().active, "active");
    let done = run.machine.dump();
    let (again, ready) = run.run(&found, &facts()).await.unwrap();
    assert!(again.is_empty(), "{again:?}");
    assert_eq!(ready.len(), made.len());
    assert_eq!(run.machine.dump(), done);
    run.undo().await;
    assert_eq!(run.machine.dump(), before, "reset leaves nothing");
}

#[tokio::test]
async fn killed_anywhere_it_converges() {
    let whole = Run::new();
    let found = found(whole.dir.path(), b"one");
    with_containerd(&whole.machine, &found, SOCKET);
    let before = whole.machine.dump();
    whole.run(&found, &facts()).await.unwrap();
    let (wanted, changes) = (whole.machine.dump(), whole.machine.changes());
    for n in 0..changes {
        let run = Run::new();
        with_containerd(&run.machine, &found, SOCKET);
        run.machine.crash_after(n);
        let _ = run.run(&found, &facts()).await;
        run.machine.revive();
        run.run(&found, &facts()).await.unwrap_or_else(|e| panic!("killed after {n} changes: {e}"));
        assert_eq!(run.machine.dump(), wanted, "killed after {n} changes");
        run.undo().await;
        assert_eq!(run.machine.dump(), before, "killed after {n} changes, then reset");
    }
}

#[tokio::test]
async fn somebody_else_s_file_stops_it_and_stays() {
    for path in ["/usr/bin/kubelet", "/etc/containerd/config.toml", "/etc/systemd/system/kubelet.service"] {
        let run = Run::new();
        let found = found(run.dir.path(), b"one");
        with_containerd(&run.machine, &found, SOCKET);
        run.machine.put(path, "theirs");
        let before = run.machine.dump();
        let error = run.run(&found, &facts()).await.unwrap_err();
        assert!(error.contains(path) && error.contains("another"), "{error}");
        run.undo().await;
        assert_eq!(run.machine.dump(), before);
    }
}

#[tokio::test]
async fn what_was_there_and_is_the_same_stays_after_reset() {
    let run = Run::new();
    let found = found(run.dir.path(), b"one");
    with_containerd(&run.machine, &found, SOCKET);
    run.machine.write("/usr/bin/kubelet", &elf("amd64", b"one"), 0o755).unwrap();
    run.machine.put("/usr/sbin/nft", "their own");
    run.machine.put("/etc/crictl.yaml", "their own");
    let before = run.machine.dump();
    run.run(&found, &facts()).await.unwrap();
    assert!(run.machine.meta("/usr/local/bin/nft").unwrap().is_none(), "not needed: the machine has one");
    run.undo().await;
    assert_eq!(run.machine.dump(), before);
}

#[tokio::test]
async fn a_newer_bundle_replaces_what_an_older_one_brought() {
    let run = Run::new();
    let (old, new) = (found(run.dir.path(), b"one"), found(run.dir.path(), b"two"));
    with_containerd(&run.machine, &old, SOCKET);
    with_containerd(&run.machine, &new, SOCKET);
    run.run(&old, &facts()).await.unwrap();
    let (made, _) = run.run(&new, &facts()).await.unwrap();
    assert!(made.contains(&"bundle/kubernetes".to_owned()) && !made.contains(&"bundle/cni".to_owned()), "{made:?}");
    assert_eq!(run.machine.read("/usr/bin/kubelet").unwrap().unwrap(), elf("amd64", b"two"));
}

#[tokio::test]
async fn another_machine_s_containerd_is_used_and_given_back() {
    let run = Run::new();
    let found = found(run.dir.path(), b"one");
    with_containerd(&run.machine, &found, SOCKET);
    run.machine.put("/run/theirs.sock", "");
    run.machine.put("/etc/containerd/config.toml", "theirs");
    let pause = found.manifest.images[0].clone();
    run.machine.put(STORE, format!("{} type {} 1 MiB linux/amd64 -", pause.name, pause.digest));
    let theirs =
        Runtime { name: "containerd".into(), version: "2.1.4".into(), socket: "unix:///run/theirs.sock".into() };
    let facts = crate::facts::Facts { runtime: Some(theirs), ..facts() };
    let before = run.machine.dump();
    run.run(&found, &facts).await.unwrap();
    assert!(run.machine.meta("/usr/local/bin/containerd").unwrap().is_none());
    assert!(run.machine.meta("/usr/bin/kubelet").unwrap().is_some());
    let crictl = String::from_utf8(run.machine.read("/etc/crictl.yaml").unwrap().unwrap()).unwrap();
    assert!(crictl.contains("unix:///run/theirs.sock"), "{crictl}");
    run.undo().await;
    let after = run.machine.dump().replace(&format!(" 1.0 MiB linux/amd64 {PINNED}"), "");
    // Their image is still there; that the import labelled it as well does no harm.
    assert_eq!(
        after.lines().filter(|l| !l.contains(STORE)).collect::<Vec<_>>(),
        before.lines().filter(|l| !l.contains(STORE)).collect::<Vec<_>>()
    );
    let left = String::from_utf8(run.machine.read(STORE).unwrap().unwrap()).unwrap();
    assert!(left.starts_with(&pause.name) && left.lines().count() == 1, "{left}");
}

#[tokio::test]
async fn images_of_another_s_containerd_are_used_but_not_replaced() {
    let run = Run::new();
    let found = found(run.dir.path(), b"one");
    with_containerd(&run.machine, &found, SOCKET);
    run.machine.put("/run/theirs.sock", "");
    let row = |name: &str| format!("{name} type sha256:{} 1 MiB linux/amd64 -\n", "0".repeat(64));
    run.machine.put(STORE, row("registry.k8s.io/pause:3.10.1"));
    let theirs =
        Runtime { name: "containerd".into(), version: "2.1.4".into(), socket: "unix:///run/theirs.sock".into() };
    let facts = crate::facts::Facts { runtime: Some(theirs), ..facts() };
    let error = run.run(&found, &facts).await.unwrap_err();
    assert!(error.contains("ctr -n k8s.io images remove registry.k8s.io/pause:3.10.1"), "{error}");
    let all = ["registry.k8s.io/pause:3.10.1", "registry.k8s.io/etcd:3.6.8-0", "registry.k8s.io/kube-proxy:v1.36.3"];
    run.machine.put(STORE, all.map(row).concat());
    let stored = run.machine.read(STORE).unwrap();
    // The steps have only their archives to remove.
    run.run(&found, &facts).await.unwrap();
    assert_eq!(
        run.machine.read(STORE).unwrap().map(|s| String::from_utf8(s).unwrap().trim().to_owned()),
        stored.map(|s| String::from_utf8(s).unwrap().trim().to_owned())
    );
    let (made, _) = run.run(&found, &facts).await.unwrap();
    assert!(made.is_empty(), "{made:?}");
}

#[tokio::test]
async fn parts_of_images_that_a_power_cut_damaged_are_brought_anew() {
    let run = Run::new();
    let found = found(run.dir.path(), b"one");
    with_containerd(&run.machine, &found, SOCKET);
    let (right, wrong) = (crate::bundle::manifest::sha256_hex(b"right"), crate::bundle::manifest::sha256_hex(b"wrong"));
    run.machine.put(&format!("{BLOBS}/{right}"), "right");
    run.machine.put(&format!("{BLOBS}/{wrong}"), "");
    run.machine.put(LOST, "0".repeat(64));
    run.run(&found, &facts()).await.unwrap();
    assert_eq!(run.machine.list(BLOBS).unwrap().unwrap(), [right]);
    assert!(run.machine.meta(LOST).unwrap().is_none());
}

#[tokio::test]
async fn images_that_went_missing_are_taken_from_the_bundle_again() {
    let run = Run::new();
    let found = found(run.dir.path(), b"one");
    with_containerd(&run.machine, &found, SOCKET);
    run.run(&found, &facts()).await.unwrap();
    let archives = [Set::First, Set::Kubernetes].map(|set| format!("{}/{}", folder(&found.id), set.archive()));
    for archive in &archives {
        assert!(run.machine.meta(archive).unwrap().is_none(), "no space is wasted");
    }
    for damaged in [false, true] {
        run.machine.write(STORE, b"", 0o600).unwrap();
        if damaged {
            run.machine.write(&archives[1], b"half", 0o644).unwrap();
        }
        let (mut made, _) = run.run(&found, &facts()).await.unwrap();
        made.sort();
        assert_eq!(made, ["bundle/images/first", "bundle/images/kubernetes"]);
        for archive in &archives {
            assert!(run.machine.meta(archive).unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn a_changed_bundle_file_is_not_the_planned_one() {
    let run = Run::new();
    let (one, two) = (found(run.dir.path(), b"one"), found(run.dir.path(), b"two"));
    let step = Unpack::new(Label::new("u", "bundle"), Arc::new(run.machine.clone()), &two.path, &one.id);
    assert_eq!(step.check(&Outputs::none()).await.unwrap(), Status::Missing);
    let error = step.apply(&Outputs::none(), &Watch::quiet()).await.unwrap_err().to_string();
    assert!(error.starts_with("the bundle is another one than when the plan was made"), "{error}");
    let made = step.made(&Outputs::none()).await.unwrap();
    assert!(made.contains(&Made::Tree { path: folder(&one.id) }), "{made:?}");
}

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::machine::UnitVerb;
use crate::machine::fake::FakeMachine;
use crate::made::undo;
use crate::{Outputs, Status, Step, Watch};
use std::sync::Arc;

fn label(key: &str) -> Label {
    Label::new(key, "test")
}

/// Runs a step as the engine does; what it made, and its outputs.
async fn make(step: &dyn Step, known: &Outputs) -> (Vec<Made>, Outputs) {
    let made = step.made(known).await.unwrap();
    let outputs = step.apply(known, &Watch::quiet()).await.unwrap();
    (made, outputs)
}

/// The rule for every step: after apply it is ready; what it says it made is all that there is to take back.
async fn round_trip(machine: &FakeMachine, step: &dyn Step) {
    let before = machine.dump();
    assert!(!matches!(step.check(&Outputs::none()).await.unwrap(), Status::Ready(_)));
    assert_eq!(machine.dump(), before, "check changes nothing");
    let (made, outputs) = make(step, &Outputs::none()).await;
    assert_ne!(machine.dump(), before);
    assert!(matches!(step.check(&outputs).await.unwrap(), Status::Ready(_)));
    for made in made.iter().rev() {
        undo(machine, made).await.unwrap();
    }
    assert_eq!(machine.dump(), before, "{} is taken back", step.describe());
}

#[tokio::test]
async fn each_step_is_ready_after_apply_and_leaves_nothing_after_undo() {
    let machine = FakeMachine::new();
    machine.put("/tmp/kubelet", "a big file");
    machine.put("/etc/systemd/system/x.service", "[Unit]");
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    let hash = machine.sha256("/tmp/kubelet").unwrap().unwrap();
    let steps: Vec<Box<dyn Step>> = vec![
        Box::new(WriteFile::new(label("a"), this.clone(), "/etc/kubernetes/manifests/etcd.yaml", "x").mode(0o600)),
        Box::new(WriteFile::worked(label("b"), this.clone(), "/etc/b", |_, _| Ok(Some(b"b".to_vec())))),
        Box::new(MakeDir::new(label("c"), this.clone(), "/var/lib/etcd").mode(0o700).tree()),
        Box::new(MakeDir::new(label("d"), this.clone(), "/opt/cni/bin")),
        Box::new(Link::new(label("e"), this.clone(), "/var/lib/kubelet/pki/current.pem", "/etc/other.pem")),
        Box::new(InstallFile::new(label("f"), this.clone(), "/tmp/kubelet", "/usr/bin/kubelet", hash)),
        Box::new(Sysctl::new(label("g"), this.clone(), "net.ipv4.ip_forward", "1")),
        Box::new(UnitStep::new(label("h"), this.clone(), "x.service").restart_on(["/etc/x.conf"]).with_pods()),
    ];
    for step in &steps {
        round_trip(&machine, step.as_ref()).await;
    }
}

#[tokio::test]
async fn a_file_that_was_there_is_not_ours() {
    let machine = FakeMachine::new();
    machine.put("/etc/hosts", "theirs\nsame\n");
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    let step = WriteFile::new(label("a"), this.clone(), "/etc/hosts", "ours\nsame\n");
    assert_eq!(step.check(&Outputs::none()).await.unwrap(), Status::Differs("-theirs\n+ours".to_owned()));
    assert_eq!(step.made(&Outputs::none()).await.unwrap(), vec![]);
    let step =
        WriteFile::new(label("a"), this, "/etc/hosts", "ours").foreign_unless(|there| there.starts_with(b"ours"));
    assert!(
        matches!(step.check(&Outputs::none()).await.unwrap(), Status::Foreign(text) if text.contains("/etc/hosts"))
    );
}

#[tokio::test]
async fn a_secret_is_never_shown() {
    let machine = FakeMachine::new();
    machine.put("/etc/key", "old secret");
    let step = WriteFile::new(label("a"), Arc::new(machine), "/etc/key", "new secret").secret();
    assert_eq!(step.check(&Outputs::none()).await.unwrap(), Status::Differs("<secret>".to_owned()));
    assert_eq!(step.content().as_deref(), Some("<secret>"));
}

#[tokio::test]
async fn a_wrong_mode_is_mended() {
    let machine = FakeMachine::new();
    machine.put("/etc/key", "key");
    let step = WriteFile::new(label("a"), Arc::new(machine.clone()), "/etc/key", "key").mode(0o600);
    assert!(matches!(step.check(&Outputs::none()).await.unwrap(), Status::Differs(_)));
    make(&step, &Outputs::none()).await;
    assert_eq!(machine.meta("/etc/key").unwrap().unwrap().mode, 0o600);
}

#[tokio::test]
async fn a_unit_is_started_again_when_its_files_changed() {
    let machine = FakeMachine::new();
    machine.put("/etc/systemd/system/x.service", "[Unit]");
    machine.put("/etc/x.conf", "one");
    let verbs = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = verbs.clone();
    machine.on_unit(move |_, _, verb| {
        heard.lock().unwrap().push(verb);
        Ok(())
    });
    let step = UnitStep::new(label("a"), Arc::new(machine.clone()), "x.service").restart_on(["/etc/x.conf"]);
    let (_, known) = make(&step, &Outputs::none()).await;
    assert!(matches!(step.check(&known).await.unwrap(), Status::Ready(_)));
    machine.put("/etc/x.conf", "two");
    assert!(matches!(step.check(&known).await.unwrap(), Status::Differs(_)));
    assert_eq!(step.made(&known).await.unwrap(), vec![Made::Nothing]);
    let (_, known) = make(&step, &known).await;
    assert!(matches!(step.check(&known).await.unwrap(), Status::Ready(_)));
    assert_eq!(*verbs.lock().unwrap(), [UnitVerb::Start, UnitVerb::Enable, UnitVerb::Restart]);
}

#[tokio::test]
async fn a_unit_file_that_a_killed_run_had_written_is_read_before_the_start() {
    let machine = FakeMachine::new();
    machine.write("/etc/systemd/system/x.service", b"[Unit]", 0o644).unwrap();
    assert!(machine.unit("x.service").await.unwrap().outdated);
    let step = UnitStep::new(label("a"), Arc::new(machine.clone()), "x.service");
    step.check(&Outputs::none()).await.unwrap();
    let heard = machine.clone();
    machine.on_unit(move |_, name, verb| {
        let unread = futures_util::FutureExt::now_or_never(heard.unit(name)).unwrap().unwrap().outdated;
        assert!(!unread, "{verb:?}");
        Ok(())
    });
    make(&step, &Outputs::none()).await;
}

#[tokio::test]
async fn a_wait_ends_when_it_is_so_and_says_what_it_saw_when_not() {
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = count.clone();
    let step = WaitFor::new(label("a"), "it is there", Duration::from_secs(10), move |_| {
        let n = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let answer = if n < 3 { Answer::NotYet("connection refused".to_owned()) } else { Answer::Yes(Outputs::none()) };
        async move { Ok(answer) }.boxed()
    });
    step.apply(&Outputs::none(), &Watch::quiet()).await.unwrap();
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 4);
    let never = WaitFor::new(label("b"), "it is there", Duration::from_secs(1), |_| {
        async { Ok(Answer::NotYet("connection refused".to_owned())) }.boxed()
    })
    .explain(|| async { "etcd: no space left".to_owned() }.boxed());
    let error = never.apply(&Outputs::none(), &Watch::quiet()).await.unwrap_err().to_string();
    assert_eq!(error, "not so after 1 s: connection refused\netcd: no space left");
}

#[test]
fn a_diff_shows_what_changes_only() {
    assert_eq!(diff("a\nb\nc\n", "a\nx\ny\nc\n"), "-b\n+x\n+y");
    assert_eq!(diff("a\n", "a\na\n"), "+a");
    assert_eq!(diff("", "a"), "+a");
    assert_eq!(diff("a", "a"), "");
}

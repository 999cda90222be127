use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use kprov_providers::Outputs;

use super::*;

fn start(key: &str, path: &str) -> What {
    What::Start { key: key.into(), made: vec![Made::File { path: path.to_owned() }] }
}

fn done(key: &str, outputs: Outputs) -> What {
    What::Done { key: key.into(), outputs, hash: String::new() }
}

/// A journal in which `init` has set out, its file, and the directory that keeps both.
fn begun() -> (tempfile::TempDir, PathBuf, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.jsonl");
    let journal = Journal::open(&path).unwrap();
    journal.begin("init", "");
    (dir, path, journal)
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/journal.jsonl");
    {
        let journal = Journal::open(&path).unwrap();
        journal.begin("init", "abc");
        journal.write(start("one", "/etc/one")).unwrap();
        journal.write(done("one", Outputs::none().with("x", "1"))).unwrap();
        journal.write(start("two", "/etc/two")).unwrap();
        journal.end(true).unwrap();
    }
    let record = Journal::read(&path).unwrap();
    assert!(record.done(&"one".into()) && record.started(&"one".into()));
    assert!(!record.done(&"two".into()) && record.started(&"two".into()));
    assert_eq!(record.all_outputs().get("x"), Some("1"));
    assert!(record.made_path("/etc/two") && !record.made_path("/etc/three"));
    assert!(record.finished("init") && !record.finished("join"));
    assert_eq!(record.last_command(), Some("init"));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn undone_takes_back_started_and_finished() {
    let (_keep, _, journal) = begun();
    journal.write(start("one", "/etc/one")).unwrap();
    journal.write(done("one", Outputs::none().with("x", "1"))).unwrap();
    journal.end(true).unwrap();
    journal.write(What::Undone { key: "one".into() }).unwrap();
    let record = journal.record();
    assert!(!record.started(&"one".into()) && !record.done(&"one".into()) && !record.finished("init"));
    assert!(record.all_outputs().is_empty() && record.entries().is_empty());
}

#[test]
fn a_command_without_work_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kprov/journal.jsonl");
    {
        let journal = Journal::open(&path).unwrap();
        journal.begin("init", "");
        journal.end(false).unwrap();
    }
    assert!(!path.exists() && !dir.path().join("kprov").exists(), "an empty journal goes away with its directory");
    {
        let journal = Journal::open(&path).unwrap();
        journal.begin("init", "");
        journal.end(true).unwrap();
    }
    let before = std::fs::read(&path).unwrap();
    {
        let journal = Journal::open(&path).unwrap();
        journal.begin("init", "");
        journal.end(true).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), before, "a second init on a finished machine writes nothing");
}

#[test]
fn remove_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x/kprov/journal.jsonl");
    {
        let journal = Journal::open(&path).unwrap();
        journal.begin("init", "");
        journal.write(start("one", "/etc/one")).unwrap();
    }
    let journal = Journal::open(&path).unwrap();
    journal.remove().unwrap();
    drop(journal);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn one_writer_at_a_time_and_it_is_named() {
    let (_keep, path, journal) = begun();
    journal.write(start("one", "/etc/one")).unwrap();
    let error = Journal::open(&path).err().unwrap().to_string();
    assert!(error.contains("kprov init since") && error.contains(&std::process::id().to_string()), "{error}");
    assert!(Journal::read(&path).unwrap().started(&"one".into()), "reading needs no lock");
    drop(journal);
    Journal::open(&path).unwrap();
}

#[test]
fn lines_written_side_by_side_are_all_there_each_after_what_came_before_it() {
    let (_keep, path, journal) = begun();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for n in 0..10 {
                    let key = format!("{writer}/{n}");
                    journal.write(start(&key, "/etc/x")).unwrap();
                    let on_disk = Journal::read(journal.path()).unwrap();
                    assert!(on_disk.started(&key.as_str().into()) && on_disk.last_command() == Some("init"));
                    journal.write(done(&key, Outputs::none())).unwrap();
                }
            });
        }
    });
    let record = Journal::read(&path).unwrap();
    assert_eq!(record.entries().len(), 80);
    assert!(record.entries().iter().all(|entry| record.done(&entry.key)) && !record.torn());
}

#[test]
fn lines_that_could_not_be_synced_are_cut_off_and_their_writers_told() {
    let (_keep, path, journal) = begun();
    journal.write(start("one", "/etc/one")).unwrap();
    let synced = journal.lock().len;
    let cuts = journal.lock().cuts;
    // Written by others while somebody's sync failed.
    journal.write(done("one", Outputs::none())).unwrap();
    let end = journal.lock().len;
    journal.lock().cut(&journal.file, &path, synced);
    assert!(journal.sync(end, cuts).is_err());
    assert!(journal.record().started(&"one".into()) && !journal.record().done(&"one".into()));
    journal.write(start("two", "/etc/two")).unwrap();
    let record = Journal::read(&path).unwrap();
    assert!(record.started(&"two".into()) && !record.done(&"one".into()) && !record.torn());
}

#[test]
fn a_begin_that_is_cut_off_comes_before_the_next_line() {
    let (_keep, path, journal) = begun();
    journal.write(start("one", "/etc/one")).unwrap();
    journal.lock().cut(&journal.file, &path, 0);
    journal.write(start("two", "/etc/two")).unwrap();
    journal.end(true).unwrap();
    let record = Journal::read(&path).unwrap();
    assert!(record.finished("init") && record.started(&"two".into()) && !record.started(&"one".into()));
    assert_eq!(record.last_command(), Some("init"));
    // One that is on the disk stays there, and is not written twice.
    journal.begin("reset", "");
    journal.write(start("three", "/etc/three")).unwrap();
    let synced = journal.lock().len;
    journal.write(done("three", Outputs::none())).unwrap();
    journal.lock().cut(&journal.file, &path, synced);
    journal.write(start("four", "/etc/four")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("\"begin\"").count(), 2, "{text}");
}

#[test]
fn a_torn_last_line_does_not_count_and_is_cut_off() {
    let (_keep, path, journal) = begun();
    journal.write(start("one", "/etc/one")).unwrap();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    {
        let journal = Journal::open(&path).unwrap();
        journal.write(done("one", Outputs::none())).unwrap();
    }
    let longer = std::fs::read(&path).unwrap();
    let mut tails: Vec<Vec<u8>> = (whole.len() + 1..longer.len()).map(|n| longer[..n].to_vec()).collect();
    tails.push([whole.as_slice(), &[0; 512]].concat());
    tails.push([whole.as_slice(), b"{\"v\":1,\"ti\n\0\0\0"].concat());
    for bytes in tails {
        std::fs::write(&path, &bytes).unwrap();
        let record = Journal::read(&path).unwrap();
        assert!(record.torn() && record.started(&"one".into()) && !record.done(&"one".into()));
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "reading changes nothing");
        let journal = Journal::open(&path).unwrap();
        assert!(journal.record().torn());
        drop(journal);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn a_broken_line_in_the_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.jsonl");
    std::fs::write(&path, "rubbish\n{\"v\":1,\"time\":\"t\",\"line\":\"undone\",\"key\":\"a\"}\n").unwrap();
    assert!(matches!(Journal::read(&path), Err(JournalError::Broken { line: 1, .. })));
}

#[test]
fn lines_of_later_releases_are_refused_or_passed_over_as_their_format_says() {
    let read = |text: &str| Record::parse(text.as_bytes(), Path::new("j"));
    let undone = r#"{"v":1,"time":"t","line":"undone","key":"a","why":"a field of a later release"}"#;
    assert!(read(&format!("{undone}\n")).is_ok());
    let other = r#"{"v":1,"time":"t","line":"remark","text":"may be passed over"}"#;
    assert_eq!(read(&format!("{other}\n")).unwrap().passed_over(), 1);
    let newer = r#"{"v":2,"time":"t","line":"undone","key":"a"}"#;
    let error = read(&format!("{undone}\n{newer}\n")).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("format 2"), "{error}");
    // Something that we could not take back: refused even as the last line.
    let made = r#"{"v":1,"time":"t","line":"start","key":"a","made":[{"kind":"spell"}]}"#;
    assert!(matches!(read(&format!("{made}\n")), Err(JournalError::Broken { line: 1, .. })));
}

#[test]
fn journals_of_old_releases_are_understood() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journals");
    let record = Journal::read(dir.join("0.1.0-init.jsonl")).unwrap();
    assert!(record.finished("init") && record.finished("bundle-install") && !record.torn());
    assert!(record.done(&"manifests/etcd".into()));
    assert!(record.made_path("/etc/kubernetes/manifests/etcd.yaml"));
    assert!(record.made_path("/var/lib/etcd/member/wal"), "below a tree");
    assert!(record.made_unit("kubelet.service"));
    assert_eq!(record.all_outputs().get("api/server"), Some("https://10.0.0.1:6443"));
    let halfway = Journal::read(dir.join("0.1.0-reset-killed.jsonl")).unwrap();
    assert!(halfway.torn() && !halfway.finished("init"));
    assert!(halfway.started(&"kubelet/files".into()) && !halfway.started(&"kubelet/unit".into()));
    // Together they have all that a step may have made.
    let fixed = Journal::read(dir.join("0.1.0-fixed-join.jsonl")).unwrap();
    let kind = |made: &Made| serde_json::to_value(made).unwrap()["kind"].as_str().unwrap().to_owned();
    let kinds: BTreeSet<String> = record.made().chain(fixed.made()).map(kind).collect();
    let known = "dir file filled image link moved nothing pods swap sysctl tree unit";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), known);
}

/// On a file system of one page, in a mount namespace of its own: this test calls itself there.
#[test]
fn a_full_disk_leaves_no_half_line_in_the_middle() {
    const INSIDE: &str = "KPROV_TEST_IN_OWN_MOUNTS";
    let unshare = ["--mount", "--propagation", "private"];
    if std::env::var_os(INSIDE).is_none() {
        let own = std::process::Command::new("unshare").args(unshare).arg("true").output();
        if !own.is_ok_and(|own| own.status.success()) {
            assert!(std::env::var_os("KPROV_TEST_ALL").is_none_or(|all| all != "1"), "needs root and unshare");
            let _ = io::stderr().write_all(b"left out: needs root and unshare\n");
            return;
        }
        let inside = std::process::Command::new("unshare")
            .args(unshare)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::a_full_disk_leaves_no_half_line_in_the_middle", "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&inside.stdout);
        assert!(
            inside.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&inside.stderr)
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=4k", "tmpfs", dir.path().to_str().unwrap()];
    assert!(std::process::Command::new("mount").args(mount).status().unwrap().success());
    let path = dir.path().join("journal.jsonl");
    let journal = Journal::open(&path).unwrap();
    journal.begin("init", "");
    let written = (0..100).take_while(|n| journal.write(start(&format!("step {n}"), "/etc/x")).is_ok()).count();
    assert!(written > 5 && written < 100, "{written}");
    // A shorter line may still fit, and must not follow half of the longer one.
    while journal.write(What::Undone { key: "x".into() }).is_ok() {}
    drop(journal);
    let record = Journal::read(&path).unwrap();
    assert_eq!(record.entries().len(), written);
    assert!(!record.torn());
}

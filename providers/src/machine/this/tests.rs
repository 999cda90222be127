use std::time::{Duration, Instant};

use super::*;
use crate::machine::Kind;

fn place() -> (tempfile::TempDir, String, ThisMachine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    (dir, path, ThisMachine::new().unwrap())
}

#[test]
fn files_are_written_whole_with_their_mode() {
    let (_keep, dir, machine) = place();
    let path = format!("{dir}/file");
    machine.write(&path, b"one", 0o640).unwrap();
    machine.write(&path, b"two", 0o600).unwrap();
    assert_eq!(machine.read(&path).unwrap().unwrap(), b"two");
    let meta = machine.meta(&path).unwrap().unwrap();
    assert_eq!((meta.kind, meta.mode, meta.size), (Kind::File, 0o600, 3));
    machine.copy(&path, &format!("{dir}/copy"), 0o755).unwrap();
    assert_eq!(machine.sha256(&path).unwrap(), machine.sha256(&format!("{dir}/copy")).unwrap());
    assert_eq!(machine.meta(&format!("{dir}/copy")).unwrap().unwrap().mode, 0o755);
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["copy", "file"], "no temporary file stays");
    let error = machine.write(&format!("{dir}/no/file"), b"", 0o600).unwrap_err();
    assert!(format!("{error:#}").contains("/no/file"));
}

#[test]
fn several_things_are_made_in_their_order_or_leave_nothing_half_done() {
    let (_keep, dir, machine) = place();
    let [sub, key, crt, link] = ["sub", "key", "crt", "sub/link"].map(|name| format!("{dir}/{name}"));
    let nowhere = format!("{dir}/none/conf");
    let file = |path, mode| New::File { path, content: b"x", mode };
    let all = [
        New::Dir { path: &sub, mode: 0o700 },
        file(&key, 0o600),
        file(&crt, 0o644),
        New::Link { path: &link, target: "../key" },
    ];
    assert!(machine.make_all(&[&all[..], &[file(&nowhere, 0o600)]].concat()).is_err());
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["sub"], "none gets its name before all are on the disk");
    for _ in 0..2 {
        machine.make_all(&all).unwrap();
        assert_eq!(machine.list(&dir).unwrap().unwrap(), ["crt", "key", "sub"]);
        let modes = [&sub, &key, &crt].map(|path| machine.meta(path).unwrap().unwrap().mode);
        assert_eq!(modes, [0o700, 0o600, 0o644]);
        assert_eq!(machine.read(&link).unwrap().unwrap(), b"x");
    }
    // The second cannot have its name: the first has, and what is beside the others goes.
    machine.remove(&crt).unwrap();
    machine.make_dir(&crt, 0o755).unwrap();
    assert!(machine.make_all(&all).is_err());
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["crt", "key", "sub"]);
    assert_eq!(machine.list(&sub).unwrap().unwrap(), ["link"]);
}

#[test]
fn what_a_killed_write_left_goes_with_the_next_one() {
    let (_keep, dir, machine) = place();
    std::fs::write(format!("{dir}/.file.kprov-new"), "half").unwrap();
    machine.write(&format!("{dir}/file"), b"whole", 0o600).unwrap();
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["file"]);
    std::fs::write(format!("{dir}/.file.kprov-new"), "half").unwrap();
    machine.remove(&format!("{dir}/file")).unwrap();
    assert_eq!(machine.list(&dir).unwrap().unwrap(), [""; 0]);
}

#[test]
fn nothing_there_is_none_or_success() {
    let (_keep, dir, machine) = place();
    let path = format!("{dir}/none/below");
    assert!(machine.meta(&path).unwrap().is_none() && machine.read(&path).unwrap().is_none());
    assert!(machine.list(&path).unwrap().is_none() && machine.sha256(&path).unwrap().is_none());
    machine.remove(&path).unwrap();
    assert!(machine.remove_dir(&path).unwrap());
    machine.remove_tree(&path).unwrap();
}

#[test]
fn directories_links_and_trees() {
    let (_keep, dir, machine) = place();
    machine.make_dir(&format!("{dir}/d"), 0o700).unwrap();
    machine.make_dir(&format!("{dir}/d"), 0o755).unwrap();
    assert_eq!(machine.meta(&format!("{dir}/d")).unwrap().unwrap().mode, 0o700);
    machine.link(&format!("{dir}/d/l"), "one").unwrap();
    machine.link(&format!("{dir}/d/l"), "two").unwrap();
    assert_eq!(machine.meta(&format!("{dir}/d/l")).unwrap().unwrap().kind, Kind::Link("two".to_owned()));
    assert!(!machine.remove_dir(&format!("{dir}/d")).unwrap(), "not empty");
    std::fs::write(format!("{dir}/outside"), "stays").unwrap();
    machine.link(&format!("{dir}/d/out"), &dir).unwrap();
    machine.remove_tree(&format!("{dir}/d")).unwrap();
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["outside"], "a link is not followed");
    assert!(machine.remove_tree("/").is_err() && machine.remove_tree("tmp").is_err());
}

#[tokio::test]
async fn processes_get_input_and_give_output() {
    let machine = ThisMachine::new().unwrap();
    let mut command = Command::new("/bin/sh", ["-c", "cat; echo oops >&2; exit 3"]);
    command.stdin = vec![b'x'; 1 << 20];
    let exit = machine.run(command).await.unwrap();
    assert_eq!((exit.code, exit.stdout.len(), exit.stderr.as_slice()), (3, 1 << 20, b"oops\n".as_slice()));
    let exit = machine.run(Command::new("/bin/sh", ["-c", "kill -9 $$"])).await.unwrap();
    assert_eq!(exit.code, 137);
    let error = machine.run(Command::new("/no/such/program", [""; 0])).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program"));
}

#[tokio::test]
async fn a_process_that_overstays_is_killed_with_its_children() {
    let (_keep, dir, machine) = place();
    let pid_file = format!("{dir}/pid");
    let mut command = Command::new("/bin/sh", ["-c", &format!("sleep 600 & echo $! > {pid_file}; wait")]);
    command.timeout = Some(Duration::from_millis(300));
    let since = Instant::now();
    let error = machine.run(command).await.unwrap_err();
    assert!(error.to_string().contains("killed") && since.elapsed() < Duration::from_secs(10), "{error}");
    let child = std::fs::read_to_string(&pid_file).unwrap();
    for _ in 0..100 {
        // Gone, or a zombie that whoever adopted it has not buried yet.
        match std::fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
            Err(_) => return,
            Ok(stat) if stat.contains(") Z ") => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("the child lives on");
}

#[tokio::test]
async fn probes_answer_none_where_nothing_listens() {
    let machine = ThisMachine::new().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(machine.probe(&format!("https://127.0.0.1:{port}/livez")).await.unwrap(), None);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwait").await.unwrap();
    });
    let answer = machine.probe(&format!("http://127.0.0.1:{port}/healthz")).await.unwrap();
    assert_eq!(answer, Some((503, "wait".to_owned())));
}

#[test]
fn a_shared_file_is_one_file_where_that_is_possible() {
    use std::os::unix::fs::MetadataExt;
    let (_keep, dir, machine) = place();
    let (a, b) = (format!("{dir}/a"), format!("{dir}/b"));
    machine.write(&a, b"one", 0o755).unwrap();
    machine.write(&b, b"other", 0o644).unwrap();
    for _ in 0..2 {
        machine.share(&a, &b, 0o755).unwrap();
        assert_eq!(std::fs::metadata(&a).unwrap().ino(), std::fs::metadata(&b).unwrap().ino());
    }
    machine.share(&a, &b, 0o700).unwrap();
    assert_eq!(
        (std::fs::metadata(&a).unwrap().mode() & 0o777, std::fs::metadata(&b).unwrap().mode() & 0o777),
        (0o755, 0o700)
    );
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["a", "b"], "no temporary file stays");
    assert!(machine.share(&format!("{dir}/no"), &b, 0o755).is_err());
}

/// Mounts are made in a mount namespace of its own: this test calls itself there.
#[test]
fn a_tree_is_unmounted_before_it_is_removed_and_no_other_file_system_is_touched() {
    const INSIDE: &str = "KPROV_TEST_IN_OWN_MOUNTS";
    let name = "machine::this::tests::a_tree_is_unmounted_before_it_is_removed_and_no_other_file_system_is_touched";
    if std::env::var_os(INSIDE).is_none() {
        let exe = std::env::current_exe().unwrap();
        let unshare = ["--mount", "--propagation", "private"];
        let own = std::process::Command::new("unshare").args(unshare).arg("true").output();
        if !own.is_ok_and(|own| own.status.success()) {
            assert!(std::env::var_os("KPROV_TEST_ALL").is_none_or(|all| all != "1"), "needs root and unshare");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"left out: needs root and unshare\n");
            return;
        }
        let inside = std::process::Command::new("unshare")
            .args(unshare)
            .arg(exe)
            .args(["--exact", name, "--nocapture"])
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
    let (_keep, dir, machine) = place();
    let mount = |args: &[&str]| assert!(std::process::Command::new("mount").args(args).status().unwrap().success());
    for name in ["tree", "tree/a b", "tree/bound", "theirs"] {
        machine.make_dir(&format!("{dir}/{name}"), 0o755).unwrap();
    }
    std::fs::write(format!("{dir}/theirs/file"), "stays").unwrap();
    mount(&["-t", "tmpfs", "tmpfs", &format!("{dir}/tree/a b")]);
    std::fs::write(format!("{dir}/tree/a b/file"), "in memory").unwrap();
    std::fs::create_dir(format!("{dir}/tree/a b/below")).unwrap();
    mount(&["-t", "tmpfs", "tmpfs", &format!("{dir}/tree/a b/below")]);
    mount(&["--bind", &format!("{dir}/theirs"), &format!("{dir}/tree/bound")]);
    machine.remove_tree(&format!("{dir}/tree")).unwrap();
    assert_eq!(machine.list(&dir).unwrap().unwrap(), ["theirs"]);
    assert_eq!(machine.read(&format!("{dir}/theirs/file")).unwrap().unwrap(), b"stays");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir), "{mounts}");
}

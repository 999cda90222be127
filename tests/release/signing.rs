//! Signatures: interop with minisign, and that nothing is unpacked of what is not signed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::LeftOut;
use crate::lib::synthetic;
use crate::tools::{fed, good, kprov, program, refused, root, text};

/// Keys of the real minisign; with a password where one is given.
fn keys(dir: &Path, name: &str, password: Option<&str>) -> (String, String) {
    let (public, secret) = (dir.join(format!("{name}.pub")), dir.join(format!("{name}.key")));
    let mut command = Command::new(program("minisign").unwrap_or_default());
    command.args(["-G", "-f", "-p", text(&public), "-s", text(&secret)]);
    match password {
        Some(password) => good(fed(&mut command, &format!("{password}\n{password}\n"))),
        None => good(fed(command.arg("-W"), "")),
    };
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    (text(&public).to_owned(), text(&secret).to_owned())
}

/// kprov signs and minisign verifies, minisign signs and kprov verifies; with and without a password.
pub fn both_ways() -> Result<(), LeftOut> {
    let minisign = program("minisign")?;
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("b.tar.zst");
    fs::write(&bundle, synthetic::small("amd64").bytes()).unwrap();
    let file = text(&bundle);
    let signature = dir.path().join("b.tar.zst.minisig");
    for (name, password) in [("plain", None), ("locked", Some("correct horse"))] {
        let (public, secret) = keys(dir.path(), name, password);
        let input = password.map(|p| format!("{p}\n")).unwrap_or_default();
        good(fed(kprov().args(["bundle", "sign", "--key", &secret, file]), &input));
        let said = good(Command::new(&minisign).args(["-V", "-p", &public, "-m", file]).output().unwrap());
        assert!(said.contains("Signature and comment signature verified"), "{said}");
        assert!(said.contains("kprov-bundle:"), "{said}");
        let verify = || good(kprov().args(["bundle", "verify", "--key", &public, file]).output().unwrap());
        assert!(verify().contains(&format!("signed by {public}")));
        // Taking the key from a password takes a second of CPU each time, on purpose.
        if password.is_none() {
            fs::remove_file(&signature).unwrap();
            good(fed(Command::new(&minisign).args(["-S", "-s", &secret, "-m", file, "-t", "by hand"]), ""));
            assert!(verify().contains(&format!("signed by {public}")));
        } else {
            let said = refused(fed(kprov().args(["bundle", "sign", "--key", &secret, file]), "wrong\n"), 1);
            assert!(said.contains("wrong password"), "{said}");
            let said = refused(fed(kprov().args(["bundle", "sign", "--key", &secret, file]), ""), 2);
            assert!(said.contains("no terminal"), "{said}");
        }
    }
    // minisign's old kind of signature is of the file itself, which would have to be held in memory.
    let (public, secret) = keys(dir.path(), "old", None);
    good(fed(Command::new(&minisign).args(["-S", "-l", "-s", &secret, "-m", file]), ""));
    let said = refused(kprov().args(["bundle", "verify", "--key", &public, file]).output().unwrap(), 1);
    assert!(said.contains("old kind"), "{said}");
    Ok(())
}

/// With a key, by flag or in /etc/kprov, every command that would take something out of an unsigned bundle refuses it,
/// and nothing has appeared.
pub fn configured() -> Result<(), LeftOut> {
    program("minisign")?;
    root()?;
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("b.tar.zst");
    fs::write(&bundle, synthetic::small("amd64").bytes()).unwrap();
    let (public, _) = keys(dir.path(), "right", None);
    let (_, wrong) = keys(dir.path(), "wrong", None);
    // In a mount namespace of its own with fresh folders: a kprov that fails this test must not change the host. The
    // last line lists what appeared.
    let script = r#"
        set -e
        for dir in /etc /var/lib /usr/local /opt; do mount -t tmpfs none "$dir"; done
        if [ "$3" = etc ]; then mkdir -p /etc/kprov; cp "$2" /etc/kprov/bundle.pub; shift 3; else shift 3; fi
        set +e
        "$@" 2>&1
        echo "exit $?"
        rm -rf /etc/kprov
        find /etc /var/lib /usr/local /opt -mindepth 1 | sed 's/^/appeared /'
    "#;
    let run = |how: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"]);
        command.args(["", &public, how, env!("CARGO_BIN_EXE_kprov")]).args(args);
        command.env("XDG_CACHE_HOME", dir.path()).env("XDG_STATE_HOME", dir.path()).env("HOME", dir.path());
        good(command.output().unwrap())
    };
    let file = text(&bundle);
    // For another processor, which is looked at last: no mount namespace would hold the machines of a kprov that fails
    // this test.
    let elsewhere = dir.path().join("elsewhere.tar.zst");
    let other = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
    fs::write(&elsewhere, synthetic::small(other).bytes()).unwrap();
    let images = dir.path().join("images.tar");
    let token = ["--token", "abcdef.0123456789abcdef", "--discovery-token-unsafe-skip-ca-verification"];
    let join = [&["join", "192.0.2.1:6443", "--bundle", file][..], &token].concat();
    let commands: [&[&str]; 6] = [
        &["bundle", "install", "--bundle", file],
        &["init", "--bundle", file],
        &join,
        &["bundle", "images", file, "--out", text(&images)],
        &["bundle", "verify", file],
        &["up", "--bundle", text(&elsewhere)],
    ];
    let mut unfit = None;
    for signed_by_another in [false, true] {
        if signed_by_another {
            for file in [file, text(&elsewhere)] {
                good(fed(kprov().args(["bundle", "sign", "--key", &wrong, file]), ""));
            }
        }
        let why = if signed_by_another { "by another key" } else { "the bundle is not signed" };
        for args in commands {
            let flag = if args[0] == "bundle" && args[1] != "install" { "--key" } else { "--bundle-key" };
            let with_flag = [args, &[flag, &public]].concat();
            for said in [run("etc", args), run("flag", &with_flag)] {
                assert!(!said.contains("appeared"), "{args:?}: {said}");
                assert!(!images.exists() && !dir.path().join("kprov").exists(), "{args:?}: {said}");
                // It looks at the host before it looks at the bundle.
                if args[0] == "up" && said.contains("this host cannot carry machines") {
                    unfit = Some(said);
                    continue;
                }
                assert!(said.contains(why) && said.contains("exit 1\n"), "{args:?}: {said}");
            }
        }
    }
    // What kprov up checked has another id: somebody exchanged the file on its way.
    let id = "0".repeat(64);
    for args in &commands[..3] {
        let said = run("flag", &[args, &["--bundle-id", &id][..]].concat());
        assert!(said.contains("is not the bundle that was checked") && said.contains("exit 1\n"), "{args:?}: {said}");
        assert!(!said.contains("appeared"), "{args:?}: {said}");
    }
    // A file there that is no key keeps everything out too.
    let said = run("flag", &["bundle", "verify", file, "--key", file]);
    assert!(said.contains("the key cannot be used") && said.contains("exit 1\n"), "{said}");
    match unfit {
        Some(said) => Err(LeftOut(format!("kprov up alone: {}", said.lines().next().unwrap_or_default()))),
        None => Ok(()),
    }
}

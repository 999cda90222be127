//! What the unit does before each start, done by the shell in a directory of the test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const PKI: &str = "/var/lib/kubelet/pki";
const CURRENT: &str = "kubelet-client-current.pem";

/// The script as systemd hands it to the shell, for another directory.
fn script(dir: &Path) -> String {
    let unit = include_str!("../../../templates/kubelet.service").replace("\\\n", " ");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStartPre=-/bin/sh -c '")).unwrap();
    let script = line.strip_suffix('\'').unwrap();
    assert!(script.contains(PKI) && !script.contains(['\'', '\\', '%']), "{script}");
    script.replace("$$", "$").replace(PKI, dir.to_str().unwrap())
}

/// Files with their contents, links with `-> ` and their targets, before the script and after it.
fn check(before: &[(&str, &str)], after: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    for (name, content) in before {
        match content.strip_prefix("-> ") {
            Some(target) => symlink(dir.path().join(target), dir.path().join(name)).unwrap(),
            None => fs::write(dir.path().join(name), content).unwrap(),
        }
    }
    let output = Command::new("/bin/sh").arg("-c").arg(script(dir.path())).output().unwrap();
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let mut found: Vec<(String, String)> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let content = match fs::read_link(&path) {
                Ok(target) => format!("-> {}", target.to_str().unwrap().strip_prefix(&format!("{here}/")).unwrap()),
                Err(_) => fs::read_to_string(&path).unwrap(),
            };
            (path.file_name().unwrap().to_str().unwrap().to_owned(), content)
        })
        .collect();
    found.sort();
    let found: Vec<(&str, &str)> = found.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    assert_eq!(found, after);
}

#[test]
fn what_is_whole_stays() {
    let whole = [
        ("kubelet-client-2026-01-01-00-00-00.pem", "old"),
        ("kubelet-client-2026-10-01-00-00-00.pem", "new"),
        (CURRENT, "-> kubelet-client-2026-10-01-00-00-00.pem"),
        ("kubelet.crt", "certificate"),
        ("kubelet.key", "key"),
        ("others", ""),
    ];
    check(&whole, &whole);
    // An older one that is meant stays meant.
    let mut chosen = whole;
    chosen[2].1 = "-> kubelet-client-2026-01-01-00-00-00.pem";
    check(&chosen, &chosen);
}

#[test]
fn half_a_serving_certificate_goes_as_a_whole() {
    check(&[("kubelet.crt", ""), ("kubelet.key", "key")], &[]);
    check(&[("kubelet.crt", "certificate"), ("kubelet.key", "")], &[]);
    check(&[("kubelet.key", "key")], &[]);
}

#[test]
fn a_lost_client_certificate_gives_way_to_the_one_before() {
    check(
        &[
            ("kubelet-client-2026-01-01-00-00-00.pem", "older"),
            ("kubelet-client-2026-10-01-00-00-00.pem", "old"),
            ("kubelet-client-2027-07-01-00-00-00.pem", ""),
            (CURRENT, "-> kubelet-client-2027-07-01-00-00-00.pem"),
        ],
        &[
            ("kubelet-client-2026-01-01-00-00-00.pem", "older"),
            ("kubelet-client-2026-10-01-00-00-00.pem", "old"),
            (CURRENT, "-> kubelet-client-2026-10-01-00-00-00.pem"),
        ],
    );
}

#[test]
fn without_one_before_the_kubelet_asks_for_a_new_one() {
    let first = "kubelet-client-2026-01-01-00-00-00.pem";
    check(&[(first, ""), (CURRENT, "-> kubelet-client-2026-01-01-00-00-00.pem")], &[]);
    check(&[], &[]);
}

#[test]
fn a_directory_that_is_not_there_yet_is_no_trouble() {
    let gone = tempfile::tempdir().unwrap().path().join("pki");
    let output = Command::new("/bin/sh").arg("-c").arg(script(&gone)).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

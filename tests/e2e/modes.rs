//! Modes and owners: of every file that init and join leave, and of what `up` keeps on machines and with the operator.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::secrets::Run;
use crate::tree::Tree;

/// New files: a pattern (`*` stands for anything), the type and mode that all of them must have, and why that is right
/// where it is not plain. The first pattern that fits counts. All belong to root unless the pattern says otherwise.
const FILES: &[(&str, &str)] = &[
    ("/etc/kubernetes", "d 755"),
    ("/etc/kubernetes/pki", "d 755"),
    ("/etc/kubernetes/pki/etcd", "d 755"),
    ("/etc/kubernetes/pki/*.key", "f 600"),
    ("/etc/kubernetes/pki/sa.pub", "f 600"),
    ("/etc/kubernetes/pki/*.crt", "f 644"),
    ("/etc/kubernetes/*.conf", "f 600"),
    ("/etc/kubernetes/manifests", "d 700|d 755"),
    ("/etc/kubernetes/manifests/*.yaml", "f 600"),
    ("/var/lib/kprov", "d 755"),
    ("/var/lib/kubelet", "d 700"),
    ("/var/lib/containerd", "d 700|d 711"),
    ("/var/lib/cni", "d 700|d 755"),
    ("/etc/cni/net.d", "d 700|d 755"),
    ("/var/log/pods", "d 750|d 755"),
    ("/var/lib/kprov/journal.jsonl", "f 600"),
    ("/var/lib/etcd", "d 700"),
    ("/var/lib/etcd/*", "d 700|f 600"),
    ("/var/lib/kubelet/pki/*.pem", "f 600|l 777"),
    ("/var/lib/kubelet/pki/kubelet.key", "f 600"),
    ("/var/lib/kubelet/pki/kubelet.crt", "f 644"),
    ("/var/lib/kubelet/config.yaml", "f 644"),
    ("/var/lib/kubelet/instance-config.yaml", "f 644"),
    ("/var/lib/kubelet/kubeadm-flags.env", "f 644"),
    ("/run/containerd", "d 711"),
    // Where containerd or a plugin wants one.
    ("/run/cni", "d 700|d 755"),
    ("/run/nri", "d 700|d 755"),
    // By iptables 600, by the kubelet for a pod 644; nothing is in it.
    ("/run/xtables.lock", "f 600|f 644"),
];

/// Nobody but root comes in here, so what the kubelet opens for its containers' own users is open to them alone.
const CLOSED: &str = "/var/lib/kubelet/pods/*";

/// Places of others' programs, which make their files as they see fit, but for root: nothing there may be written by
/// everybody. In /root and /tmp it is kubectl's cache, what the test brings, and systemd's private directories.
const OTHERS: &[&str] = &[
    "/var/lib/containerd/*",
    "/var/lib/kubelet/*",
    "/var/lib/cni/*",
    "/var/log/pods*",
    "/var/log/containers*",
    "/root/*",
    "/tmp/*",
];

/// Files of images and of what runs of them are their users'.
const IMAGES: &str = "/var/lib/containerd/*";

/// Where `up` keeps the input and the events of what it runs on a machine.
const UP: &str = "/run/kprov-up";

/// That all new files of a machine are as they should be.
///
/// # Errors
/// All that are not.
pub fn new_files(before: &Tree, after: &Tree) -> anyhow::Result<()> {
    let wrong: Vec<String> = after.new_files(before).filter_map(wrong).collect();
    ensure!(wrong.is_empty(), "files with another mode or owner than they should have:\n{}", wrong.join("\n"));
    Ok(())
}

/// That what `up` keeps below /run of a machine is for root alone, because init's result holds a token, and that no
/// input is left there.
///
/// # Errors
/// All that is not so.
pub fn kept_by_up(run: Run<'_>) -> anyhow::Result<()> {
    let listed = run(&format!("find {UP} -printf '%y %m %U:%G %p\\n'"))?;
    ensure!(listed.lines().any(|line| line.ends_with("/events")), "no events are below {UP}:\n{listed}");
    let right = |line: &str| line.starts_with("d 700 0:0 ") || line.starts_with("f 600 0:0 ");
    let wrong: Vec<&str> = listed.lines().filter(|line| !right(line) || line.ends_with("/input")).collect();
    ensure!(wrong.is_empty(), "not for root alone, or left behind:\n{}", wrong.join("\n"));
    Ok(())
}

/// That the operator's files below a directory that hold one of the secrets, or any private key, are for the operator
/// alone; the kubeconfig and the key to log in with must be among them.
///
/// # Errors
/// Names the file.
pub fn operators(dir: &Path, secrets: &[String]) -> anyhow::Result<()> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
            let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() && holds(&fs::read(&path)?, secrets) {
                let mode = meta.mode() & 0o7777;
                ensure!(
                    mode == 0o600 && meta.uid() == 0,
                    "{}: a secret is in it, and its mode {mode:o}",
                    path.display()
                );
                found.push(path);
            }
        }
    }
    for name in ["kubeconfig", "id_ed25519"] {
        ensure!(found.iter().any(|path| path.ends_with(name)), "no secret is seen in {name}: {found:?}");
    }
    Ok(())
}

fn holds(content: &[u8], secrets: &[String]) -> bool {
    let text = String::from_utf8_lossy(content);
    text.contains("PRIVATE KEY") || text.contains("client-key-data") || secrets.iter().any(|one| text.contains(one))
}

/// A line of [`Tree`]: `file PATH TYPE MODE OWNER LINK`, or `run` or `below` and the same. What is wrong with it.
fn wrong(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    // A name with a blank in it would have every rule look at the wrong word.
    let &[place, path, kind, mode, owner, ..] = words.as_slice() else {
        return Some(format!("cannot be read: {line}"));
    };
    if u32::from_str_radix(mode, 8).is_err() || kind.len() != 1 || !owner.contains(':') {
        return Some(format!("cannot be read: {line}"));
    }
    let found = format!("{kind} {mode}");
    if let Some((_, wanted)) = FILES.iter().find(|(pattern, _)| fits(pattern, path)) {
        let right = wanted.split('|').any(|wanted| wanted == found) && owner == "0:0";
        return (!right).then(|| format!("{path}: {found} {owner}, not {wanted} 0:0"));
    }
    if fits(CLOSED, path) {
        return None;
    }
    let mode = u32::from_str_radix(mode, 8).ok()?;
    // Links have no mode of their own; a directory with the sticky bit is meant for all.
    let open = kind != "l" && mode & 0o002 != 0 && mode & 0o1000 == 0 && kind != "c";
    let open = open && (kind != "s" || place == "below");
    if place == "below" || OTHERS.iter().any(|pattern| fits(pattern, path)) {
        let others = owner != "0:0" && !fits(IMAGES, path);
        return (open || others)
            .then(|| format!("{path}: {found} {owner} can be written by everybody, or is not root's"));
    }
    let plain = match kind {
        "d" => mode == 0o755,
        "f" => mode == 0o644 || mode == 0o755,
        _ => kind == "l",
    };
    (!plain || owner != "0:0").then(|| format!("{path}: {found} {owner} is neither plain nor listed"))
}

fn fits(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, end)) => path.starts_with(start) && path.ends_with(end) && Path::new(path) != Path::new(start),
    }
}

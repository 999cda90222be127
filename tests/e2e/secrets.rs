//! Every file that init and join leave has the mode and owner that it should have, and no secret is where others look.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::host::Host;
use crate::remote::Remote;
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
    ("/var/lib/kubelet/pki/*.pem", "f 600|l 777"),
    ("/var/lib/kubelet/pki/kubelet.key", "f 600"),
    ("/var/lib/kubelet/pki/kubelet.crt", "f 644"),
    ("/var/lib/kubelet/config.yaml", "f 644"),
    ("/var/lib/kubelet/instance-config.yaml", "f 644"),
    ("/var/lib/kubelet/kubeadm-flags.env", "f 644"),
];

/// Nobody but root comes in here, so what the kubelet opens for its containers' own users is open to them alone.
const CLOSED: &str = "/var/lib/kubelet/pods/*";

/// Places of others' programs, which make their files as they see fit; nothing there may be written by everybody.
const OTHERS: &[&str] = &[
    "/var/lib/containerd/*",
    "/var/lib/kubelet/*",
    "/var/lib/etcd/*",
    "/var/lib/cni/*",
    "/var/log/pods*",
    "/var/log/containers*",
    "/run/*",
];

/// Where secrets must not be: what any user may read, and what is kept, sent on or shown.
const SEARCH: &str = r#"
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | sed 's/^/process: /'
sed 's/^/journal of kprov: /' /var/lib/kprov/journal.jsonl
journalctl --no-pager -o cat 2>/dev/null | sed 's/^/log: /'
find /etc/systemd /run/systemd/system /run/systemd/transient -type f -exec sed 's/^/unit: /' {} + 2>/dev/null
find /etc -xdev -type f -perm /044 -exec sed 's/^/readable by all: /' {} + 2>/dev/null
find /var/log -type f -exec sed 's/^/log file: /' {} + 2>/dev/null
"#;

/// Prints the middle of every key, and the secret of every token: enough to find them by.
const SECRETS: &str = r#"
for key in /etc/kubernetes/pki/*.key /etc/kubernetes/pki/etcd/*.key; do [ -f "$key" ] && sed -n 2p "$key"; done
for conf in /etc/kubernetes/*.conf; do sed -n 's/.*client-key-data: //p' "$conf" | cut -c 80-140; done
for pem in /var/lib/kubelet/pki/*.pem /var/lib/kubelet/pki/*.key; do sed -n '/PRIVATE KEY/{n;p}' "$pem"; done
true
"#;

/// Looks at a node that was a bare machine before. `token` is the one that the cluster was joined with, `said` what the
/// commands printed.
///
/// # Errors
/// All files that are not as they should be; where a secret was found.
pub fn check(
    host: &Host,
    machine: &Remote,
    before: &Tree,
    after: &Tree,
    token: &str,
    said: &str,
) -> anyhow::Result<()> {
    let wrong: Vec<String> = after.new_files(before).filter_map(wrong).collect();
    ensure!(wrong.is_empty(), "files with another mode or owner than they should have:\n{}", wrong.join("\n"));

    let (_, token) = token.split_once('.').context("that is no token")?;
    let listed = machine.run(SECRETS)?;
    let secrets: Vec<&str> = listed.lines().chain([token]).filter(|line| !line.is_empty()).collect();
    ensure!(secrets.len() > 2 && secrets.iter().all(|secret| secret.len() >= 16), "too few secrets: {}", secrets.len());
    let path = host.state("secrets");
    std::fs::write(&path, secrets.join("\n"))?;
    // Not as an argument, where the search would find it.
    let put = machine.upload(&path, "/root/secrets", "600");
    std::fs::remove_file(&path)?;
    put?;
    let found = machine.run(&format!("( {SEARCH} ) | grep -F -f /root/secrets | cut -c 1-60; rm /root/secrets"))?;
    ensure!(found.trim().is_empty(), "a secret is there:\n{found}");
    for secret in secrets.iter().filter(|secret| **secret != token) {
        ensure!(!said.contains(secret), "a command printed a secret");
    }
    finds(machine)
}

/// That this search sees what it looks for: a process with a secret in its arguments.
fn finds(machine: &Remote) -> anyhow::Result<()> {
    let look = format!("( {SEARCH} ) | grep -F -f /root/secrets | cut -c 1-60");
    let secret = "echo c2VjcmV0LW9mLXRoZS10ZXN0 > /root/secrets; sh -c 'sleep 20; :' c2VjcmV0LW9mLXRoZS10ZXN0 \
         >/dev/null 2>&1 & pid=$!";
    let found = machine.run(&format!("{secret}; {look}; kill $pid; rm /root/secrets"))?;
    if found.contains("process: c2VjcmV0") {
        return Ok(());
    }
    bail!("the search does not see a secret that is there: {found}")
}

/// A line of [`Tree`]: `file PATH TYPE MODE OWNER LINK`. What is wrong with it.
fn wrong(line: &str) -> Option<String> {
    let mut words = line.split(' ').skip(1);
    let (path, kind, mode, owner) = (words.next()?, words.next()?, words.next()?, words.next()?);
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
    let open = kind != "l" && mode & 0o002 != 0 && mode & 0o1000 == 0 && kind != "s" && kind != "c";
    if OTHERS.iter().any(|pattern| fits(pattern, path)) {
        return open.then(|| format!("{path}: {found} {owner} can be written by everybody"));
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

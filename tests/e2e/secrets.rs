//! Every file that init and join leave has the mode and owner that it should have, and no secret is where others look.

use std::path::Path;

use anyhow::{Context, ensure};

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

/// Prints the middle of every key, as it is and as kubeconfigs hold it, and the secrets of bootstrap tokens: enough to
/// find them by.
const SECRETS: &str = r#"
for key in /etc/kubernetes/pki/*.key /etc/kubernetes/pki/etcd/*.key; do
    [ -f "$key" ] && sed -n 2p "$key" && base64 -w 0 "$key" | cut -c 80-140
done
for conf in /etc/kubernetes/*.conf; do sed -n 's/.*client-key-data: //p' "$conf" | cut -c 80-140; done
for pem in /var/lib/kubelet/pki/*.pem /var/lib/kubelet/pki/*.key; do sed -n '/PRIVATE KEY/{n;p}' "$pem"; done
[ ! -f /etc/kubernetes/admin.conf ] || kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace kube-system get secrets \
    --field-selector type=bootstrap.kubernetes.io/token -o 'jsonpath={range .items[*]}{.data.token-secret}{"\n"}{end}' |
    while read -r coded; do echo "$coded" | base64 -d; echo; done
true
"#;

/// What a line of [`SECRETS`] is at least long.
const LENGTH: usize = 16;

/// A way to run a command line on a machine.
type Run<'a> = &'a dyn Fn(&str) -> anyhow::Result<String>;

/// Looks at a node that was a bare machine before. `said` is what commands printed that nobody asked for a token.
///
/// # Errors
/// All files that are not as they should be; where a secret was found.
pub fn check(machine: &Remote, before: &Tree, after: &Tree, token: &str, said: &str) -> anyhow::Result<()> {
    let wrong: Vec<String> = after.new_files(before).filter_map(wrong).collect();
    ensure!(wrong.is_empty(), "files with another mode or owner than they should have:\n{}", wrong.join("\n"));
    let (_, token) = token.split_once('.').context("that is no token")?;
    let run = |command: &str| machine.run(command);
    let secrets = secrets(&run, Some(token))?;
    nowhere(&run, &secrets)?;
    unsaid(&secrets, said)?;
    finds(&run)
}

/// The secrets of a node, and a token's that it was joined with.
///
/// # Errors
/// When they are too few to be all.
pub fn secrets(run: Run<'_>, token: Option<&str>) -> anyhow::Result<Vec<String>> {
    let listed = run(SECRETS)?;
    let mut all: Vec<String> = listed.lines().chain(token).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    all.sort_unstable();
    all.dedup();
    ensure!(all.len() >= 2 && all.iter().all(|secret| secret.len() >= LENGTH), "too few secrets: {}", all.len());
    Ok(all)
}

/// That none of them is where [`SEARCH`] looks.
///
/// # Errors
/// With the beginning of each line that has one.
pub fn nowhere(run: Run<'_>, secrets: &[String]) -> anyhow::Result<()> {
    let found = run(&search(secrets))?;
    ensure!(found.trim().is_empty(), "a secret is there:\n{found}");
    Ok(())
}

/// That none of them was printed.
///
/// # Errors
/// With the beginning of the line.
pub fn unsaid(secrets: &[String], said: &str) -> anyhow::Result<()> {
    for line in said.lines() {
        let shown: String = line.chars().take(80).collect();
        ensure!(!secrets.iter().any(|secret| line.contains(secret)), "a secret was printed: {shown} …");
    }
    Ok(())
}

/// A command line that looks for them, itself without any, because its own arguments are among what is searched: a secret
/// comes there with its characters in hexadecimal, and in a file that only root may read. `-a`: what grep takes for
/// binary, as some of /etc and of the logs, it would pass over without a word.
fn search(secrets: &[String]) -> String {
    let coded: Vec<String> = secrets.iter().map(|secret| data_encoding::HEXLOWER.encode(secret.as_bytes())).collect();
    format!(
        "umask 077; for coded in {}; do printf \"$(echo $coded | sed 's/../\\\\x&/g')\\n\"; done >/root/secrets; \
         ( {SEARCH} ) | grep -a -F -f /root/secrets | cut -c 1-60; rm /root/secrets",
        coded.join(" ")
    )
}

/// That this search sees what it looks for, in each of its places.
fn finds(run: Run<'_>) -> anyhow::Result<()> {
    let secret = "c2VjcmV0LW9mLXRoZS10ZXN0";
    let put = format!(
        "S={secret}; sh -c 'sleep 20; :' $S >/dev/null 2>&1 & pid=$!
mkdir -p /run/systemd/system; echo \"# $S\" | tee /run/systemd/system/test-secret.conf /etc/test-secret >/var/log/test-secret
echo $S | systemd-cat; journalctl --sync
echo $S >>/var/lib/kprov/journal.jsonl
"
    );
    let gone = "kill $pid; sed -i '$d' /var/lib/kprov/journal.jsonl
rm /run/systemd/system/test-secret.conf /etc/test-secret /var/log/test-secret";
    let found = run(&format!("{put}{}\n{gone}", search(&[secret.to_owned()])))?;
    for place in ["process: ", "journal of kprov: ", "log: ", "unit: ", "readable by all: ", "log file: "] {
        ensure!(found.lines().any(|line| line.starts_with(place)), "the search sees no secret in {place}\n{found}");
    }
    Ok(())
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

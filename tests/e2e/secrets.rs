//! No secret is where others look: in processes, journals, logs, events, units, files that others may read, and in what
//! kprov says. Modes and owners of what init and join leave are [`modes`]'.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use crate::modes;
use crate::remote::Remote;
use crate::tree::Tree;

/// Where secrets must not be: what any user may read, and what is kept, sent on or shown. Processes are those of this
/// moment; [`Watch`](crate::watch::Watch) sees those of the whole time. No other file system is entered: below /run those
/// are containers' own, and others do not come there. Nor do they come into directories that are closed to them, nor is
/// anything in the bundle that not every machine has alike.
const SEARCH: &str = r#"
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | sed 's/^/process: /'
sed 's/^/journal of kprov: /' /var/lib/kprov/journal.jsonl
journalctl --no-pager -o cat 2>/dev/null | sed 's/^/log: /'
find /etc/systemd /run/systemd/system /run/systemd/transient -type f -exec sed 's/^/unit: /' {} + 2>/dev/null
find /etc -xdev -type f -perm /044 -exec sed 's/^/readable by all: /' {} + 2>/dev/null
for top in /run /tmp /root /var/lib/kprov; do
    find $top -xdev -type d ! -perm /011 -prune -o -path /var/lib/kprov/bundle -prune -o \
        -type f -perm /044 -exec sed "s|^|readable in $top: |" {} + 2>/dev/null
done
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
[ -f /etc/kubernetes/admin.conf ] || exit 0
tokens=$(kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace kube-system get secrets \
    --field-selector type=bootstrap.kubernetes.io/token -o 'jsonpath={range .items[*]}{.data.token-secret}{"\n"}{end}')
[ -n "$tokens" ] || { echo 'no bootstrap token is listed' >&2; exit 1; }
for coded in $tokens; do echo "$coded" | base64 -d; echo; done
"#;

/// What a line of [`SECRETS`] is at least long.
const LENGTH: usize = 16;

/// How many it prints at least. Of a control plane: eleven keys, each as it is and as kubeconfigs hold it, those of four
/// kubeconfigs, the kubelet's two, a token's. Of a worker: the kubelet's two.
const CONTROL_PLANE: usize = 29;
const WORKER: usize = 2;

/// A way to run a command line on a machine.
pub type Run<'a> = &'a dyn Fn(&str) -> anyhow::Result<String>;

/// Looks at a node that was a bare machine before. `said` is what commands printed that nobody asked for a token, and
/// what a watch saw of them.
///
/// # Errors
/// All files that are not as they should be; where a secret was found.
pub fn check(machine: &Remote, before: &Tree, after: &Tree, token: &str, said: &str) -> anyhow::Result<()> {
    modes::new_files(before, after)?;
    let (_, token) = token.split_once('.').context("that is no token")?;
    let run = |command: &str| machine.run(command);
    let secrets = secrets(&run, Some(token))?;
    nowhere(&run, &secrets)?;
    unsaid(&secrets, said)?;
    finds(&run)
}

/// `init --dry-run` on a machine that is bare, with a configuration that has a token: all that is said of it, also at
/// length, is its id.
///
/// # Errors
/// What was said, with the token's secret half or without its id.
pub fn dry_run(machine: &Remote) -> anyhow::Result<()> {
    let (id, secret) = ("abcdef", "0fedcba987654321");
    let config = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nbootstrapTokens:\n- token: {id}.{secret}\n"
    );
    machine.run(&format!("umask 077; cat >/root/dry.yaml <<'E'\n{config}E"))?;
    for flags in ["", " -o json -vv"] {
        let said = machine.run(&format!("/root/kprov init --dry-run --config /root/dry.yaml{flags} 2>&1"))?;
        ensure!(said.contains(&format!("bootstrap token {id}")), "init --dry-run{flags} knows of no token:\n{said}");
        ensure!(!said.contains(secret), "init --dry-run{flags} shows a token's secret:\n{said}");
    }
    machine.run("rm /root/dry.yaml").map(drop)
}

/// The secrets of a node, and a token's that it was joined with.
///
/// # Errors
/// When they are too few to be all.
pub fn secrets(run: Run<'_>, token: Option<&str>) -> anyhow::Result<Vec<String>> {
    let listed = run(SECRETS)?;
    let own: BTreeSet<&str> = listed.lines().filter(|line| !line.is_empty()).collect();
    let first = run("ls /etc/kubernetes")?.lines().any(|file| file == "admin.conf");
    let least = if first { CONTROL_PLANE } else { WORKER };
    ensure!(own.len() >= least, "{} secrets are too few to be all, which are {least}", own.len());
    let all: Vec<String> = own.into_iter().chain(token).map(str::to_owned).collect();
    ensure!(all.iter().all(|secret| secret.len() >= LENGTH), "a secret of less than {LENGTH} characters");
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
echo $S | tee /run/test-secret /tmp/test-secret >/var/lib/kprov/test-secret
echo $S | systemd-cat; journalctl --sync
echo $S >>/var/lib/kprov/journal.jsonl
"
    );
    let gone = "kill $pid; sed -i '$d' /var/lib/kprov/journal.jsonl
rm /run/systemd/system/test-secret.conf /etc/test-secret /var/log/test-secret
rm /run/test-secret /tmp/test-secret /var/lib/kprov/test-secret";
    let found = run(&format!("{put}{}\n{gone}", search(&[secret.to_owned()])))?;
    for place in [
        "process: ",
        "journal of kprov: ",
        "log: ",
        "unit: ",
        "readable by all: ",
        "readable in /run: ",
        "readable in /tmp: ",
        "readable in /var/lib/kprov: ",
        "log file: ",
    ] {
        ensure!(found.lines().any(|line| line.starts_with(place)), "the search sees no secret in {place}\n{found}");
    }
    Ok(())
}

//! Everything that a machine is, line by line, so that "as it was before" can be checked: files, links, routes,
//! namespaces, mounts, cgroups, packet-filter rules, sysctls, units.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::remote::Remote;

/// What may differ, and why. A `*` stands for anything.
const EXCLUDED: &[(&str, &str)] = &[
    ("file /var/log/journal*", "journald writes on its own"),
    ("hash /var/log/journal*", "journald writes on its own"),
    ("file /run/log/journal*", "journald writes on its own"),
    ("hash /var/log/wtmp", "each login of the test is noted there"),
    ("hash /var/log/btmp", "each login of the test is noted there"),
    ("hash /var/log/lastlog", "each login of the test is noted there"),
    ("file /var/log/wtmp*", "each login of the test is noted there"),
    ("file /var/log/btmp*", "each login of the test is noted there"),
    ("file /var/log/lastlog*", "each login of the test is noted there"),
    ("file /tmp*", "systemd's private directories come and go there"),
    ("hash /tmp*", "systemd's private directories come and go there"),
    ("file /var/tmp/systemd-private*", "systemd's private directories come and go there"),
    ("file /var/lib/systemd/*", "systemd keeps times, random seeds and catalogues there, also by a mere restart"),
    ("hash /var/lib/systemd/*", "systemd keeps times, random seeds and catalogues there, also by a mere restart"),
    ("file /root/.kube*", "kubectl's cache, which the person who typed kubectl made; kubeadm leaves it too"),
    ("hash /root/.kube*", "kubectl's cache, which the person who typed kubectl made; kubeadm leaves it too"),
    ("hash /root/*", "what the test brings there"),
    ("file /root/*", "what the test brings there"),
    ("cgroup *session-*", "one for each login of the test"),
    ("cgroup *user-*", "one for each login of the test"),
    ("cgroup *user@*", "one for each login of the test"),
    ("cgroup *ssh*", "one for each login of the test, where sshd is started for each connection"),
    ("unit *session-*", "one for each login of the test"),
    ("unit *user-*", "one for each login of the test"),
    ("unit *user@*", "one for each login of the test"),
    ("unit ssh@*", "one for each login of the test, where sshd is started for each connection"),
    ("unit *.mount *", "systemd's view of mounts, which are compared themselves"),
    ("unit *.device *", "links and disks as systemd saw them come; links are compared themselves"),
    ("unit systemd-tmpfiles-clean*", "runs by a timer"),
    ("unit systemd-*clean*", "runs by a timer"),
    ("unit apt-*", "runs by a timer"),
    ("unit dpkg-*", "runs by a timer"),
    ("unit e2scrub*", "runs by a timer"),
    ("unit fstrim*", "runs by a timer"),
    ("mount /run/user*", "one for each login of the test"),
    ("unit ldconfig.service", "runs at a machine's first boot alone, and the guest was restarted since"),
    ("unit systemd-journal-catalog-update.service", "as ldconfig.service"),
    ("unit systemd-sysusers.service", "as ldconfig.service"),
    ("unit systemd-update-done.service", "as ldconfig.service"),
    ("below /run/*", "goes with a restart; listed for its modes"),
];

/// What comes and goes there is excluded, yet what is new there has a mode that can be looked at.
const LOOSE: &[&str] = &["file /root/", "file /tmp/"];

/// Sysctls that kprov, the kubelet, kube-proxy and CNI plugins set.
const SYSCTLS: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/default/forwarding",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Lists a machine, run there. Real file systems only: those in memory are the kernel's or go with a restart; what
/// is below /run is listed nevertheless, but for systemd's own.
const LIST: &str = r#"
export LC_ALL=C
awk '$3 ~ /^(ext[234]|xfs|btrfs|overlay|f2fs|zfs)$/ { print $2 }' /proc/self/mounts | sort -u | while read -r top; do
    case "$top" in /var/lib/kubelet/*|/run/*|/var/lib/containerd/*) continue ;; esac
    [ -d "$top" ] || continue
    find "$top" -xdev -printf 'file %p %y %m %U:%G %l\n'
    find "$top" -xdev -type f -exec sha256sum {} + | sed 's/^\([0-9a-f]*\)  \(.*\)/hash \2 \1/'
done
find /run -mindepth 1 -maxdepth 1 -printf 'run %p %y %m %U:%G\n'
find /run -xdev -mindepth 2 -path '/run/systemd/*' -prune -o -printf 'below %p %y %m %U:%G\n' 2>/dev/null
find /run/netns -mindepth 1 -printf 'netns %f\n' 2>/dev/null
ip -o link show | awk '{ sub(/@.*/, "", $2); sub(/:$/, "", $2); print "link " $2 }'
ip -4 route show table all | grep -v '^local\|^broadcast\|^multicast\|^anycast' | sed 's/^/route /; s/ *$//'
ip -6 route show | sed 's/^/route6 /; s/ expires [0-9]*sec//; s/ *$//'
awk '{ print "mount " $2 " " $3 }' /proc/self/mounts
find /sys/fs/cgroup -type d -printf 'cgroup %p\n' 2>/dev/null
systemctl list-units --all --plain --no-legend | awk '{ print "unit " $1 " " $2 " " $3 }'
systemctl list-unit-files --no-legend | awk '{ print "unit-file " $1 " " $2 }'
"#;

/// All that a machine is at a moment.
pub struct Tree(BTreeSet<String>);

impl Tree {
    /// Looks at a machine: over ssh, and at the packet filter of its network namespace from this host, because the
    /// machine need not have `nft`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of(machine: &Remote, address: &str) -> anyhow::Result<Self> {
        Self::with(machine, &ruleset(address)?)
    }

    /// Looks at a machine that has `nft` at hand, as this command.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn there(machine: &Remote, nft: &str) -> anyhow::Result<Self> {
        Self::with(machine, &machine.run(&format!("{nft} --stateless list ruleset"))?)
    }

    fn with(machine: &Remote, rules: &str) -> anyhow::Result<Self> {
        let mut script = LIST.to_owned();
        for name in SYSCTLS {
            script.push_str(&format!("[ -r /proc/sys/{name} ] && echo \"sysctl {name} $(cat /proc/sys/{name})\"\n"));
        }
        script.push_str("true\n");
        let listed = machine.run(&script).context("listing the machine")?;
        let mut lines: BTreeSet<String> = listed.lines().map(|line| line.trim_end().to_owned()).collect();
        ensure!(lines.iter().filter(|line| line.starts_with("hash ")).count() > 1000, "the list of files is not whole");
        lines.extend(rules.lines().enumerate().map(|(number, line)| format!("nft {number:05} {line}")));
        Ok(Self(lines))
    }

    /// Files that are new or have another mode, owner or target than before, one line each (`file …`, right below /run
    /// `run …`, further down there `below …`), but for the excluded that are not loose.
    pub fn new_files<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        let new = self.0.difference(&before.0).map(String::as_str);
        let loose = |line: &str| LOOSE.iter().any(|start| line.starts_with(start));
        new.filter(move |line| {
            let run = line.starts_with("run ") || line.starts_with("below ");
            run || line.starts_with("file ") && (loose(line) || !excluded(line))
        })
    }

    /// That nothing but the excluded differs from what was before.
    ///
    /// # Errors
    /// With all lines that went and came.
    pub fn same_as(&self, before: &Self) -> anyhow::Result<()> {
        self.same_but(before, &[])
    }

    /// The same, where these may differ too.
    ///
    /// # Errors
    /// With all lines that went and came.
    pub fn same_but(&self, before: &Self, also: &[(&str, &str)]) -> anyhow::Result<()> {
        let excluded = |line: &str| excluded(line) || also.iter().any(|(pattern, _)| matches(pattern, line));
        let differ = |a: &BTreeSet<String>, b: &BTreeSet<String>, sign: &str| -> Vec<String> {
            a.difference(b).filter(|line| !excluded(line)).map(|line| format!("{sign}{line}")).collect()
        };
        let mut all = differ(&before.0, &self.0, "-");
        all.extend(differ(&self.0, &before.0, "+"));
        if all.is_empty() {
            return Ok(());
        }
        let more = all.len().saturating_sub(60);
        all.truncate(60);
        bail!("the machine is not as it was before:\n{}\n({more} more lines)", all.join("\n"))
    }
}

fn excluded(line: &str) -> bool {
    EXCLUDED.iter().any(|(pattern, _)| matches(pattern, line))
}

/// A pattern with `*` for any run of characters, against the line up to where the pattern ends: what follows a path
/// (its type, mode, hash) belongs to the same thing.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut open = pattern.contains('*');
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
        open = part.is_empty();
    }
    open || rest.is_empty() || rest.starts_with(' ')
}

/// The nftables ruleset of the machine with this address, without counters.
fn ruleset(address: &str) -> anyhow::Result<String> {
    let name = namespace(address)?;
    let output = Command::new("ip").args(["netns", "exec", &name, "nft", "--stateless", "list", "ruleset"]).output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// This host's network namespace with this address.
///
/// # Errors
/// When there is none.
pub fn namespace(address: &str) -> anyhow::Result<String> {
    let names = std::fs::read_dir("/run/netns").context("looking for the machine's network namespace")?;
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let shown = Command::new("ip").args(["-n", &name, "-4", "-o", "addr", "show"]).output()?;
        if String::from_utf8_lossy(&shown.stdout).contains(&format!(" {address}/")) {
            return Ok(name);
        }
    }
    bail!("no network namespace of this host has the address {address}")
}

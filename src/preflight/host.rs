//! The machine itself: rights, size, tools, name, clock, firewalls.

use std::time::{Duration, UNIX_EPOCH};

use kprov_providers::machine::{Command, Kind};

use super::{Finding, Look};
use crate::facts::net::text;

/// Programs that the kubelet calls on the machine, and the package that has them (Debian's and Fedora's name).
const TOOLS: [(&str, &str); 3] = [("mount", "mount"), ("losetup", "mount"), ("cp", "coreutils")];

/// Where programs are looked for, beside PATH: a shell without login may lack the sbin directories.
const PATHS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// 2026-01-01T00:00:00Z: no release that can be installed is older, so an earlier clock is wrong.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

pub(super) fn privileged(look: &Look<'_>) -> Option<Finding> {
    (!look.facts.root)
        .then(|| Finding::error("IsPrivilegedUser", "this needs root").hint("run the same command with sudo"))
}

pub(super) fn control_plane(look: &Look<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    if look.facts.cpus < 2 {
        found.push(
            Finding::error("NumCPU", format!("a control plane needs 2 CPUs, this machine has {}", look.facts.cpus))
                .hint("take another machine, and this one as its worker: kprov join"),
        );
    }
    if look.facts.memory_mb < 1700 {
        let message = format!("a control plane needs 1700 MB of memory, this machine has {}", look.facts.memory_mb);
        found.push(Finding::error("Mem", message).hint("take another machine, and this one as its worker: kprov join"));
    }
    found
}

pub(super) async fn all(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    if !look.facts.systemd {
        found.push(
            Finding::error("Systemd", "process 1 of this machine is not systemd, which runs kubelet and containerd")
                .hint(format!("{}, and boot with it", install(look, "systemd"))),
        );
    }
    if !matches!(look.facts.arch.as_str(), "amd64" | "arm64") {
        found.push(
            Finding::error("SystemVerification", format!("no bundle is built for {}", look.facts.arch))
                .hint("take a machine with an amd64 or arm64 processor"),
        );
    } else if let Some(bundle) = look.bundle
        && bundle.arch != look.facts.arch
    {
        found.push(
            Finding::error(
                "SystemVerification",
                format!("the bundle is for {}, this machine is {}", bundle.arch, look.facts.arch),
            )
            .hint(format!("kprov bundle build --from source --arch {} --out FILE", look.facts.arch)),
        );
    }
    found.extend(tools(look)?);
    if look.now.duration_since(UNIX_EPOCH).unwrap_or_default() < EARLIEST {
        found.push(
            Finding::error("Clock", "the clock is years behind: no certificate would be valid yet")
                .hint("timedatectl set-ntp true"),
        );
    }
    if let Some((free, total)) = look.facts.var_free_mb.zip(look.facts.var_total_mb) {
        found.extend(disk(free, total));
    }
    // Without systemd there is nobody to ask.
    if look.facts.systemd && look.machine.unit("firewalld.service").await?.active == "active" {
        found.push(
            Finding::warning("Firewalld", "firewalld is active: ports 6443, 10250 and 8472/udp must be open between the nodes")
                .hint("firewall-cmd --permanent --add-port=6443/tcp --add-port=10250/tcp --add-port=8472/udp && firewall-cmd --reload"),
        );
    }
    if text(look.machine, "/etc/ufw/ufw.conf")?.lines().any(|line| line.trim() == "ENABLED=yes") {
        found.push(
            Finding::warning("Firewalld", "ufw is on: ports 6443, 10250 and 8472/udp must be open between the nodes")
                .hint("ufw allow 6443/tcp && ufw allow 10250/tcp && ufw allow 8472/udp && ufw default allow routed"),
        );
    }
    Ok(found)
}

/// The kubelet evicts pods when less than 15 % of the images' file system are free (10 % of its own).
fn disk(free: u64, total: u64) -> Option<Finding> {
    const NEEDED: u64 = 1500;
    let hint = "df -h /var/lib";
    if free < NEEDED {
        let message = format!("{free} MB are free below /var/lib, binaries and images take {NEEDED}");
        return Some(Finding::error("DiskSpace", message).hint(hint));
    }
    let left = (free - NEEDED) * 100 / total.max(1);
    (left < 15).then(|| {
        let message = format!("{left} % of the disk of /var/lib would be free: the kubelet evicts pods below 15 %");
        Finding::error("DiskSpace", message).hint(hint)
    })
}

fn tools(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (tool, package) in TOOLS {
        if !in_path(look, tool)? {
            found.push(
                Finding::error(
                    format!("FileExisting-{tool}"),
                    format!("the kubelet calls it and it is not installed: {tool}"),
                )
                .hint(install(look, package)),
            );
        }
    }
    Ok(found)
}

/// True when a program of this name is where programs are.
pub(super) fn in_path(look: &Look<'_>, program: &str) -> anyhow::Result<bool> {
    for dir in PATHS {
        if look.machine.meta(&format!("{dir}/{program}"))?.is_some_and(|m| m.kind != Kind::Dir) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The command of this distribution that installs a package.
pub(super) fn install(look: &Look<'_>, package: &str) -> String {
    let os = look.facts.os.to_lowercase();
    let has = |names: &[&str]| names.iter().any(|n| os.contains(n));
    if has(&["fedora", "red hat", "rocky", "alma", "centos", "amazon"]) {
        format!("dnf install -y {package}")
    } else if has(&["suse"]) {
        format!("zypper install -y {package}")
    } else {
        format!("apt-get install -y {package}")
    }
}

/// A machine must be able to resolve its node's name. Whether the name can be one, validation has said.
pub(super) async fn node_name(look: &Look<'_>, name: &str) -> anyhow::Result<Vec<Finding>> {
    let hosts = text(look.machine, "/etc/hosts")?;
    let listed = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .any(|line| line.split_whitespace().skip(1).any(|word| word.eq_ignore_ascii_case(name)));
    if listed {
        return Ok(Vec::new());
    }
    let mut ask = Command::new("getent", ["hosts", name]);
    // A slow resolver must not cost a second: this is only a warning.
    ask.timeout = Some(Duration::from_millis(300));
    let resolved = matches!(look.machine.run(ask).await, Ok(exit) if exit.success());
    Ok((!resolved)
        .then(|| {
            let address = look.facts.default_addresses.first().or(look.facts.addresses.first());
            let warning = Finding::warning("Hostname", format!("this machine cannot resolve its node name: {name}"));
            match address {
                Some(address) => warning.hint(format!("echo '{address} {name}' >> /etc/hosts")),
                None => warning,
            }
        })
        .into_iter()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks() {
        assert_eq!(disk(50_000, 100_000), None);
        assert!(disk(1_499, 2_000).unwrap().message.contains("1499 MB"));
        assert!(disk(16_000, 100_000).unwrap().message.starts_with("14 %"));
    }
}

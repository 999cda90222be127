//! The truly bare Debian that machines start from: what debootstrap makes, and the little that a machine without
//! hardware of its own needs.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::store::Store;
use super::tool::{self, text};
use crate::Watch;

/// The release. Its systemd (252) boots on cgroup v1 and v2.
const SUITE: &str = "bookworm";

/// All that is in a bare machine beside the release's essential packages.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,openssh-server,iproute2,kmod,mount";

/// Units with nothing to do in a machine; without them it is up sooner and quiet when idle. systemd-binfmt and the
/// binfmt mount would change the host's own table.
const MASKED: [&str; 14] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-networkd.service",
    "systemd-networkd-wait-online.service",
    "console-getty.service",
    "getty.target",
    "systemd-pstore.service",
];

/// nspawn mounts everything private and the v1 cgroup controllers read-only; a host of its own has them shared and
/// writable. Some sysctls that the kubelet writes are the host's, not the machine's: there it finds files instead.
const SCRIPT: &str = r#"set -e
mount --make-rshared /
while read -r _ at _; do
    case $at in
    /sys/fs/cgroup | /sys/fs/cgroup/*) mount -o remount,bind,rw "$at" ;;
    esac
done </proc/mounts
mkdir -p /run/kprov-machine
for setting in kernel/panic=10 kernel/panic_on_oops=1 vm/overcommit_memory=1 vm/panic_on_oom=0; do
    name=${setting%=*}
    file=/run/kprov-machine/$(echo "$name" | tr / .)
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/$name"
done
"#;

const SCRIPT_PATH: &str = "usr/lib/kprov-machine";

const UNIT: &str = "[Unit]
Description=Mounts and sysctls as on a host of its own
DefaultDependencies=no
Before=sysinit.target basic.target systemd-sysctl.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /usr/lib/kprov-machine
[Install]
WantedBy=sysinit.target
";

const SSHD: &str = "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\n\
                    PasswordAuthentication no\nUseDNS no\n";

/// /dev/kmsg is the host's: without this every machine's journal would hold the host's kernel log.
const JOURNALD: &str = "[Journal]\nReadKMsg=no\n";

/// The name of the base's template in the store: by its content, so that another recipe makes another one.
pub fn template() -> String {
    let mut hash = Sha256::new();
    for part in [SUITE, PACKAGES, &MASKED.join(","), SCRIPT, UNIT, SSHD, JOURNALD] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hash = data_encoding::HEXLOWER.encode(&hash.finalize());
    format!("base-{SUITE}-{}", hash.get(..12).unwrap_or(&hash))
}

/// Makes the base in the store if it is not there yet, and returns its template's name. About a minute the first time.
///
/// # Errors
/// When debootstrap fails (the last lines of what it said are in the error) or the store cannot be written.
pub async fn ensure(store: &Store, watch: &Watch) -> anyhow::Result<String> {
    let name = template();
    let _lock = store.lock("base").await?;
    if store.has(&name) {
        return Ok(name);
    }
    watch.say("making the bare Debian base (once, about a minute)");
    let partial = store.begin(&name).await?;
    debootstrap(&partial, SUITE, PACKAGES, watch).await.context("making the base of machines")?;
    fit(&partial).context("fitting the base of machines")?;
    store.finish(&name).await?;
    Ok(name)
}

/// Debian's essential packages of a release, and `packages` (names with commas between them), into an empty directory.
///
/// # Errors
/// When debootstrap fails; the last lines of what it said are in the error.
pub async fn debootstrap(root: &Path, suite: &str, packages: &str, watch: &Watch) -> anyhow::Result<()> {
    let include = format!("--include={packages}");
    let mut child = Command::new("debootstrap")
        .args(["--variant=minbase", &include, suite, text(root)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting debootstrap")?;
    let mut tail = std::collections::VecDeque::new();
    if let Some(pipe) = child.stdout.take() {
        let mut lines = BufReader::new(pipe).lines();
        while let Some(line) = lines.next_line().await? {
            let line = line.strip_prefix("I: ").unwrap_or(&line).to_owned();
            watch.say(line.clone());
            tail.push_back(line);
            if tail.len() > 5 {
                tail.pop_front();
            }
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        // A half-made root may have /proc mounted in it, which would make it impossible to remove.
        tool::try_run("umount", &[&format!("{}/proc", text(root)?)]).await;
        tool::try_run("umount", &[&format!("{}/sys", text(root)?)]).await;
        bail!("debootstrap {status}: {}", tail.into_iter().collect::<Vec<_>>().join("; "));
    }
    Ok(())
}

/// Everything in the tree that debootstrap did not make.
fn fit(root: &Path) -> anyhow::Result<()> {
    let units = root.join("etc/systemd/system");
    let wants = units.join("sysinit.target.wants");
    std::fs::create_dir_all(&wants)?;
    std::fs::write(root.join(SCRIPT_PATH), SCRIPT)?;
    std::fs::write(units.join("kprov-machine.service"), UNIT)?;
    std::os::unix::fs::symlink("../kprov-machine.service", wants.join("kprov-machine.service"))?;
    for unit in MASKED {
        let link = units.join(unit);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("/dev/null", link)?;
    }
    for (path, content) in
        [("etc/ssh/sshd_config.d/kprov.conf", SSHD), ("etc/systemd/journald.conf.d/kprov.conf", JOURNALD)]
    {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, content)?;
    }
    // Debian raises kernel.pid_max, which is the host's.
    let _ = std::fs::remove_file(root.join("etc/sysctl.d/50-pid-max.conf"));
    std::os::unix::fs::symlink("/dev/null", root.join("etc/sysctl.d/50-pid-max.conf"))?;
    for entry in std::fs::read_dir(root.join("etc/ssh"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::write(root.join("etc/machine-id"), "")?;
    let archives = root.join("var/cache/apt/archives");
    for entry in std::fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "deb") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_named_by_its_content() {
        let name = template();
        assert!(name.starts_with("base-bookworm-"), "{name}");
        assert_eq!(name, template());
        assert_eq!(name.len(), "base-bookworm-".len() + 12);
    }

    #[test]
    fn the_unit_runs_the_script() {
        assert!(UNIT.contains(&format!("ExecStart=/bin/sh /{SCRIPT_PATH}\n")));
        let checked = std::process::Command::new("sh").args(["-n", "-c", SCRIPT]).status().unwrap();
        assert!(checked.success());
    }
}

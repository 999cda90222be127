//! A disk with a truly bare Debian and its own kernel, for a machine of its own: what debootstrap makes, as one ext4 file.
//! Made once and kept by its recipe; a copy is given what makes it one machine.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use data_encoding::HEXLOWER;
use kprov_providers::Watch;
use kprov_providers::local::base;
use sha2::{Digest, Sha256};

use crate::host::Host;

/// Debian 13: systemd 257, Linux 6.12, cgroup v2.
const SUITE: &str = "trixie";

/// A kind of disk: its name, and its packages.
pub type Recipe = (&'static str, &'static str);

/// What the bare machines of this host have, and a kernel (which brings udev and an initrd).
pub const BARE: Recipe =
    ("bare", "systemd,systemd-sysv,dbus,openssh-server,iproute2,kmod,mount,linux-image-cloud-amd64");

/// A host for `kprov up`: the packages of docs/local.md too.
pub const HOST: Recipe = (
    "host",
    "systemd,systemd-sysv,dbus,openssh-server,iproute2,kmod,mount,linux-image-cloud-amd64,\
     debootstrap,systemd-container,btrfs-progs,nftables,debian-archive-keyring",
);

/// The file's size; it is sparse.
const SIZE: &str = "32G";

/// Units that would work beside the test, or change files while it compares them.
const MASKED: [&str; 6] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
];

const SSHD: &str = "HostKey /etc/ssh/ssh_host_ed25519_key\nPasswordAuthentication no\nUseDNS no\n";

/// What each copy gets for itself.
const OWN: [&str; 4] = ["etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"];

/// The disk that copies are made of, and what starts them.
pub struct Debian {
    /// ext4, without a partition table.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
}

impl Debian {
    /// Takes it from the cache, or makes it.
    ///
    /// # Errors
    /// When debootstrap or mkfs.ext4 fails.
    pub fn ensure(host: &Host, recipe: &Recipe) -> anyhow::Result<Self> {
        let (name, packages) = recipe;
        let mut hash = Sha256::new();
        for part in [SUITE, packages, SIZE, &MASKED.join(","), SSHD] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let hash = HEXLOWER.encode(&hash.finalize());
        let kept = host.cache.join("guest");
        std::fs::create_dir_all(&kept)?;
        let lock = std::fs::File::create(kept.join("lock"))?;
        lock.lock().context("waiting for another run that makes the guest's disk")?;
        let prefix = format!("debian-{name}-");
        let dir = kept.join(format!("{prefix}{SUITE}-{}", hash.get(..12).unwrap_or(&hash)));
        let made = Self { disk: dir.join("root.ext4"), kernel: dir.join("vmlinuz"), initrd: dir.join("initrd.img") };
        if dir.is_dir() {
            return Ok(made);
        }
        // Older disks of this name, and what a killed run left.
        let old = |name: &str| name.starts_with(&prefix) || matches!(name, "tree" | "partial");
        for entry in std::fs::read_dir(&kept)?.flatten().filter(|entry| old(&entry.file_name().to_string_lossy())) {
            std::fs::remove_dir_all(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        }
        let (tree, partial) = (kept.join("tree"), kept.join("partial"));
        host.wait(base::debootstrap(&tree, SUITE, packages, &Watch::quiet()))?;
        std::fs::create_dir(&partial)?;
        for (from, to) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
            std::fs::copy(boot(&tree, from)?, partial.join(to))?;
        }
        fit(&tree)?;
        let file = partial.join("root.ext4");
        run(Command::new("mkfs.ext4").args(["-q", "-L", "root", "-d"]).arg(&tree).arg(&file).arg(SIZE))?;
        std::fs::rename(&partial, &dir)?;
        std::fs::remove_dir_all(&tree)?;
        Ok(made)
    }

    /// A disk of one machine: a copy with these files (path without leading slash, mode, content) added to it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn copy(&self, to: &Path, files: &[(&str, u32, String)]) -> anyhow::Result<()> {
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&self.disk).arg(to))?;
        let staged = tempfile::tempdir()?;
        let mut script = String::new();
        for (number, (path, mode, content)) in files.iter().enumerate() {
            let from = staged.path().join(number.to_string());
            std::fs::write(&from, content)?;
            script.push_str(&format!(
                "write {} /{path}\nset_inode_field /{path} mode 0{:o}\n",
                from.display(),
                0o100_000 | mode
            ));
        }
        let commands = staged.path().join("commands");
        std::fs::write(&commands, script)?;
        let output = Command::new("debugfs").arg("-w").arg("-f").arg(&commands).arg(to).output().context("debugfs")?;
        // It ends well whatever happens, and complains behind its first line, which is its name.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && said.lines().count() <= 1, "debugfs: {said}");
        Ok(())
    }
}

fn boot(tree: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let found =
        std::fs::read_dir(tree.join("boot"))?.flatten().find(|e| e.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.with_context(|| format!("no {prefix}* in /boot"))?.path())
}

/// What debootstrap did not make, and what it took over from this host.
fn fit(tree: &Path) -> anyhow::Result<()> {
    let units = tree.join("etc/systemd/system");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit))?;
    }
    let networkd = "systemd-networkd.service";
    let wants = units.join("multi-user.target.wants");
    symlink(Path::new("/usr/lib/systemd/system").join(networkd), wants.join(networkd))?;
    std::fs::write(tree.join("etc/ssh/sshd_config.d/kprov-tests.conf"), SSHD)?;
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(tree.join("root/.ssh"))?;
    for path in OWN {
        match std::fs::remove_file(tree.join(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => bail!("removing {path}: {error}"),
            _ => {}
        }
    }
    for entry in std::fs::read_dir(tree.join("etc/ssh"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            std::fs::remove_file(entry.path())?;
        }
    }
    for entry in std::fs::read_dir(tree.join("var/cache/apt/archives"))?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::set_permissions(tree, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {}\n{said}", command.get_program().display(), output.status);
    Ok(())
}

//! Machines whose disk loses what was not synced when the power goes, or is full: an ext4 file system of their own.
//!
//! `shutdown` of xfs_io stops an ext4 as a power cut does: nothing more is written, not even its journal.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::host::{Bare, Host, dirs_of};
use crate::kubectl::wait;
use crate::remote::Remote;

/// Bytes of the file system: the base, a node's files twice over, and the bundle. Sparse.
const SIZE: u64 = 8 << 30;

/// Where it is mounted, among the state of tests.
pub const MOUNT: &str = "disk";

/// Unmounts what a dead run left.
pub fn sweep(host: &Host) {
    if host.state(MOUNT).exists() {
        drop(Disk { at: host.state(MOUNT), file: host.state("disk.ext4") });
    }
}

/// An ext4 in a file, mounted; unmounted when dropped.
pub struct Disk {
    at: PathBuf,
    file: PathBuf,
}

impl Disk {
    /// Made and mounted, with the base's template in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(host: &Host) -> anyhow::Result<Self> {
        let (at, file) = (host.state(MOUNT), host.state("disk.ext4"));
        let disk = Self { at, file };
        disk.drop_mount();
        std::fs::create_dir_all(&disk.at)?;
        std::fs::File::create(&disk.file).and_then(|file| file.set_len(SIZE)).context("making the disk's file")?;
        // Nothing is kept for root: all that writes there is root's.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&disk.file)?])?;
        disk.mount()?;
        // Disks on overlayfs, so that all that a machine writes goes to this file system and no other.
        std::fs::write(disk.at.join("store.kind"), "overlay\n")?;
        let (name, tree) = host.base()?;
        let templates = disk.at.join("store/templates");
        std::fs::create_dir_all(&templates)?;
        run("cp", &["-a", text(&tree)?, text(&templates.join(name))?])?;
        run("sync", &["-f", text(&disk.at)?])?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        run("mount", &["-o", "loop,noatime", text(&self.file)?, text(&self.at)?])
    }

    /// Bare machines on it, started. `set` names them and where they are remembered.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn bare<'a>(&self, host: &'a Host, set: &str, names: &[&str]) -> anyhow::Result<Bare<'a>> {
        host.bare_in(&dirs_of(&self.at, &host.state(set)), set, names)
    }

    /// All of its machines lose their power, and come back.
    ///
    /// # Errors
    /// When the disk cannot be stopped, or a machine does not come back.
    pub fn cut(&self, machines: &mut Bare<'_>, names: &[&str]) -> anyhow::Result<()> {
        self.shut()?;
        for machine in names {
            machines.power_cut(machine)?;
        }
        self.again()?;
        for machine in names {
            machines.start(machine)?;
        }
        Ok(())
    }

    /// Removes the machines, and itself. With KPROV_TEST_KEEP both stay where a scenario failed, for the next run to sweep.
    ///
    /// # Errors
    /// Those of the scenario; when something stays.
    pub fn end(self, machines: Bare<'_>, result: anyhow::Result<()>) -> anyhow::Result<()> {
        if result.is_err() && std::env::var_os("KPROV_TEST_KEEP").is_some() {
            std::mem::forget(self);
            return result;
        }
        let gone = machines.destroy();
        result.and(gone)
    }

    /// Stops it as a power cut does.
    fn shut(&self) -> anyhow::Result<()> {
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.at)?])
    }

    fn drop_mount(&self) {
        let at = self.at.display().to_string();
        while std::fs::read_to_string("/proc/self/mounts").is_ok_and(|all| all.contains(&format!(" {at} "))) {
            if run("umount", &[&at]).is_err() {
                break;
            }
        }
    }

    /// Unmounted and mounted again, as at a start.
    fn again(&self) -> anyhow::Result<()> {
        // The last processes of a machine may still be on their way out.
        wait(Duration::from_secs(30), || run("umount", &[text(&self.at)?]))?;
        // Whoever copied this host's mounts meanwhile, for a namespace of his own, still has it: stopped, as it is for all.
        wait(Duration::from_secs(60), || {
            let output = Command::new("losetup").args(["-j", text(&self.file)?]).output().context("running losetup")?;
            let left = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(left.trim().is_empty(), "another mount namespace holds the disk of power cuts: {left}");
            Ok(())
        })?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.drop_mount();
        drop(std::fs::remove_file(&self.file));
        drop(std::fs::remove_dir(&self.at));
    }
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no text")
}

/// What may still be written to the machine's disk, in MB.
///
/// # Errors
/// When the machine does not say it.
pub fn free(machine: &Remote) -> anyhow::Result<u64> {
    let said = machine.run("df --output=avail -BM / | tail -n 1")?;
    let Ok(free) = said.trim().trim_end_matches('M').parse() else { bail!("df says {said}") };
    Ok(free)
}

/// Takes the machine's disk but for so many MB of the room that there is, instead of what was taken before.
///
/// # Errors
/// When the room is not there.
pub fn leave(machine: &Remote, room: u64, of: u64) -> anyhow::Result<()> {
    // df rounds up.
    let size = of.saturating_sub(room + 1);
    // To the last byte: that this fails is what is wanted.
    let rest = if room == 0 { "cat /dev/zero 2>/dev/null >>/filler" } else { "true" };
    machine.run(&format!("rm -f /filler && fallocate -l {size}M /filler && {{ {rest}; sync; }}")).map(drop)
}

/// Gives the room back.
///
/// # Errors
/// When the file cannot be removed.
pub fn give_back(machine: &Remote) -> anyhow::Result<()> {
    machine.run("rm -f /filler && sync").map(drop)
}

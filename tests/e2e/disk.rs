//! Machines whose disk loses what was not synced when the power goes, or is full: an ext4 file system of their own.
//!
//! `shutdown` of xfs_io stops an ext4 as a power cut does: nothing more is written, not even its journal.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::bare::{bring, join_line};
use crate::dice::{Dice, tries};
use crate::host::{Bare, Clock, Host, dirs_of};
use crate::kubectl::{Kubectl, wait};
use crate::remote::Remote;

const READY: Duration = Duration::from_secs(180);

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
struct Disk {
    at: PathBuf,
    file: PathBuf,
}

impl Disk {
    /// Made and mounted, with the base's template in it.
    fn new(host: &Host) -> anyhow::Result<Self> {
        let (at, file) = (host.state(MOUNT), host.state("disk.ext4"));
        let disk = Self { at, file };
        disk.drop_mount();
        std::fs::create_dir_all(&disk.at)?;
        std::fs::File::create(&disk.file).and_then(|file| file.set_len(SIZE)).context("making the disk's file")?;
        run("mkfs.ext4", &["-q", "-F", text(&disk.file)?])?;
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
        run("umount", &[text(&self.at)?])?;
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

/// Power cuts at random moments of init and join.
pub fn power(host: &Host) -> anyhow::Result<()> {
    let mut dice = Dice::printed();
    let disk = Disk::new(host)?;
    let dirs = dirs_of(&disk.at, &host.state("power"));
    let mut machines = host.bare_in(&dirs, "power", &["cp-1", "worker-1"])?;
    let result = cuts(host, &disk, &mut machines, &mut dice);
    machines.destroy()?;
    result
}

fn cuts(host: &Host, disk: &Disk, machines: &mut Bare<'_>, dice: &mut Dice) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    for machine in ["cp-1", "worker-1"] {
        bring(host, &machines.remote(machine)?)?;
        machines.remote(machine)?.run("sync")?;
    }
    loses(disk, machines)?;
    clock.lap("an unsynced write is lost");
    for round in 1..=tries(2) {
        let line = cut_during(disk, machines, "cp-1", "init", 9, dice)?;
        let line = join_line(&line)?;
        cut_during(disk, machines, "worker-1", &format!("join {line}"), 9, dice)?;
        let cp = machines.remote("cp-1")?;
        Kubectl(cp.clone()).wait_all_ready(2, READY)?;
        let again = cp.run("/root/kprov init 2>&1")?;
        ensure!(again.contains("nothing to do"), "init again does not say that there is nothing to do:\n{again}");
        for machine in ["worker-1", "cp-1"] {
            cut_during(disk, machines, machine, "reset --force", 4, dice)?;
        }
        clock.lap(&format!("round {round}: init, join and both resets, each cut off its power and run again"));
    }
    Ok(())
}

/// All machines of the disk lose their power, and come back.
fn cut(disk: &Disk, machines: &mut Bare<'_>) -> anyhow::Result<()> {
    disk.shut()?;
    for machine in ["cp-1", "worker-1"] {
        machines.power_cut(machine)?;
    }
    disk.again()?;
    for machine in ["cp-1", "worker-1"] {
        machines.start(machine)?;
    }
    Ok(())
}

/// That this test can see a missing sync: what was not synced is gone after a cut, what was is there.
fn loses(disk: &Disk, machines: &mut Bare<'_>) -> anyhow::Result<()> {
    let machine = machines.remote("cp-1")?;
    machine.run("echo kept > /root/kept && sync /root/kept && sync && echo lost > /root/lost")?;
    cut(disk, machines)?;
    let left = machine.run("cat /root/kept; cat /root/lost 2>/dev/null || true")?;
    ensure!(left.contains("kept"), "a synced write is lost: this is no disk");
    ensure!(!left.contains("lost"), "an unsynced write is still there: this test cannot see a missing sync");
    machine.run("rm -f /root/kept /root/lost").map(drop)
}

/// Starts a command, cuts the power at some moment, and runs the same command again.
fn cut_during(
    disk: &Disk,
    machines: &mut Bare<'_>,
    machine: &str,
    command: &str,
    seconds: u64,
    dice: &mut Dice,
) -> anyhow::Result<String> {
    let moment = dice.within(Duration::from_secs(seconds));
    let remote = machines.remote(machine)?;
    // Detached, because the session goes with the machine.
    remote.run(&format!("(setsid /root/kprov {command} >/dev/null 2>&1 </dev/null &) ; true"))?;
    let start = Instant::now();
    std::thread::sleep(moment.saturating_sub(start.elapsed()));
    cut(disk, machines)?;
    if machine != "cp-1" {
        // The control plane was cut off as well, and is on its way back.
        let kubectl = Kubectl(machines.remote("cp-1")?);
        wait(READY, || kubectl.run("get --raw /readyz"))?;
    }
    let what = || format!("kprov {command} again, after a power cut in second {:.3}", moment.as_secs_f64());
    remote.run(&format!("/root/kprov {command} 2>&1")).with_context(what)
}

/// Free space that `init` meets, in MB: nothing, too little for one stage after another.
const LEFT: [u64; 6] = [0, 100, 560, 600, 680, 760];

/// A disk that is full: one clear error, and the same command again once there is room.
pub fn full(host: &Host) -> anyhow::Result<()> {
    let disk = Disk::new(host)?;
    let dirs = dirs_of(&disk.at, &host.state("full"));
    let mut machines = host.bare_in(&dirs, "full", &["cp-1"])?;
    let result = sizes(host, &mut machines);
    machines.destroy()?;
    result
}

fn sizes(host: &Host, machines: &mut Bare<'_>) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let machine = machines.remote("cp-1")?;
    bring(host, &machine)?;
    for left in LEFT {
        fill(&machine, left)?;
        // What preflight would say is passed over: the disk may also fill up later.
        let output = machine.output("/root/kprov init --ignore-preflight-errors=all 2>&1")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = output.status.code();
        ensure!(code == Some(1) || code == Some(3) || code == Some(0), "with {left} MB left: {code:?}\n{said}");
        ensure!(!said.contains("panicked"), "with {left} MB left:\n{said}");
        if code != Some(0) {
            let words = ["No space left", "no space left", "are free"];
            ensure!(words.iter().any(|word| said.contains(word)), "with {left} MB left the disk is not named:\n{said}");
        }
        machine.run("rm -f /filler")?;
        machine.run("/root/kprov init 2>&1").with_context(|| format!("init again, after {left} MB were left"))?;
        clock.lap(&format!("{left} MB left: exit {}, then init again", code.unwrap_or(-1)));
        if LEFT.last() != Some(&left) {
            machine.run("/root/kprov reset --force 2>&1")?;
            clock.lap("reset");
        }
    }
    Kubectl(machine.clone()).wait_all_ready(1, READY)?;
    clock.lap("all Ready");
    Ok(())
}

/// Fills the machine's disk up to so many MB.
fn fill(machine: &Remote, left: u64) -> anyhow::Result<()> {
    let free = machine.run("df --output=avail -BM / | tail -n 1")?;
    let Ok(free) = free.trim().trim_end_matches('M').parse::<u64>() else { bail!("df says {free}") };
    let write = match left {
        // Root's own reserve goes too.
        0 => "cat /dev/zero > /filler".to_owned(),
        _ => format!("fallocate -l {}M /filler", free.saturating_sub(left)),
    };
    machine.run(&format!("{write} 2>/dev/null; sync; true")).map(drop)
}

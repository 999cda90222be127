//! Disks that are full: one clear error, and the same command again once there is room. Then a finished node's disk fills
//! up: the kubelet removes an image that nothing uses, and none of the bundle's.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::bare::bring;
use crate::dice::{Dice, tries};
use crate::disk::{Disk, free, give_back, leave};
use crate::host::{Clock, Host};
use crate::image;
use crate::kubectl::{Kubectl, wait};
use crate::remote::Remote;

const READY: Duration = Duration::from_secs(180);

/// Room that `init` finds in all, in MB: none, too little for one stage after another; with the last two etcd runs.
const ROOM: [u64; 8] = [0, 100, 560, 600, 680, 760, 980, 1020];

/// Room with which init ends well, in MB, and somewhat more.
const ENOUGH: u64 = 1200;

/// With so much etcd or the API server begin and do not get far.
const BEGUN: std::ops::Range<u64> = 850..1100;

/// What the machine's own logs grow meanwhile, in MB; `free` is that much less in the end.
const GROWN: u64 = 40;

/// Fills the disk before `init`, less and less: each run takes up what the one before has left, and gets further. With
/// KPROV_TEST_KILLS also so many times at random, from nothing and with a reset after.
pub fn init(host: &Host) -> anyhow::Result<()> {
    let disk = Disk::new(host)?;
    let machines = disk.bare(host, "full", &["cp-1"])?;
    let result = machines.remote("cp-1").and_then(|machine| sizes(host, &machine));
    disk.end(machines, result)
}

fn sizes(host: &Host, machine: &Remote) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    bring(host, machine)?;
    let measured = free(machine)?;
    let free = measured.saturating_sub(GROWN);
    let mut dice = Dice::printed();
    for number in 0..tries(0) {
        let within = if number % 2 == 0 { 0..ENOUGH } else { BEGUN };
        let room = within.start + dice.below(within.end - within.start);
        let code = init_with(machine, free, room)?;
        give_back(machine)?;
        machine.run("/root/kprov init 2>&1").with_context(|| format!("init again, after {room} MB were left"))?;
        machine.run("/root/kprov reset --force 2>&1")?;
        let left = self::free(machine)?;
        ensure!(left >= free, "of {measured} MB that were free there are {left} MB after a reset");
        clock.lap(&format!("{room} MB of room: exit {code}; init again, reset"));
    }
    let mut failed = 0;
    for room in ROOM {
        let code = init_with(machine, free, room)?;
        failed += usize::from(code != 0);
        clock.lap(&format!("{room} MB of room: exit {code}"));
    }
    ensure!(failed >= 7, "init failed with {failed} of these sizes only: the others are no test");
    give_back(machine)?;
    machine.run("/root/kprov init 2>&1").context("init again, once there was room")?;
    let kubectl = Kubectl(machine.clone());
    kubectl.wait_all_ready(1, READY)?;
    clock.lap("init again with all the room, all Ready");
    // The kubelet lets new images live for two minutes.
    machine.run("sed -i 's/^imageMinimumGCAge: .*/imageMinimumGCAge: 1s/' /var/lib/kubelet/config.yaml && systemctl restart kubelet")?;
    spares(host, machine, Duration::from_secs(90))?;
    clock.lap("the kubelet collects an image, and leaves the bundle's");
    Ok(())
}

/// Runs `init` with so much room; its exit code, which must be 0 or come with a word about the disk.
fn init_with(machine: &Remote, free: u64, room: u64) -> anyhow::Result<i32> {
    leave(machine, room, free)?;
    // What preflight would say is passed over: the disk may also fill up later.
    let output = machine.output("/root/kprov init --ignore-preflight-errors=all 2>&1")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code().unwrap_or(-1);
    ensure!([0, 1, 3].contains(&code), "with {room} MB of room: exit {code}\n{said}");
    ensure!(!said.contains("panicked"), "with {room} MB of room:\n{said}");
    if code != 0 {
        let words = ["No space left", "no space left", "are free"];
        ensure!(words.iter().any(|word| said.contains(word)), "with {room} MB of room the disk is not named:\n{said}");
    }
    Ok(code)
}

/// The kubelet with its own settings: nothing is collected before it is two minutes old.
pub fn pressure(host: &Host) -> anyhow::Result<()> {
    let disk = Disk::new(host)?;
    let machines = disk.bare(host, "pressure", &["cp-1"])?;
    let result = machines.remote("cp-1").and_then(|machine| {
        let mut clock = Clock::new();
        bring(host, &machine)?;
        machine.run("/root/kprov init 2>&1")?;
        Kubectl(machine.clone()).wait_all_ready(1, READY)?;
        clock.lap("init, all Ready");
        spares(host, &machine, Duration::from_secs(900))?;
        clock.lap("the kubelet collects an image, and leaves the bundle's");
        Ok(())
    });
    disk.end(machines, result)
}

/// On a nearly full disk an image that nothing uses is collected: so images were looked at. All of the bundle's are
/// still there, also the scheduler's, which nothing uses either while its manifest is away.
fn spares(host: &Host, machine: &Remote, limit: Duration) -> anyhow::Result<()> {
    let kubectl = Kubectl(machine.clone());
    let list = "ctr -n k8s.io images list -q | grep -v '^sha256:' | sort";
    let bundled = machine.run(list)?;
    ensure!(bundled.lines().count() >= 8 && bundled.contains("kube-scheduler"), "the bundle's images:\n{bundled}");
    let archive = host.state("probe.tar");
    image::write(&host.probe, &archive)?;
    machine.upload(&archive, "/root/probe.tar", "644")?;
    // Not by `kprov image load`, which pins what it loads.
    machine.run("ctr -n k8s.io images import --local /root/probe.tar && rm /root/probe.tar")?;
    ensure!(machine.run(list)?.contains(image::NAME), "the image is not there");
    machine.run("mv /etc/kubernetes/manifests/kube-scheduler.yaml /root/")?;
    wait(READY, || {
        let left = machine.run("crictl ps --name kube-scheduler -q")?;
        ensure!(left.trim().is_empty(), "the scheduler still runs");
        Ok(())
    })?;
    let before = kubectl.get("node")?["items"][0]["status"]["conditions"].to_string();
    ensure!(!before.contains("KubeletHasDiskPressure"), "the disk is full already: {before}");

    let size = machine.run("df --output=size -BM / | tail -n 1")?;
    let size: u64 = size.trim().trim_end_matches('M').parse().context("df's size")?;
    // Above imageGCHighThresholdPercent (85), below what would have pods evicted (90).
    leave(machine, size * 12 / 100, free(machine)?)?;
    wait(limit, || {
        let there = machine.run(list)?;
        ensure!(!there.contains(image::NAME), "the kubelet has not collected {}", image::NAME);
        Ok(())
    })?;
    let left = machine.run(list)?;
    ensure!(left == bundled, "of the bundle's images\n{bundled}these are left:\n{left}");
    give_back(machine)?;
    machine.run("mv /root/kube-scheduler.yaml /etc/kubernetes/manifests/")?;
    kubectl.wait_all_ready(1, READY)
}

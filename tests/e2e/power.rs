//! Power cuts that lose what was not synced, at random moments of init, join and reset: the same command again ends well,
//! and machines whose kubelet or containerd was caught in the middle come up by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::bare::{bring, join_line};
use crate::dice::{Dice, tries};
use crate::disk::Disk;
use crate::host::{Bare, Clock, Host};
use crate::image;
use crate::kubectl::{Kubectl, ready, wait};
use crate::remote::Remote;

const READY: Duration = Duration::from_secs(180);
const MACHINES: [&str; 2] = ["cp-1", "worker-1"];

/// The scenario. A round cuts init and join; before the next one both resets are cut as well.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut dice = Dice::printed();
    let disk = Disk::new(host)?;
    let mut machines = disk.bare(host, "power", &MACHINES)?;
    let result = cuts(host, &disk, &mut machines, &mut dice);
    disk.end(machines, result)
}

fn cuts(host: &Host, disk: &Disk, machines: &mut Bare<'_>, dice: &mut Dice) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    for machine in MACHINES {
        bring(host, &machines.remote(machine)?)?;
        machines.remote(machine)?.run("sync")?;
    }
    let archive = host.state("power-probe.tar");
    image::write(&host.probe, &archive)?;
    loses(disk, machines)?;
    clock.lap("an unsynced write is lost");
    half_taken_in(&machines.remote("cp-1")?)?;
    clock.lap("init again where containerd had half a blob, of zeros; reset");
    let rounds = tries(1);
    for round in 1..=rounds {
        let said = cut_during(disk, machines, "cp-1", "init", 9, dice)?;
        let line = join_line(&said)?;
        let cp = machines.remote("cp-1")?;
        cp.upload(&archive, "/root/probe.tar", "644")?;
        // The cut that meets the worker's join meets this node too.
        cp.run("/root/kprov image load /root/probe.tar 2>&1")?;
        cut_during(disk, machines, "worker-1", &format!("join {line}"), 9, dice)?;
        let kubectl = Kubectl(cp.clone());
        kubectl.wait_all_ready(2, READY)?;
        let again = cp.run("/root/kprov init 2>&1")?;
        ensure!(again.contains("nothing to do"), "init again does not say that there is nothing to do:\n{again}");
        image_is_whole(&kubectl, &machines.hostname("cp-1"))?;
        clock.lap(&format!("round {round}: init and join, each cut off its power and run again; an image survives"));
        for machine in MACHINES {
            empty_certificates(&kubectl, &machines.remote(machine)?, &machines.hostname(machine))?;
        }
        clock.lap("kubelets start with certificates that a power cut has emptied");
        if round < rounds {
            for machine in ["worker-1", "cp-1"] {
                cut_during(disk, machines, machine, "reset --force", 4, dice)?;
            }
            clock.lap("both resets, each cut off its power and run again");
        }
    }
    Ok(())
}

/// That this test can see a missing sync: what was not synced is gone after a cut, what was is there.
fn loses(disk: &Disk, machines: &mut Bare<'_>) -> anyhow::Result<()> {
    let machine = machines.remote("cp-1")?;
    machine.run("echo kept > /root/kept && sync /root/kept && sync && echo lost > /root/lost")?;
    disk.cut(machines, &MACHINES)?;
    let left = machine.run("cat /root/kept; cat /root/lost 2>/dev/null || true")?;
    ensure!(left.contains("kept"), "a synced write is lost: this is no disk");
    ensure!(!left.contains("lost"), "an unsynced write is still there: this test cannot see a missing sync");
    machine.run("rm -f /root/kept /root/lost").map(drop)
}

/// What a cut leaves of a blob that containerd was just taking in, laid down for certain: its size is there, its content is
/// not. The next import goes on with it, keeps it under another name, and lacks the blob; `init` again imports once more.
fn half_taken_in(machine: &Remote) -> anyhow::Result<()> {
    machine.run(
        "(setsid /root/kprov init >/dev/null 2>&1 </dev/null &); \
         for n in $(seq 6000); do \
             half=$(find /var/lib/containerd/io.containerd.content.v1.content/ingest -name data -size +20M 2>/dev/null | head -n 1); \
             test -n \"$half\" && break; sleep 0.005; done; \
         pkill -9 -x kprov; pkill -9 -x ctr; pkill -9 -x containerd; systemctl stop containerd; \
         test -s \"$half\" && dd if=/dev/zero of=\"$half\" bs=1M seek=3 count=5 conv=notrunc status=none",
    )?;
    let said = machine.run("/root/kprov init 2>&1")?;
    ensure!(said.contains("importing the images again"), "nothing was imported again: this is no test\n{said}");
    machine.run("/root/kprov reset --force 2>&1").map(drop)
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
    disk.cut(machines, &MACHINES)?;
    if machine != "cp-1" {
        // The control plane was cut off as well, and is on its way back.
        let kubectl = Kubectl(machines.remote("cp-1")?);
        wait(READY, || kubectl.run("get --raw /readyz"))?;
    }
    let what = || format!("kprov {command} again, after a power cut in second {:.3}", moment.as_secs_f64());
    remote.run(&format!("/root/kprov {command} 2>&1")).with_context(what)
}

/// A pod of the image that was loaded before the cut runs: its program is not empty.
fn image_is_whole(kubectl: &Kubectl, node: &str) -> anyhow::Result<()> {
    let spec = json!({"spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1}});
    kubectl
        .run(&format!("run probe --image={} --image-pull-policy=Never --overrides='{spec}' -- sleep", image::NAME))?;
    wait(Duration::from_secs(60), || {
        let pod = kubectl.get("pod probe")?;
        ensure!(ready(&pod), "a pod of an image that was loaded before a power cut: {}", pod["status"]);
        Ok(())
    })?;
    kubectl.run("delete pod probe --wait=false").map(drop)
}

/// What a cut may leave of files that the kubelet does not sync, laid down for certain: no serving certificate, and a
/// client certificate that was renewed a moment before. The kubelet starts nevertheless, and its node is the same one.
fn empty_certificates(kubectl: &Kubectl, machine: &Remote, node: &str) -> anyhow::Result<()> {
    machine.run(
        "systemctl stop kubelet && cd /var/lib/kubelet/pki && : >kubelet.crt && : >kubelet.key && \
         : >kubelet-client-2099-01-01-00-00-00.pem && \
         ln -sf /var/lib/kubelet/pki/kubelet-client-2099-01-01-00-00-00.pem kubelet-client-current.pem && \
         systemctl start kubelet",
    )?;
    wait(Duration::from_secs(60), || {
        let said = kubectl.run(&format!("get --raw /api/v1/nodes/{node}/proxy/healthz"))?;
        ensure!(said.trim() == "ok", "the kubelet says {said}");
        Ok(())
    })?;
    machine.run(
        "cd /var/lib/kubelet/pki && test -s kubelet.crt && test -s kubelet.key && test -s kubelet-client-current.pem",
    )?;
    Ok(())
}

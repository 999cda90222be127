//! Power cuts that lose what was not synced, at random moments of init, join and reset: the same command again ends well,
//! and machines whose kubelet or containerd was caught in the middle come up by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::bare::{bring, join_line};
use crate::dice::{Aim, Dice, tries};
use crate::disk::Disk;
use crate::host::{Bare, Clock, Host};
use crate::image;
use crate::kills::whole;
use crate::kubectl::{Kubectl, ready, wait};
use crate::remote::Remote;
use crate::tree::Tree;

const READY: Duration = Duration::from_secs(180);
const MACHINES: [&str; 2] = ["cp-1", "worker-1"];

/// Rounds more, at most, until each command was met at least once: a moment may come after a command's end.
const MORE: u64 = 4;

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
    let mut before = Vec::new();
    for name in MACHINES {
        let machine = machines.remote(name)?;
        bring(host, &machine)?;
        machine.run("sync")?;
        before.push((name, Tree::of(&machine, &machines.address(name)?)?));
    }
    let archive = host.state("power-probe.tar");
    image::write(&host.probe, &archive)?;
    loses(disk, machines)?;
    clock.lap("an unsynced write is lost");
    half_taken_in(&machines.remote("cp-1")?)?;
    clock.lap("init again where containerd had half a blob, of zeros; reset");
    let mut init = Aim::new("init", 8);
    let mut join = Aim::new("join", 8);
    let mut reset = Aim::new("reset", 2);
    let rounds = tries(2);
    for round in 1..=rounds + MORE {
        let said = cut(&mut init, disk, machines, "cp-1", "init", dice)?;
        let line = join_line(&said)?;
        let cp = machines.remote("cp-1")?;
        cp.upload(&archive, "/root/probe.tar", "644")?;
        // The cut that meets the worker's join meets this node too.
        cp.run("/root/kprov image load /root/probe.tar 2>&1")?;
        cut(&mut join, disk, machines, "worker-1", &format!("join {line}"), dice)?;
        let kubectl = Kubectl(cp.clone());
        whole(&cp, &machines.remote("worker-1")?, &kubectl)?;
        image_is_whole(&kubectl, &machines.hostname("cp-1"))?;
        clock.lap(&format!("round {round}: init and join, each cut off its power and run again; an image survives"));
        for machine in MACHINES {
            empty_certificates(&kubectl, &machines.remote(machine)?, &machines.hostname(machine))?;
        }
        clock.lap("kubelets start with certificates that a power cut has emptied");
        let met = [&init, &join, &reset].iter().all(|aim| aim.times > 0);
        if round >= rounds && met {
            break;
        }
        for machine in ["worker-1", "cp-1"] {
            cut(&mut reset, disk, machines, machine, "reset --force", dice)?;
        }
        for (name, before) in &before {
            let machine = machines.remote(name)?;
            machine.run("rm -f /root/probe.tar")?;
            let after = Tree::of(&machine, &machines.address(name)?)?;
            after.same_as(before).with_context(|| format!("{name} after its reset"))?;
        }
        clock.lap("both resets, each cut off its power and run again; both as before");
    }
    for aim in [&init, &join, &reset] {
        println!("  {}: cut off {} times", aim.what, aim.times);
        ensure!(aim.times > 0, "{} was never cut off: it always ended before", aim.what);
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
             if test -n \"$half\"; then \
                 pkill -STOP -x containerd; test -s \"$half\" && break; pkill -CONT -x containerd; fi; \
             sleep 0.005; done; \
         pkill -9 -x kprov; pkill -9 -x ctr; pkill -9 -x containerd; systemctl stop containerd; \
         test -s \"$half\" && dd if=/dev/zero of=\"$half\" bs=1M seek=3 count=5 conv=notrunc status=none",
    )?;
    let said = machine.run("/root/kprov init 2>&1")?;
    ensure!(said.contains("importing the images again"), "nothing was imported again: this is no test\n{said}");
    machine.run("/root/kprov reset --force 2>&1").map(drop)
}

/// Starts a command, cuts the power at some moment, and runs the same command again; what that says.
fn cut(
    aim: &mut Aim,
    disk: &Disk,
    machines: &mut Bare<'_>,
    machine: &str,
    command: &str,
    dice: &mut Dice,
) -> anyhow::Result<String> {
    let moment = aim.moment(dice);
    let remote = machines.remote(machine)?;
    // Detached, because the session goes with the machine.
    remote.run(&format!(
        "rm -f /run/ended; (setsid sh -c 'start=$(date +%s%N); /root/kprov {command} >/run/said 2>&1; \
         echo $? $(( ($(date +%s%N) - start) / 1000000 )) >/run/ended' </dev/null >/dev/null 2>&1 &) ; true"
    ))?;
    let start = Instant::now();
    std::thread::sleep(moment.saturating_sub(start.elapsed()));
    let ended = remote.run("cat /run/ended 2>/dev/null || true")?;
    match ended.trim() {
        "" => aim.met(),
        code if code.starts_with("0 ") => aim.ended(took(code).unwrap_or(moment).min(moment)),
        code => bail!("kprov {command} ended with {code}:\n{}", remote.run("cat /run/said")?),
    }
    disk.cut(machines, &MACHINES)?;
    if machine != "cp-1" {
        // The control plane was cut off as well, and is on its way back.
        let kubectl = Kubectl(machines.remote("cp-1")?);
        wait(READY, || kubectl.run("get --raw /readyz"))?;
    }
    let what = || format!("kprov {command} again, after a power cut in second {:.3}", moment.as_secs_f64());
    remote.run(&format!("/root/kprov {command} 2>&1")).with_context(what)
}

/// How long a command took, of what [`cut`] has it write: its code and milliseconds.
fn took(ended: &str) -> Option<Duration> {
    ended.split_whitespace().nth(1)?.parse().ok().map(Duration::from_millis)
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

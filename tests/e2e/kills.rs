//! kill -9 of init, join, reset and up at random moments, and a link that is cut while a node joins: the same command
//! again ends well, nothing is there twice, and after reset the machines are as they were.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::bare::{bring, join_line};
use crate::dice::{Aim, Dice, tries};
use crate::host::{Bare, Clock, Host};
use crate::kubectl::{Kubectl, items};
use crate::remote::Remote;
use crate::tree::Tree;
use crate::up::Kprov;

const READY: Duration = Duration::from_secs(180);

/// How long the link is down: longer than a request's first retries, shorter than an SSH session's patience.
const CUT: Duration = Duration::from_secs(4);

/// `init`, `join` and `reset` on two machines.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut dice = Dice::printed();
    let machines = host.bare("kills", &["cp-1", "worker-1"])?;
    let (cp, worker) = (machines.remote("cp-1")?, machines.remote("worker-1")?);
    for machine in [&cp, &worker] {
        bring(host, machine)?;
    }
    let addresses = (machines.address("cp-1")?, machines.address("worker-1")?);
    let before = (Tree::of(&cp, &addresses.0)?, Tree::of(&worker, &addresses.1)?);
    let kubectl = Kubectl(cp.clone());
    let mut init = Aim::new("init", 8);
    let mut join = Aim::new("join", 8);
    let mut reset = Aim::new("reset", 3);
    let mut clock = Clock::new();
    let wanted = tries(3);
    let mut round = 0;
    loop {
        round += 1;
        let said = kill(&mut init, &cp, "init", &mut dice)?;
        let line = join_line(&said)?;
        kill(&mut join, &worker, &format!("join {line}"), &mut dice)?;
        whole(&cp, &worker, &kubectl)?;
        kill(&mut reset, &worker, "reset --force", &mut dice)?;
        Tree::of(&worker, &addresses.1)?.same_as(&before.1).context("the worker after its reset")?;
        clock.lap(&format!("round {round}: init, join and the worker's reset, each killed and run again"));
        // Those that ended before their moment do not count.
        let times = [&init, &join, &reset].map(|killed| killed.times);
        let last = times.iter().all(|times| *times >= wanted);
        ensure!(last || round < 2 * wanted, "killed {times:?} times in {round} rounds: they end too soon");
        if last {
            cut_link(host, &machines, &worker, &format!("join {line}"))?;
            whole(&cp, &worker, &kubectl)?;
            clock.lap("the worker's link was down when its kubelet asked for a certificate");
        }
        kill(&mut reset, &cp, "reset --force", &mut dice)?;
        Tree::of(&cp, &addresses.0)?.same_as(&before.0).context("the control plane after its reset")?;
        clock.lap("the control plane's reset, killed and run again");
        if last {
            break;
        }
    }
    for killed in [&init, &join, &reset] {
        println!("  {}: killed {} times", killed.what, killed.times);
    }
    Ok(())
}

/// Kills a command, then lets the same run to its end; what that says.
fn kill(aim: &mut Aim, machine: &Remote, command: &str, dice: &mut Dice) -> anyhow::Result<String> {
    let moment = aim.moment(dice).as_secs_f64();
    let start = Instant::now();
    let output = machine.output(&format!("timeout -s KILL {moment:.3} /root/kprov {command} 2>&1"))?;
    if output.status.success() {
        aim.ended(start.elapsed());
    } else {
        let said = String::from_utf8_lossy(&output.stdout);
        // 137: 128 and the number of SIGKILL.
        ensure!(output.status.code() == Some(137), "kprov {command} ended with {}:\n{said}", output.status);
        aim.met();
    }
    let killed = || format!("kprov {} again, which was killed after {moment:.3} s", aim.what);
    machine.run(&format!("/root/kprov {command} 2>&1")).with_context(killed)
}

/// Two Nodes, everything Ready, one token, no half-written file, nothing to do.
///
/// # Errors
/// What is not so.
pub fn whole(cp: &Remote, worker: &Remote, kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.wait_all_ready(2, READY)?;
    let tokens = kubectl.get("secrets -n kube-system --field-selector type=bootstrap.kubernetes.io/token")?;
    ensure!(items(&tokens).len() == 1, "{} bootstrap tokens instead of one", items(&tokens).len());
    let again = cp.run("/root/kprov init 2>&1")?;
    ensure!(again.contains("nothing to do"), "init again does not say that there is nothing to do:\n{again}");
    for machine in [cp, worker] {
        let left = machine.run("find / -xdev -name '*.kprov-new' -o -xdev -name '*.partial' | head")?;
        ensure!(left.trim().is_empty(), "half-written files are left:\n{left}");
    }
    Ok(())
}

/// Joins, with the link down for a while from the kubelet's start on: it has no certificate yet, and cannot get one. The
/// join goes on once the link is back, or fails as one that cannot reach the cluster does. Then it is run again.
fn cut_link(host: &Host, machines: &Bare<'_>, machine: &Remote, join: &str) -> anyhow::Result<()> {
    for _ in 0..3 {
        if cut_in_time(host, machines, machine, join)? {
            return Ok(());
        }
        machine.run("/root/kprov reset --force 2>&1")?;
    }
    bail!("the join ended before its link was down, three times")
}

/// False where the join was over before the link was down.
fn cut_in_time(host: &Host, machines: &Bare<'_>, machine: &Remote, join: &str) -> anyhow::Result<bool> {
    let begin = machine.run("wc -l </var/lib/kprov/journal.jsonl 2>/dev/null || echo 0")?;
    let starts = format!(
        "timeout 60 sh -c 'until tail -n +{} /var/lib/kprov/journal.jsonl 2>/dev/null | \
         grep -q \"\\\"start\\\",\\\"key\\\":\\\"kubelet/start\\\"\"; do sleep 0.02; done'",
        begin.trim().parse::<u64>().context("lines of the journal")? + 1
    );
    let (output, ended, down, back) = std::thread::scope(|scope| {
        let running = scope.spawn(|| (machine.output(&format!("/root/kprov {join} 2>&1")), Instant::now()));
        machine.run(&starts).context("the kubelet of the join never started")?;
        host.link(machines.state(), "worker-1", false)?;
        let down = Instant::now();
        std::thread::sleep(CUT);
        host.link(machines.state(), "worker-1", true)?;
        let back = Instant::now();
        let (output, ended) = running.join().map_err(|_| anyhow::anyhow!("the thread that runs ssh panicked"))?;
        anyhow::Ok((output?, ended, down, back))
    })?;
    if output.status.success() && ended < down {
        return Ok(false);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let code = output.status.code();
    println!("  the join whose link was cut ended {} s after it was back: exit {code:?}", (ended - back).as_secs());
    // It had registered nothing when the link went down: what it says of the Node's registration came after.
    ensure!(!output.status.success() || ended > back, "the join ended without a link");
    ensure!(matches!(code, Some(0 | 3)), "kprov {join} ended with {}:\n{said}", output.status);
    let again = machine.run(&format!("/root/kprov {join} 2>&1"))?;
    ensure!(code == Some(3) || again.contains("nothing to do"), "join again, after one that ended well:\n{again}");
    Ok(true)
}

/// `up`, killed on the operator's side.
pub fn up(host: &Host) -> anyhow::Result<()> {
    let mut dice = Dice::printed();
    let kprov = Kprov::new(host);
    let mut clock = Clock::new();
    let args = ["up", "--workers", "1", "--bundle", kprov.bundle()];
    let (mut aim, wanted) = (Aim::new("up", 12), tries(3));
    for _ in 0..2 * wanted {
        let moment = aim.moment(&mut dice);
        if let Some(status) = kprov.kill(&args, moment)? {
            ensure!(status.success(), "up, killed before and run again, ends with {status}");
            aim.ended(moment);
            kprov.ok(&["down"])?;
        } else {
            aim.met();
        }
        if aim.times == wanted {
            break;
        }
    }
    ensure!(aim.times == wanted, "up was killed {} times only: it ends too soon", aim.times);
    clock.lap(&format!("up, killed {} times", aim.times));
    kprov.ok(&args)?;
    kprov.nodes(2)?;
    kprov.ok(&["status", "--name", crate::up::NAME])?;
    clock.lap("up again, all Ready");
    let id = kprov.id()?;
    kprov.ok(&["down"])?;
    let left = crate::up::traces(host, &id)?;
    ensure!(left.is_empty(), "down leaves:\n{}", left.join("\n"));
    clock.lap("down leaves nothing");
    Ok(())
}

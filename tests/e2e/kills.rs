//! kill -9 of init, join, reset and up at random moments, and a link that is cut while a node joins: the same command
//! again ends well, nothing is there twice, and after reset the machines are as they were.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::bare::{bring, join_line};
use crate::dice::{Dice, tries};
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
    let mut init = Killed::new("init", 9);
    let mut join = Killed::new("join", 9);
    let mut reset = Killed::new("reset", 4);
    let mut clock = Clock::new();
    let rounds = tries(3);
    for round in 1..=rounds {
        let said = init.kill(&cp, "init", &mut dice)?;
        let line = join_line(&said)?;
        join.kill(&worker, &format!("join {line}"), &mut dice)?;
        whole(&cp, &worker, &kubectl)?;
        reset.kill(&worker, "reset --force", &mut dice)?;
        Tree::of(&worker, &addresses.1)?.same_as(&before.1).context("the worker after its reset")?;
        clock.lap(&format!("round {round}: init, join and the worker's reset, each killed and run again"));
        if round == rounds {
            let moment = dice.within(Duration::from_secs(8));
            cut_link(host, &machines, &worker, &format!("join {line}"), moment)?;
            whole(&cp, &worker, &kubectl)?;
            clock.lap(&format!("the worker's link was down from second {:.1} of its next join", moment.as_secs_f64()));
        }
        reset.kill(&cp, "reset --force", &mut dice)?;
        Tree::of(&cp, &addresses.0)?.same_as(&before.0).context("the control plane after its reset")?;
        clock.lap("the control plane's reset, killed and run again");
    }
    for killed in [&init, &join, &reset] {
        println!("  {}: killed {} times", killed.what, killed.times);
        ensure!(killed.times > 0, "{} was never killed: it always ended before", killed.what);
    }
    Ok(())
}

/// A command that is killed again and again, at moments within the time that it takes.
struct Killed {
    what: &'static str,
    span: Duration,
    times: u64,
}

impl Killed {
    /// It takes about so many seconds.
    fn new(what: &'static str, seconds: u64) -> Self {
        Self { what, span: Duration::from_secs(seconds), times: 0 }
    }

    /// Kills it, then lets the same command run to its end; what that says.
    fn kill(&mut self, machine: &Remote, command: &str, dice: &mut Dice) -> anyhow::Result<String> {
        let moment = dice.within(self.span).as_secs_f64();
        let start = Instant::now();
        let output = machine.output(&format!("timeout -s KILL {moment:.3} /root/kprov {command} 2>&1"))?;
        if output.status.success() {
            self.span = start.elapsed();
        } else {
            let said = String::from_utf8_lossy(&output.stdout);
            // 137: 128 and the number of SIGKILL.
            ensure!(output.status.code() == Some(137), "kprov {command} ended with {}:\n{said}", output.status);
            self.times += 1;
        }
        let killed = || format!("kprov {} again, which was killed after {moment:.3} s", self.what);
        machine.run(&format!("/root/kprov {command} 2>&1")).with_context(killed)
    }
}

/// Two Nodes, everything Ready, one token, no half-written file, nothing to do.
fn whole(cp: &Remote, worker: &Remote, kubectl: &Kubectl) -> anyhow::Result<()> {
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

/// Runs a command on a machine whose link goes down for a while. It may fail as one that cannot reach the cluster does;
/// then it is run again.
fn cut_link(host: &Host, machines: &Bare<'_>, machine: &Remote, command: &str, at: Duration) -> anyhow::Result<()> {
    let output = std::thread::scope(|scope| {
        let running = scope.spawn(|| machine.output(&format!("/root/kprov {command} 2>&1")));
        std::thread::sleep(at);
        host.link(machines.state(), "worker-1", false)?;
        std::thread::sleep(CUT);
        host.link(machines.state(), "worker-1", true)?;
        running.join().map_err(|_| anyhow::anyhow!("the thread that runs ssh panicked"))?
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(3), "kprov {command} ended with {}:\n{said}", output.status);
    machine.run(&format!("/root/kprov {command} 2>&1")).map(drop)
}

/// `up`, killed on the operator's side.
pub fn up(host: &Host) -> anyhow::Result<()> {
    let mut dice = Dice::printed();
    let kprov = Kprov::new(host);
    let mut clock = Clock::new();
    let args = ["up", "--workers", "1", "--bundle", kprov.bundle()];
    let mut times = 0;
    for _ in 0..tries(3) {
        let moment = dice.within(Duration::from_secs(12));
        let ended = kprov.kill(&args, moment)?;
        times += u64::from(!ended);
        if ended {
            kprov.ok(&["down"])?;
        }
    }
    ensure!(times > 0, "up was never killed: it always ended before");
    clock.lap(&format!("up, killed {times} times"));
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

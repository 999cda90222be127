//! One running machine: systemd-nspawn booting a disk in a prepared network namespace. It outlives the process that
//! started it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::store::Disk;
use super::tool::{run, text, try_run};
use super::{cgroups, host};

/// How long a clean stop may take before the machine is cut off; pods' own grace period is 30 s.
const STOP: Duration = Duration::from_secs(60);

/// How long dead processes' cgroups may take to be empty.
const EMPTY: Duration = Duration::from_secs(10);

/// nspawn as a host of its own needs it: no filter for system calls, /sys and /proc/sys writable, /tmp on the disk.
const ENVIRONMENT: [(&str, &str); 3] =
    [("SYSTEMD_SECCOMP", "0"), ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1"), ("SYSTEMD_NSPAWN_TMPFS_TMP", "0")];

/// Devices of the host that the machine is given, those of them that there are. The kubelet reads /dev/kmsg.
const DEVICES: [&str; 3] = ["/dev/kmsg", "/dev/fuse", "/dev/net/tun"];

/// A started machine, as the state directory remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// nspawn's process.
    pub pid: u32,
    /// When it started, in clock ticks since boot: a reused pid has another value.
    pub started: u64,
    /// The cgroups that were made for it; empty where systemd makes them.
    pub cgroups: Vec<PathBuf>,
    /// The unit that it runs in, where systemd runs this host.
    pub unit: Option<String>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// Unique on this host.
    pub id: &'a str,
    /// The machine's own host name.
    pub hostname: &'a str,
    /// Its disk.
    pub disk: &'a Disk,
    /// The network namespace that it gets.
    pub netns: &'a Path,
    /// Where its console goes.
    pub console: &'a Path,
}

/// Starts a machine and returns without waiting for its boot.
///
/// # Errors
/// When its cgroups or process cannot be made.
pub async fn start(what: Start<'_>) -> anyhow::Result<Running> {
    if host::has_systemd() { start_unit(&what).await } else { start_process(&what).await }
}

/// nspawn's arguments.
fn arguments(what: &Start<'_>) -> anyhow::Result<Vec<String>> {
    let mut args: Vec<String> = [
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--boot",
        "--capability=all",
        "--private-users=no",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=pipe",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("--directory={}", text(&what.disk.root)?));
    args.push(format!("--machine={}", what.id));
    args.push(format!("--hostname={}", what.hostname));
    args.push(format!("--network-namespace-path={}", text(what.netns)?));
    for device in DEVICES.iter().filter(|device| Path::new(device).exists()) {
        args.push(format!("--bind={device}"));
    }
    for (from, to) in &what.disk.binds {
        args.push(format!("--bind={}:{to}", text(from)?));
    }
    Ok(args)
}

/// The machine as a unit of the host's systemd, which makes its cgroup and hands it over to the guest's.
async fn start_unit(what: &Start<'_>) -> anyhow::Result<Running> {
    let unit = unit(what.id);
    let nspawn = super::tool::find("systemd-nspawn").context("systemd-nspawn not found")?;
    let mut args: Vec<String> = vec![
        format!("--unit={unit}"),
        "--collect".into(),
        "--quiet".into(),
        "--property=Delegate=yes".into(),
        "--property=KillMode=mixed".into(),
        "--property=TasksMax=infinity".into(),
        "--property=OOMPolicy=continue".into(),
        "--property=SuccessExitStatus=133".into(),
        "--property=TimeoutStopSec=90".into(),
        format!("--property=StandardOutput=append:{}", text(what.console)?),
        format!("--property=StandardError=append:{}", text(what.console)?),
    ];
    args.extend(ENVIRONMENT.iter().map(|(name, value)| format!("--setenv={name}={value}")));
    args.push("--".into());
    args.push(text(&nspawn)?.to_owned());
    args.extend(arguments(what)?);
    run("systemd-run", &args.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let shown = run("systemctl", &["show", "--property=MainPID", "--value", &unit]).await?;
    let pid: u32 = shown.trim().parse().context("asking systemd for the machine's process")?;
    let started = start_time(pid).with_context(|| format!("machine {} ended at once", what.id))?;
    Ok(Running { pid, started, cgroups: Vec::new(), unit: Some(unit) })
}

/// The machine as a process of its own session, in cgroups of its own.
async fn start_process(what: &Start<'_>) -> anyhow::Result<Running> {
    let groups = cgroups::create(what.id)?;
    let console = File::create(what.console).with_context(|| format!("making {}", what.console.display()))?;
    // The shell enters the cgroups and then becomes nspawn: the process has the same number all along.
    let mut command = Command::new("setsid");
    command.args(["sh", "-ec", r#"n=$1; shift; while [ $n -gt 0 ]; do echo $$ >"$1/cgroup.procs"; shift; n=$((n-1)); done; exec systemd-nspawn "$@""#, "sh"]);
    command.arg(groups.len().to_string()).args(&groups).args(arguments(what)?);
    command.envs(ENVIRONMENT).current_dir("/");
    command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
    let mut child = command.spawn().context("starting systemd-nspawn")?;
    let pid = child.id().context("systemd-nspawn ended at once")?;
    let started = start_time(pid).context("systemd-nspawn ended at once")?;
    // Reaps it should it end while we are still here.
    tokio::spawn(async move { child.wait().await });
    Ok(Running { pid, started, cgroups: groups, unit: None })
}

impl Running {
    /// True while this very process runs.
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// The guest's PID 1 as the host sees it.
    pub fn leader(&self) -> Option<u32> {
        if !self.alive() {
            return None;
        }
        // nspawn has one child that lives: the guest's init (the stub that set it up has ended).
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
            let ours = field("PPid")?.parse::<u32>().ok()? == self.pid;
            let first = field("NSpid")?.split_whitespace().last() == Some("1");
            (ours && first).then_some(pid)
        })
    }

    /// Asks the guest to power off and waits for it; after a minute it is cut off.
    ///
    /// # Errors
    /// When its processes or cgroups do not go away.
    pub async fn stop(&self) -> anyhow::Result<()> {
        if self.alive() {
            if let Some(pid) = pid(self.pid) {
                kill_process(pid, Signal::TERM).context("stopping the machine")?;
            }
            if !self.gone(STOP).await {
                return self.cut().await;
            }
        }
        self.clean().await
    }

    /// Cuts the power: the guest's PID 1 is killed and with it every process of the machine, nothing is written any
    /// more, and its cgroups are removed.
    ///
    /// # Errors
    /// When its processes or cgroups do not go away.
    pub async fn cut(&self) -> anyhow::Result<()> {
        if self.alive() {
            match self.leader().and_then(pid) {
                Some(leader) => kill_process(leader, Signal::KILL).context("cutting the machine's power")?,
                // Not booted yet, or ending already.
                None => drop(pid(self.pid).map(|pid| kill_process(pid, Signal::KILL))),
            }
            if !self.gone(EMPTY).await {
                if let Some(pid) = pid(self.pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                if !self.gone(EMPTY).await {
                    bail!("process {} does not end", self.pid);
                }
            }
        }
        self.clean().await
    }

    async fn gone(&self, limit: Duration) -> bool {
        poll(limit, || !self.alive()).await
    }

    async fn clean(&self) -> anyhow::Result<()> {
        if let Some(unit) = &self.unit {
            try_run("systemctl", &["stop", unit]).await;
            try_run("systemctl", &["reset-failed", unit]).await;
            return Ok(());
        }
        sweep(&self.cgroups).await
    }
}

/// A machine's unit, where systemd runs this host.
fn unit(id: &str) -> String {
    format!("{id}.service")
}

/// Ends what a dead run left of a machine, which nobody remembers as running: its unit, or its cgroups.
///
/// # Errors
/// When its processes or cgroups do not go away.
pub(crate) async fn sweep_machine(id: &str) -> anyhow::Result<()> {
    let unit = unit(id);
    if Path::new("/run/systemd/transient").join(&unit).exists() {
        try_run("systemctl", &["kill", "--signal=KILL", &unit]).await;
        try_run("systemctl", &["stop", &unit]).await;
        try_run("systemctl", &["reset-failed", &unit]).await;
    }
    sweep(&cgroups::find(id)).await?;
    // A killed nspawn leaves these, and a newer one (256 on) refuses to start a machine while the first is there.
    for below in ["unix-export", "propagate"] {
        let dir = Path::new("/run/systemd/nspawn").join(below).join(id);
        if dir.exists() {
            try_run("umount", &[text(&dir)?]).await;
            let _ = std::fs::remove_dir(dir);
        }
    }
    Ok(())
}

/// Ends whatever is left in cgroups, and removes them.
async fn sweep(groups: &[PathBuf]) -> anyhow::Result<()> {
    let done = poll(EMPTY, || {
        // A guest whose nspawn was killed lives on: its processes are those in its cgroups.
        for process in cgroups::processes(groups).into_iter().filter_map(pid) {
            let _ = kill_process(process, Signal::KILL);
        }
        cgroups::remove(groups)
    });
    if done.await {
        return Ok(());
    }
    let left: Vec<_> = groups.iter().filter(|dir| dir.exists()).map(|dir| dir.display().to_string()).collect();
    bail!("processes are left in {}", left.join(", "))
}

/// Asks again and again, from 50 ms on, until it is so or the time is over.
pub(crate) async fn poll(limit: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        if ask() {
            return true;
        }
        if begin.elapsed() >= limit {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// A process' start in clock ticks since boot (proc_pid_stat(5), field 22); none for one that ended.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses: count from behind the last one.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::process::id();
        let started = start_time(own).unwrap();
        let mut running = Running { pid: own, started, cgroups: Vec::new(), unit: None };
        assert!(running.alive());
        running.started += 1;
        assert!(!running.alive(), "a reused number is another process");
    }

    #[tokio::test]
    async fn an_ended_process_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = child.id();
        let started = start_time(id);
        child.wait().unwrap();
        let running = Running { pid: id, started: started.unwrap_or(1), cgroups: Vec::new(), unit: None };
        assert!(!running.alive());
    }
}

//! Machines that run: started, waited for, cut off, ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;

use super::Machines;
use crate::local::network::{self, Place};
use crate::local::nspawn::{self, Running};
use crate::local::store::Disk;

/// How long a machine may take until its sshd answers: a second on an idle host, a minute on a slow and busy one.
const BOOT: Duration = Duration::from_secs(180);

impl Machines {
    /// Starts a machine and waits until its sshd answers. One that runs already is left alone.
    ///
    /// # Errors
    /// When it cannot be started or does not answer in time; the end of its console is in the error.
    pub async fn start(&mut self, machine: &str) -> anyhow::Result<()> {
        self.boot(machine).await?;
        self.wait_ssh(machine).await
    }

    /// As [`start`](Self::start), without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn boot(&mut self, machine: &str) -> anyhow::Result<()> {
        let entry = self.entry(machine)?.clone();
        if entry.running.as_ref().is_some_and(Running::alive) {
            return Ok(());
        }
        let id = self.id(machine);
        nspawn::sweep_machine(&id).await?;
        self.record.network.create(&self.record.name).await?;
        let place = self.record.network.prepare(machine, entry.address).await?;
        let disk = self.store.attach(&id).await?;
        write_resolvers(&disk.root)?;
        let running = self.launch(machine, &disk, &place).await?;
        self.entry(machine)?.running = Some(running);
        self.save()
    }

    async fn launch(&self, machine: &str, disk: &Disk, place: &Place) -> anyhow::Result<Running> {
        let (id, hostname, console) = (self.id(machine), self.hostname(machine), self.console(machine));
        let what = nspawn::Start { id: &id, hostname: &hostname, disk, netns: &place.netns, console: &console };
        nspawn::start(what).await.with_context(|| match self.console_tail(machine) {
            said if said.is_empty() => format!("starting {hostname}"),
            said => format!("starting {hostname} (its console: {said})"),
        })
    }

    /// The file that its console is written into.
    pub(super) fn console(&self, machine: &str) -> PathBuf {
        self.state.join(format!("{machine}.console"))
    }

    /// Waits until a started machine's sshd answers.
    ///
    /// # Errors
    /// When it does not in time, or the machine ends.
    pub async fn wait_ssh(&self, machine: &str) -> anyhow::Result<()> {
        let entry = self.get(machine)?;
        let Some(running) = &entry.running else { bail!("not started: {}", self.hostname(machine)) };
        let begin = std::time::Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            if banner(SocketAddr::from((entry.address, 22))).await {
                return Ok(());
            }
            if !running.alive() {
                bail!("{} ended while starting: {}", self.hostname(machine), self.console_tail(machine));
            }
            if begin.elapsed() > BOOT {
                bail!("{} does not answer on port 22: {}", self.hostname(machine), self.console_tail(machine));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(500));
        }
    }

    fn console_tail(&self, machine: &str) -> String {
        let text = std::fs::read(self.console(machine)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.trim().lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// True while a machine runs.
    pub fn alive(&self, machine: &str) -> bool {
        self.record.machines.get(machine).and_then(|m| m.running.as_ref()).is_some_and(Running::alive)
    }

    /// Shuts a machine down and waits for it. One that does not run is success.
    ///
    /// # Errors
    /// When its processes do not go away.
    pub async fn stop(&mut self, machine: &str) -> anyhow::Result<()> {
        self.end(machine, false).await
    }

    /// Cuts a machine's power: nothing more is run or written in it.
    ///
    /// # Errors
    /// When its processes do not go away.
    pub async fn power_cut(&mut self, machine: &str) -> anyhow::Result<()> {
        self.end(machine, true).await
    }

    /// Ends it, by its own means or by a cut of its power.
    pub(super) async fn end(&mut self, machine: &str, cut: bool) -> anyhow::Result<()> {
        let hostname = self.hostname(machine);
        let entry = self.get(machine)?.clone();
        if let Some(running) = &entry.running {
            let done = if cut { running.cut().await } else { running.stop().await };
            done.with_context(|| format!("stopping {hostname}"))?;
        }
        self.record.network.clear(machine, entry.address).await;
        self.store.detach(&self.id(machine)).await;
        self.entry(machine)?.running = None;
        self.save()
    }

    /// Cuts a machine off from the network, or connects it again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn set_link(&self, machine: &str, up: bool) -> anyhow::Result<()> {
        self.record.network.set_link(self.get(machine)?.address, up).await
    }
}

/// True when a server of SSH greets us.
async fn banner(address: SocketAddr) -> bool {
    let greet = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let mut start = [0u8; 4];
        stream.read_exact(&mut start).await.ok()?;
        Some(&start == b"SSH-")
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), greet).await, Ok(Some(true)))
}

fn write_resolvers(root: &Path) -> anyhow::Result<()> {
    let lines: String = network::resolvers().iter().map(|address| format!("nameserver {address}\n")).collect();
    let path = root.join("etc/resolv.conf");
    // It may be a link out of the machine's tree.
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, lines).context("writing resolv.conf")
}

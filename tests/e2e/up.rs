//! `kprov up` and all that follows: a link cut in mid-init, stop and start, more workers and fewer, a stopped sshd, a host
//! key that changed, down that leaves nothing.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::host::{Clock, Host};
use crate::watch::Watch;
use crate::{image, kubectl, modes, secrets};

pub const NAME: &str = "e2e";

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let kprov = Kprov::new(host);
    let mut clock = Clock::new();

    let watch = Watch::start();
    let mut said = kprov.up_with_a_cut(host)?;
    clock.lap("up until its control plane's link was cut in mid-init");
    said += &kprov.ok(&["up", "--workers", "1", "--bundle", kprov.bundle(), "-o", "json"])?;
    said += &watch.end(&["/usr/local/bin/kprov init ", "/usr/local/bin/kprov join "])?;
    clock.lap("up again: attached, all Ready");
    kprov.ok(&["up"])?;
    clock.lap("up again: nothing to do");
    kprov.nodes(2)?;
    kprov.ok(&["status", "--name", NAME])?;

    let archive = host.state("up-probe.tar");
    image::write(&host.probe, &archive)?;
    kprov.ok(&["image", "load", &archive.display().to_string()])?;
    let there = kprov.ok(&["ssh", "worker-1", "--", "crictl", "images"])?;
    ensure!(there.contains("kprov.test/probe"), "image load left no image on the worker:\n{there}");
    clock.lap("image load, ssh");
    kprov.hides(&said)?;
    clock.lap("no secret in the open, on the machines and with the operator");

    kprov.ok(&["stop"])?;
    let stopped = kprov.run(&["status", "--name", NAME])?;
    ensure!(!stopped.status.success(), "status of a stopped cluster exits with 0");
    kprov.ok(&["start"])?;
    kprov.ok(&["status", "--name", NAME])?;
    clock.lap("stop, start, all Ready");

    kprov.ok(&["up", "--workers", "2"])?;
    kprov.nodes(3)?;
    kprov.refused(&["up", "--workers", "1"], 2, "--yes")?;
    kprov.ok(&["up", "--workers", "1", "--yes"])?;
    kprov.nodes(2)?;
    clock.lap("one worker more, one fewer");

    kprov.ok(&["ssh", "cp-1", "--", "systemctl", "stop", "ssh.socket", "ssh.service"])?;
    kprov.refused(&["up", "--workers", "1"], 3, "cp-1")?;
    clock.lap("up with sshd stopped fails");
    kprov.ok(&["stop"])?;
    kprov.ok(&["start"])?;
    kprov.ok(&["ssh", "cp-1", "--", NEW_HOST_KEY])?;
    kprov.refused(&["up", "--workers", "1"], 1, "host key")?;
    clock.lap("up refuses a changed host key");

    let id = kprov.id()?;
    ensure!(!traces(host, &id)?.is_empty(), "nothing of a cluster that runs can be seen: this test sees nothing");
    kprov.ok(&["down"])?;
    let left = traces(host, &id)?;
    ensure!(left.is_empty(), "down leaves:\n{}", left.join("\n"));
    ensure!(!kprov.state.join("kprov").join(NAME).exists(), "down leaves the state directory");
    clock.lap("down leaves nothing");
    Ok(())
}

/// Run on a machine: its sshd gets another key and is started anew.
const NEW_HOST_KEY: &str = "rm /etc/ssh/ssh_host_ed25519_key* && ssh-keygen -q -t ed25519 -N '' -f \
     /etc/ssh/ssh_host_ed25519_key && (systemctl restart ssh.service || true)";

/// The command under test with a state directory of its own.
pub struct Kprov<'a> {
    host: &'a Host,
    state: PathBuf,
}

impl<'a> Kprov<'a> {
    pub fn new(host: &'a Host) -> Self {
        Self { host, state: host.up_state() }
    }

    pub fn bundle(&self) -> &'a str {
        self.host.bundle.to_str().unwrap_or_default()
    }

    /// `status` without a name shows all clusters; all other commands take ours.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.host.kprov);
        let (verb, rest) = args.split_first().unwrap_or((&"", &[]));
        command.arg(verb);
        match (*verb, rest.split_first()) {
            ("image", Some((sub, rest))) => command.arg(sub).args(["--name", NAME]).args(rest),
            ("status", _) => command.args(rest),
            _ => command.args(["--name", NAME]).args(rest),
        };
        command.env("XDG_STATE_HOME", &self.state).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.command(args).output().context("running kprov")
    }

    pub fn ok(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.run(args)?;
        ensure!(output.status.success(), "kprov {}: {}", args.join(" "), all(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a command and kills it after a while; true where it ended before.
    pub fn kill(&self, args: &[&str], after: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(after);
        let ended = child.try_wait()?;
        child.kill()?;
        child.wait()?;
        Ok(ended)
    }

    /// The command must fail with this code and say this word.
    fn refused(&self, args: &[&str], code: i32, word: &str) -> anyhow::Result<()> {
        let output = self.run(args)?;
        let said = all(&output);
        ensure!(output.status.code() == Some(code), "kprov {} should exit with {code}: {said}", args.join(" "));
        ensure!(said.contains(word), "kprov {} does not speak of {word}: {said}", args.join(" "));
        Ok(())
    }

    pub fn nodes(&self, wanted: usize) -> anyhow::Result<()> {
        let nodes: Value = serde_json::from_str(&self.ok(&["kubectl", "get", "nodes", "-o", "json"])?)?;
        let nodes = kubectl::items(&nodes);
        ensure!(nodes.len() == wanted, "{} nodes instead of {wanted}", nodes.len());
        ensure!(nodes.iter().all(kubectl::ready), "not all nodes are Ready");
        Ok(())
    }

    /// No secret of the cluster is in the open on its machines, in what `up` keeps where others may read it, in what `up`
    /// said and a watch saw meanwhile, or in what `up` says when it looks at all of it once more.
    fn hides(&self, said: &str) -> anyhow::Result<()> {
        let on = |machine: &'static str| move |command: &str| self.ok(&["ssh", machine, "--", command]);
        let mut all = secrets::secrets(&on("cp-1"), None)?;
        all.extend(secrets::secrets(&on("worker-1"), None)?);
        for machine in ["cp-1", "worker-1"] {
            secrets::nowhere(&on(machine), &all).with_context(|| format!("on {machine}"))?;
            modes::kept_by_up(&on(machine)).with_context(|| format!("on {machine}"))?;
        }
        modes::operators(&self.state.join("kprov").join(NAME), &all)?;
        secrets::unsaid(&all, said).context("while up was at work")?;
        let said = self.ok(&["up", "--workers", "1", "-o", "json"])?;
        secrets::unsaid(&all, &said).context("in what up says")
    }

    /// Starts `up`, cuts the control plane off as soon as it works on its certificates, expects exit code 3, and
    /// connects it again. What it said.
    fn up_with_a_cut(&self, host: &Host) -> anyhow::Result<String> {
        let mut command = self.command(&["up", "--workers", "1", "--bundle", self.bundle(), "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut seen = Vec::new();
        let mut cut = false;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            let event: Value = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
            let message = event["message"].as_str().unwrap_or_default();
            if !cut && message.contains("/etc/kubernetes/pki") {
                host.link(&self.machines(), "cp-1", false)?;
                cut = true;
            }
            seen.push(line);
        }
        let status = child.wait()?;
        let tail = seen.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
        ensure!(cut, "up never spoke of certificates: {status}\n{tail}");
        host.link(&self.machines(), "cp-1", true)?;
        ensure!(status.code() == Some(3), "up with a link cut ends with {status} instead of 3:\n{tail}");
        Ok(seen.join("\n") + "\n")
    }

    /// Id of our cluster's network.
    pub fn id(&self) -> anyhow::Result<String> {
        let record: Value = serde_json::from_slice(&std::fs::read(self.machines().join("machines.json"))?)?;
        Ok(record["network"]["id"].as_str().context("no network id")?.to_owned())
    }

    /// Where the local provider remembers our machines.
    fn machines(&self) -> PathBuf {
        self.state.join("kprov").join(NAME).join("machines")
    }
}

fn all(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}

/// What of a cluster is on the host: links, namespaces, mounts, rules, cgroups, disks. All of it is named after its
/// network's id, so other clusters of this host do not count.
pub fn traces(host: &Host, id: &str) -> anyhow::Result<Vec<String>> {
    let disks = format!("find '{}' -maxdepth 4", host.cache.join("local").display());
    let mut lines = Vec::new();
    for (what, command) in [
        ("link", "ip -o link show"),
        ("namespace", "ls /run/netns"),
        ("nft", "nft list ruleset"),
        ("route", "ip route show"),
        ("cgroup", "find /sys/fs/cgroup -type d"),
        ("mount", "cat /proc/mounts"),
        ("process", "ps -eo args"),
        ("disk", &disks),
        ("setting", "cat /run/kprov/* 2>/dev/null"),
    ] {
        let output = Command::new("sh").arg("-c").arg(command).output().context("running sh")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.extend(text.lines().filter(|line| line.contains(id)).map(|line| format!("{what} {}", line.trim())));
    }
    Ok(lines)
}

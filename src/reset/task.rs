//! The parts of a reset that no journal names.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use kprov_providers::machine::{Command, UnitVerb};
use kprov_providers::{Machine, Made, made};

use super::kernel::Kernel;
use super::{etcd, legacy, node};

/// One thing that a reset does. Doing it again is success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Takes this machine's member out of an etcd cluster of several.
    LeaveEtcd {
        /// Where the cluster's certificates are.
        pki: String,
        /// How long one call may take.
        limit: Duration,
    },
    /// Stops a unit.
    Stop(String),
    /// Marks the Node of this name not ready, with this kubeconfig, in this time.
    NotReady(String, String, Duration),
    /// Stops and removes all pods and containers, also those of the runtime at this socket.
    Pods(Option<String>),
    /// Unmounts a mount point with these flags.
    Unmount(String, Vec<String>),
    /// Removes a file.
    File(String),
    /// Removes a directory with all that is in it.
    Tree(String),
    /// Removes all that is in a directory.
    Empty(String),
    /// Deletes a network link.
    Link(String),
    /// Deletes a named network namespace.
    Namespace(String),
    /// Deletes a route: destination and link.
    Route(String, String),
    /// Removes nftables rules; the names are for people.
    Rules(Vec<String>),
    /// Removes rules of the kernel's older tables.
    LegacyRules,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaveEtcd { .. } => f.write_str("leave the etcd cluster if others are in it"),
            Self::Stop(unit) => write!(f, "stop {unit}"),
            Self::NotReady(name, ..) => write!(f, "mark node {name} not ready"),
            Self::Pods(_) => f.write_str("stop and remove all pods"),
            Self::Unmount(path, flags) => write!(f, "unmount {path} ({})", flags.join(", ")),
            Self::File(path) => write!(f, "remove {path}"),
            Self::Tree(path) => write!(f, "remove {path} with all that is in it"),
            Self::Empty(path) => write!(f, "empty {path}"),
            Self::Link(name) => write!(f, "delete the network link {name}"),
            Self::Namespace(name) => write!(f, "delete the network namespace {name}"),
            Self::Route(to, link) => write!(f, "delete the route to {to} ({link})"),
            Self::Rules(names) => write!(f, "remove nftables rules: {}", names.join(", ")),
            Self::LegacyRules => f.write_str("remove rules of the older iptables"),
        }
    }
}

impl Task {
    /// Name for its events.
    pub(super) fn key(&self) -> String {
        match self {
            Self::LeaveEtcd { .. } => "reset/etcd-member".to_owned(),
            Self::Stop(unit) => format!("reset/stop/{unit}"),
            Self::NotReady(..) => "reset/not-ready".to_owned(),
            Self::Pods(_) => "reset/pods".to_owned(),
            Self::Unmount(path, _) => format!("reset/unmount{path}"),
            Self::File(path) | Self::Tree(path) | Self::Empty(path) => format!("reset/path{path}"),
            Self::Link(name) => format!("reset/link/{name}"),
            Self::Namespace(name) => format!("reset/netns/{name}"),
            Self::Route(to, _) => format!("reset/route/{to}"),
            Self::Rules(_) => "reset/rules".to_owned(),
            Self::LegacyRules => "reset/legacy-rules".to_owned(),
        }
    }

    /// True where a failure only deserves a warning: the cluster may be away for good.
    pub(super) fn optional(&self) -> bool {
        matches!(self, Self::LeaveEtcd { .. } | Self::NotReady(..))
    }

    pub(super) async fn run(&self, machine: &dyn Machine, kernel: &dyn Kernel) -> anyhow::Result<()> {
        match self {
            Self::LeaveEtcd { pki, limit } => etcd::leave(machine, pki, *limit).await,
            Self::Stop(unit) => stop(machine, unit).await,
            Self::NotReady(name, kubeconfig, limit) => node::not_ready(machine, name, kubeconfig, *limit).await,
            Self::Pods(socket) => pods(machine, socket.as_deref()).await,
            Self::Unmount(path, flags) => kernel.unmount(path, flags),
            Self::File(path) => machine.remove(path),
            Self::Tree(path) => machine.remove_tree(path),
            Self::Empty(path) => empty(machine, path),
            Self::Link(name) => link(machine, name).await,
            Self::Namespace(name) => namespace(machine, name).await,
            Self::Route(to, link) => route(machine, to, link).await,
            Self::Rules(_) => kernel.remove_rules(),
            Self::LegacyRules => legacy::remove(machine).await,
        }
    }
}

async fn stop(machine: &dyn Machine, unit: &str) -> anyhow::Result<()> {
    if machine.unit(unit).await?.runs() {
        machine.unit_do(unit, UnitVerb::Stop).await?;
    }
    Ok(())
}

async fn pods(machine: &dyn Machine, socket: Option<&str>) -> anyhow::Result<()> {
    if let Some(socket) = socket {
        let args = ["--runtime-endpoint", socket, "--timeout", "20s", "rmp", "--all", "--force"];
        let mut command = Command::new("crictl", args);
        command.timeout = Some(Duration::from_secs(90));
        let exit = machine.run(command).await.with_context(|| format!("removing the pods of {socket}"))?;
        anyhow::ensure!(exit.success(), "crictl: {}", String::from_utf8_lossy(&exit.stderr).trim());
    }
    made::undo(machine, &Made::Pods).await
}

fn empty(machine: &dyn Machine, dir: &str) -> anyhow::Result<()> {
    made::inside(machine, dir)?.iter().try_for_each(|path| machine.remove_tree(path))
}

/// A bridge, once its pods' ends are gone: they go by themselves with the pods' namespaces, which takes a moment. What
/// stays is deleted.
async fn link(machine: &dyn Machine, name: &str) -> anyhow::Result<()> {
    let mut pause = Duration::from_millis(50);
    loop {
        let ends = ends(machine, name).await?;
        if ends.is_empty() {
            break;
        }
        if pause > Duration::from_secs(1) {
            for end in ends {
                made::undo(machine, &Made::Link { name: end }).await?;
            }
            break;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    made::undo(machine, &Made::Link { name: name.to_owned() }).await
}

/// Links whose master this one is: `7: veth1a2b@if2: <BROADCAST…`.
async fn ends(machine: &dyn Machine, name: &str) -> anyhow::Result<Vec<String>> {
    let exit = machine.run(Command::new("ip", ["-o", "link", "show", "master", name])).await?;
    // A link that is gone has none.
    let text = if exit.success() { exit.text() } else { String::new() };
    Ok(text
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(|name| name.split('@').next().unwrap_or(name).to_owned())
        .collect())
}

async fn namespace(machine: &dyn Machine, name: &str) -> anyhow::Result<()> {
    let path = format!("/run/netns/{name}");
    if machine.meta(&path)?.is_none() {
        return Ok(());
    }
    let exit = machine.run(Command::new("ip", ["netns", "delete", name])).await?;
    if exit.success() || machine.meta(&path)?.is_none() {
        return Ok(());
    }
    anyhow::bail!("ip netns delete: {}, {name}", String::from_utf8_lossy(&exit.stderr).trim())
}

async fn route(machine: &dyn Machine, to: &str, link: &str) -> anyhow::Result<()> {
    let family = if to.contains(':') { "-6" } else { "-4" };
    let exit = machine.run(Command::new("ip", [family, "route", "delete", to, "dev", link])).await;
    let exit = exit.context("deleting a route")?;
    // Gone with its link already.
    let gone = String::from_utf8_lossy(&exit.stderr).contains("No such process");
    anyhow::ensure!(exit.success() || gone, "ip route delete: {}", String::from_utf8_lossy(&exit.stderr).trim());
    Ok(())
}

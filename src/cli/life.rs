//! `kprov stop`, `start` and `down`.

use kprov_providers::Watch;
use tokio::sync::watch;

use super::Shell;
use super::act::{self, Act, End};
use super::clusters::{self, NameArg, failure};
use super::error::{Failure, Kind, Result};
use crate::up::life;

/// Shut all machines of a cluster down; `kprov start` brings them back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov stop\n  kprov stop --name dev")]
pub(super) struct Stop {
    #[command(flatten)]
    name: NameArg,
}

/// Start a stopped cluster, also after a reboot of this host, and wait until it is Ready
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov start\n  kprov start --name dev")]
pub(super) struct Start {
    #[command(flatten)]
    name: NameArg,
}

/// Remove a cluster with its machines and everything of it on this host
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov down\n  kprov down --name dev")]
pub(super) struct Down {
    #[command(flatten)]
    name: NameArg,

    /// Do not ask; down never does, what is typed is meant
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Runs `stop`.
pub(super) fn stop(args: Stop, shell: &Shell) -> Result<u8> {
    let (places, name) = (clusters::places()?, args.name.name);
    act::act(shell, async |act: Act| {
        clusters::open(&places, &name).await?;
        interruptible(&act, life::stop(&places, &name, &act.events)).await?;
        Ok(End::said(format!("cluster {name} is stopped; it comes back with: kprov start --name {name}\n"))
            .field("name", name.as_str()))
    })
}

/// Runs `start`.
pub(super) fn start(args: Start, shell: &Shell) -> Result<u8> {
    let (places, name) = (clusters::places()?, args.name.name);
    act::act(shell, async |act: Act| {
        clusters::open(&places, &name).await?;
        let (machines, booted) = interruptible(&act, life::start(&places, &name, &act.events)).await?;
        if !places.kubeconfig(&name).is_file() {
            return Err(Failure::user(anyhow::anyhow!("its machines run, but it never came up: {name}"))
                .hint(format!("kprov up --name {name}")));
        }
        let (_keep, cancel) = watch::channel(false);
        let told = Watch::new(act.events.clone(), "ready", "ready", cancel);
        let health = interruptible(&act, life::wait_ready(&places, &machines, &booted, &told)).await?;
        let nodes: Vec<String> = health.nodes.into_iter().map(|node| node.name).collect();
        Ok(End::said(format!("cluster {name} is up: {} are Ready, and all system pods\n", nodes.join(", ")))
            .field("name", name.as_str())
            .field("nodes", nodes))
    })
}

/// Runs `down`.
pub(super) fn down(args: Down, shell: &Shell) -> Result<u8> {
    // Typed is meant: there is nothing to ask, and a script that agrees beforehand is right, too.
    let Down { name, yes: _agreed } = args;
    let (places, name) = (clusters::places()?, name.name);
    act::act(shell, async |act: Act| {
        let there = life::down(&places, &name, &act.events).await.map_err(failure)?;
        let text = if there { "is removed" } else { "is not on this host: nothing to do" };
        Ok(End::said(format!("cluster {name} {text}\n")).field("name", name.as_str()).field("changed", there))
    })
}

/// Work that may be dropped at any point, and is when somebody presses Ctrl-C.
async fn interruptible<T>(act: &Act, work: impl Future<Output = anyhow::Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done.map_err(failure),
        () = act.stop.until_asked() => {
            Err(Failure { kind: Kind::Cancelled, error: anyhow::anyhow!("interrupted"), hints: Vec::new() })
        }
    }
}

//! `kprov up`: a cluster on machines of this host.

use ipnet::Ipv4Net;

use super::Shell;
use super::act::{self, Act, End};
use super::bundle::search::{BundleArgs, arch};
use super::clusters::{self, NameArg, failure};
use super::error::{Failure, Result};
use super::output;
use crate::cluster::flags::WaitFor;
use crate::up::places::{Places, static_kprov};
use crate::up::{self, Until, Wanted, kubeconfig};

/// Bring up a cluster on machines of this host, or change its number of workers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov up
  kprov up --workers 3
  kprov up --name dev --workers 0 --subnet 192.168.77.0/24")]
pub(super) struct Args {
    #[command(flatten)]
    name: NameArg,

    /// Number of workers; fewer than before drains and removes some [default: as before, 1 for a new cluster]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    workers: Option<u32>,

    /// Subnet of the machines [default: one that nothing on this host uses]
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Ipv4Net>,

    #[command(flatten)]
    bundle: BundleArgs,

    /// When it is done: nodes registered, all nodes Ready, or all nodes and system pods Ready
    #[arg(long, value_enum, default_value_t = WaitFor::Pods, value_name = "WHAT")]
    wait: WaitFor,

    /// Remove surplus workers without asking
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    let places = clusters::places()?;
    let name = args.name.name.clone();
    let known = places.load(&name).map_err(Failure::user)?;
    if let Some(subnet) = &args.subnet {
        let hint = "--subnet 192.168.77.0/24, or without --subnet: one that is free is taken";
        up::apart_from_cluster(subnet).map_err(|error| Failure::user(error).hint(hint))?;
    }
    kprov_providers::local::host::check(&places.dirs(&name).cache).map_err(|unfit| failure(unfit.into()))?;
    consent(&args, &places)?;
    let mut bundle = args.bundle.clone();
    if bundle.bundle.is_none() {
        // The one that its machines were made with, as long as it is there.
        bundle.bundle = known.as_ref().map(|known| known.bundle.clone()).filter(|path| path.is_file());
    }
    let wanted = Wanted {
        name: name.clone(),
        workers: args.workers,
        subnet: args.subnet,
        bundle: bundle.find(None)?,
        kprov: kprov()?,
        until: match args.wait {
            WaitFor::Api => Until::Api,
            WaitFor::Node => Until::Node,
            WaitFor::Pods => Until::Pods,
        },
    };
    act::act(shell, |act| bring_up(places, wanted, act))
}

async fn bring_up(places: Places, wanted: Wanted, act: Act) -> Result<End> {
    let (name, until) = (wanted.name.clone(), wanted.until);
    let (outcome, ground) = up::up(&places, wanted, act.events, act.stop).await.map_err(failure)?;
    act::outcome(&outcome, &format!("kprov up --name {name}"), &format!("kprov down --name {name}"))?;
    let path = places.kubeconfig(&name);
    let nodes: Vec<String> = ground.nodes().into_iter().collect();
    let changed = !outcome.made.is_empty();
    let end = match until {
        Until::Api => "registered",
        Until::Node => "Ready",
        Until::Pods => "Ready, and all system pods",
    };
    let first = if changed { "" } else { "nothing to do: " };
    let option = if name == "kprov" { String::new() } else { format!(" --name {name}") };
    let text = format!(
        "{first}cluster {name} (Kubernetes {}) is up: {} {} {end}\n\n\
         Look around:\n\n  kprov kubectl{option} -- get nodes -o wide\n  kprov ssh{option} cp-1\n\n\
         With a kubectl of your own:\n\n  export KUBECONFIG={}\n\n\
         Bring an image of yours, pause, end:\n\n  kprov image load{option} image.tar\n  kprov stop{option}\n  kprov down{option}\n",
        ground.bundle.manifest.kubernetes,
        nodes.join(", "),
        if nodes.len() == 1 { "is" } else { "are" },
        path.display(),
    );
    Ok(End::said(text)
        .field("name", name.as_str())
        .field("kubeconfig", path.display().to_string())
        .field("context", kubeconfig::context(&name))
        .field("nodes", nodes)
        .field("changed", changed))
}

/// Fewer workers than there are: asked for once, before anything is done.
fn consent(args: &Args, places: &Places) -> Result {
    let Some(workers) = args.workers else { return Ok(()) };
    if args.yes {
        return Ok(());
    }
    let name = &args.name.name;
    let leaving = up::surplus_remembered(places, name, workers);
    if leaving.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = leaving.iter().map(|machine| format!("{name}-{machine}")).collect();
    let question = format!("draining and removing {}", names.join(", "));
    if output::consent(&question, "--yes")? {
        return Ok(());
    }
    Err(Failure::user(anyhow::anyhow!("nothing was changed: {question} was not agreed to")))
}

fn kprov() -> Result<std::path::PathBuf> {
    let exe = std::env::current_exe().map_err(Failure::internal)?;
    static_kprov(&exe, arch()).map_err(|error| {
        Failure::user(error).hint("build one in kprov's repository: make static").hint("or use a released kprov")
    })
}

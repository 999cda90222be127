//! `kprov init`: a first control plane on this machine.

use std::path::Path;
use std::time::SystemTime;

use kprov_providers::kube::Api;

use super::Shell;
use super::act::{self, Act, End};
use super::again;
use super::bundle::search::BundleArgs;
use super::error::{Failure, Kind, Result};
use super::fix::Fixes;
use super::node::{self, Node};
use crate::cluster::flags::{CniChoice, InitFlags, WaitFor};
use crate::cluster::{self, Cluster, Problems};
use crate::journal::Record;
use crate::phases::{self, certs, etcd, host, kubeconfig};
use crate::preflight::{self, Look};
use crate::ready::{self, Scope};
use crate::token;

/// Where the administrator's kubeconfig is.
pub(super) const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// Make this machine the first control plane of a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov init
  kprov init --single-node --wait pods
  kprov init --fix
  kprov init --control-plane-endpoint api.example.org --pod-network-cidr 10.32.0.0/16
  kprov init --config cluster.yaml --dry-run")]
pub(super) struct Args {
    #[command(flatten)]
    flags: InitFlags,

    /// With --dry-run: exit with 10 where there are changes to make
    #[arg(long, requires = "dry_run", help_heading = "kprov's own")]
    detailed_exitcode: bool,
}

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    act::act(shell, async |act| init(args, act).await)
}

async fn init(args: Args, act: Act) -> Result<End> {
    let flags = args.flags;
    let config = flags.common.config.as_deref().map(read_config).transpose()?;
    let config = config.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let cni = match &flags.cni {
        Some(CniChoice::File(path)) => Some(read(path)?),
        _ => None,
    };
    let socket = cluster::wanted_socket(flags.common.cri_socket.as_deref(), config);
    let look = Node::look(socket.as_deref(), !flags.common.dry_run).await?;
    let wanted = cluster::wanted_version(flags.kubernetes_version.as_deref(), config);
    let found = BundleArgs::of(&flags.node).find(wanted.as_deref());
    // What is wrong with the input or the machine is so with any bundle, and told even where there is none.
    let stand_in = node::stand_in(wanted);
    let manifest = found.as_ref().map_or(&stand_in, |found| &found.manifest);
    let cluster = cluster::load_init(&flags, config, cni.as_deref(), &look.facts, manifest).map_err(problems)?;
    cluster.warnings.0.iter().for_each(|problem| act.events.warn(problem.to_string()));
    // One that was built with --no-flannel.
    if let Ok(bundle) = &found
        && matches!(cluster.cni, cluster::Cni::Flannel)
        && bundle.manifest.flannel().is_none()
    {
        let why = anyhow::anyhow!("the bundle has no flannel: {}", bundle.path.display());
        return Err(Failure::user(why)
            .hint("kprov init --cni FILE, with the manifest of a pod network whose images the machines can get; or --cni none, and apply one later")
            .hint("or a bundle that has it: kprov bundle build --from release --out FILE, without --no-flannel"));
    }

    let ours = |path: &str| look.record.made_path(path);
    let machine = look.machine.clone();
    let (facts, now) = (&look.facts, SystemTime::now());
    let scene = Look { machine: machine.as_ref(), facts, ours: &ours, bundle: node::manifest(&found), now };
    let findings = preflight::init(&scene, &cluster).await.map_err(Failure::user)?;
    let ignored = ignored(&cluster);
    let (fixes, findings) = Fixes::of(findings, &ignored, &flags.node, &machine);
    let bundle = node::preflight(&act, findings, &ignored, found)?;
    crate::facts::fit::detected(facts)
        .into_iter()
        .chain(cluster.notes.iter().cloned())
        .for_each(|n| act.events.note(n));

    let plan = phases::init(&cluster, facts, &bundle, &machine).map_err(Failure::internal)?;
    let afresh = |record: &Record| etcd::afresh(&cluster, facts, &machine, &plan, record).map_err(Failure::internal);
    let keys = plan.phases(&[host::PHASE, certs::PHASE, kubeconfig::PHASE]);
    node::nothing_in_the_way(&keys, &look.record).await?;
    if cluster.init.dry_run == Some(true) {
        let mut all = afresh(&look.record)?;
        all.extend(plan.clone());
        return node::dry_run(&act, &fixes.before(&all), &look.record, args.detailed_exitcode).await;
    }
    fixes.consent(&plan, &look.record, &act).await?;
    let journal = node::journal()?;
    let record = journal.record();
    if record.finished("join") {
        return Err(Failure::user(anyhow::anyhow!("this machine has joined a cluster as a worker")).hint("kprov reset"));
    }
    let resume = "kprov init with the same flags";
    let fixed = fixes.run(&act, &journal, resume).await?;
    let first = afresh(&record)?;
    if !first.steps().is_empty() {
        node::run(&act, "etcd", &first, &journal, resume).await?;
    }
    let finished = record.finished("init");
    if finished {
        again::still_as_wanted(&act, (machine.as_ref(), "init"), &plan, &record, |_| false).await?;
    } else {
        node::run(&act, "init", &plan, &journal, resume).await?;
    }
    let name = cluster.init.node_registration.as_ref().and_then(|node| node.name.clone()).unwrap_or_default();
    match flags.node.wait.unwrap_or(WaitFor::Api) {
        WaitFor::Api => {}
        WaitFor::Node => wait(&act, &machine, Scope::Node { name: name.clone(), pods: false }).await?,
        WaitFor::Pods => wait(&act, &machine, Scope::all([name.clone()].into())).await?,
    }
    let join = if flags.skip_token_print { None } else { join_line(&machine).await? };
    Ok(end(&name, join, finished, fixed))
}

async fn wait(act: &Act, machine: &std::sync::Arc<dyn kprov_providers::Machine>, scope: Scope) -> Result {
    let api = Api::new(machine.clone(), [ADMIN_CONF], None);
    let client = api.need().await.map_err(Failure::remote)?;
    ready::wait(&client, &scope, &|said| act.events.note(said)).await.map(drop).map_err(Failure::remote)
}

/// The line for other machines, with a token that still lives; none where there is no such token any more.
async fn join_line(machine: &std::sync::Arc<dyn kprov_providers::Machine>) -> Result<Option<String>> {
    token::join_line(machine, ADMIN_CONF).await.map_err(|error| {
        let kind = act::kind_of(&error);
        Failure { kind, error, hints: vec!["kprov token create --print-join-command".into()] }
    })
}

fn end(name: &str, join: Option<String>, finished: bool, fixed: bool) -> End {
    let mut text = String::from(match (finished, fixed) {
        (true, false) => "nothing to do: this machine is a finished control plane\n",
        (true, true) => "nothing else to do: this machine is a finished control plane\n",
        (false, _) => "\nYour Kubernetes control-plane has initialized successfully!\n",
    });
    text.push_str(&format!("\nTo use the cluster:\n\n  export KUBECONFIG={ADMIN_CONF}\n  kubectl get nodes\n"));
    text.push_str("\nTo add a worker, bring kprov and the bundle onto it and run there as root:\n\n");
    text.push_str(&match &join {
        Some(line) => format!("  {line}\n"),
        None => "  the line that this prints: kprov token create --print-join-command\n".to_owned(),
    });
    let end = End::said(text).field("kubeconfig", ADMIN_CONF).field("node", name).field("changed", fixed || !finished);
    match join {
        Some(line) => end.field("join", line),
        None => end,
    }
}

fn ignored(cluster: &Cluster) -> Vec<String> {
    cluster.init.node_registration.as_ref().and_then(|n| n.ignore_preflight_errors.clone()).unwrap_or_default()
}

/// All problems of the input as one failure.
pub(super) fn problems(problems: Problems) -> Failure {
    let kind = if problems.is_usage() { Kind::Usage } else { Kind::User };
    Failure { kind, error: anyhow::Error::new(problems), hints: Vec::new() }
}

/// A configuration's name for messages and its text; `-` is stdin.
pub(super) fn read_config(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin()).map_err(|error| {
            Failure::user(anyhow::Error::new(error).context("reading the configuration from stdin"))
        })?;
        return Ok(("stdin".into(), text));
    }
    Ok((path.display().to_string(), read(path)?))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::user(anyhow::Error::new(error).context(format!("reading {}", path.display()))))
}

//! `kprov join`: this machine becomes a worker of a cluster.

use std::sync::Arc;
use std::time::SystemTime;

use kprov_providers::Machine;
use kprov_providers::kube::Api;

use super::Shell;
use super::act::{self, Act, End};
use super::again;
use super::bundle::search::BundleArgs;
use super::error::{Failure, Kind, Result};
use super::fix::Fixes;
use super::init::{problems, read_config};
use super::node::{self, Node};
use crate::cluster::flags::{JoinFlags, WaitFor};
use crate::cluster::{self, Joining};
use crate::discovery::{self, KUBELET_CONF, Met, Trouble};
use crate::engine::Change;
use crate::phases;
use crate::preflight::{self, Look};
use crate::ready::{self, Scope};

/// Join this machine to a cluster as a worker
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The whole line is printed by kprov init, and on a control plane by kprov token create --print-join-command.

Examples:
  kprov join 192.0.2.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:HEX
  kprov join --config join.yaml
  kprov join --config - --dry-run < join.yaml"
)]
pub(super) struct Args {
    #[command(flatten)]
    flags: JoinFlags,

    /// With --dry-run: exit with 10 where there are changes to make
    #[arg(long, requires = "dry_run", help_heading = "kprov's own")]
    detailed_exitcode: bool,
}

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    act::act(shell, async |act| join(args, act).await)
}

async fn join(args: Args, act: Act) -> Result<End> {
    let flags = args.flags;
    let config = flags.common.config.as_deref().map(read_config).transpose()?;
    let config = config.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let socket = cluster::wanted_socket(flags.common.cri_socket.as_deref(), config);
    let look = Node::look(socket.as_deref(), !flags.common.dry_run).await?;
    let joining = cluster::load_join(&flags, config, &look.facts).map_err(problems)?;
    joining.warnings.0.iter().for_each(|problem| act.events.warn(problem.to_string()));
    let found = BundleArgs::of(&flags.node).find(None);

    let ours = |path: &str| look.record.made_path(path);
    let (machine, facts) = (look.machine.clone(), &look.facts);
    let now = SystemTime::now();
    let scene = Look { machine: machine.as_ref(), facts, ours: &ours, bundle: node::manifest(&found), now };
    let findings = preflight::join(&scene, &joining).await.map_err(Failure::user)?;
    let ignored = ignored(&joining);
    let (fixes, findings) = Fixes::of(findings, &ignored, &flags.node, &machine);
    let bundle = node::preflight(&act, findings, &ignored, found)?;
    crate::facts::fit::detected(facts).into_iter().for_each(|note| act.events.note(note));

    let met = meet(&act, &joining, &bundle.manifest.kubernetes, &machine).await?;
    let (_, notes) = phases::join::fitted(&joining, facts, &met);
    notes.into_iter().for_each(|note| act.events.note(format!("on this node alone: {note}")));
    let plan = phases::join(&joining, facts, &bundle, &met, &machine).map_err(Failure::internal)?;
    if joining.join.dry_run == Some(true) {
        return node::dry_run(&act, &fixes.before(&plan), &look.record, args.detailed_exitcode).await;
    }
    fixes.consent(&plan, &look.record, &act).await?;
    let journal = node::journal()?;
    let record = journal.record();
    let resume = "kprov join with the same flags";
    let fixed = fixes.run(&act, &journal, resume).await?;
    let finished = record.finished("join");
    if finished {
        // The cluster's kubelet-config is the cluster's to change; who carries it to the nodes is not `join`.
        let theirs = |change: &Change| change.key.as_str() == phases::kubelet::CONFIG_KEY;
        again::still_as_wanted(&act, (machine.as_ref(), "join"), &plan, &record, theirs).await?;
    } else {
        node::run(&act, "join", &plan, &journal, resume).await?;
    }
    let name = joining.join.node_registration.as_ref().and_then(|node| node.name.clone()).unwrap_or_default();
    if let Some(pods) = flags.node.wait.filter(|wait| *wait != WaitFor::Api).map(|wait| wait == WaitFor::Pods) {
        let client = Api::new(machine, [KUBELET_CONF], None).need().await.map_err(Failure::remote)?;
        ready::wait(&client, &Scope::Node { name: name.clone(), pods }, &|said| act.events.note(said))
            .await
            .map_err(Failure::remote)?;
    }
    Ok(end(&name, &met, finished, fixed))
}

/// Finds the cluster. Ctrl-C ends it at once: nothing has been changed yet.
async fn meet(act: &Act, joining: &Joining, kubelet: &str, machine: &Arc<dyn Machine>) -> Result<Met> {
    let say = |text| act.events.note(text);
    let met = tokio::select! {
        met = discovery::meet(joining, kubelet, machine, &say) => met,
        () = act.stop.until_asked() => {
            return Err(Failure { kind: Kind::Cancelled, error: anyhow::anyhow!("interrupted"), hints: Vec::new() });
        }
    };
    met.map_err(|error| match error.downcast::<Trouble>() {
        Ok(trouble) => {
            let hints = trouble.hints();
            let kind = if trouble.is_remote() { Kind::Remote } else { Kind::User };
            Failure { kind, error: trouble.into(), hints }
        }
        Err(error) => Failure::user(error),
    })
}

fn end(name: &str, met: &Met, finished: bool, fixed: bool) -> End {
    let text = if finished {
        let else_ = if fixed { " else" } else { "" };
        format!("nothing{else_} to do: this machine is node {name} of the cluster already\n")
    } else {
        format!(
            "\nThis node has joined the cluster {} as {name}.\n\nOn a control plane, see it with: kubectl get nodes\n",
            met.place.server
        )
    };
    End::said(text).field("node", name).field("server", met.place.server.as_str()).field("changed", fixed || !finished)
}

fn ignored(joining: &Joining) -> Vec<String> {
    joining.join.node_registration.as_ref().and_then(|n| n.ignore_preflight_errors.clone()).unwrap_or_default()
}

//! `kprov image load`.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Shell;
use super::act::{self, Act, End};
use super::clusters::{self, failure};
use super::error::{Failure, Result};
use crate::up::image;
use crate::up::places::{Places, valid_name};

/// Images of your own
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Load(Load),
}

/// Load an image archive (docker or OCI) onto every node, or onto this machine where it is a node itself
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov image load app.tar
  docker save app:1 | kprov image load -
  kprov image load --name dev app.tar")]
struct Load {
    /// The archive; - is stdin
    file: PathBuf,

    /// The cluster [default: this machine where it is a node, else kprov]
    #[arg(long, value_name = "NAME", value_parser = valid_name)]
    name: Option<String>,
}

/// What a kubelet that has joined a cluster has.
const NODE: &str = "/etc/kubernetes/kubelet.conf";

/// Runs the command; its exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    let Command::Load(load) = args.command;
    let places = clusters::places()?;
    act::act(shell, async |act: Act| {
        // Every node reads it from its start, so what comes from a pipe is kept for as long as it takes.
        let kept = if load.file == Path::new("-") { Some(spool()?) } else { None };
        let file = kept.as_ref().map_or(load.file.as_path(), |kept| kept.path());
        match load.name.as_deref() {
            None if Path::new(NODE).exists() => {
                image::load_here(file).await.map_err(Failure::user)?;
                Ok(End::said("loaded onto this node\n").field("nodes", vec!["this machine"]))
            }
            name => everywhere(&places, name.unwrap_or("kprov"), file, &act).await,
        }
    })
}

async fn everywhere(places: &Places, name: &str, file: &Path, act: &Act) -> Result<End> {
    let machines = clusters::open(places, name).await?;
    let mut loads = tokio::task::JoinSet::new();
    for machine in machines.record().machines.keys() {
        let host = machines.ssh(machine).map_err(failure)?;
        let (file, events) = (file.to_owned(), act.events.clone());
        loads.spawn(async move {
            let done = image::load(&host, &file).await;
            if done.is_ok() {
                events.note(format!("loaded onto {}", host.name));
            }
            done.map(|()| host.name)
        });
    }
    let (mut nodes, mut failures) = (Vec::new(), Vec::new());
    while let Some(ended) = loads.join_next().await {
        match ended.map_err(Failure::internal)? {
            Ok(node) => nodes.push(node),
            Err(error) => failures.push(failure(error)),
        }
    }
    nodes.sort();
    let Some(kind) = failures.iter().map(|failure| failure.kind).max() else {
        let text = format!("loaded onto {}\n", nodes.join(", "));
        return Ok(End::said(text).field("nodes", nodes));
    };
    let lines: Vec<String> = failures.iter().map(|failure| format!("{:#}", failure.error)).collect();
    Err(Failure { kind, error: anyhow::anyhow!("{}", lines.join("\n")), hints: Vec::new() })
}

/// What comes on stdin, in a file without a name.
fn spool() -> Result<tempfile::NamedTempFile> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Failure::usage("an archive is to come on stdin, and that is a terminal"));
    }
    let mut file = tempfile::NamedTempFile::new().context("making a temporary file").map_err(Failure::user)?;
    let copied = std::io::copy(&mut stdin.by_ref(), &mut file).context("reading the archive from stdin");
    copied.map_err(Failure::user)?;
    Ok(file)
}

//! `kprov kubeconfig`.

use std::path::PathBuf;

use anyhow::Context as _;

use super::Shell;
use super::act::End;
use super::clusters::{self, NameArg};
use super::error::{Failure, Result};
use super::output;
use crate::up::{kubeconfig, life};

/// Print a cluster's kubeconfig, or merge it into your own
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov kubeconfig > kubeconfig
  kprov kubeconfig --merge && kubectl config use-context kprov-kprov")]
pub(super) struct Args {
    #[command(flatten)]
    name: NameArg,

    /// Merge it into the first file of $KUBECONFIG, else ~/.kube/config, and use its context; `kprov down` takes it out
    #[arg(long)]
    merge: bool,
}

/// Runs the command; its exit code.
pub(super) fn run(args: &Args, shell: &Shell) -> Result<u8> {
    let (places, name) = (clusters::places()?, &args.name.name);
    let path = places.kubeconfig(name);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no kubeconfig of cluster {name}: {}", path.display()))
        .map_err(|error| Failure::user(error).hint(format!("kprov up --name {name}")))?;
    if !args.merge {
        output::stdout(&text);
        return Ok(0);
    }
    let into = own()?;
    // Remembered first, so that `down` finds it.
    life::remember_merged(&places, name, &into).map_err(Failure::user)?;
    kubeconfig::merge_into(&into, &text).map_err(Failure::user)?;
    let context = kubeconfig::context(name);
    let end = End::said(format!("context {context} is in {} and in use\n", into.display()))
        .field("kubeconfig", into.display().to_string())
        .field("context", context);
    output::result(shell.format, end.fields, &end.text)?;
    Ok(0)
}

/// The user's own kubeconfig, as kubectl finds it.
fn own() -> Result<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let first = std::env::split_paths(&listed).find(|path| !path.as_os_str().is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME").filter(|home| !home.is_empty())?).join(".kube/config"));
    let path =
        first.or_else(home).ok_or_else(|| Failure::user(anyhow::anyhow!("neither KUBECONFIG nor HOME is set")))?;
    std::path::absolute(path).map_err(Failure::internal)
}

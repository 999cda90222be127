//! `kprov kubectl`: the cluster's own kubectl, run here.

use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;

use super::clusters::{self, NameArg, failure};
use super::error::{Failure, Result};
use super::output;
use crate::up::tools;

/// Run kubectl of the cluster's version against it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov kubectl get nodes -o wide
  kprov kubectl --name dev -- apply -f deployment.yaml")]
pub(super) struct Args {
    #[command(flatten)]
    name: NameArg,

    /// kubectl's arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Becomes kubectl.
pub(super) fn run(args: &Args) -> Result<u8> {
    let (places, name) = (clusters::places()?, &args.name.name);
    let kubeconfig = places.kubeconfig(name);
    if !kubeconfig.is_file() {
        return Err(Failure::user(anyhow::anyhow!("no kubeconfig of cluster {name}: {}", kubeconfig.display()))
            .hint(format!("kprov up --name {name}")));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::internal)?;
    let kubectl = runtime.block_on(async {
        let machines = clusters::open(&places, name).await?;
        tools::kubectl(&places, &machines, |said| output::stderr(&said)).await.map_err(failure)
    })?;
    runtime.shutdown_background();
    let mut command = std::process::Command::new(&kubectl);
    let error = command.args(&args.args).env("KUBECONFIG", &kubeconfig).exec();
    Err(error).with_context(|| format!("running {}", kubectl.display())).map_err(Failure::user)
}

//! `kprov bundle install`: the plan of phase `bundle` alone, for templates of machines and for measuring.

use std::sync::Arc;

use anyhow::Context as _;
use kprov_providers::Machine;
use kprov_providers::machine::this::ThisMachine;

use super::search::BundleArgs;
use crate::cli::Shell;
use crate::cli::act::{self, Act, End};
use crate::cli::error::{Failure, Result};
use crate::engine::Engine;
use crate::facts::{Answers, gather};
use crate::journal::{DEFAULT, Journal};
use crate::phases::bundle::{AtBoot, bundle};

/// Bring a bundle onto this machine: files, containerd (started, not enabled), images
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov bundle install --bundle kprov-bundle-v1.36.3-amd64.tar.zst")]
pub(super) struct Args {
    #[command(flatten)]
    bundle: BundleArgs,
}

/// Installs it.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    let found = args.bundle.find(None)?;
    act::act(shell, async move |act: Act| {
        let record = Journal::read(DEFAULT).map_err(Failure::user)?;
        let machine: Arc<dyn Machine> = Arc::new(ThisMachine::new().map_err(Failure::internal)?);
        let ours = |path: &str| record.made_path(path);
        let answers = Answers::ask(false);
        if !answers.root {
            return Err(Failure::user(anyhow::anyhow!("installing a bundle needs root")));
        }
        let facts = gather(machine.as_ref(), answers, &ours, None).await.map_err(Failure::user)?;
        let (plan, _) = bundle(&found, &facts, &machine, AtBoot::NotEnabled, &[]).map_err(Failure::user)?;
        let journal = Arc::new(Journal::open(DEFAULT).map_err(Failure::user)?);
        let engine = Engine::new(act.events, act.stop);
        let outcome =
            engine.run("bundle-install", &plan, &journal).await.context("planning").map_err(Failure::internal)?;
        act::outcome(&outcome, "kprov bundle install", "kprov reset")?;
        let text = if outcome.made.is_empty() {
            format!("nothing to do: {} is installed\n", found.path.display())
        } else {
            format!("installed {}\n", found.path.display())
        };
        Ok(End::said(text).field("bundle", found.id.as_str()).field("made", outcome.made.len()))
    })
}

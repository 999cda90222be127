//! The phases `certs` and `kubeconfig` alone, with engine, journal and synced files as in `kprov init`. `make bench` times
//! it on a machine beside `kubeadm init phase certs all` and `kubeconfig all`: `pki CONFIG JOURNAL`. It writes to
//! kubeadm's own paths, so never run it on a machine that is not made for this.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use kprov::bundle::Manifest;
use kprov::cluster::flags::{CommonFlags, InitFlags};
use kprov::cluster::load_init;
use kprov::engine::{Engine, Stop};
use kprov::facts::{Answers, gather};
use kprov::journal::Journal;
use kprov::phases::{certs, kubeconfig};
use kprov::plan::Plan;
use kprov_providers::machine::this::ThisMachine;
use kprov_providers::{Events, Machine};

/// Only its version matters here.
const BUNDLE: &str = include_str!("../golden/bundle.json");

fn main() -> anyhow::Result<()> {
    kprov::engine::runtime()?.block_on(work())
}

async fn work() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [config, journal] = args.as_slice() else { bail!("usage: pki CONFIG JOURNAL") };
    let bundle: Manifest = serde_json::from_str(BUNDLE)?;
    let text = std::fs::read_to_string(config).with_context(|| format!("reading {config}"))?;
    let machine: Arc<dyn Machine> = Arc::new(ThisMachine::new()?);
    let facts = gather(machine.as_ref(), Answers::ask(false), &|_| false, None).await?;
    let common = CommonFlags { config: Some(config.into()), ..CommonFlags::default() };
    let flags = InitFlags { common, ..InitFlags::default() };
    let cluster = load_init(&flags, Some((config, &text)), None, &facts, &bundle).map_err(anyhow::Error::new)?;
    let mut plan = Plan::new();
    plan.extend(certs::certs(&cluster, &machine, &[])?);
    plan.extend(kubeconfig::kubeconfig(&cluster, &machine, &[])?);
    let engine = Engine::new(Events::channel().0, Stop::new());
    let outcome = engine.run("pki", &plan, &Arc::new(Journal::open(journal)?)).await?;
    let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
    ensure!(outcome.ok(), "{}", failures.join("\n"));
    Ok(())
}

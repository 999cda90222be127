//! `kprov up` and its friends: the operator's side, in coarse steps. Machines are made, kprov and the bundle are brought
//! onto them, kprov runs there ([`there`]), and its events are passed on.
//!
//! Reading order: [`places`] is where things are kept, [`steps`] what is done, [`template`] what machines are copied
//! from, [`there`] how kprov runs on a machine, [`ready`] when a cluster is done.

pub mod documents;
pub mod image;
pub mod kubeconfig;
pub mod leave;
pub mod life;
pub mod places;
pub mod steps;
pub mod template;
pub mod there;
pub mod tools;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use ipnet::Ipv4Net;
use kprov_providers::Events;
use kprov_providers::local::Machines;
use kprov_providers::local::store::Held;
use tokio::sync::Mutex;

use self::places::{ClusterRecord, FORMAT, Places};
use crate::bundle::locate::Found;
use crate::cluster::defaults::{POD_SUBNET, SERVICE_SUBNET};
use crate::engine::{Engine, Outcome, Stop};
use crate::journal::Journal;
use crate::phases;

/// Until when `up` waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// The API answers and all nodes are registered.
    Api,
    /// All nodes are Ready.
    Node,
    /// All nodes and system pods are Ready.
    Pods,
}

/// What `up` is to bring about.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The cluster's name.
    pub name: String,
    /// Number of workers; none: as many as there are, one for a new cluster.
    pub workers: Option<u32>,
    /// The machines' subnet; none: one that is free.
    pub subnet: Option<Ipv4Net>,
    /// The bundle to make machines with.
    pub bundle: Found,
    /// The static kprov to bring onto machines.
    pub kprov: PathBuf,
    /// Until when to wait.
    pub until: Until,
}

/// What all steps of one `up` share.
pub struct Ground {
    /// The cluster's name.
    pub name: String,
    /// Where it is kept.
    pub places: Places,
    /// Its machines.
    pub machines: Arc<Mutex<Machines>>,
    /// Its bundle.
    pub bundle: Found,
    /// The static kprov.
    pub kprov: PathBuf,
    /// The template's name.
    pub template: String,
    /// Keeps it from being forgotten by another `up`.
    pub held: Held,
    /// Where events of machines go.
    pub events: Events,
    /// All machines that are to be there, short names.
    pub wanted: BTreeSet<String>,
    /// Until when to wait.
    pub until: Until,
}

/// The control-plane machine's short name.
pub const CONTROL_PLANE: &str = "cp-1";

/// A worker's short name, from 1.
pub fn worker(number: u32) -> String {
    format!("worker-{number}")
}

impl Ground {
    /// A machine's host and node name.
    pub fn hostname(&self, machine: &str) -> String {
        format!("{}-{machine}", self.name)
    }

    /// Where the bundle is on a machine: in root's cache, where kprov looks by itself.
    pub fn bundle_there(&self) -> String {
        let file = crate::bundle::locate::file_name(&self.bundle.manifest.kubernetes, &self.bundle.manifest.arch);
        format!("/root/.cache/kprov/{file}")
    }

    /// Names of all nodes that are to be there.
    pub fn nodes(&self) -> BTreeSet<String> {
        self.wanted.iter().map(|machine| self.hostname(machine)).collect()
    }
}

/// Workers among machines (short names) that are more than wanted: what `up` drains and removes.
fn surplus<'a>(machines: impl Iterator<Item = &'a String>, workers: u32) -> Vec<String> {
    let number = |name: &str| name.strip_prefix("worker-").and_then(|number| number.parse::<u32>().ok());
    machines.filter(|name| number(name).is_some_and(|n| n > workers)).cloned().collect()
}

/// Workers of a remembered cluster that are more than wanted, short names; none where there is no such cluster.
pub fn surplus_remembered(places: &Places, name: &str, workers: u32) -> Vec<String> {
    let record = places.machines(name);
    record.map(|record| surplus(record.machines.keys(), workers)).unwrap_or_default()
}

/// How many workers a cluster is to have: as asked, else as before, else one.
pub fn workers(asked: Option<u32>, known: Option<&ClusterRecord>) -> u32 {
    asked.or(known.map(|known| known.workers)).unwrap_or(1)
}

/// Refuses a subnet for machines that holds addresses of Services or pods: init there would, after all the work.
///
/// # Errors
/// When it does.
pub fn apart_from_cluster(subnet: &Ipv4Net) -> anyhow::Result<()> {
    for (what, own) in [("Services", SERVICE_SUBNET), ("pods", POD_SUBNET)] {
        let own: Ipv4Net = own.parse()?;
        if own.contains(&subnet.network()) || subnet.contains(&own.network()) {
            bail!("it overlaps with the addresses of {what} ({own}): subnet {subnet}");
        }
    }
    Ok(())
}

/// Brings the cluster up, or to what is wanted now. Everything of it is remembered first.
///
/// # Errors
/// When the host cannot carry machines, the cluster cannot be changed so, or another `up` is at work on it. What goes
/// wrong in steps is in the outcome.
pub async fn up(places: &Places, wanted: Wanted, events: Events, stop: Stop) -> anyhow::Result<(Outcome, Ground)> {
    let known = places.load(&wanted.name)?;
    let kubernetes = wanted.bundle.manifest.kubernetes.clone();
    if let Some(known) = known.as_ref().filter(|known| known.kubernetes != kubernetes) {
        bail!("{} runs Kubernetes {}, and the bundle has {kubernetes}", wanted.name, known.kubernetes);
    }
    let workers = workers(wanted.workers, known.as_ref());
    std::fs::create_dir_all(places.cluster(&wanted.name))?;
    let journal = Arc::new(Journal::open(places.cluster(&wanted.name).join("journal.jsonl"))?);
    let taken = places.subnets_of_others(&wanted.name);
    let dirs = places.dirs(&wanted.name);
    let machines = Machines::open_or_create(&dirs, &wanted.name, wanted.subnet, &taken).await?;
    let template = template::name(&kubernetes, &wanted.bundle.id);
    let held = machines.store().hold().await?;
    let record = ClusterRecord {
        format: FORMAT,
        provider: "local".to_owned(),
        kubernetes,
        bundle: wanted.bundle.path.clone(),
        bundle_id: wanted.bundle.id.clone(),
        workers,
        template: template.clone(),
    };
    places.save(&wanted.name, &record)?;
    let leaving = surplus(machines.record().machines.keys(), workers);
    let ground = Arc::new(Ground {
        name: wanted.name,
        places: places.clone(),
        machines: Arc::new(Mutex::new(machines)),
        bundle: wanted.bundle,
        kprov: wanted.kprov,
        template,
        held,
        events: events.clone(),
        wanted: std::iter::once(CONTROL_PLANE.to_owned()).chain((1..=workers).map(worker)).collect(),
        until: wanted.until,
    });
    let plan = phases::up::plan(&ground, &leaving);
    // Two cores are soon the limit: more joins at once make each of them slower.
    let engine = Engine::new(events, stop).limit("join", 4).limit("bring", 4).limit("machines", 4);
    let outcome = engine.run("up", &plan, &journal).await?;
    drop(plan);
    let ground = Arc::try_unwrap(ground).map_err(|_| anyhow::anyhow!("a step outlived its run"))?;
    Ok((outcome, ground))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_beyond_the_wanted_number_leave() {
        let names: Vec<String> = ["cp-1", "worker-1", "worker-2", "worker-10", "template"].map(str::to_owned).to_vec();
        assert_eq!(surplus(names.iter(), 1), ["worker-2", "worker-10"]);
        assert_eq!(surplus(names.iter(), 0), ["worker-1", "worker-2", "worker-10"]);
        assert!(surplus(names.iter(), 10).is_empty());
    }

    #[test]
    fn machines_have_other_addresses_than_services_and_pods() {
        for (subnet, refused) in [
            ("10.96.77.0/24", Some("addresses of Services (10.96.0.0/12)")),
            ("10.0.0.0/8", Some("addresses of Services (10.96.0.0/12)")),
            ("10.244.1.0/24", Some("addresses of pods (10.244.0.0/16)")),
            ("10.112.0.0/24", None),
            ("192.168.77.0/24", None),
        ] {
            let said = apart_from_cluster(&subnet.parse().unwrap()).err().map(|error| error.to_string());
            assert_eq!(said.is_some(), refused.is_some(), "{subnet}");
            assert!(refused.is_none_or(|part| said.is_some_and(|said| said.contains(part))), "{subnet}");
        }
    }

    #[test]
    fn a_cluster_keeps_its_number_of_workers() {
        assert_eq!(workers(None, None), 1);
        assert_eq!(workers(Some(0), None), 0);
    }
}

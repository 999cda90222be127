//! Stop, start, take down: what is done to a cluster's machines once they are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kprov_providers::local::Machines;
use kprov_providers::{Events, Watch};

use super::kubeconfig;
use super::places::Places;
use crate::journal::Journal;
use crate::ready::{self, Booted, Health, Scope};

/// A cluster's machines.
///
/// # Errors
/// When there is no such cluster, or what is remembered of it cannot be read.
pub async fn open(places: &Places, name: &str) -> anyhow::Result<Machines> {
    match Machines::open(&places.dirs(name)).await? {
        Some(machines) => Ok(machines),
        None => bail!("no cluster of this name on this host: {name}"),
    }
}

/// Keeps everyone else from changing a cluster, as `up` does.
///
/// # Errors
/// When somebody is at work on it.
fn alone(places: &Places, name: &str) -> anyhow::Result<Journal> {
    Ok(Journal::open(places.cluster(name).join("journal.jsonl"))?)
}

/// Machines in the order in which they are stopped: workers, then the control plane.
fn order(machines: &Machines) -> Vec<String> {
    let (cps, workers): (Vec<String>, Vec<String>) =
        machines.record().machines.keys().cloned().partition(|name| name.starts_with("cp-"));
    workers.into_iter().chain(cps).collect()
}

/// Shuts all machines down. Those that do not run are passed over.
///
/// # Errors
/// When one cannot be stopped.
pub async fn stop(places: &Places, name: &str, events: &Events) -> anyhow::Result<()> {
    let mut machines = open(places, name).await?;
    let _alone = alone(places, name)?;
    for machine in order(&machines) {
        if machines.alive(&machine) {
            events.note(format!("stopping {}", machines.hostname(&machine)));
        }
        machines.stop(&machine).await?;
    }
    Ok(())
}

/// Starts all machines; bridges, namespaces and rules are made again where a reboot took them.
///
/// # Errors
/// When one does not come up.
pub async fn start(places: &Places, name: &str, events: &Events) -> anyhow::Result<(Machines, Booted)> {
    kprov_providers::local::host::check(&places.dirs(name).cache)?;
    kprov_providers::local::host::load_modules().await;
    let mut machines = open(places, name).await?;
    let _alone = alone(places, name)?;
    let mut all = order(&machines);
    all.reverse();
    let mut booted = Booted::now();
    for machine in &all {
        if !machines.alive(machine) {
            booted.nodes.insert(machines.hostname(machine));
            events.note(format!("starting {}", machines.hostname(machine)));
        }
        machines.boot(machine).await?;
    }
    for machine in &all {
        machines.wait_ssh(machine).await?;
    }
    Ok((machines, booted))
}

/// Removes a cluster: machines, disks, links, namespaces, rules, and everything that is remembered of it. Templates
/// stay in the cache. No such cluster: false.
///
/// # Errors
/// When something cannot be removed; calling again goes on.
pub async fn down(places: &Places, name: &str, events: &Events) -> anyhow::Result<bool> {
    let dir = places.cluster(name);
    if !dir.exists() {
        return Ok(false);
    }
    let alone = alone(places, name)?;
    if let Some(machines) = Machines::open(&places.dirs(name)).await? {
        for machine in machines.record().machines.keys() {
            events.note(format!("removing {}", machines.hostname(machine)));
        }
        machines.destroy().await?;
    }
    take_out_merged(&dir, name)?;
    drop(alone);
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    // The last cluster: nothing is left of any.
    let _ = std::fs::remove_dir(&places.state);
    Ok(true)
}

/// Waits until all nodes and system pods of a started cluster are Ready.
///
/// # Errors
/// As [`ready::wait`].
pub async fn wait_ready(
    places: &Places,
    machines: &Machines,
    booted: &Booted,
    watch: &Watch,
) -> anyhow::Result<Health> {
    let name = &machines.record().name;
    let client = ready::client(&places.kubeconfig(name)).await?;
    let nodes = super::steps::node_names(machines);
    ready::wait_since(&client, &Scope::all(nodes), booted, &|said| watch.say(said)).await
}

/// The kubeconfigs that a cluster's was merged into, and the context that each used before.
fn merged(dir: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let path = dir.join("merged.json");
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Remembers that a cluster's kubeconfig is about to be merged into a file.
///
/// # Errors
/// When it cannot be written.
pub fn remember_merged(places: &Places, name: &str, into: &Path) -> anyhow::Result<()> {
    let dir = places.cluster(name);
    let mut files = merged(&dir)?;
    let used = kubeconfig::current(&std::fs::read_to_string(into).unwrap_or_default());
    // Merged once more: what it used before the first time counts.
    if used != kubeconfig::context(name) {
        files.insert(into.to_owned(), used);
    } else {
        files.entry(into.to_owned()).or_default();
    }
    super::places::write(&dir.join("merged.json"), &serde_json::to_vec(&files)?, 0o644)
}

/// Takes a cluster's entries out of the kubeconfigs that it was merged into; what else is in them stays.
fn take_out_merged(dir: &Path, name: &str) -> anyhow::Result<()> {
    for (file, before) in merged(dir)? {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if let Some(without) = kubeconfig::without(&text, name, &before)? {
            super::places::write(&file, without.as_bytes(), 0o600)?;
        }
    }
    Ok(())
}

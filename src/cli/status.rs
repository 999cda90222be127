//! `kprov status`: clusters of this host and how they are.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::Shell;
use super::clusters;
use super::error::{Failure, Result};
use super::output;
use crate::ready::{self, Health, Scope};
use crate::up::places::{Places, valid_name};

/// Show clusters of this host; exits with 0 only if all nodes and system pods are Ready
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov status\n  kprov status --name dev -o json")]
pub(super) struct Args {
    /// The cluster [default: all]
    #[arg(long, value_name = "NAME", value_parser = valid_name)]
    name: Option<String>,
}

/// How long the API may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    name: String,
    kubernetes: String,
    subnet: String,
    ready: bool,
    machines: Vec<MachineStatus>,
    waiting: Vec<String>,
    kubeconfig: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineStatus {
    name: String,
    address: String,
    running: bool,
    node: &'static str,
    roles: String,
    version: String,
}

/// Runs the command; its exit code.
pub(super) fn run(args: &Args, shell: &Shell) -> Result<u8> {
    let places = clusters::places()?;
    let names = match &args.name {
        Some(name) if places.machines(name).is_none() => {
            return Err(Failure::user(anyhow::anyhow!("no cluster of this name on this host: {name}"))
                .hint(format!("kprov up --name {name}")));
        }
        Some(name) => vec![name.clone()],
        None => places.clusters(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    let statuses = runtime.block_on(async {
        let mut statuses = Vec::new();
        for name in names {
            statuses.extend(look(&places, name).await);
        }
        statuses
    });
    let ready = statuses.iter().all(|status| status.ready);
    output::value(shell.format, &statuses, |all| text(all))?;
    Ok(u8::from(!ready))
}

async fn look(places: &Places, name: String) -> Option<Status> {
    let record = places.machines(&name)?;
    let expected: BTreeSet<String> = record.machines.keys().map(|machine| format!("{name}-{machine}")).collect();
    let path = places.kubeconfig(&name);
    let stopped: Vec<String> = record
        .machines
        .iter()
        .filter(|(_, machine)| !machine.running.as_ref().is_some_and(|running| running.alive()))
        .map(|(machine, _)| format!("machine {name}-{machine} does not run"))
        .collect();
    let asked = async {
        let client = ready::client(&path).await?;
        ready::look(&client, &Scope::all(expected)).await
    };
    let health = if !path.is_file() {
        Health { waiting: vec![format!("it never came up; go on with: kprov up --name {name}")], ..Health::default() }
    } else if stopped.len() == record.machines.len() {
        Health::default()
    } else {
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(Ok(health)) => health,
            Ok(Err(error)) => Health { waiting: vec![ready::words(&error)], ..Health::default() },
            Err(_) => {
                let waiting = vec![format!("the API does not answer within {} s", LIMIT.as_secs())];
                Health { waiting, ..Health::default() }
            }
        }
    };
    let machines = record
        .machines
        .iter()
        .map(|(machine, entry)| {
            let full = format!("{name}-{machine}");
            let node = health.nodes.iter().find(|node| node.name == full);
            MachineStatus {
                address: entry.address.to_string(),
                running: entry.running.as_ref().is_some_and(|running| running.alive()),
                node: match node {
                    Some(node) if node.ready => "Ready",
                    Some(_) => "NotReady",
                    None => "Unknown",
                },
                roles: node.map(|node| node.roles.clone()).unwrap_or_default(),
                version: node.map(|node| node.version.clone()).unwrap_or_default(),
                name: full,
            }
        })
        .collect();
    let waiting: Vec<String> = stopped.into_iter().chain(health.waiting).collect();
    let kubernetes = places.load(&name).ok().flatten().map(|known| known.kubernetes).unwrap_or_default();
    Some(Status {
        ready: waiting.is_empty(),
        kubernetes,
        subnet: record.network.subnet.to_string(),
        machines,
        waiting,
        kubeconfig: path.display().to_string(),
        name,
    })
}

fn text(all: &[Status]) -> String {
    if all.is_empty() {
        return "no clusters on this host; make one with: kprov up\n".to_owned();
    }
    let mut text = String::new();
    for status in all {
        let word = if status.ready { "Ready" } else { "not Ready" };
        text.push_str(&format!(
            "cluster {} (Kubernetes {}, {}) is {word}\n",
            status.name, status.kubernetes, status.subnet
        ));
        let rows: Vec<Vec<String>> = status
            .machines
            .iter()
            .map(|machine| {
                let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
                vec![
                    machine.name.clone(),
                    machine.address.clone(),
                    if machine.running { "running" } else { "stopped" }.to_owned(),
                    machine.node.to_owned(),
                    cell(&machine.roles),
                    cell(&machine.version),
                ]
            })
            .collect();
        text.push_str(&output::columns(&["NAME", "ADDRESS", "MACHINE", "NODE", "ROLES", "VERSION"], &rows));
        for line in &status.waiting {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_shown_with_its_machines_and_what_is_missing() {
        let status = Status {
            name: "dev".into(),
            kubernetes: "v1.36.3".into(),
            subnet: "10.213.0.0/24".into(),
            ready: false,
            machines: vec![MachineStatus {
                name: "dev-cp-1".into(),
                address: "10.213.0.2".into(),
                running: false,
                node: "Unknown",
                roles: String::new(),
                version: String::new(),
            }],
            waiting: vec!["machine dev-cp-1 does not run".into()],
            kubeconfig: "/k".into(),
        };
        assert_eq!(
            text(&[status]),
            "cluster dev (Kubernetes v1.36.3, 10.213.0.0/24) is not Ready\n\
             NAME       ADDRESS      MACHINE   NODE      ROLES   VERSION\n\
             dev-cp-1   10.213.0.2   stopped   Unknown   -       -\n  machine dev-cp-1 does not run\n"
        );
        assert!(text(&[]).starts_with("no clusters"));
    }
}

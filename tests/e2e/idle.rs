//! A cluster of two machines that nobody uses, watched for half an hour (KPROV_TEST_IDLE: seconds): no container and
//! no unit is started again, memory is steady, and but for what lives on its own nothing on the machines' disks changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::bare::{bring, join_line};
use crate::dice::number;
use crate::host::{Clock, Host};
use crate::kubectl::{Kubectl, items, name};
use crate::remote::Remote;
use crate::tree::Tree;

const READY: Duration = Duration::from_secs(180);

/// What a running cluster changes while nobody does anything, and why.
const ALIVE: &[(&str, &str)] = &[
    ("hash /var/lib/etcd/member/*", "leases of nodes and leaders are renewed every few seconds"),
    ("file /var/lib/etcd/member/*", "etcd's log goes on in new files, and old ones go"),
    ("hash /var/log/pods/*", "components write their logs"),
    ("hash /var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db", "containerd notes its leases"),
];

/// Memory of a machine's programs, in kB: what is theirs alone (RssAnon), by name.
type Memory = BTreeMap<String, u64>;

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let watch = Duration::from_secs(number("KPROV_TEST_IDLE").unwrap_or(1800));
    let machines = host.bare("idle", &["cp-1", "worker-1"])?;
    let (cp, worker) = (machines.remote("cp-1")?, machines.remote("worker-1")?);
    for machine in [&cp, &worker] {
        bring(host, machine)?;
    }
    let mut clock = Clock::new();
    let line = join_line(&cp.run("/root/kprov init 2>&1")?)?;
    worker.run(&format!("/root/kprov join {line} 2>&1"))?;
    let kubectl = Kubectl(cp.clone());
    kubectl.wait_all_ready(2, READY)?;
    clock.lap("init, join, all Ready");
    // Caches fill and first compactions run: what is left over from the start is no leak.
    std::thread::sleep(watch / 6);
    clock.lap("settled");

    let all = [("cp-1", &cp), ("worker-1", &worker)];
    let look = || -> anyhow::Result<Vec<Tree>> {
        all.iter().map(|(name, machine)| Tree::of(machine, &machines.address(name)?)).collect()
    };
    let started = || all.iter().map(|(_, machine)| units(machine)).collect::<anyhow::Result<Vec<_>>>();
    let (trees, before, units) = (look()?, containers(&kubectl)?, started()?);
    let mut samples: Vec<Vec<Memory>> = Vec::new();
    let start = Instant::now();
    while start.elapsed() < watch {
        samples.push(all.iter().map(|(_, machine)| memory(machine)).collect::<anyhow::Result<_>>()?);
        std::thread::sleep((watch / 60).max(Duration::from_secs(1)));
    }
    clock.lap("watched");
    let after = containers(&kubectl)?;
    ensure!(after == before, "containers before:\n{before:#?}\nand after:\n{after:#?}");
    ensure!(after.values().all(|restarts| *restarts == 0), "containers were started again: {after:#?}");
    ensure!(started()? == units, "units before:\n{units:#?}\nand after:\n{:#?}", started()?);
    println!("  {} containers, kubelet and containerd of both machines, none started again", after.len());
    let mut grown = Vec::new();
    for (number, (name, _)) in all.iter().enumerate() {
        let series: Vec<&Memory> = samples.iter().filter_map(|sample| sample.get(number)).collect();
        grown.extend(steady(name, &series));
    }
    ensure!(grown.is_empty(), "memory grows:\n{}", grown.join("\n"));
    for (number, (tree, (name, _))) in look()?.iter().zip(all).enumerate() {
        let was = trees.get(number).context("a tree")?;
        tree.same_but(was, ALIVE).with_context(|| format!("{name}, on which nobody did anything"))?;
    }
    clock.lap("both trees as before");
    Ok(())
}

/// Restarts of every container of every pod, by the pod's UID.
fn containers(kubectl: &Kubectl) -> anyhow::Result<BTreeMap<String, u64>> {
    let pods = items(&kubectl.get("pods --all-namespaces")?);
    let mut all = BTreeMap::new();
    for pod in &pods {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let key = format!("{} {} {}", name(pod), status["name"], pod["metadata"]["uid"]);
            all.insert(key, status["restartCount"].as_u64().unwrap_or(u64::MAX));
        }
        ensure!(pod["status"]["phase"] == "Running", "{} does not run", name(pod));
    }
    Ok(all)
}

/// When the units of a node were started, and how often on their own.
fn units(machine: &Remote) -> anyhow::Result<String> {
    let said = machine.run("systemctl show -p Id,ActiveState,MainPID,NRestarts kubelet containerd")?;
    ensure!(said.matches("ActiveState=active").count() == 2, "both run:\n{said}");
    Ok(said)
}

fn memory(machine: &Remote) -> anyhow::Result<Memory> {
    let said = machine.run(
        "cat /proc/[0-9]*/status 2>/dev/null | awk '/^Name:/ { n = $2 } /^RssAnon:/ { sum[n] += $2 } \
         END { for (n in sum) print n, sum[n] }'",
    )?;
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    // Those of the test's own logins come and go.
    let all: Memory = pairs
        .filter(|(name, _)| !["sshd", "sh", "bash", "awk", "mawk", "cat", "(sd-pam)", "systemd"].contains(name))
        .filter_map(|(name, kb)| Some((name.to_owned(), kb.parse().ok()?)))
        .collect();
    ensure!(all.contains_key("kubelet") && all.contains_key("containerd"), "these programs run: {all:?}");
    Ok(all)
}

/// Prints the median of each program's first and last quarter; those that have grown by more than a tenth and 8 MB.
fn steady(machine: &str, series: &[&Memory]) -> Vec<String> {
    let quarter = (series.len() / 4).max(1);
    let median = |part: &[&Memory], name: &str| {
        let mut all: Vec<u64> = part.iter().map(|memory| memory.get(name).copied().unwrap_or(0)).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    };
    let (first, last) = (series.iter().take(quarter), series.iter().rev().take(quarter));
    let (first, last): (Vec<&Memory>, Vec<&Memory>) = (first.copied().collect(), last.copied().collect());
    let names: BTreeSet<&String> = series.iter().flat_map(|memory| memory.keys()).collect();
    let mut grown = Vec::new();
    for name in names {
        let (before, after) = (median(&first, name), median(&last, name));
        let line = format!("{machine} {name}: {} MB, then {} MB", before / 1024, after / 1024);
        if before.max(after) > 1024 {
            println!("  {line}");
        }
        if after > before + before / 10 + 8 * 1024 {
            grown.push(line);
        }
    }
    grown
}

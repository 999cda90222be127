//! Memory of idle machines: the proportional share (PSS) of every process, so that shared pages count once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use super::figures::Figures;
use super::ways::{Pair, Way};
use crate::host::{Clock, Host};
use crate::remote::Remote;

/// How often each machine is looked at, and how long after the last time.
const SAMPLES: usize = 5;
const PAUSE: Duration = Duration::from_secs(15);

/// How long clusters are left alone before.
const IDLE: u64 = 180;

/// What looks, and those who let it in.
const OWN: [&str; 4] = ["bash", "sh", "grep", "sshd"];

/// Both clusters side by side, so that they are idle for the same time.
///
/// # Errors
/// With what a machine said.
pub fn run(host: &Host, figures: &mut Figures, clock: &mut Clock) -> anyhow::Result<()> {
    let ours = Pair::start(host, Way::Kprov, "bench-a")?;
    ours.round()?;
    super::ways::keep_flannel(&ours)?;
    let theirs = Pair::start(host, Way::Separate, "bench-b")?;
    theirs.round()?;
    let idle = std::env::var("KPROV_BENCH_IDLE").ok().and_then(|text| text.parse().ok()).unwrap_or(IDLE);
    std::thread::sleep(Duration::from_secs(idle));
    clock.lap("two clusters, idle");
    for sample in 0..SAMPLES {
        for (pair, whose) in [(&ours, Way::Kprov.whose()), (&theirs, Way::Separate.whose())] {
            for (machine, what) in pair.both().into_iter().zip(["memory, control plane", "memory, worker"]) {
                let shares = shares(machine)?;
                figures.add(what, whose, shares.values().sum(), "MB");
                if sample + 1 == SAMPLES {
                    shares.iter().for_each(|(name, mb)| figures.add(&format!("{what}: {name}"), whose, *mb, "MB"));
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    clock.lap("memory, looked at");
    ours.machines.destroy()?;
    theirs.machines.destroy()
}

/// MB by the names of programs.
fn shares(machine: &Remote) -> anyhow::Result<BTreeMap<String, f64>> {
    // Processes that end meanwhile are no error.
    let said = machine.run("cd /proc; grep -H . [0-9]*/comm; grep -H ^Pss: [0-9]*/smaps_rollup; true")?;
    let mut names = BTreeMap::new();
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    for line in said.lines() {
        let Some((process, rest)) = line.split_once('/') else { continue };
        if let Some(name) = rest.strip_prefix("comm:") {
            names.insert(process.to_owned(), name.to_owned());
        }
        let Some(share) = rest.strip_prefix("smaps_rollup:Pss:") else { continue };
        let kib: f64 = share.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
        let name = names.get(process).cloned().unwrap_or_default();
        if !OWN.contains(&name.as_str()) {
            // The kernel keeps fifteen letters of a name.
            let name = if name == "kube-controller" { "kube-controller-manager".into() } else { name };
            *shares.entry(name).or_default() += kib * 1.024e-3;
        }
    }
    anyhow::ensure!(shares.contains_key("kubelet"), "no kubelet among the processes:\n{said}");
    Ok(shares)
}

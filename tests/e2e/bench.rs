//! kprov beside the real kubeadm, on equal machines of this host and with the same images, in turns (`make bench`). Raw
//! figures, the table of goals and the picture go into docs; it fails only when something cannot be measured.
//!
//! KPROV_BENCH_ROUNDS (5) says how often, KPROV_BENCH which parts: clusters, pki, version, up, memory.

mod figures;
mod memory;
mod picture;
pub mod separate;
mod small;
mod timeline;
mod ways;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use self::figures::{Figures, OURS, THEIRS};
use self::picture::Shown;
use self::ways::{Pair, Round, Way};
use crate::host::{Clock, Host};

/// Where it is written.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

/// All parts; a name of KPROV_BENCH that is none of them is an error.
const PARTS: [&str; 5] = ["version", "clusters", "pki", "up", "memory"];

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let path =
        |name: &str| variable(name).map(PathBuf::from).with_context(|| format!("{name} is not set (make bench)"));
    let rounds: usize =
        variable("KPROV_BENCH_ROUNDS").map_or(Ok(5), |text| text.parse()).context("KPROV_BENCH_ROUNDS")?;
    ensure!(rounds > 0, "KPROV_BENCH_ROUNDS: no rounds, no figures");
    let named = variable("KPROV_BENCH").unwrap_or_else(|| PARTS.join(" "));
    let wanted: Vec<&str> = named.split_whitespace().collect();
    if let Some(unknown) = wanted.iter().find(|name| !PARTS.contains(name)) {
        anyhow::bail!("KPROV_BENCH: no part {unknown}, only {}", PARTS.join(", "));
    }
    let from = variable("KPROV_BENCH_FROM").context("KPROV_BENCH_FROM is not set (make bench)")?;
    let docs = Path::new(DOCS);
    let mut figures = Figures::open(&docs.join("benchmarks/figures.tsv"), format!("{from}\t{}", machine()?))?;
    let mut clock = Clock::new();
    let wants = |part: &str| wanted.contains(&part);

    if wants("version") {
        small::version(host, rounds, &mut figures)?;
        clock.lap("version");
        figures.save()?;
    }
    let (separate, pki) = (path("KPROV_BENCH_SEPARATE")?, path("KPROV_BENCH_PKI")?);
    for (way, parts) in
        [(Way::Kprov, &["clusters", "memory"][..]), (Way::Kubeadm, &["clusters", "pki"]), (Way::Separate, &["memory"])]
    {
        if parts.iter().any(|part| wants(part)) {
            ways::template(host, way, &separate)?;
            clock.lap(&format!("template of machines: {way:?}"));
        }
    }
    if wants("clusters") {
        clusters(host, docs, rounds, &mut figures, &mut clock)?;
        figures.save()?;
    }
    if wants("pki") {
        small::pki(host, &pki, rounds, &mut figures)?;
        clock.lap("PKI and kubeconfigs");
        figures.save()?;
    }
    if wants("up") {
        small::up(host, rounds, &mut figures)?;
        clock.lap("up and down");
        figures.save()?;
    }
    if wants("memory") {
        memory::run(host, &mut figures, &mut clock)?;
    }
    ways::forget(host)?;
    figures.save()?;
    let document = docs.join("benchmarks.md");
    figures::fill(&document, "figures", &figures.report())?;
    let parts = ["memory, control plane", "memory, worker"].map(|what| figures.parts(what)).join("\n");
    figures::fill(&document, "memory", &parts)?;
    println!("{}", figures.report());
    Ok(())
}

/// Clusters of each way in turns.
fn clusters(host: &Host, docs: &Path, rounds: usize, figures: &mut Figures, clock: &mut Clock) -> anyhow::Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for way in [Way::Kprov, Way::Kubeadm, Way::KubeadmOurFlannel] {
            let pair = Pair::start(host, way, "bench")?;
            let done = pair.round()?;
            if way == Way::Kprov {
                ways::keep_flannel(&pair)?;
            }
            pair.machines.destroy()?;
            let Round { init, ready, join, .. } = done;
            for (what, seconds) in [("init", init), ("all Ready", ready), ("join", join)] {
                figures.add(what, way.whose(), seconds, "s");
            }
            clock.lap(&format!("round {round}, {}: init {init:.2}, Ready {ready:.2}, join {join:.2}", way.whose()));
            match way {
                Way::Kprov => ours.push(done),
                Way::Kubeadm => theirs.push(done),
                _ => {}
            }
        }
    }
    let typical = |whose: &str, rounds: &mut Vec<Round>| {
        let round = figures.typical("init", whose).and_then(|round| round.checked_sub(1)).context("no rounds")?;
        anyhow::Ok(rounds.swap_remove(round))
    };
    let (ours, theirs) = (typical(OURS, &mut ours)?, typical(THEIRS, &mut theirs)?);
    let shown = [("kprov init", OURS, &ours), ("kubeadm init", THEIRS, &theirs)];
    let shown = shown.map(|(title, whose, round)| Shown {
        title,
        whose,
        spans: &round.timeline,
        init: round.init,
        ready: round.ready,
    });
    std::fs::write(docs.join("benchmarks/time.svg"), picture::draw(&shown))?;
    let lines: Vec<String> = shown.iter().flat_map(|one| one.spans).map(timeline::Span::line).collect();
    let text = format!("whose\tphase\twhat\tfrom\tto\n{}\n", lines.join("\n"));
    Ok(std::fs::write(docs.join("benchmarks/timeline.tsv"), text)?)
}

/// This host in a few words.
fn machine() -> anyhow::Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("CPU");
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory.split_whitespace().nth(1).context("MemTotal")?.parse()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{cores} x {}, {} GB, Linux {}", model.trim(), kib * 1024 / 1_000_000_000, kernel.trim()))
}

//! kprov on real machines of this host. Needs root, a static kprov and a bundle (`make test` brings all three).
//!
//! `cargo test -p kprov-tests --test e2e -- NAME…` runs the scenarios whose names contain one of the words.
//! With KPROV_TEST_KEEP=1 the machines of a failed scenario stay, to be looked at; the next run sweeps them.
//! A scenario that cannot run is counted as left out in the last line; with KPROV_TEST_ALL=1 it fails.
//! Those of SOAK run only when they are asked for by name (`make soak`), and are never counted as passed otherwise.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod bench;
mod debian;
mod dice;
mod disk;
mod foreign;
mod forward;
mod full;
mod guest;
mod guest_up;
mod half;
mod host;
mod idle;
mod image;
mod interop;
mod kills;
mod kubectl;
#[path = "../left_out/mod.rs"]
mod left_out;
mod modes;
mod odd;
mod parity;
mod power;
mod qemu;
mod remote;
mod secrets;
mod tls;
mod tree;
mod twins;
mod up;
mod watch;

/// What the oracle reads and compares with, here for machines.
#[path = "../oracle"]
#[allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod oracle {
    pub(crate) mod allowed;
    pub(crate) mod certificate;
    pub(crate) mod compare;
    pub(crate) mod corefile;
    pub(crate) mod findings;
    pub(crate) mod objects;
    pub(crate) mod tree;
}

use std::process::ExitCode;
use std::time::Instant;

use host::Host;

/// A scenario: its name and what it does.
type Scenario = (&'static str, fn(&Host) -> anyhow::Result<()>);

/// In the order in which they run, one after the other: the two cores of a small host are the limit.
const SCENARIOS: &[Scenario] = &[
    ("machines_where_forward_is_drop", forward::run),
    ("bare_machines_init_join_reset", bare::run),
    ("up_and_down", up::run),
    ("interop_with_kubeadm", interop::run),
    ("killed_and_run_again", kills::run),
    ("up_killed_and_run_again", kills::up),
    ("power_cuts_that_lose_unsynced_data", power::run),
    ("disk_full", full::init),
    ("etcd_begun_in_vain", half::run),
    ("odd_hosts", odd::run),
];

/// Too long for every run: only when asked for by name.
const SOAK: &[Scenario] = &[
    ("debian_guest_joins", guest::joins),
    ("debian_guest_up", guest_up::run),
    ("node_pressure", full::pressure),
    ("idle_cluster", idle::run),
    ("parity_of_all_configurations", parity::run),
    // `make bench`, which sets what it needs.
    ("bench_beside_kubeadm", bench::run),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, rest @ ..] = args.as_slice()
        && word == forward::WORD
    {
        return match forward::inside(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let words: Vec<&String> = args.iter().filter(|word| !word.starts_with('-')).collect();
    let asked = |name: &str| words.iter().any(|word| name.contains(word.as_str()));
    let mut scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(|(name, _)| words.is_empty() || asked(name)).collect();
    scenarios.extend(SOAK.iter().filter(|(name, _)| asked(name)));
    if args.iter().any(|word| word == "--list") {
        scenarios.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let host = match Host::prepare() {
        Ok(host) => host,
        Err(missing) => return none_ran(&scenarios, &format!("{missing:#}")),
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, run) in scenarios {
        println!("test {name} …");
        let start = Instant::now();
        match run(&host) {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({:.1} s)", start.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("test {name} ... FAILED ({:.1} s)\n{error:#}", start.elapsed().as_secs_f64());
                failed.push(*name);
                // For looking at them by hand; the next run sweeps.
                if std::env::var_os("KPROV_TEST_KEEP").is_some() {
                    return ExitCode::FAILURE;
                }
            }
        }
        host.sweep();
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    let out = SCENARIOS.len() + SOAK.len() - passed - failed.len();
    println!(
        "test result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {out} filtered out ({} are for make soak)",
        failed.len(),
        SOAK.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says what cannot run and why; a failure where everything must run.
fn none_ran(scenarios: &[&Scenario], why: &str) -> ExitCode {
    scenarios.iter().for_each(|(name, _)| println!("test {name} ... left out"));
    println!("left out, because: {why}");
    if std::env::var_os("KPROV_TEST_ALL").is_some_and(|all| all == "1") {
        println!(
            "test result: FAILED. 0 passed; {} failed; KPROV_TEST_ALL=1 allows none to be left out",
            scenarios.len()
        );
        return ExitCode::FAILURE;
    }
    let (here, before) = (scenarios.len(), left_out::take());
    println!(
        "test result: ok. 0 passed; 0 failed; {} left out ({here} scenarios here, which need root, and {before} trials \
         of the programs before; `make test` runs them all)",
        here + before
    );
    ExitCode::SUCCESS
}

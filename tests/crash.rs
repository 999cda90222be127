//! Killed at any moment and run again, init, join and reset come to the same end as a run that nobody killed.
//!
//! Files, units and the container runtime are in memory; the API is a real kube-apiserver with a real etcd, both out of
//! the bundle, on loopback. A run is killed after each line of the journal, and between each step's effect and the line
//! that says so; then it is run again by a new engine from the journal's file. Compared are the machine's whole tree, the
//! units that run, all objects of the API, and what the journal says is ours.
//!
//! `cargo test --test crash -- NAME…` runs the trials whose names contain one of the words. What cannot run (no bundle)
//! is counted as left out in the last line; with KPROV_TEST_ALL=1 it fails.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

#[path = "crash/api.rs"]
mod api;
#[path = "crash/binaries.rs"]
mod binaries;
#[path = "crash/normal.rs"]
mod normal;
#[path = "crash/plans.rs"]
mod plans;
#[path = "crash/run.rs"]
mod run;
#[path = "crash/synthetic.rs"]
mod synthetic;
#[path = "crash/trials.rs"]
mod trials;
#[path = "crash/world.rs"]
mod world;

mod left_out;

/// The library's own maker of small bundles.
#[path = ""]
mod lib {
    pub(crate) use kprov::bundle::{manifest, pack};

    #[allow(dead_code)]
    #[path = "../src/bundle/synthetic.rs"]
    pub(crate) mod synthetic;
}

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let names: Vec<&str> = trials::NAMES.iter().copied().filter(|name| wanted(name)).collect();
    if std::env::args().any(|word| word == "--list") {
        names.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if names.is_empty() {
        println!("test result: ok. 0 passed; 0 failed; 0 left out");
        return ExitCode::SUCCESS;
    }
    let binaries = match binaries::find() {
        Ok(binaries) => binaries,
        Err(why) => return none_ran(&names, &why),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let passed = runtime.block_on(async {
        let world = world::World::start(binaries.path()).await;
        for name in &names {
            let since = Instant::now();
            let told = trials::run(name, &world).await;
            println!("test {name} ... ok ({told}, {:.1} s)", since.elapsed().as_secs_f64());
        }
        names.len()
    });
    println!("test result: ok. {passed} passed; 0 failed; 0 left out");
    ExitCode::SUCCESS
}

/// Says what cannot run and why; a failure where everything must run.
fn none_ran(names: &[&str], why: &str) -> ExitCode {
    names.iter().for_each(|name| println!("test {name} ... LEFT OUT"));
    println!("left out, because: {why}");
    let count = names.len();
    if std::env::var_os("KPROV_TEST_ALL").is_some_and(|all| all == "1") {
        println!("test result: FAILED. 0 passed; {count} failed; KPROV_TEST_ALL=1 allows none to be left out");
        return ExitCode::FAILURE;
    }
    left_out::add("crash", count);
    println!("test result: ok. 0 passed; 0 failed; {count} left out (they need a bundle; `make test` brings one)");
    ExitCode::SUCCESS
}

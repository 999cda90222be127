//! Hostile input: what strangers may hand to kprov is bent at random, and no parser may panic, loop or eat memory.
//!
//! Each target runs in a process of its own, whose data segment is limited and which is watched, so that an overflowing
//! stack, a bomb or an endless loop is caught too; that they are is tried with parsers that are meant to fail. An input follows from the seed and its number: `KPROV_FUZZ_SEED=S cargo test --test fuzz -- TARGET@N`
//! runs that one again and prints it.
//!
//! `KPROV_FUZZ_CASES` is how many cases each target gets (10 000; `make soak` takes a million), `KPROV_FUZZ_SEED` where they
//! start (the clock, printed).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

#[path = "fuzz/bend.rs"]
mod bend;
#[path = "fuzz/bombs.rs"]
mod bombs;
#[path = "fuzz/child.rs"]
mod child;
#[path = "fuzz/planted.rs"]
mod planted;
#[path = "fuzz/targets.rs"]
mod targets;

/// The library's own maker of small bundles.
#[path = ""]
mod lib {
    pub(crate) use kprov::bundle::{manifest, pack};

    #[allow(dead_code)]
    #[path = "../src/bundle/synthetic.rs"]
    pub(crate) mod synthetic;
}

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let Some(name) = std::env::var_os(child::TARGET) {
        return child::run(&name.to_string_lossy());
    }
    let wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.split('@').next().unwrap()));
    let all = targets::NAMES.into_iter().chain(bombs::NAMES).chain([planted::TRIAL]);
    let names: Vec<&str> = all.filter(|name| wanted(name)).collect();
    if std::env::args().any(|word| word == "--list") {
        names.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let only = words.iter().find_map(|word| word.split_once('@')?.1.parse().ok());
    let cases = number("KPROV_FUZZ_CASES").unwrap_or(10_000);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("KPROV_FUZZ_SEED").unwrap_or_else(clock);
    println!("seed {seed}, {cases} cases for each target");
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let since = Instant::now();
            let outcome = match *name {
                planted::TRIAL => planted::are_found(seed),
                name => child::start(name, seed, cases, only, child::PATIENCE),
            };
            match outcome {
                Ok(told) => println!("test {name} ... ok ({told}, {:.1} s)", since.elapsed().as_secs_f64()),
                Err(why) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("test {name} ... FAILED\n{why}");
                }
            }
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed; 0 left out", names.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

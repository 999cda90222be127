//! Bundles of official releases, and signatures: kprov against real servers and the real minisign.
//!
//! `cargo test --test release -- NAME…` runs the trials whose names contain one of the words. What cannot run (no bundle,
//! no registry, no minisign, not root) is counted as left out in the last line; with KPROV_TEST_ALL=1 it fails.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

#[path = "release/content.rs"]
mod content;
#[path = "release/digests.rs"]
mod digests;
#[path = "release/doors.rs"]
mod doors;
#[path = "release/flannel.rs"]
mod flannel;
#[path = "release/proxy.rs"]
mod proxy;
#[path = "release/real.rs"]
mod real;
#[path = "release/scene.rs"]
mod scene;
#[path = "release/servers.rs"]
mod servers;
#[path = "release/signing.rs"]
mod signing;
#[path = "release/tools.rs"]
mod tools;
#[path = "release/trouble.rs"]
mod trouble;

/// The library's own maker of small bundles.
#[path = ""]
mod lib {
    pub(crate) use kprov::bundle::{manifest, pack};

    #[allow(dead_code)]
    #[path = "../src/bundle/synthetic.rs"]
    pub(crate) mod synthetic;
}

mod left_out;

use std::process::ExitCode;
use std::time::Instant;

/// One trial: it passes by returning, or is left out for a reason.
struct Trial {
    name: &'static str,
    run: fn() -> Result<(), LeftOut>,
}

/// Why a trial cannot run here.
struct LeftOut(String);

const TRIALS: &[Trial] = &[
    Trial { name: "a_release_bundle_of_our_own_build_has_the_same_files_and_image_ids", run: real::of_our_own },
    Trial {
        name: "cuts_silence_slowness_429_and_500_are_outlived_and_nothing_is_fetched_twice",
        run: trouble::bad_days,
    },
    Trial { name: "wrong_digests_are_refused", run: digests::wrong },
    Trial { name: "closed_doors_say_what_opens_them", run: doors::closed },
    Trial { name: "what_is_forbidden_says_so_once_and_what_mends_it", run: doors::forbidden },
    Trial { name: "a_registry_that_gives_tokens", run: doors::tokens },
    Trial { name: "what_stays_broken_is_given_up_on", run: trouble::given_up },
    Trial { name: "without_go_or_flannel_it_says_what_helps", run: flannel::trial },
    Trial { name: "killed_builds_go_on_where_they_were", run: trouble::killed },
    Trial { name: "signatures_go_both_ways_with_minisign", run: signing::both_ways },
    Trial { name: "a_configured_key_keeps_unsigned_bundles_out", run: signing::configured },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let trials: Vec<&Trial> = TRIALS.iter().filter(|trial| wanted(trial.name)).collect();
    if std::env::args().any(|word| word == "--list") {
        trials.iter().for_each(|trial| println!("{}: test", trial.name));
        return ExitCode::SUCCESS;
    }
    // Side by side: most of their time they wait, on purpose.
    let outcomes: Vec<Option<bool>> = std::thread::scope(|scope| {
        let running: Vec<_> = trials.iter().map(|trial| scope.spawn(|| one(trial))).collect();
        running.into_iter().map(|run| run.join().unwrap_or(Some(false))).collect()
    });
    let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
    let (passed, mut failed, mut left_out) = (count(Some(true)), count(Some(false)), count(None));
    let all = std::env::var_os("KPROV_TEST_ALL").is_some_and(|all| all == "1");
    if all && left_out > 0 {
        println!("KPROV_TEST_ALL=1 allows none to be left out");
        (failed, left_out) = (failed + left_out, 0);
    }
    left_out::add("release", left_out);
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; {left_out} left out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(trial: &Trial) -> Option<bool> {
    let since = Instant::now();
    match std::panic::catch_unwind(trial.run) {
        Ok(Ok(())) => println!("test {} ... ok ({:.1} s)", trial.name, since.elapsed().as_secs_f64()),
        Ok(Err(LeftOut(why))) => {
            println!("test {} ... LEFT OUT: {why}", trial.name);
            return None;
        }
        // The panic's own words are on stderr.
        Err(_) => {
            println!("test {} ... FAILED ({:.1} s)", trial.name, since.elapsed().as_secs_f64());
            return Some(false);
        }
    }
    Some(true)
}

//! The oracle: what kprov makes is what the real kubeadm makes of the same documents, field by field.
//!
//! For each configuration the folder `tests/oracle/NAME` holds the documents and what kubeadm made of them, as data:
//! certificates, keys' encodings, kubeconfigs, manifests, the kubelet's files, modes and owners, and all objects that are
//! in the API afterwards. kprov's plan runs on a machine in memory, against a real kube-apiserver with a real etcd out of
//! the bundle; what comes out is read in the same way. Any difference must be in `oracle/allowed.rs` with its reason, and
//! any entry there must be needed.
//!
//! Owners prove nothing here: a machine in memory says of everything that it is root's. Only `tests/e2e/twins.rs` holds
//! them against kubeadm's, on two real machines.
//!
//! The trial `golden_is_what_kubeadm_makes` runs the real kubeadm (KPROV_KUBEADM, as root) and compares with what is
//! kept. `make oracle` keeps it anew: a new Kubernetes version is a rerun, `KUBERNETES=v1.35.4 make oracle`.
//! That the comparison itself finds what differs is tried first (`oracle/itself.rs`), without a bundle too.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod oracle {
    pub(crate) mod allowed;
    pub(crate) mod cases;
    pub(crate) mod certificate;
    pub(crate) mod compare;
    pub(crate) mod corefile;
    pub(crate) mod findings;
    pub(crate) mod itself;
    pub(crate) mod objects;
    pub(crate) mod ours;
    pub(crate) mod registry;
    pub(crate) mod tree;
    pub(crate) mod witness;
}
use oracle::{allowed, cases, compare, findings, itself, ours, tree, witness};

// The machine in memory and the API are those of the crash trials, of which only some parts are needed here.
#[allow(dead_code)]
#[path = "crash/api.rs"]
mod api;
#[path = "crash/binaries.rs"]
mod binaries;
#[allow(dead_code)]
#[path = "crash/plans.rs"]
mod plans;
#[allow(dead_code)]
#[path = "crash/run.rs"]
mod run;
#[path = "crash/synthetic.rs"]
mod synthetic;
#[allow(dead_code)]
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

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use cases::Case;

const GOLDEN: &str = "golden_is_what_kubeadm_makes";

/// What came of the trials.
#[derive(Default)]
struct Results {
    passed: usize,
    failed: usize,
    left_out: usize,
}

impl Results {
    fn one(&mut self, name: &str, since: Instant, wrong: &[String]) {
        let seconds = since.elapsed().as_secs_f64();
        if wrong.is_empty() {
            self.passed += 1;
            println!("test {name} ... ok ({seconds:.1} s)");
        } else {
            self.failed += 1;
            println!("test {name} ... FAILED ({seconds:.1} s)\n  {}", wrong.join("\n  "));
        }
    }

    /// One of the comparison's own trials.
    fn itself(&mut self, name: &str, trial: fn()) {
        let since = Instant::now();
        let panicked = std::panic::catch_unwind(trial).err();
        // The panic's own words are on stderr.
        let wrong = panicked.map(|_| "see the panic".to_owned());
        self.one(name, since, wrong.as_slice());
    }

    fn left_out(&mut self, name: &str, why: &str) {
        if std::env::var_os("KPROV_TEST_ALL").is_some_and(|all| all == "1") {
            self.failed += 1;
            println!("test {name} ... FAILED: KPROV_TEST_ALL=1 allows none to be left out: {why}");
        } else {
            self.left_out += 1;
            println!("test {name} ... LEFT OUT: {why}");
        }
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let binaries = binaries::find();
    // Both tools are told the release that the API server is of.
    let bundle = match binaries.as_ref().ok().and_then(|found| found.manifest.as_ref()) {
        Some(real) => synthetic::like(dir.path(), real),
        None => synthetic::bundle(dir.path()),
    };
    let version = &bundle.manifest.kubernetes;
    if let Some(out) = std::env::var_os(witness::OUT) {
        let kubeadm = PathBuf::from(std::env::var_os("KPROV_KUBEADM").expect("KPROV_KUBEADM"));
        runtime.block_on(witness::run(&kubeadm, binaries.unwrap().path(), version, Path::new(&out)));
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let cases = cases::all(version);
    let names: Vec<&str> = cases.values().flatten().map(|case| case.name.as_str()).collect();
    if std::env::args().any(|word| word == "--list") {
        let own = itself::TRIALS.iter().map(|(name, _)| *name);
        let all = own.chain(names.iter().copied()).chain([GOLDEN]);
        all.filter(|name| wanted(name)).for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    assert!(names.len() >= 8, "only {} configurations", names.len());
    let mut results = Results::default();
    for (name, trial) in itself::TRIALS.iter().filter(|(name, _)| wanted(name)) {
        results.itself(name, *trial);
    }
    if wanted(GOLDEN) {
        golden(cases.values().flatten(), binaries.is_ok(), &mut results);
    }
    match binaries {
        Err(why) => names.iter().filter(|name| wanted(name)).for_each(|name| results.left_out(name, &why)),
        Ok(binaries) => runtime.block_on(async {
            let mut used = BTreeSet::new();
            for (services, cases) in &cases {
                if !cases.iter().any(|case| wanted(&case.name)) {
                    continue;
                }
                let port = api::free_port();
                let place = ours::LOOPBACK.parse().unwrap();
                let api = Arc::new(api::Api::start_at(binaries.path(), services, place, port).await);
                for case in cases.iter().filter(|case| wanted(&case.name)) {
                    let since = Instant::now();
                    let found = ours::one(case, &api, &bundle).await;
                    let lines = compare::differences(&case.theirs(), &found);
                    let wrong = allowed::unexpected(allowed::PLANS, &case.name, lines, &mut used);
                    results.one(&case.name, since, &wrong);
                }
            }
            // Only a whole run can tell.
            if words.is_empty() {
                results.one("no_allowance_is_left_over", Instant::now(), &allowed::unused(allowed::PLANS, &used));
            }
        }),
    }
    let word = if results.failed == 0 { "ok" } else { "FAILED" };
    let Results { passed, failed, left_out } = results;
    left_out::add("oracle", left_out);
    println!("test result: {word}. {passed} passed; {failed} failed; {left_out} left out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the real kubeadm. What it makes is compared with what is kept, or (KPROV_ORACLE=write) kept.
fn golden<'a>(cases: impl Iterator<Item = &'a Case>, binaries: bool, results: &mut Results) {
    let since = Instant::now();
    let write = std::env::var_os("KPROV_ORACLE").is_some_and(|word| word == "write");
    let root = rustix::process::geteuid().is_root();
    for (there, why) in [
        (std::env::var_os("KPROV_KUBEADM").is_some(), "KPROV_KUBEADM names no kubeadm (scripts/kubeadm builds it)"),
        (root, "only root can give kubeadm a root and a network of its own"),
        (binaries, "there is no bundle with an API server"),
    ] {
        match (there, write) {
            (true, _) => {}
            (false, true) => return results.one(GOLDEN, since, &[why.to_owned()]),
            (false, false) => return results.left_out(GOLDEN, why),
        }
    }
    let out = tempfile::tempdir().unwrap();
    if let Err(why) = witness::in_namespaces(out.path()) {
        return results.one(GOLDEN, since, &[why]);
    }
    let mut wrong = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(out.path().join(&case.name)).unwrap();
        let found = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if write {
            case.keep(&found);
        }
        let lines = compare::differences(&case.theirs(), &found);
        wrong.extend(lines.into_iter().map(|line| format!("{}: kept => kubeadm's: {line}", case.name)));
    }
    results.one(GOLDEN, since, &wrong);
}

//! A target in a process of its own: what kills it, and what it takes, is seen from outside.

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::bend::{Dice, bend};
use crate::{bombs, targets};

/// Names the target to the child.
pub(crate) const TARGET: &str = "KPROV_FUZZ_TARGET";
const CASES: &str = "KPROV_FUZZ_CASES";
const SEED: &str = "KPROV_FUZZ_SEED";
const ONLY: &str = "KPROV_FUZZ_ONLY";
const AT: &str = "KPROV_FUZZ_AT";

/// Data that a child may have, in bytes: a debug build with its seeds, and what reading a bundle is allowed.
const LIMIT: u64 = 256 << 20;

/// What a bomb may take, in MB: what unpacking is allowed.
const BOMB: u64 = 64;

/// One case may take no longer, a whole bomb included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Runs a target; gives what it says of itself.
pub(crate) fn start(
    name: &str,
    seed: u64,
    cases: u64,
    only: Option<u64>,
    patience: Duration,
) -> Result<String, String> {
    let at = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(TARGET, name).env(SEED, seed.to_string()).env(CASES, cases.to_string()).env(AT, at.path());
    if let Some(only) = only {
        command.env(ONLY, only.to_string());
    }
    let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    command.stdin(Stdio::null()).stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let read = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).unwrap();
    let text = |file: &tempfile::NamedTempFile| String::from_utf8_lossy(&read(file)).trim().to_owned();
    let (mut case, mut since, mut pause) = (text(&at), Instant::now(), Duration::from_millis(5));
    let end = loop {
        if let Some(status) = child.try_wait().unwrap() {
            if status.success() {
                return Ok(text(&out));
            }
            break status.to_string();
        }
        let now = text(&at);
        if now != case {
            (case, since) = (now, Instant::now());
        } else if since.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            break format!("no end within {} s", patience.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    };
    let words = text(&err);
    let lines: Vec<&str> = words.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n");
    let (said, case) = (text(&out), text(&at));
    Err(format!("{end}\n{last}\n{said}\nagain: {SEED}={seed} cargo test --test fuzz -- {name}@{case}"))
}

/// The child's side.
pub(crate) fn run(name: &str) -> ExitCode {
    setrlimit(Resource::Data, Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) }).unwrap();
    if bombs::NAMES.contains(&name) {
        let told = bombs::run(name);
        assert!(peak() <= BOMB, "{} MB", peak());
        println!("{told}, at most {} MB", peak());
        return ExitCode::SUCCESS;
    }
    let mut target = targets::target(name);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, cases) = (number(SEED).unwrap(), number(CASES).unwrap());
    let range = match number(ONLY) {
        Some(only) => only..only + 1,
        None => 0..cases,
    };
    let at = std::fs::OpenOptions::new().write(true).open(std::env::var_os(AT).unwrap()).unwrap();
    // What refuses everything would be looked at no further than its first check.
    assert!(target.seeds.iter().any(|seed| (target.parse)(seed)), "{name} takes none of its seeds");
    let mut taken = 0_u64;
    for case in range {
        at.write_all_at(format!("{case:<20}").as_bytes(), 0).unwrap();
        let input = bend(&target.seeds, &mut Dice::of(seed, case));
        match catch_unwind(AssertUnwindSafe(|| (target.parse)(&input))) {
            Ok(well) => taken += u64::from(well),
            Err(_) => {
                println!("case {case} panicked on {} bytes: {}", input.len(), input.escape_ascii());
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{cases} cases, {taken} of them taken, at most {} MB", peak());
    ExitCode::SUCCESS
}

/// The most memory this process ever had resident, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

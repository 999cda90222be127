//! Parsers that are meant to fail: that the search finds them, and names the case, is what makes it worth anything.

use std::time::Duration;

use crate::child;
use crate::targets::Target;

/// The trial's name.
pub(crate) const TRIAL: &str = "planted-faults-are-found";

/// What is planted.
pub(crate) const NAMES: [&str; 5] =
    ["planted-panic", "planted-sum", "planted-overflow", "planted-memory", "planted-loop"];

/// A parser that fails at what a few cases in a thousand have.
pub(crate) fn target(name: &str) -> Target {
    let fault: fn() = match name {
        "planted-panic" => || panic!("planted"),
        // Wraps where the profile has no overflow-checks.
        "planted-sum" => || {
            std::hint::black_box(std::hint::black_box(u8::MAX) + 1);
        },
        "planted-overflow" => || {
            std::hint::black_box(deeper(0));
        },
        "planted-memory" => || drop(std::hint::black_box(vec![1_u8; 1 << 30])),
        _ => || loop {
            std::hint::black_box(0);
        },
    };
    let parse = move |input: &[u8]| {
        if input.windows(4).any(|four| four == b"[[[[") {
            fault();
        }
        true
    };
    Target { seeds: vec![b"a: [1, 2]\nb: {c: d}\n".to_vec()], parse: Box::new(parse) }
}

#[allow(unconditional_recursion)]
fn deeper(level: u64) -> u64 {
    std::hint::black_box([level; 64]).iter().sum::<u64>() + deeper(level + 1)
}

/// Each of them is found, and again by its number alone.
pub(crate) fn are_found(seed: u64) -> Result<String, String> {
    let patience = Duration::from_secs(2);
    let mut told = Vec::new();
    for name in NAMES {
        let Err(why) = child::start(name, seed, 10_000, None, patience) else {
            return Err(format!("{name} is not found in 10000 cases of seed {seed}"));
        };
        let case = why.rsplit_once(&format!("{name}@")).and_then(|(_, case)| case.parse().ok());
        let Some(case) = case else { return Err(format!("{name}: no case is named: {why}")) };
        if child::start(name, seed, 1, Some(case), patience).is_ok() {
            return Err(format!("{name}: case {case} alone is well"));
        }
        told.push(format!("{name} at {case}"));
    }
    Ok(told.join(", "))
}

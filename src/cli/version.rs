//! `kprov version`.

use serde::Serialize;

use super::Shell;
use super::error::Result;
use super::output;

/// Version as `--version` prints it.
pub(super) const TEXT: &str = env!("CARGO_PKG_VERSION");

/// Print the version of kprov
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov version\n  kprov version -o json")]
pub(super) struct Args {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    arch: &'static str,
}

/// Prints it.
pub(super) fn run(_: &Args, shell: &Shell) -> Result {
    let version = Version { version: TEXT, arch: arch() };
    output::value(shell.format, &version, |v| format!("kprov {} linux/{}\n", v.version, v.arch))
}

/// The architecture in Kubernetes' words.
pub(super) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

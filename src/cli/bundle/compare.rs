//! `kprov bundle diff` and `kprov bundle sbom`: what is in bundles, held against each other and listed.

use std::path::PathBuf;

use super::refused;
use crate::bundle::{diff, inspect, sbom};
use crate::cli::Shell;
use crate::cli::error::Result;
use crate::cli::output;

/// Exit code where something differs and that was asked for.
const DIFFERS: u8 = 10;

/// Show what differs between two bundles: parts, files for the machine, images
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov bundle diff kprov-bundle-v1.35.4-amd64.tar.zst kprov-bundle-v1.36.3-amd64.tar.zst
  kprov bundle diff old.tar.zst new.tar.zst -o json
  kprov bundle diff old.tar.zst new.tar.zst --detailed-exitcode")]
pub(super) struct Diff {
    /// The first bundle
    a: PathBuf,
    /// The second bundle
    b: PathBuf,
    /// Exit with 10 when something differs
    #[arg(long)]
    detailed_exitcode: bool,
}

/// List a bundle's parts, Go modules and Debian packages; -o json is a CycloneDX document
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov bundle sbom kprov-bundle-v1.36.3-amd64.tar.zst
  kprov bundle sbom kprov-bundle-v1.36.3-amd64.tar.zst -o json > kprov-bundle-v1.36.3-amd64.cdx.json")]
pub(super) struct Sbom {
    /// The bundle
    file: PathBuf,
}

/// Compares two bundles; the exit code.
pub(super) fn diff(args: &Diff, shell: &Shell) -> Result<u8> {
    let [a, b] = [&args.a, &args.b].map(|path| inspect::inspect(path).map_err(refused));
    let found = diff::diff(&a?, &b?);
    output::value(shell.format, &found, diff::Diff::text)?;
    Ok(if args.detailed_exitcode && !found.is_empty() { DIFFERS } else { 0 })
}

/// Lists what is in a bundle, which is verified on the way; the exit code.
pub(super) fn sbom(args: &Sbom, shell: &Shell) -> Result<u8> {
    let document = sbom::sbom(&args.file).map_err(refused)?;
    output::value(shell.format, &document, |document| {
        output::columns(&["TYPE", "NAME", "VERSION", "USED BY"], &sbom::rows(document))
    })?;
    Ok(0)
}

//! `kprov bundle`: look at bundles, export their images, bring one onto this machine.

mod build;
mod install;
pub(super) mod search;

use std::path::PathBuf;

use anyhow::Context as _;

use super::Shell;
use super::error::{Failure, Result};
use super::output;
use crate::bundle::{BundleError, images, inspect, verify};

/// Build, verify and look at bundles: one file with all that a machine needs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(build::Args),
    Verify(Verify),
    Inspect(Inspect),
    Images(Images),
    #[command(hide = true)]
    Install(install::Args),
}

/// Check every byte of a bundle
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kprov bundle verify kprov-bundle-v1.36.3-amd64.tar.zst")]
struct Verify {
    /// The bundle
    file: PathBuf,
    /// Architecture that it must be for [default: any]
    #[arg(long, value_name = "ARCH", value_parser = ["amd64", "arm64"])]
    arch: Option<String>,
}

/// List what is in a bundle
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kprov bundle inspect kprov-bundle-v1.36.3-amd64.tar.zst\n  kprov bundle inspect kprov-bundle-v1.36.3-amd64.tar.zst -o json"
)]
struct Inspect {
    /// The bundle
    file: PathBuf,
}

/// Write a bundle's images into an OCI archive, for nodes that kprov does not set up
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kprov bundle images kprov-bundle-v1.36.3-amd64.tar.zst --out images.tar\n  ctr -n k8s.io images import --label io.cri-containerd.pinned=pinned images.tar"
)]
struct Images {
    /// The bundle
    file: PathBuf,
    /// The archive to write
    #[arg(long, value_name = "ARCHIVE")]
    out: PathBuf,
}

/// Whose a refused bundle is to mend: the user's, with a full disk and the like.
pub(super) fn refused(error: BundleError) -> Failure {
    Failure::user(error)
}

/// Runs it; the exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    match args.command {
        Command::Build(args) => build::run(args, shell),
        Command::Verify(args) => check(&args, shell).map(|()| 0),
        Command::Inspect(args) => look(&args, shell).map(|()| 0),
        Command::Images(args) => export(&args, shell).map(|()| 0),
        Command::Install(args) => install::run(args, shell),
    }
}

fn check(args: &Verify, shell: &Shell) -> Result {
    let manifest = verify::verify(&args.file, args.arch.as_deref()).map_err(refused)?;
    let id = manifest.id().map_err(Failure::internal)?;
    let value = serde_json::json!({
        "file": args.file, "id": id, "kubernetes": manifest.kubernetes, "arch": manifest.arch, "verified": true,
    });
    output::value(shell.format, &value, |_| {
        format!("{}: good (Kubernetes {}, {}, id {id})\n", args.file.display(), manifest.kubernetes, manifest.arch)
    })
}

fn look(args: &Inspect, shell: &Shell) -> Result {
    let seen = inspect::inspect(&args.file).map_err(refused)?;
    output::value(shell.format, &seen, inspect::Inspection::text)
}

fn export(args: &Images, shell: &Shell) -> Result {
    let names = images::export(&args.file, &args.out).map_err(refused)?;
    let size = std::fs::metadata(&args.out)
        .with_context(|| format!("looking at {}", args.out.display()))
        .map_err(Failure::user)?
        .len();
    let value = serde_json::json!({"archive": args.out, "size": size, "images": names});
    output::value(shell.format, &value, |_| {
        let mut text = format!("{} images, {} MB in {}\n", names.len(), size / 1_000_000, args.out.display());
        for name in &names {
            text.push_str(&format!("  {name}\n"));
        }
        text
    })
}

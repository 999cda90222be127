//! `kprov bundle`: look at bundles, export their images, bring one onto this machine.

mod build;
mod compare;
mod install;
pub(super) mod search;
mod sign;

use std::path::PathBuf;

use anyhow::Context as _;

use super::Shell;
use super::error::{Failure, Result};
use super::output;
use crate::bundle::sign::{look as look_at, signature_of};
use crate::bundle::{BundleError, images, inspect};

/// Build, verify and look at bundles: one file with all that a machine needs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(Box<build::Args>),
    Sign(sign::Sign),
    Verify(sign::Verify),
    Inspect(Inspect),
    Images(Images),
    Diff(compare::Diff),
    Sbom(compare::Sbom),
    #[command(hide = true)]
    Install(install::Args),
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
    /// The public key (minisign) by which the bundle must be signed [default: /etc/kprov/bundle.pub where it exists]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Whose a refused bundle is to mend: the user's, with a full disk and the like.
pub(super) fn refused(error: BundleError) -> Failure {
    let hint = match &error {
        BundleError::Unsigned { bundle, .. } => Some(format!(
            "bring {} beside it, or sign it where you trust it: kprov bundle sign --key SECRETKEY {}",
            signature_of(bundle).display(),
            bundle.display()
        )),
        _ => None,
    };
    let failure = Failure::user(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Runs it; the exit code.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    match args.command {
        Command::Build(args) => build::run(*args, shell),
        Command::Sign(args) => sign::sign(&args, shell).map(|()| 0),
        Command::Verify(args) => sign::verify(&args, shell).map(|()| 0),
        Command::Inspect(args) => look(&args, shell).map(|()| 0),
        Command::Images(args) => export(&args, shell).map(|()| 0),
        Command::Diff(args) => compare::diff(&args, shell),
        Command::Sbom(args) => compare::sbom(&args, shell),
        Command::Install(args) => install::run(args, shell),
    }
}

fn look(args: &Inspect, shell: &Shell) -> Result {
    let seen = inspect::inspect(&args.file).map_err(refused)?;
    output::value(shell.format, &seen, inspect::Inspection::text)
}

fn export(args: &Images, shell: &Shell) -> Result {
    let key = search::key(args.key.as_deref())?;
    let (_, id) = look_at(&args.file, key.as_ref()).map_err(refused)?;
    let names = images::export(&args.file, &id, &args.out, None).map_err(refused)?;
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

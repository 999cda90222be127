//! `kprov bundle sign` and `kprov bundle verify`.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use anyhow::Context as _;
use zeroize::Zeroizing;

use super::{refused, search};
use crate::bundle::sign::{self, Secret};
use crate::cli::Shell;
use crate::cli::error::{Failure, Result};
use crate::cli::output;

/// Sign a bundle: FILE.minisig, as minisign writes it, beside it
#[derive(Debug, clap::Args)]
#[command(after_help = "The key is minisign's: minisign -G -p bundle.pub -s bundle.key
Its password is asked for on the terminal, or read from stdin (one line).

Examples:
  kprov bundle sign --key bundle.key kprov-bundle-v1.36.3-amd64.tar.zst
  kprov bundle sign --key bundle.key kprov-bundle-v1.36.3-amd64.tar.zst < password-file")]
pub(super) struct Sign {
    /// The bundle
    file: PathBuf,
    /// The secret key's file
    #[arg(long, value_name = "SECRETKEY")]
    key: PathBuf,
}

/// Check every byte of a bundle and, with a key, its signature
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov bundle verify kprov-bundle-v1.36.3-amd64.tar.zst
  kprov bundle verify --key bundle.pub kprov-bundle-v1.36.3-amd64.tar.zst")]
pub(super) struct Verify {
    /// The bundle
    file: PathBuf,
    /// The public key (minisign) by which it must be signed [default: /etc/kprov/bundle.pub where it exists]
    #[arg(long, value_name = "PUBLICKEY")]
    key: Option<PathBuf>,
    /// Architecture that it must be for [default: any]
    #[arg(long, value_name = "ARCH", value_parser = ["amd64", "arm64"])]
    arch: Option<String>,
}

/// Signs.
pub(super) fn sign(args: &Sign, shell: &Shell) -> Result {
    let secret = Secret::read(&args.key).map_err(refused)?;
    let password = if secret.locked { Some(password()?) } else { None };
    let (signature, comment) = sign::sign(&args.file, &secret, password).map_err(refused)?;
    let value = serde_json::json!({"file": args.file, "signature": signature, "trustedComment": comment});
    output::value(shell.format, &value, |_| format!("{}: signed, see {}\n", args.file.display(), signature.display()))
}

/// Of the key: typed on the terminal, or one line on stdin. Never an argument.
fn password() -> Result<Zeroizing<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() && std::io::stderr().is_terminal() {
        let typed = dialoguer::Password::new().with_prompt("password of the key").allow_empty_password(true).interact();
        return typed.map(Zeroizing::new).context("reading the password").map_err(Failure::user);
    }
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line).context("reading the key's password from stdin");
    if read.map_err(Failure::user)? == 0 {
        return Err(Failure::usage("the key has a password, and there is no terminal to ask for it and none on stdin")
            .hint("give it on stdin: kprov bundle sign … < password-file"));
    }
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Verifies.
pub(super) fn verify(args: &Verify, shell: &Shell) -> Result {
    let key = search::key(args.key.as_deref())?;
    let verified = sign::verify_signed(&args.file, args.arch.as_deref(), key.as_ref());
    let (manifest, comment) = verified.map_err(refused)?;
    let id = manifest.id().map_err(Failure::internal)?;
    let signer = key.as_ref().map(|key| key.path().display().to_string());
    let value = serde_json::json!({
        "file": args.file, "id": id, "kubernetes": manifest.kubernetes, "arch": manifest.arch, "verified": true,
        "signedBy": signer, "trustedComment": comment,
    });
    output::value(shell.format, &value, |_| {
        let signed =
            signer.map_or_else(|| "no key given: not looked for a signature".to_owned(), |k| format!("signed by {k}"));
        format!(
            "{}: good (Kubernetes {}, {}, id {id}); {signed}\n",
            args.file.display(),
            manifest.kubernetes,
            manifest.arch
        )
    })
}

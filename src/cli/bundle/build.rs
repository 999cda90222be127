//! `kprov bundle build`.

mod release;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::bundle::build::{self, BuildError, Built, Options, Running};
use crate::cli::Shell;
use crate::cli::act::{End, act};
use crate::cli::error::{Failure, Kind, Result};

/// Where a bundle's parts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum From {
    /// Go modules and Debian packages, compiled here.
    Source,
    /// The projects' own programs and images, fetched and verified; flannel, which is kprov's own, compiled.
    Release,
}

/// Build a bundle, from package registries or of official releases
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov bundle build --from source --out kprov-bundle-v1.36.3-amd64.tar.zst
  kprov bundle build --from source --arch arm64 --out kprov-bundle-v1.36.3-arm64.tar.zst
  kprov bundle build --from source --part etcd=v3.6.16 --install-tools --out bundle.tar.zst
  kprov bundle build --from release --lock bundle.lock --out bundle.tar.zst
  kprov bundle build --from release --mirror https://mirror.example/k8s --registry registry.example/k8s \\
    --registry-credentials credentials.json --ca ca.pem --out bundle.tar.zst

An interrupted build goes on where it was: run the same command again.")]
pub(super) struct Args {
    /// Where the parts come from
    #[arg(long, value_enum)]
    from: From,
    /// The architecture of the machines [default: this host's]
    #[arg(long, value_name = "amd64|arm64")]
    arch: Option<String>,
    /// The Kubernetes release
    #[arg(long, value_name = "VERSION", default_value = build::DEFAULT_KUBERNETES)]
    kubernetes: String,
    /// The bundle's file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Install missing tools with the system's package manager
    #[arg(long)]
    install_tools: bool,
    /// Another version of a part than the release names; may be given several times
    #[arg(long = "part", value_name = "NAME=VERSION", value_parser = pair)]
    parts: Vec<(String, String)>,
    /// Where built parts are kept [default: $XDG_CACHE_HOME/kprov]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How hard to pack: 1 (quick) to 19 (small)
    #[arg(long, value_name = "LEVEL", default_value_t = crate::bundle::pack::LEVEL, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    #[command(flatten)]
    release: release::ReleaseArgs,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, version) = text.split_once('=').ok_or("not NAME=VERSION")?;
    Ok((name.to_owned(), version.to_owned()))
}

/// Builds and says what came out.
pub(super) fn run(args: Args, shell: &Shell) -> Result<u8> {
    let cache = match args.cache {
        Some(cache) => cache,
        None => super::search::cache().ok_or_else(|| {
            Failure::usage("neither HOME nor XDG_CACHE_HOME is set: where parts are kept is not known")
                .hint("kprov bundle build --cache DIR …")
        })?,
    };
    let native = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let options = Options {
        kubernetes: args.kubernetes,
        arch: args.arch.unwrap_or_else(|| native.to_owned()),
        out: args.out,
        install_tools: args.install_tools,
        parts: args.parts.into_iter().collect::<BTreeMap<_, _>>(),
        cache,
        level: args.level,
    };
    if args.from == From::Release {
        return release::run(args.release, options, shell);
    }
    if let Some(flag) = args.release.given() {
        return Err(Failure::usage(format!(
            "{flag} goes with --from release: what is compiled here has no such source"
        )));
    }
    act(shell, move |work| async move {
        let out = options.out.clone();
        let running = Running::default();
        let stopped = running.clone();
        let building = tokio::task::spawn_blocking(move || build::build(&options, &work.events, &running));
        tokio::pin!(building);
        let built = tokio::select! {
            built = &mut building => built,
            // What is being compiled is of no use half-done; finished parts stay.
            () = work.stop.until_asked() => {
                stopped.end();
                building.await
            }
        };
        let built = built.map_err(Failure::internal)?.map_err(failure)?;
        Ok(End::said(summary(&out, &built))
            .field("file", out.display().to_string())
            .field("id", built.packed.id.clone())
            .field("bytes", built.packed.size)
            .field("unpackedBytes", built.packed.unpacked)
            .field("cached", built.cached.clone())
            .field("seconds", built.seconds))
    })
}

fn summary(out: &std::path::Path, built: &Built) -> String {
    if built.kept {
        return format!("{}: nothing to do, it holds just this\n", out.display());
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let parts = if built.built.is_empty() && built.cached.is_empty() {
        String::new()
    } else {
        format!(" {} parts built and {} from the cache", built.built.len(), built.cached.len())
    };
    format!(
        "{}: {:.1} MB packed, {:.1} MB unpacked,{parts} in {:.0} s\n",
        out.display(),
        mb(built.packed.size),
        mb(built.packed.unpacked),
        built.seconds,
    )
}

fn failure(error: BuildError) -> Failure {
    match &error {
        BuildError::Fetch(errors) => release::failure(errors, error.to_string()),
        BuildError::Unknown(_) => Failure::usage(&error),
        BuildError::Interrupted => Failure { kind: Kind::Cancelled, error: error.into(), hints: Vec::new() }
            .hint("run the same command again: finished parts are kept"),
        BuildError::Tools { install, .. } => {
            let hint = install.clone();
            let failure = Failure::user(error);
            match hint {
                Some(command) => failure.hint(command).hint("or let kprov do it: kprov bundle build --install-tools …"),
                None => failure,
            }
        }
        _ => Failure::user(error),
    }
}

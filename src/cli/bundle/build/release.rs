//! `kprov bundle build --from release`.

use std::path::PathBuf;
use std::time::Duration;

use super::{failure as told, summary};
use crate::bundle::build::release::{From, build};
use crate::bundle::build::{BuildError, Options, Running};
use crate::bundle::fetch::credentials::Credentials;
use crate::bundle::fetch::{FetchError, Settings};
use crate::cli::Shell;
use crate::cli::act::{End, act};
use crate::cli::error::{Failure, Kind, Result};

/// Flags that go with `--from release` only.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --from release")]
pub(super) struct ReleaseArgs {
    /// A server with the official files, under the paths that they have on the official servers
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// A registry with the official images, under the paths that they have in the official ones (http:// before it: no TLS)
    #[arg(long, value_name = "HOST[:PORT][/PATH]")]
    registry: Option<String>,
    /// A further image to bundle, and where it is if not under its own name; may be given several times
    #[arg(long = "image", value_name = "NAME[=SOURCE]")]
    images: Vec<String>,
    /// Without a pod network: `kprov init` then needs --cni. Else kprov's own flannel is compiled here, with Go, or pulled
    /// if --image names it
    #[arg(long)]
    no_flannel: bool,
    /// Users and passwords of mirrors and registries, as docker's config.json, mode 0600 [default: docker's own]
    #[arg(long, value_name = "FILE")]
    registry_credentials: Option<PathBuf>,
    /// CA certificates (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Digests that must be met; what is not in it yet is added
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Transfers at a time [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel: Option<u32>,
    /// Cut and resume a transfer in which no byte has come for so many seconds [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    stall: Option<u32>,
}

impl ReleaseArgs {
    /// The first flag of these that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let all = [
            ("--mirror", self.mirror.is_some()),
            ("--registry", self.registry.is_some()),
            ("--image", !self.images.is_empty()),
            ("--no-flannel", self.no_flannel),
            ("--registry-credentials", self.registry_credentials.is_some()),
            ("--ca", self.ca.is_some()),
            ("--lock", self.lock.is_some()),
            ("--parallel", self.parallel.is_some()),
            ("--stall", self.stall.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// Only flannel is compiled for a release.
const WITHOUT_GO: &str = "or without Go: --image kprov.io/flannel:TAG=REGISTRY/PATH:TAG, where a registry of yours has it from \
                          another bundle; or --no-flannel, and then kprov init --cni FILE";

/// Docker's own file: `$DOCKER_CONFIG/config.json`, `~/.docker/config.json`.
fn docker() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home =
        || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".docker"));
    dir.or_else(home).map(|dir| dir.join("config.json"))
}

/// Fetches, builds and says what came out.
pub(super) fn run(args: ReleaseArgs, options: Options, shell: &Shell) -> Result<u8> {
    let credentials = match &args.registry_credentials {
        Some(path) => Credentials::read(path).map_err(Failure::user)?,
        None => docker().map(|path| Credentials::of_docker(&path)).unwrap_or_default(),
    };
    let image = |text: &String| match text.split_once('=') {
        Some((name, source)) => (name.to_owned(), Some(source.to_owned())),
        None => (text.clone(), None),
    };
    let from = From {
        mirror: args.mirror,
        registry: args.registry,
        images: args.images.iter().map(image).collect(),
        flannel: !args.no_flannel,
        lock: args.lock,
        settings: Settings {
            credentials,
            ca: args.ca,
            stall: Duration::from_secs(args.stall.unwrap_or(30).into()),
            parallel: usize::try_from(args.parallel.unwrap_or(4)).unwrap_or(4),
            cache: options.cache.clone(),
        },
    };
    act(shell, move |work| async move {
        let out = options.out.clone();
        let running = Running::default();
        let building = build(options, from, work.events, running.clone());
        tokio::pin!(building);
        let built = tokio::select! {
            built = &mut building => built,
            // What has come stays in the cache, and is gone on with.
            () = work.stop.until_asked() => {
                running.end();
                Err(BuildError::Interrupted)
            }
        };
        let built = built.map_err(|error| {
            let go = matches!(error, BuildError::Tools { .. });
            let failure = told(error);
            if go { failure.hint(WITHOUT_GO) } else { failure }
        })?;
        Ok(End::said(summary(&out, &built))
            .field("file", out.display().to_string())
            .field("id", built.packed.id.clone())
            .field("bytes", built.packed.size)
            .field("unpackedBytes", built.packed.unpacked)
            .field("seconds", built.seconds))
    })
}

/// Whose it is that something was not fetched, and what helps.
pub(super) fn failure(errors: &[FetchError], text: String) -> Failure {
    let remote = errors.iter().any(FetchError::is_remote);
    let kind = if remote { Kind::Remote } else { Kind::User };
    let mut failure = Failure { kind, error: anyhow::anyhow!("{text}"), hints: Vec::new() };
    if errors.iter().any(|error| matches!(error, FetchError::Untrusted { .. })) {
        failure = failure.hint("name the CA that signed it: --ca FILE");
    }
    if errors.iter().any(|error| matches!(error, FetchError::Digest { .. })) {
        failure = failure.hint(
            "somebody changed the file on its way or at its source: do not use it; compare with another mirror, or mend the lock",
        );
    }
    if errors.iter().any(|error| matches!(error, FetchError::Absent { .. })) {
        failure = failure.hint("docs/release-bundles.md names the paths that a mirror or registry must have");
    }
    if remote {
        failure = failure.hint("run the same command again: what has come is kept");
    }
    failure
}

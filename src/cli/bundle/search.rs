//! Where commands look for their bundle: the flag, then the environment's places.

use std::path::PathBuf;

use crate::bundle::locate::{Found, Search, cache_dir, locate};
use crate::cli::error::Result;

/// `--bundle FILE`, for every command that needs one.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct BundleArgs {
    /// The bundle [default: the newest that fits beside kprov, then in ~/.cache/kprov]
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
}

impl BundleArgs {
    /// Finds the bundle for this architecture and version (none: the newest).
    ///
    /// # Errors
    /// [`Kind::User`](crate::cli::error::Kind::User) when there is none that fits; the message says how to get one.
    pub(crate) fn find(&self, version: Option<&str>) -> Result<Found> {
        locate(&self.search(version)).map_err(super::refused)
    }

    /// Where it would look.
    pub(crate) fn search(&self, version: Option<&str>) -> Search {
        let exe = std::env::current_exe().ok();
        Search {
            file: self.bundle.clone(),
            beside: exe.and_then(|exe| exe.parent().map(PathBuf::from)),
            cache: cache(),
            arch: arch().to_owned(),
            version: version.map(str::to_owned),
        }
    }
}

/// `${XDG_CACHE_HOME:-~/.cache}/kprov`.
pub(crate) fn cache() -> Option<PathBuf> {
    cache_dir(std::env::var_os("XDG_CACHE_HOME").as_deref(), std::env::var_os("HOME").as_deref())
}

/// This machine's architecture in Kubernetes' words.
pub(crate) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! Where commands look for their bundle: the flag, then the environment's places.

use std::path::{Path, PathBuf};

use crate::bundle::locate::{Found, Search, cache_dir, locate};
use crate::bundle::sign::Key;
use crate::cli::error::{Failure, Result};
use crate::cluster::flags::NodeFlags;

/// `--bundle FILE`, for every command that needs one.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct BundleArgs {
    /// The bundle [default: the newest that fits beside kprov, then in ~/.cache/kprov]
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,

    /// The public key (minisign) by which the bundle must be signed [default: /etc/kprov/bundle.pub where it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle_key: Option<PathBuf>,

    /// The id that the bundle must have: `kprov up` has checked it where it runs, and names it to its machines
    #[arg(long, value_name = "SHA256", hide = true)]
    pub(crate) bundle_id: Option<String>,
}

/// Where a machine's owner says by whom bundles must be signed.
pub(crate) const KEY: &str = "/etc/kprov/bundle.pub";

/// The key by which bundles must be signed: the named one, else the machine's, if it has one.
///
/// # Errors
/// A key that cannot be read, also where its path alone says that signatures are wanted.
pub(crate) fn key(named: Option<&Path>) -> Result<Option<Key>> {
    let key = match named {
        Some(path) => Key::read(path).map(Some),
        None => Key::configured(Path::new(KEY)),
    };
    key.map_err(super::refused)
}

impl BundleArgs {
    /// The same from other commands' own flags.
    pub(crate) fn of(flags: &NodeFlags) -> Self {
        let NodeFlags { bundle, bundle_key, bundle_id, .. } = flags.clone();
        Self { bundle, bundle_key, bundle_id }
    }

    /// Finds the bundle for this architecture and version (none: the newest), signed by the key where there is one.
    ///
    /// # Errors
    /// [`Kind::User`](crate::cli::error::Kind::User) when there is none that fits; the message says how to get one.
    pub(crate) fn find(&self, version: Option<&str>) -> Result<Found> {
        let key = key(self.bundle_key.as_deref())?;
        let found = locate(&self.search(version, key)).map_err(super::refused)?;
        match &self.bundle_id {
            Some(id) if *id != found.id => {
                let (path, has) = (found.path.display(), &found.id);
                let why = anyhow::anyhow!("{path} is not the bundle that was checked: its id is {has} and not {id}");
                Err(Failure::user(why).hint("kprov up again, with a file that nobody changes meanwhile"))
            }
            _ => Ok(found),
        }
    }

    fn search(&self, version: Option<&str>, key: Option<Key>) -> Search {
        let exe = std::env::current_exe().ok();
        Search {
            file: self.bundle.clone(),
            beside: exe.and_then(|exe| exe.parent().map(PathBuf::from)),
            cache: cache(),
            arch: arch().to_owned(),
            version: version.map(str::to_owned),
            key,
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

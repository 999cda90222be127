//! Why a bundle is refused.

use std::io;
use std::path::PathBuf;

use super::manifest::Defect;

/// A bundle that is not taken. Nothing of it is installed then.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Its manifest contradicts itself or wants something that no bundle may do.
    #[error("bad bundle: {0}")]
    Manifest(Defect),
    /// A part is not what the manifest says.
    #[error("bad bundle: {why}: {part}")]
    Part {
        /// The part's name.
        part: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is for machines of another kind.
    #[error("the bundle is for {found}, this machine is {wanted}")]
    Arch {
        /// What the bundle is for.
        found: String,
        /// What the machine is.
        wanted: String,
    },
    /// The file cannot be read.
    #[error("reading {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is unpacked cannot be written.
    #[error("writing {path}: {error}")]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Whoever asked for it does not want it any more.
    #[error("stopped")]
    Stopped,
    /// A key is configured, and the bundle has no signature.
    #[error("the bundle is not signed, and the key {} wants a signature: {}", key.display(), bundle.display())]
    Unsigned {
        /// The bundle.
        bundle: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The file was exchanged after it was looked at.
    #[error("the bundle is another one than when the plan was made: {}", .0.display())]
    Another(PathBuf),
    /// The signature is not by the configured key, or of another file.
    #[error("the signature is refused: {why}: {}", path.display())]
    Signature {
        /// The signature's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key that cannot be used.
    #[error("the key cannot be used: {}: {why}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No bundle was found; the text says how to get one.
    #[error("{0}")]
    None(String),
}

// Not thiserror's `from`: the defect's text is in the message already, and would be told twice as its source.
impl From<Defect> for BundleError {
    fn from(defect: Defect) -> Self {
        Self::Manifest(defect)
    }
}

/// A part that is not what the manifest says.
pub(crate) fn bad(why: impl Into<String>, part: impl Into<String>) -> BundleError {
    BundleError::Part { part: part.into(), why: why.into() }
}

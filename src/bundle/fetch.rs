//! Getting files over HTTP and images from registries: checked by digest, resumed after a cut, several side by side.
//!
//! Reading order: [`net`] (one request, its retries), [`download`] (a file in the cache, named by its content),
//! [`registry`] (images), [`credentials`].

pub mod credentials;
pub mod download;
pub mod net;
pub mod registry;

use std::path::PathBuf;
use std::time::Duration;

pub use net::{Net, Settings};

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// 401 or 403.
    #[error("{url}: {status}: {why}")]
    Refused {
        /// What was asked for.
        url: String,
        /// `401 Unauthorized`.
        status: String,
        /// In words, with the setting that mends it.
        why: String,
    },
    /// 404.
    #[error("{url}: not found there ({status})")]
    Absent {
        /// What was asked for.
        url: String,
        /// `404 Not Found`.
        status: String,
    },
    /// The server's certificate is not trusted.
    #[error("{url}: its certificate is not trusted ({why})")]
    Untrusted {
        /// What was asked for.
        url: String,
        /// Why.
        why: String,
    },
    /// Tried again and again, without progress.
    #[error("{url}: {why}, {tries} times in a row without a byte of progress")]
    Trouble {
        /// What was asked for.
        url: String,
        /// The last reason.
        why: String,
        /// How often.
        tries: u32,
    },
    /// The server asks for more patience than we have.
    #[error("{url}: {why}, and the server asks to wait {} s", wait.as_secs())]
    Later {
        /// What was asked for.
        url: String,
        /// Why.
        why: String,
        /// How long.
        wait: Duration,
    },
    /// The content is not what it was to be.
    #[error("{url}: its SHA-256 is {found}, not {wanted}, which {by}")]
    Digest {
        /// What was fetched.
        url: String,
        /// As it was to be.
        wanted: String,
        /// As it is.
        found: String,
        /// Who wants it so.
        by: String,
    },
    /// An answer that makes no sense.
    #[error("{url}: {why}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Credentials or certificates that cannot be used.
    #[error("{}: {why}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Files of the cache.
    #[error("{what}: {error}")]
    File {
        /// What was being done.
        what: String,
        /// The system's answer.
        error: std::io::Error,
    },
}

impl FetchError {
    /// The far side's to mend, or time's.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Trouble { .. } | Self::Later { .. } | Self::Answer { .. })
    }
}

pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> FetchError {
    let what = what.into();
    move |error| FetchError::File { what, error }
}

//! Keys and certificates of a Kubernetes cluster: bytes in, bytes out. No I/O, no async, no clock (time is an argument).
//!
//! Reading order: [`spec`] is the table of what a cluster has, [`key`] and [`issue`] make it, [`inspect`] judges what is
//! there already, [`kubeconfig`] carries it; [`token`], [`jws`] and [`pin`] are how a joining node finds and trusts a cluster.

mod der;
pub mod inspect;
pub mod issue;
pub mod jws;
pub mod key;
pub mod kubeconfig;
pub mod pin;
pub mod spec;
pub mod token;

pub use key::{Algorithm, Key};

/// What can go wrong here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bytes that are not what they should be; the text says what was expected.
    #[error("not {0}")]
    Malformed(&'static str),
    /// A key or signature that is of a kind that cannot be used here.
    #[error("a key of a kind that is not supported here")]
    KeyKind,
    /// The cryptographic library refused.
    #[error("{doing}: {reason}")]
    Crypto {
        /// What was tried.
        doing: &'static str,
        /// What the library said.
        reason: String,
    },
    /// A name that cannot stand in a certificate.
    #[error("a name that cannot stand in a certificate: {0}")]
    Name(String),
}

/// Random bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::Crypto { doing: "random bytes", reason: "the generator failed".into() })?;
    Ok(bytes)
}

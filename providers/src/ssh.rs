//! A host over SSH. Its key is known before the first connection; nothing is trusted on first use.
//!
//! [`Host`] says where it is and how it proves itself; [`Session`] is one connection to it, over which any number of
//! commands run side by side; [`upload`] brings files onto it.

pub mod keys;
mod session;
pub mod upload;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};

pub use session::{Chunk, Session, Terminal};

/// How long one attempt to connect and log in may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Silence after which the other side is asked for a sign of life; after three in vain the connection is lost.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// What can go wrong between us and a host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers there.
    #[error("cannot reach {host} at {address}: {reason}")]
    Unreachable {
        /// The host's name.
        host: String,
        /// Where it should be.
        address: SocketAddr,
        /// Why.
        reason: std::io::Error,
    },
    /// It did not answer in time.
    #[error("no answer within {} s: {host} at {address}", .limit.as_secs())]
    TimedOut {
        /// The host's name.
        host: String,
        /// Where it should be.
        address: SocketAddr,
        /// How long was waited.
        limit: Duration,
    },
    /// Another key than the known one: somebody else answers at this address, or the host was made anew.
    #[error("the host key has changed, so this may not be the same machine; expected {expected}, got {got}: {host}")]
    KeyChanged {
        /// The host's name.
        host: String,
        /// Fingerprint of the known key.
        expected: String,
        /// Fingerprint of the key it showed.
        got: String,
    },
    /// It does not let us in.
    #[error("login as {user} with kprov's key was refused: {host}")]
    Refused {
        /// The host's name.
        host: String,
        /// As whom.
        user: String,
    },
    /// The connection broke.
    #[error("lost the connection ({reason}): {host}")]
    Lost {
        /// The host's name.
        host: String,
        /// How.
        reason: russh::Error,
    },
    /// A key that we hold cannot be used.
    #[error("unusable {what}: {host}")]
    Key {
        /// The host's name.
        host: String,
        /// Which one.
        what: &'static str,
    },
    /// An upload arrived otherwise than it was sent.
    #[error("arrived damaged, removed there; try again: {path} on {host}")]
    Damaged {
        /// The host's name.
        host: String,
        /// The file there.
        path: String,
    },
    /// A command over there failed.
    #[error("{what} failed (exit {code}): {said}: {host}")]
    Command {
        /// The host's name.
        host: String,
        /// What it was for.
        what: String,
        /// How it ended.
        code: i32,
        /// The last line that it said.
        said: String,
    },
    /// A file of ours cannot be read.
    #[error("reading {path}")]
    File {
        /// Which one.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// True where trying again later may help, as nothing of ours is wrong.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Lost { .. })
    }
}

/// Where a host is, how it proves itself, and how we do.
#[derive(Debug, Clone)]
pub struct Host {
    /// For messages: the node's name.
    pub name: String,
    /// Its sshd.
    pub address: SocketAddr,
    /// As whom we log in.
    pub user: String,
    /// Its public key, as one line of OpenSSH's format.
    pub host_key: String,
    /// Our key.
    pub login: Arc<PrivateKey>,
}

/// The client side of one connection: knows the one key that the server may show.
pub(crate) struct Known {
    expected: PublicKey,
    /// The fingerprint of another key, where the server showed one.
    other: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let got = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } if key.key_data() == self.expected.key_data() => {
                return Ok(true);
            }
            PublicKeyOrCertificate::PublicKey { key, .. } => key.fingerprint(Default::default()).to_string(),
            PublicKeyOrCertificate::Certificate(_) => "a certificate".to_owned(),
        };
        if let Ok(mut other) = self.other.lock() {
            *other = Some(got);
        }
        Ok(false)
    }
}

impl Host {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::TimedOut`], [`Error::KeyChanged`], [`Error::Refused`].
    pub async fn connect(&self) -> Result<Session, Error> {
        match tokio::time::timeout(CONNECT, self.attempt()).await {
            Ok(done) => done,
            Err(_) => Err(Error::TimedOut { host: self.name.clone(), address: self.address, limit: CONNECT }),
        }
    }

    /// As [`connect`](Self::connect), trying again for some time where nothing answers (yet).
    ///
    /// # Errors
    /// The last attempt's; a changed key or a refused login at once.
    pub async fn connect_within(&self, limit: Duration) -> Result<Session, Error> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            match self.connect().await {
                Err(error) if error.passes() && begin.elapsed() < limit => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn attempt(&self) -> Result<Session, Error> {
        let host = || self.name.clone();
        let expected = PublicKey::from_openssh(&self.host_key)
            .map_err(|_| Error::Key { host: host(), what: "host key in the state directory" })?;
        let config = client::Config {
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: 3,
            nodelay: true,
            preferred: russh::Preferred {
                // Only the kind that we know; another kind of key would prove nothing.
                key: vec![expected.algorithm()].into(),
                compression: vec![russh::compression::NONE].into(),
                ..russh::Preferred::default()
            },
            ..client::Config::default()
        };
        let stream = tokio::net::TcpStream::connect(self.address).await.map_err(|reason| Error::Unreachable {
            host: host(),
            address: self.address,
            reason,
        })?;
        let _ = stream.set_nodelay(true);
        let other = Arc::new(Mutex::new(None));
        let handler = Known { expected: expected.clone(), other: Arc::clone(&other) };
        let connected = client::connect_stream(Arc::new(config), stream, handler).await;
        let mut handle = connected.map_err(|reason| {
            let expected = expected.fingerprint(Default::default()).to_string();
            let shown = other.lock().ok().and_then(|mut other| other.take());
            let other_kind = matches!(reason, russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. });
            match shown.or_else(|| other_kind.then(|| "a key of another kind".to_owned())) {
                Some(got) => Error::KeyChanged { host: host(), expected, got },
                None => Error::Lost { host: host(), reason },
            }
        })?;
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.login), None);
        let answer = handle
            .authenticate_publickey(self.user.clone(), key)
            .await
            .map_err(|reason| Error::Lost { host: host(), reason })?;
        if !answer.success() {
            return Err(Error::Refused { host: host(), user: self.user.clone() });
        }
        Ok(Session::new(self.name.clone(), handle))
    }
}

#[cfg(test)]
mod tests;

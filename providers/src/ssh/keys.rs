//! SSH keys made by kprov: Ed25519, for the operator's side and for hosts.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PublicKey};

use crate::whole;

/// A new key. `comment` is for people who read `authorized_keys`.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn generate(comment: &str) -> anyhow::Result<PrivateKey> {
    let mut seed = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .context("reading /dev/urandom")?;
    let key = PrivateKey::new(KeypairData::from(Ed25519Keypair::from_seed(&seed)), comment);
    seed.fill(0);
    key.context("making an SSH key")
}

/// The key in a file, made on first use (0600).
///
/// # Errors
/// When the file cannot be read or written, or holds something else.
pub fn ensure(path: &Path, comment: &str) -> anyhow::Result<PrivateKey> {
    match std::fs::read(path) {
        Ok(text) => PrivateKey::from_openssh(text).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = generate(comment)?;
            save(&key, path)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes a private key (0600) in OpenSSH's format.
///
/// # Errors
/// When it cannot be written.
pub fn save(key: &PrivateKey, path: &Path) -> anyhow::Result<()> {
    let text = key.to_openssh(LineEnding::LF)?;
    whole::write(path, text.as_bytes(), 0o600).with_context(|| format!("writing {}", path.display()))
}

/// A public key as one line of `authorized_keys`.
///
/// # Errors
/// When it cannot be encoded.
pub fn line(key: &PublicKey) -> anyhow::Result<String> {
    key.to_openssh().context("encoding an SSH key")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = ensure(&path, "kprov").unwrap();
        let second = ensure(&path, "kprov").unwrap();
        assert_eq!(line(first.public_key()).unwrap(), line(second.public_key()).unwrap());
        assert!(line(first.public_key()).unwrap().starts_with("ssh-ed25519 "));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_ne!(line(generate("x").unwrap().public_key()).unwrap(), line(first.public_key()).unwrap());
    }

    #[test]
    fn something_else_in_the_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "nonsense").unwrap();
        assert!(ensure(&path, "kprov").unwrap_err().to_string().contains("reading"));
    }
}

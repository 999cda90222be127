//! Who made a bundle: a signature beside it (`FILE.minisig`), as minisign writes and reads them.
//!
//! A bundle's own hashes prove that it is whole; a signature proves by whom. Where a key is given, a bundle is believed
//! only through [`look`]: the id that it returns is of the very bytes that were signed, and everything that is unpacked
//! later is checked against that id.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kprov_providers::whole;
use minisign::SecretKeyBox;
use minisign_verify::{PublicKey, Signature, StreamVerifier};
use zeroize::Zeroizing;

use super::error::BundleError;
use super::manifest::Manifest;
use super::verify::{Nowhere, Opened, open, verify};

/// Keys and signatures are no longer, in bytes.
const MAX: u64 = 16 << 10;

/// The public key by which bundles must be signed.
#[derive(Clone)]
pub struct Key {
    public: PublicKey,
    path: PathBuf,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.path.display())
    }
}

/// Where a bundle's signature is: `FILE.minisig`.
pub fn signature_of(bundle: &Path) -> PathBuf {
    let mut name = bundle.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

impl Key {
    /// Reads a public key as minisign writes it: a line of comment, a line of base64.
    ///
    /// # Errors
    /// A file that cannot be read or is no such key.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let bad = |why: String| BundleError::Key { path: path.to_owned(), why };
        let text = small(path).map_err(|e| bad(e.to_string()))?;
        let public = PublicKey::decode(&text).map_err(|e| bad(format!("not a public key of minisign ({e})")))?;
        Ok(Self { public, path: path.to_owned() })
    }

    /// The key at this path; none where nothing is there. What is there and no key is an error: whoever put it there
    /// wants signatures.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn configured(path: &Path) -> Result<Option<Self>, BundleError> {
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::read(path).map(Some),
        }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX).read_to_string(&mut text)?;
    if read as u64 == MAX { Err(io::Error::other(format!("longer than {MAX} bytes"))) } else { Ok(text) }
}

/// Feeds the verifier with all that is read.
struct Tee<'a> {
    file: File,
    verifier: Option<StreamVerifier<'a>>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        if let Some(verifier) = &mut self.verifier {
            verifier.update(buffer.get(..n).unwrap_or_default());
        }
        Ok(n)
    }
}

/// Reads a bundle's manifest, and with a key the whole file: the signature must be that key's, of just these bytes.
/// Gives the manifest and the bundle's id.
///
/// # Errors
/// A file that cannot be read or is no bundle; [`BundleError::Unsigned`] and [`BundleError::Signature`].
pub fn look(path: &Path, key: Option<&Key>) -> Result<(Manifest, String), BundleError> {
    checked(path, key, |tee| {
        let opened = Opened::new(tee)?;
        Ok((opened.manifest().clone(), opened.id().to_owned()))
    })
}

/// Checks every byte of a bundle and, with a key, its signature. Gives the manifest and the signature's comment.
///
/// # Errors
/// As [`verify`] and [`look`].
pub fn verify_signed(
    path: &Path,
    arch: Option<&str>,
    key: Option<&Key>,
) -> Result<(Manifest, Option<String>), BundleError> {
    let manifest = checked(path, key, |tee| Opened::new(tee)?.for_arch(arch)?.read(&mut Nowhere))?;
    let comment = match key {
        Some(key) => Some(signature(path, key)?.trusted_comment().to_owned()),
        None => None,
    };
    Ok((manifest, comment))
}

fn signature(bundle: &Path, key: &Key) -> Result<Signature, BundleError> {
    let path = signature_of(bundle);
    let wrong = |why: String| BundleError::Signature { path: path.clone(), why };
    let text = match small(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(BundleError::Unsigned { bundle: bundle.to_owned(), key: key.path.clone() });
        }
        Err(e) => return Err(wrong(e.to_string())),
    };
    Signature::decode(&text).map_err(|e| wrong(format!("not a signature of minisign ({e})")))
}

fn checked<T>(
    path: &Path,
    key: Option<&Key>,
    work: impl FnOnce(&mut Tee<'_>) -> Result<T, BundleError>,
) -> Result<T, BundleError> {
    let unread = |error| BundleError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(unread)?;
    let Some(key) = key else { return work(&mut Tee { file, verifier: None }) };
    let signature = signature(path, key)?;
    let wrong = |e: minisign_verify::Error| BundleError::Signature {
        path: signature_of(path),
        why: match e {
            minisign_verify::Error::UnexpectedKeyId => format!("it is by another key than {}", key.path.display()),
            minisign_verify::Error::InvalidSignature => {
                format!("the bundle is not what was signed by the key {}", key.path.display())
            }
            minisign_verify::Error::UnsupportedLegacyMode => {
                "it is of minisign's old kind, of the file itself; sign the bundle anew".to_owned()
            }
            other => other.to_string(),
        },
    };
    let verifier = key.public.verify_stream(&signature).map_err(wrong)?;
    let mut tee = Tee { file, verifier: Some(verifier) };
    let result = work(&mut tee);
    // What `work` did not read is signed too.
    io::copy(&mut tee, &mut io::sink()).map_err(unread)?;
    if let Some(verifier) = &mut tee.verifier {
        verifier.finalize().map_err(wrong)?;
    }
    result
}

/// A secret key's file that was read, still locked if it has a password.
pub struct Secret {
    text: Zeroizing<String>,
    bytes: Zeroizing<Vec<u8>>,
    path: PathBuf,
    /// A password is needed.
    pub locked: bool,
}

impl Secret {
    /// Reads a secret key as minisign writes it.
    ///
    /// # Errors
    /// A file that cannot be read, is no such key, or can be read by others.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let bad = |why: String| BundleError::Key { path: path.to_owned(), why };
        let mode = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(bad(format!(
                "its mode is {mode:04o}: others can read the secret key; mend with: chmod 600 {}",
                path.display()
            )));
        }
        let text = Zeroizing::new(small(path).map_err(|e| bad(e.to_string()))?);
        let bytes = text.lines().nth(1).and_then(|line| data_encoding::BASE64.decode(line.trim().as_bytes()).ok());
        let bytes = Zeroizing::new(bytes.unwrap_or_default());
        // Ed: the algorithm; then how the key is locked: Sc by a password, two zeros not at all.
        let locked = match bytes.get(..4) {
            Some(b"EdSc") => true,
            Some(b"Ed\0\0") => false,
            _ => return Err(bad("not a secret key of minisign".to_owned())),
        };
        Ok(Self { text, bytes, path: path.to_owned(), locked })
    }
}

/// Verifies a bundle and writes its signature beside it. Gives the signature's path and comment.
///
/// # Errors
/// A bad bundle, a wrong password, or a file that cannot be written.
pub fn sign(
    bundle: &Path,
    secret: &Secret,
    password: Option<Zeroizing<String>>,
) -> Result<(PathBuf, String), BundleError> {
    let bad = |e: minisign::PError| BundleError::Key { path: secret.path.clone(), why: e.to_string().to_lowercase() };
    let id = verify(bundle, None)?.id().map_err(|e| BundleError::Read { path: bundle.to_owned(), error: e.into() })?;
    let locked = SecretKeyBox::from((*secret.text).clone());
    let key = match password {
        Some(password) => locked.into_secret_key(Some((*password).clone())),
        // minisign leaves the checksum of such a key empty, which its sister crate takes for damage. Damage shows below.
        None if secret.bytes.ends_with(&[0; 32]) => minisign::SecretKey::from_bytes(&secret.bytes),
        None => locked.into_unencrypted_secret_key(),
    };
    let key = key.map_err(bad)?;
    let public = minisign::PublicKey::from_secret_key(&key).map_err(bad)?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = bundle.file_name().unwrap_or_default().to_string_lossy().replace(char::is_control, "?");
    // The first three as minisign writes them.
    let comment = format!("timestamp:{seconds}\tfile:{name}\thashed\tkprov-bundle:{id}");
    let file = File::open(bundle).map_err(|error| BundleError::Read { path: bundle.to_owned(), error })?;
    let signed =
        minisign::sign(Some(&public), &key, file, Some(&comment), Some("signature of a kprov bundle")).map_err(bad)?;
    let path = signature_of(bundle);
    whole::write(&path, signed.to_string().as_bytes(), 0o644)
        .map_err(|error| BundleError::Write { path: path.clone(), error })?;
    Ok((path, comment))
}

/// Opens a bundle again that was looked at before; it must still be the same.
///
/// # Errors
/// As [`open`], and when its id is another one.
pub fn open_again(path: &Path, id: &str) -> Result<Opened<File>, BundleError> {
    let opened = open(path)?;
    if opened.id() == id {
        return Ok(opened);
    }
    Err(BundleError::Another(path.to_owned()))
}

#[cfg(test)]
mod tests;

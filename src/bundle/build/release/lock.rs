//! Digests that were written down when a bundle was built, for whoever builds it again: what is in the file must be what
//! is fetched, what is not is added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kprov_providers::whole;
use serde::{Deserialize, Serialize};

use super::super::{BuildError, Result};
use crate::bundle::manifest::is_sha256;

/// The file's format.
const FORMAT: u32 = 1;

/// A lock, and where it is kept.
#[derive(Debug)]
pub(crate) struct Lock {
    path: Option<PathBuf>,
    content: Content,
    changed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    /// Hex SHA-256 by the path that official servers and mirrors have.
    files: BTreeMap<String, String>,
    /// `sha256:HEX` of the manifest by image and architecture: `registry.k8s.io/pause:3.10.2 linux/amd64`.
    images: BTreeMap<String, String>,
}

fn key(image: &str, arch: &str) -> String {
    format!("{image} linux/{arch}")
}

impl Lock {
    /// Reads the file; one that is not there yet is empty, none at all knows and keeps nothing.
    ///
    /// # Errors
    /// A file that cannot be read or is no lock.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let empty = Content { format: FORMAT, files: BTreeMap::new(), images: BTreeMap::new() };
        let Some(path) = path else { return Ok(Self { path: None, content: empty, changed: false }) };
        let failed = || BuildError::file(format!("reading {}", path.display()));
        let content = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => empty,
            text => {
                let content: Content = serde_json::from_slice(&text.map_err(failed())?)
                    .map_err(|e| failed()(std::io::Error::other(format!("no lock of a bundle ({e})"))))?;
                let images = content.images.values().map(|d| d.strip_prefix("sha256:").unwrap_or_default());
                if content.format != FORMAT || !content.files.values().map(String::as_str).chain(images).all(is_sha256)
                {
                    return Err(failed()(std::io::Error::other("a digest or the format in it is not known")));
                }
                content
            }
        };
        Ok(Self { path: Some(path.to_owned()), content, changed: false })
    }

    /// Who says so, for messages.
    pub(crate) fn says(&self) -> String {
        self.path.as_ref().map(|path| format!("{} says", path.display())).unwrap_or_default()
    }

    /// What a file's hash must be.
    pub(crate) fn file_digest(&self, name: &str) -> Option<&str> {
        self.content.files.get(name).map(String::as_str)
    }

    /// What the digest of an image's manifest must be.
    pub(crate) fn image_digest(&self, image: &str, arch: &str) -> Option<&str> {
        self.content.images.get(&key(image, arch)).map(String::as_str)
    }

    /// Notes what a file was.
    pub(crate) fn file(&mut self, name: &str, sha256: &str) {
        self.changed |= self.content.files.insert(name.to_owned(), sha256.to_owned()).as_deref() != Some(sha256);
    }

    /// Notes what an image was.
    pub(crate) fn image(&mut self, image: &str, arch: &str, digest: &str) {
        self.changed |= self.content.images.insert(key(image, arch), digest.to_owned()).as_deref() != Some(digest);
    }

    /// Writes it, where something was added.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else { return Ok(()) };
        let write = || {
            let mut text = serde_json::to_vec_pretty(&self.content)?;
            text.push(b'\n');
            whole::write(path, &text, 0o644)
        };
        write().map_err(BuildError::file(format!("writing {}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_wanted_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.lock");
        let mut lock = Lock::open(Some(&path)).unwrap();
        assert_eq!(lock.file_digest("a"), None);
        lock.file("a", &"1".repeat(64));
        lock.image("i:1", "amd64", &format!("sha256:{}", "2".repeat(64)));
        lock.save().unwrap();
        let again = Lock::open(Some(&path)).unwrap();
        assert_eq!(again.file_digest("a"), Some("1".repeat(64).as_str()));
        assert_eq!(again.image_digest("i:1", "arm64"), None);
        assert!(again.image_digest("i:1", "amd64").is_some());
        std::fs::write(&path, "{}").unwrap();
        assert!(Lock::open(Some(&path)).unwrap_err().to_string().contains("no lock of a bundle"));
        std::fs::write(&path, r#"{"format": 1, "files": {"a": "x"}, "images": {}}"#).unwrap();
        assert!(Lock::open(Some(&path)).is_err());
        Lock::open(None).unwrap().save().unwrap();
    }
}

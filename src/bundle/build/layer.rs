//! An image layer: an uncompressed tar whose bytes depend on its content alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{BuildError, Result};
use crate::bundle::manifest::Blob;

/// What is in a layer, by path without a leading slash. Sorted, so a folder comes before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Dir(u32),
    Link(String),
    Text(String),
    File { from: PathBuf, mode: u32, capability: Option<&'static [u8]> },
}

/// A layer that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// Its hash and size.
    pub(crate) blob: Blob,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Hash and size of each file in it.
    pub(crate) members: BTreeMap<String, Blob>,
}

impl Layer {
    /// A file of the disk.
    pub(crate) fn file(&mut self, path: &str, from: impl Into<PathBuf>, mode: u32) {
        self.put(path, Entry::File { from: from.into(), mode, capability: None });
    }

    /// A program with a file capability (the value of the extended attribute).
    pub(crate) fn capable(&mut self, path: &str, from: impl Into<PathBuf>, capability: &'static [u8]) {
        self.put(path, Entry::File { from: from.into(), mode: 0o755, capability: Some(capability) });
    }

    /// A small text file, readable by all.
    pub(crate) fn text(&mut self, path: &str, text: impl Into<String>) {
        self.put(path, Entry::Text(text.into()));
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.to_owned()));
    }

    /// A folder whose mode is not 0755.
    pub(crate) fn dir(&mut self, path: &str, mode: u32) {
        self.put(path, Entry::Dir(mode));
    }

    fn put(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..at) {
                self.entries.entry(parent.to_owned()).or_insert(Entry::Dir(0o755));
            }
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// All files and links below a folder of the disk, with 0755 or 0644 as they can be run or not.
    ///
    /// # Errors
    /// When the folder cannot be read, or holds what is neither file, folder nor link.
    pub(crate) fn tree(&mut self, from: &Path) -> Result<()> {
        self.walk(from, "").map_err(BuildError::file(format!("reading {}", from.display())))
    }

    fn walk(&mut self, from: &Path, below: &str) -> io::Result<()> {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| io::Error::other("a name that is not UTF-8"))?;
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.walk(&entry.path(), &path)?;
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path())?;
                let target = target.to_str().ok_or_else(|| io::Error::other("a link that is not UTF-8"))?;
                self.link(&path, target);
            } else if kind.is_file() {
                let run = entry.metadata()?.permissions().mode() & 0o111 != 0;
                self.file(&path, entry.path(), if run { 0o755 } else { 0o644 });
            } else {
                return Err(io::Error::other(format!("{path} is neither file, folder nor link")));
            }
        }
        Ok(())
    }

    /// Writes the tar into a folder, named by its hash.
    ///
    /// # Errors
    /// When a file cannot be read or the tar not be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<Written> {
        self.write_tar(dir).map_err(BuildError::file("writing an image layer"))
    }

    fn write_tar(&self, dir: &Path) -> io::Result<Written> {
        let temporary = tempfile::NamedTempFile::new_in(dir)?;
        let mut members = BTreeMap::new();
        let hashing = Hashing::new(BufWriter::with_capacity(1 << 18, temporary.reopen()?));
        let mut tar = tar::Builder::new(hashing);
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_ustar();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            match entry {
                Entry::Dir(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
                Entry::Text(text) => {
                    header.set_mode(0o644);
                    header.set_size(text.len() as u64);
                    tar.append_data(&mut header, path, text.as_bytes())?;
                }
                Entry::File { from, mode, capability } => {
                    if let Some(value) = capability {
                        tar.append_pax_extensions([("SCHILY.xattr.security.capability", *value)])?;
                    }
                    let file =
                        File::open(from).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))?;
                    let size = file.metadata()?.len();
                    header.set_mode(*mode);
                    header.set_size(size);
                    let mut content = Hashing::new(file);
                    tar.append_data(&mut header, path, &mut content)?;
                    members.insert(path.clone(), content.blob());
                }
            }
        }
        let mut hashing = tar.into_inner()?;
        hashing.flush()?;
        let blob = hashing.blob();
        let path = dir.join(&blob.sha256);
        temporary.persist(&path).map_err(|e| e.error)?;
        Ok(Written { blob, path, members })
    }
}

/// Counts and hashes what passes through.
pub(crate) struct Hashing<T> {
    inner: T,
    hash: Sha256,
    size: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    pub(crate) fn blob(self) -> Blob {
        Blob { sha256: data_encoding::HEXLOWER.encode(&self.hash.finalize()), size: self.size }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size = self.size.saturating_add(bytes.len() as u64);
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let (bytes, _) = buffer.split_at(n);
        self.hash.update(bytes);
        self.size = self.size.saturating_add(n as u64);
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        let (bytes, _) = buffer.split_at(n);
        self.passed(bytes);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(source: &Path) -> Layer {
        let mut layer = Layer::default();
        layer.file("usr/local/bin/kube", source.join("kube"), 0o755);
        layer.link("usr/local/bin/kubelet", "kube");
        layer.dir("tmp", 0o1777);
        layer.text("etc/passwd", "root:x:0:0::/root:/none\n");
        layer.capable("coredns", source.join("kube"), &[1, 0, 0, 2]);
        layer
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let (source, one, two) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(source.path().join("kube"), b"binary").unwrap();
        let first = sample(source.path()).write(one.path()).unwrap();
        let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(77);
        File::options().write(true).open(source.path().join("kube")).unwrap().set_modified(later).unwrap();
        let second = sample(source.path()).write(two.path()).unwrap();
        assert_eq!(first.blob, second.blob);
        assert_eq!(std::fs::read(&first.path).unwrap(), std::fs::read(&second.path).unwrap());
        assert_eq!(first.blob.sha256, crate::bundle::manifest::sha256_hex(&std::fs::read(&first.path).unwrap()));
        assert_eq!(first.members["usr/local/bin/kube"].sha256, crate::bundle::manifest::sha256_hex(b"binary"));
    }

    #[test]
    fn parents_come_first_and_modes_are_kept() {
        let (source, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(source.path().join("kube"), b"binary").unwrap();
        let written = sample(source.path()).write(to.path()).unwrap();
        let mut archive = tar::Archive::new(File::open(&written.path).unwrap());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let capability: Vec<Vec<u8>> = entry
                .pax_extensions()
                .unwrap()
                .into_iter()
                .flatten()
                .map(|e| e.unwrap().value_bytes().to_vec())
                .collect();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            assert_eq!(capability.is_empty(), path != "coredns", "{path}");
            seen.push((path, header.mode().unwrap()));
        }
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "coredns",
                "etc/",
                "etc/passwd",
                "tmp/",
                "usr/",
                "usr/local/",
                "usr/local/bin/",
                "usr/local/bin/kube",
                "usr/local/bin/kubelet"
            ]
        );
        assert_eq!(seen[3].1, 0o1777);
    }
}

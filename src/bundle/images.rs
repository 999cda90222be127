//! The images of a bundle as an OCI archive, which `ctr images import` and others read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::error::BundleError;
use super::manifest::{Blob, Image, Manifest, Role, hex_of};
use super::pack::{INDEX_NAME, LAYOUT, LAYOUT_NAME, header, padding};
use super::sets::Set;
use super::sign::open_again;
use super::verify::Sink;

/// Writes an OCI archive, blob by blob.
pub(crate) struct Archive<W: Write> {
    out: W,
    path: PathBuf,
    /// The blobs that belong into it.
    wanted: BTreeSet<String>,
    /// Size of the blob that is being written; none: it does not belong into it.
    now: Option<u64>,
}

/// The blobs of these images.
fn blobs_of(images: &[&Image]) -> BTreeSet<String> {
    let of = |image: &&Image| {
        let own = [hex_of(&image.digest).to_owned(), hex_of(&image.config).to_owned()];
        own.into_iter().chain(image.layers.iter().map(|layer| hex_of(layer).to_owned())).collect::<Vec<_>>()
    };
    images.iter().flat_map(of).collect()
}

impl<W: Write> Archive<W> {
    /// Begins an archive of some images. `path` is for messages.
    pub(crate) fn new(out: W, path: &Path, manifest: &Manifest, images: &[&Image]) -> Result<Self, BundleError> {
        let mut archive = Self { out, path: path.to_owned(), wanted: blobs_of(images), now: None };
        for (name, content) in [(LAYOUT_NAME, LAYOUT), (INDEX_NAME, manifest.index_of(images).as_slice())] {
            let size = content.len() as u64;
            archive.put(&header(name, size).map_err(|e| archive.failed(e))?)?;
            archive.put(content)?;
            archive.put(padding(size))?;
        }
        Ok(archive)
    }

    fn failed(&self, error: io::Error) -> BundleError {
        BundleError::Write { path: self.path.clone(), error }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.out.write_all(bytes).map_err(|e| BundleError::Write { path: self.path.clone(), error: e })
    }

    /// Ends the archive; gives the writer back.
    pub(crate) fn finish(mut self) -> Result<W, BundleError> {
        self.put(&[0; 1024])?;
        self.out.flush().map_err(|e| self.failed(e))?;
        Ok(self.out)
    }
}

impl<W: Write> Sink for Archive<W> {
    fn begin(&mut self, blob: &Blob, _: Role) -> Result<(), BundleError> {
        self.now = self.wanted.contains(&blob.sha256).then_some(blob.size);
        if self.now.is_some() {
            let header = header(&format!("blobs/sha256/{}", blob.sha256), blob.size).map_err(|e| self.failed(e))?;
            self.put(&header)?;
        }
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        if self.now.is_some() { self.put(bytes) } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), BundleError> {
        self.now.take().map_or(Ok(()), |size| self.put(padding(size)))
    }
}

/// Bytes of the archive that [`Archive`] writes for these images.
pub(crate) fn archive_size(manifest: &Manifest, images: &[&Image]) -> u64 {
    let entry = |size: u64| 512 + size + padding(size).len() as u64;
    let wanted = blobs_of(images);
    let blobs: u64 = manifest.blobs.iter().filter(|b| wanted.contains(&b.sha256)).map(|b| entry(b.size)).sum();
    1024 + entry(LAYOUT.len() as u64) + entry(manifest.index_of(images).len() as u64) + blobs
}

/// Writes the images of a bundle file (`only`: those of this set) into an OCI archive, which appears only when the whole
/// bundle is verified. Gives their names.
///
/// # Errors
/// A bad bundle, or an archive that cannot be written.
pub fn export(bundle: &Path, id: &str, out: &Path, only: Option<Set>) -> Result<BTreeSet<String>, BundleError> {
    let opened = open_again(bundle, id)?;
    let failed = |error| BundleError::Write { path: out.to_owned(), error };
    let dir = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".kprov-images-").tempfile_in(dir).map_err(failed)?;
    let file: &File = temporary.as_file();
    let manifest = opened.manifest();
    let images = only.map_or_else(|| manifest.images.iter().collect(), |set| set.images(manifest));
    let names = images.iter().map(|image| image.name.clone()).collect();
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file), out, manifest, &images)?;
    opened.read(&mut archive)?;
    drop(archive.finish()?);
    use std::os::unix::fs::PermissionsExt;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    temporary.persist(out).map_err(|e| failed(e.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;

    #[test]
    fn holds_the_images_and_no_host_file() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = synthetic::small("amd64");
        let (file, out) = (dir.path().join("b.tar.zst"), dir.path().join("images.tar"));
        std::fs::write(&file, bundle.bytes()).unwrap();
        let id = bundle.manifest.id().unwrap();
        assert!(export(&file, &"0".repeat(64), &out, None).unwrap_err().to_string().contains("another one"));
        assert!(!out.exists());
        let names = export(&file, &id, &out, None).unwrap();
        assert_eq!(names.len(), 2);
        let bytes = std::fs::read(&out).unwrap();
        assert_eq!(
            bytes.len() as u64,
            archive_size(&bundle.manifest, &bundle.manifest.images.iter().collect::<Vec<_>>())
        );
        let mut archive = tar::Archive::new(bytes.as_slice());
        let found: BTreeSet<String> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        let image = &bundle.manifest.images[0];
        for digest in [&image.digest, &image.config, &image.layers[0]] {
            assert!(found.contains(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))));
        }
        let host = bundle.manifest.files[0].sha256().unwrap();
        assert!(!found.contains(&format!("blobs/sha256/{host}")));
        assert!(found.contains("index.json") && found.contains("oci-layout"));
    }

    #[test]
    fn a_bad_bundle_leaves_no_archive() {
        let dir = tempfile::tempdir().unwrap();
        let id = synthetic::small("amd64").manifest.id().unwrap();
        let bytes = synthetic::small("amd64").bytes();
        let (file, out) = (dir.path().join("b.tar.zst"), dir.path().join("images.tar"));
        std::fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
        assert!(export(&file, &id, &out, None).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

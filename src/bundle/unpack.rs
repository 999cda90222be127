//! Unpacking a bundle on a disk: streamed into a staging folder, renamed only after the last byte is verified.
//!
//! What lies in the folder afterwards:
//! - `kprov-manifest.json`, as it stands in the bundle;
//! - `files/HEX`: the files for the machine, each content once, to be linked to their places;
//! - `images-SET.tar`: the images of each [`Set`] as an OCI archive, to be imported whole. It is removed after that, best
//!   before it ever reached the disk, so it is not synced: whoever imports it checks every digest anyway.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use super::error::BundleError;
use super::images::{Archive, archive_size};
use super::manifest::{Blob, Content, Manifest, Role, sha256_hex};
use super::pack::MANIFEST_NAME;
use super::sets::Set;
use super::verify::{Opened, Sink};

/// The files within the folder.
pub const FILES: &str = "files";

/// Told how many bytes of how many are read; `false` stops.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BundleError + '_ {
    |error| BundleError::Write { path: path.to_owned(), error }
}

/// The folder's manifest, if all files of the bundle `id` are unpacked there (the images may be imported and gone).
/// `read` and `size` look at names within the
/// folder; names and sizes are enough for one that appeared by a rename after everything was verified and synced.
pub fn is_whole(
    id: &str,
    read: impl Fn(&str) -> Option<Vec<u8>>,
    size: impl Fn(&str) -> Option<u64>,
) -> Option<Manifest> {
    let bytes = read(MANIFEST_NAME)?;
    if sha256_hex(&bytes) != id {
        return None;
    }
    let manifest = Manifest::from_bytes(&bytes).ok()?;
    let whole = contents(&manifest).iter().all(|(hex, (bytes, _))| size(&format!("{FILES}/{hex}")) == Some(*bytes));
    whole.then_some(manifest)
}

/// The contents of all files for the machine: hash → size and permission bits.
pub(crate) fn contents(manifest: &Manifest) -> BTreeMap<&str, (u64, u32)> {
    let mut contents = BTreeMap::new();
    for file in &manifest.files {
        let known = match &file.content {
            Content::Blob(hex) => {
                let size = manifest.blobs.iter().find(|b| b.sha256 == *hex).map_or(0, |b| b.size);
                Some((hex.as_str(), size))
            }
            Content::Member { sha256, size, .. } => Some((sha256.as_str(), *size)),
            Content::Link(_) => None,
        };
        if let Some((hex, size)) = known {
            contents.entry(hex).or_insert((size, file.mode));
        }
    }
    contents
}

/// Unpacks a bundle into `dest`, whose parent must be there. What is there already is replaced; a staging folder that
/// an interrupted run left is removed. When this fails, `dest` is as it was.
///
/// # Errors
/// A bad bundle, a full or failing disk, or [`BundleError::Stopped`].
pub fn unpack<R: Read + Send>(opened: Opened<R>, dest: &Path, progress: Progress<'_>) -> Result<Manifest, BundleError> {
    let staging = dest.with_extension("staging");
    remove_tree(&staging)?;
    let result = stage(opened, &staging, progress).and_then(|manifest| {
        remove_tree(dest)?;
        fs::rename(&staging, dest).map_err(failed(dest))?;
        let parent = dest.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed(parent))?;
        Ok(manifest)
    });
    if result.is_err() {
        // The first error is the one to tell; what is left is removed by the next run.
        let _ = remove_tree(&staging);
    }
    result
}

fn remove_tree(path: &Path) -> Result<(), BundleError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path)(e)),
        _ => Ok(()),
    }
}

fn stage<R: Read + Send>(opened: Opened<R>, staging: &Path, progress: Progress<'_>) -> Result<Manifest, BundleError> {
    let files = staging.join(FILES);
    for dir in [staging, &files] {
        fs::create_dir(dir).map_err(failed(dir))?;
    }
    enough_space(opened.manifest(), staging)?;
    let manifest_bytes = opened.manifest().to_bytes().map_err(|e| failed(staging)(io::Error::from(e)))?;
    let modes: BTreeMap<String, u32> =
        contents(opened.manifest()).into_iter().map(|(hex, (_, mode))| (hex.to_owned(), mode)).collect();
    let archives = Set::there(opened.manifest()).map(|set| {
        let path = staging.join(set.archive());
        let file = File::create_new(&path).map_err(failed(&path))?;
        let out = BufWriter::with_capacity(1 << 18, file);
        Archive::new(out, &path, opened.manifest(), &set.images(opened.manifest()))
    });
    let archives = archives.collect::<Result<Vec<_>, _>>()?;
    let total = opened.manifest().blobs.iter().map(|b| b.size).sum();

    // Files are synced by a thread of its own while the next ones are unpacked: a disk takes its time.
    let (finished, to_sync) = mpsc::channel::<(PathBuf, File)>();
    let syncer = thread::spawn(move || {
        for (path, file) in to_sync {
            file.sync_all().map_err(failed(&path))?;
        }
        Ok(())
    });
    let mut writer = Unpacker { files, modes, archives, blob: None, member: None, finished, done: 0, total, progress };
    let read = opened.read(&mut writer);
    let Unpacker { archives, finished, .. } = writer;
    let written = read.and_then(|manifest| {
        archives.into_iter().try_for_each(|archive| archive.finish().map(drop))?;
        let path = staging.join(MANIFEST_NAME);
        let mut file = File::create_new(&path).map_err(failed(&path))?;
        file.write_all(&manifest_bytes).map_err(failed(&path))?;
        // Received by the thread until the channel closes below.
        let _ = finished.send((path, file));
        Ok(manifest)
    });
    drop(finished);
    let synced = syncer.join().unwrap_or_else(|_| Err(failed(staging)(io::Error::other("the syncing thread failed"))));
    let manifest = written?;
    synced?;
    for dir in [staging.join(FILES).as_path(), staging] {
        File::open(dir).and_then(|d| d.sync_all()).map_err(failed(dir))?;
    }
    Ok(manifest)
}

/// Refuses to begin what cannot end.
fn enough_space(manifest: &Manifest, dir: &Path) -> Result<(), BundleError> {
    let archives: u64 = Set::there(manifest).map(|set| archive_size(manifest, &set.images(manifest))).sum();
    let need = archives + contents(manifest).values().map(|(size, _)| size).sum::<u64>();
    let stat = rustix::fs::statvfs(dir).map_err(|e| failed(dir)(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < need {
        let text = format!("{} MB are needed, {} MB are free", need / 1_000_000, free / 1_000_000);
        return Err(failed(dir)(io::Error::new(io::ErrorKind::StorageFull, text)));
    }
    Ok(())
}

struct Unpacker<'a> {
    files: PathBuf,
    modes: BTreeMap<String, u32>,
    archives: Vec<Archive<BufWriter<File>>>,
    blob: Option<(PathBuf, File)>,
    member: Option<(PathBuf, File)>,
    finished: mpsc::Sender<(PathBuf, File)>,
    done: u64,
    total: u64,
    progress: Progress<'a>,
}

impl Unpacker<'_> {
    fn create(&self, hex: &str) -> Result<Option<(PathBuf, File)>, BundleError> {
        let path = self.files.join(hex);
        let mode = self.modes.get(hex).copied().unwrap_or(0o755);
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
            Ok(file) => {
                // The process's umask may have taken bits away.
                let wanted = std::os::unix::fs::PermissionsExt::from_mode(mode);
                if file.metadata().map_err(failed(&path))?.mode() & 0o7777 != mode {
                    file.set_permissions(wanted).map_err(failed(&path))?;
                }
                Ok(Some((path, file)))
            }
            // The same content may be in two layers.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(failed(&path)(e)),
        }
    }
}

fn put(to: &mut Option<(PathBuf, File)>, bytes: &[u8]) -> Result<(), BundleError> {
    match to {
        Some((path, file)) => file.write_all(bytes).map_err(failed(path)),
        None => Ok(()),
    }
}

impl Sink for Unpacker<'_> {
    fn begin(&mut self, blob: &Blob, role: Role) -> Result<(), BundleError> {
        if role == Role::HostFile {
            self.blob = self.create(&blob.sha256)?;
        }
        self.archives.iter_mut().try_for_each(|archive| archive.begin(blob, role))
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.done = self.done.saturating_add(bytes.len() as u64);
        if !(self.progress)(self.done, self.total) {
            return Err(BundleError::Stopped);
        }
        put(&mut self.blob, bytes)?;
        self.archives.iter_mut().try_for_each(|archive| archive.piece(bytes))
    }

    fn end(&mut self) -> Result<(), BundleError> {
        if let Some(done) = self.blob.take() {
            // The thread ends early only with an error, which is asked for at the end.
            let _ = self.finished.send(done);
        }
        self.archives.iter_mut().try_for_each(Archive::end)
    }

    fn member_begin(&mut self, sha256: &str, _: u64) -> Result<(), BundleError> {
        self.member = self.create(sha256)?;
        Ok(())
    }

    fn member_piece(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        put(&mut self.member, bytes)
    }

    fn member_end(&mut self) -> Result<(), BundleError> {
        if let Some(done) = self.member.take() {
            let _ = self.finished.send(done);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic::{self, elf};
    use std::os::unix::fs::PermissionsExt;

    fn unpacked(dest: &Path, id: &str) -> Option<Manifest> {
        let size =
            |name: &str| fs::symlink_metadata(dest.join(name)).ok().filter(fs::Metadata::is_file).map(|m| m.len());
        is_whole(id, |name| fs::read(dest.join(name)).ok(), size)
    }

    fn unpack_bytes(bytes: &[u8], dest: &Path) -> Result<Manifest, BundleError> {
        unpack(Opened::new(bytes)?, dest, &mut |_, _| true)
    }

    #[test]
    fn unpacks_files_members_and_images() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = synthetic::small("amd64");
        let id = bundle.manifest.id().unwrap();
        let dest = dir.path().join(&id);
        assert_eq!(unpacked(&dest, &id), None);
        unpack_bytes(&bundle.bytes(), &dest).unwrap();
        assert_eq!(unpacked(&dest, &id), Some(bundle.manifest.clone()));
        let hexes = [&bundle.manifest.files[0], &bundle.manifest.files[1]].map(|f| f.sha256().unwrap());
        assert_eq!(fs::read(dest.join(FILES).join(hexes[0])).unwrap(), elf("amd64", b"containerd"));
        let kube = dest.join(FILES).join(hexes[1]);
        assert_eq!(fs::read(&kube).unwrap(), elf("amd64", b"kube"));
        assert_eq!(fs::metadata(&kube).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no staging folder is left");
        // Again, over what is there.
        unpack_bytes(&bundle.bytes(), &dest).unwrap();
        // Damage that sizes show.
        fs::write(&kube, b"short").unwrap();
        assert_eq!(unpacked(&dest, &id), None);
    }

    #[test]
    fn a_bad_bundle_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = synthetic::small("amd64").bytes();
        for end in [bytes.len() - 1, bytes.len() / 2] {
            assert!(unpack_bytes(&bytes[..end], &dir.path().join("id")).is_err());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_bad_bundle_leaves_an_older_folder_alone_and_a_dead_run_s_staging_goes() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = synthetic::small("amd64");
        let (id, bytes) = (bundle.manifest.id().unwrap(), bundle.bytes());
        let dest = dir.path().join(&id);
        unpack_bytes(&bytes, &dest).unwrap();
        fs::create_dir_all(dest.with_extension("staging").join("left")).unwrap();
        assert!(unpack_bytes(&bytes[..bytes.len() - 1], &dest).is_err());
        assert!(unpacked(&dest, &id).is_some());
        assert!(!dest.with_extension("staging").exists());
    }

    #[test]
    fn stops_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = synthetic::small("amd64").bytes();
        let result = unpack(Opened::new(bytes.as_slice()).unwrap(), &dir.path().join("id"), &mut |_, _| false);
        assert!(matches!(result, Err(BundleError::Stopped)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

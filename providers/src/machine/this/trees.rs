//! Removing whole trees: unmounts what is mounted below, never crosses into another file system.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::mount::{UnmountFlags, unmount};

pub(super) fn remove(path: &str) -> anyhow::Result<()> {
    let path = Path::new(path);
    if path.components().count() < 2 || !path.is_absolute() {
        bail!("refusing to remove the tree {}", path.display());
    }
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("looking at {}", path.display())),
    };
    if !meta.is_dir() {
        return fs::remove_file(path).with_context(|| format!("removing {}", path.display()));
    }
    for point in mounts_below(path)? {
        // Lazily: what is busy goes when its last user does, and what is below it is no longer in our way.
        match unmount(&point, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e).with_context(|| format!("unmounting {}", point.display())),
        }
    }
    remove_on(path, meta.dev())?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("syncing {}", parent.display()))?;
    }
    Ok(())
}

/// Removes a directory with all that is in it and on the same device. A mount point of its own (a disk that was there
/// before us, mounted at the very path) is emptied and stays.
fn remove_on(dir: &Path, device: u64) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).with_context(|| format!("looking at {}", path.display())),
        };
        if meta.is_dir() {
            if meta.dev() != device && !is_subvolume(&path, dir)? {
                bail!("another file system is in the way and stays, {}", path.display());
            }
            remove_on(&path, meta.dev())?;
        } else {
            gone(fs::remove_file(&path)).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        result => gone(result).with_context(|| format!("removing {}", dir.display())),
    }
}

/// A btrfs subvolume (containerd's snapshots there) has its own device number without being mounted.
fn is_subvolume(path: &Path, parent: &Path) -> anyhow::Result<bool> {
    const BTRFS: i64 = 0x9123_683e;
    let kind = |path: &Path| -> anyhow::Result<i64> {
        Ok(rustix::fs::statfs(path).with_context(|| format!("looking at {}", path.display()))?.f_type as i64)
    };
    Ok(kind(path)? == BTRFS && kind(parent)? == BTRFS && !mount_points()?.iter().any(|point| point == path))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Mount points strictly below a directory, in the order in which they can be unmounted.
fn mounts_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let dir = dir.canonicalize().with_context(|| format!("looking at {}", dir.display()))?;
    let mut below: Vec<PathBuf> =
        mount_points()?.into_iter().filter(|point| point.starts_with(&dir) && *point != dir).collect();
    below.reverse();
    Ok(below)
}

fn mount_points() -> anyhow::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field))).collect())
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text
}

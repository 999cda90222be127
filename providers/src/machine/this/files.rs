//! Files and directories of this machine. Whatever is written is on the disk when the call returns.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::machine::{Kind, Meta};

/// `None` for "nothing is there", which also a file where a directory should be means.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn meta(path: &str) -> anyhow::Result<Option<Meta>> {
    let doing = || format!("looking at {path}");
    let Some(meta) = there(fs::symlink_metadata(path)).with_context(doing)? else { return Ok(None) };
    let kind = match meta.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Dir,
        kind if kind.is_symlink() => {
            Kind::Link(fs::read_link(path).with_context(doing)?.to_string_lossy().into_owned())
        }
        _ => Kind::Other,
    };
    Ok(Some(Meta { kind, mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid(), size: meta.size() }))
}

pub(super) fn read(path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    there(fs::read(path)).with_context(|| format!("reading {path}"))
}

pub(super) fn list(dir: &str) -> anyhow::Result<Option<Vec<String>>> {
    let doing = || format!("listing {dir}");
    let Some(entries) = there(fs::read_dir(dir)).with_context(doing)? else { return Ok(None) };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(doing)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(Some(names))
}

pub(super) fn sha256(path: &str) -> anyhow::Result<Option<String>> {
    let doing = || format!("hashing {path}");
    let Some(mut file) = there(File::open(path)).with_context(doing)? else { return Ok(None) };
    let mut hash = Sha256::new();
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece).with_context(doing)? {
            0 => return Ok(Some(data_encoding::HEXLOWER.encode(&hash.finalize()))),
            n => hash.update(piece.get(..n).unwrap_or_default()),
        }
    }
}

pub(super) fn write(path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
    replace(path, mode, |file| file.write_all(content)).with_context(|| format!("writing {path}"))
}

pub(super) fn copy(from: &str, to: &str, mode: u32) -> anyhow::Result<()> {
    replace(to, mode, |file| {
        let mut source = File::open(from)?;
        // copy_file_range inside: blocks are shared where the file system can.
        io::copy(&mut source, file).map(drop)
    })
    .with_context(|| format!("copying {from} to {to}"))
}

pub(super) fn share(from: &str, to: &str, mode: u32) -> anyhow::Result<()> {
    let beside = beside(to);
    let linked = (|| {
        if fs::metadata(from)?.mode() & 0o7777 != mode {
            return Ok(false);
        }
        there(fs::remove_file(&beside))?;
        match fs::hard_link(from, &beside) {
            Ok(()) => {}
            // Another file system, one without hard links, or one that has no more of them for this file.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::StorageFull) => return Err(e),
            Err(_) => return Ok(false),
        }
        fs::rename(&beside, to)?;
        // A link to the file that is there already leaves both names.
        there(fs::remove_file(&beside))?;
        sync_dir_of(to).map(|()| true)
    })()
    .with_context(|| format!("linking {from} to {to}"))?;
    if linked { Ok(()) } else { copy(from, to, mode) }
}

/// Lets `fill` write a file beside `path`, then puts it in its place, all of it synced.
fn replace(path: &str, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let result = (|| {
        stage(path, mode, fill)?.sync_all()?;
        fs::rename(beside(path), path)?;
        sync_dir_of(path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(beside(path));
    }
    result
}

/// Lets `fill` write a file beside `path`; it is not synced yet.
pub(super) fn stage(path: &str, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let beside = beside(path);
    // One left by a run that was killed is ours to replace.
    there(fs::remove_file(&beside))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    fill(&mut file)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Name of the file that is renamed to `path` when it is whole: always the same, so that a killed run's is found again.
pub(super) fn beside(path: &str) -> PathBuf {
    let path = Path::new(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.kprov-new"))
}

pub(super) fn make_dir(path: &str, mode: u32) -> anyhow::Result<()> {
    if new_dir(path, mode)? {
        sync_dir_of(path).with_context(|| format!("making the directory {path}"))?;
    }
    Ok(())
}

/// Makes a directory, not synced yet; false where there is one.
pub(super) fn new_dir(path: &str, mode: u32) -> anyhow::Result<bool> {
    let doing = || format!("making the directory {path}");
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(mode)).with_context(doing)?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::metadata(path).with_context(doing)?.is_dir() {
                bail!("making a directory: a file is there already, {path}");
            }
            Ok(false)
        }
        Err(e) => Err(e).with_context(doing),
    }
}

/// Makes a link beside `path`.
pub(super) fn stage_link(path: &str, target: &str) -> io::Result<()> {
    there(fs::remove_file(beside(path)))?;
    std::os::unix::fs::symlink(target, beside(path))
}

pub(super) fn link(path: &str, target: &str) -> anyhow::Result<()> {
    (|| {
        stage_link(path, target)?;
        fs::rename(beside(path), path)?;
        sync_dir_of(path)
    })()
    .with_context(|| format!("linking {path} to {target}"))
}

pub(super) fn chmod(path: &str, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| format!("setting the mode of {path}"))
}

pub(super) fn rename(from: &str, to: &str) -> anyhow::Result<()> {
    (|| {
        fs::rename(from, to)?;
        sync_dir_of(from)?;
        sync_dir_of(to)
    })()
    .with_context(|| format!("renaming {from} to {to}"))
}

pub(super) fn sync(path: &str) -> anyhow::Result<()> {
    let doing = || format!("syncing {path}");
    match there(File::open(path)).with_context(doing)? {
        Some(file) => file.sync_all().and_then(|()| sync_dir_of(path)).with_context(doing),
        None => Ok(()),
    }
}

pub(super) fn remove(path: &str) -> anyhow::Result<()> {
    let doing = || format!("removing {path}");
    // What a killed write may have left beside it goes too.
    there(fs::remove_file(beside(path))).with_context(doing)?;
    if there(fs::remove_file(path)).with_context(doing)?.is_some() {
        sync_dir_of(path).with_context(doing)?;
    }
    Ok(())
}

pub(super) fn remove_dir(path: &str) -> anyhow::Result<bool> {
    let doing = || format!("removing the directory {path}");
    match fs::remove_dir(path) {
        Ok(()) => sync_dir_of(path).with_context(doing).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => Ok(false),
        Err(e) => Err(e).with_context(doing),
    }
}

pub(super) fn sync_dir_of(path: &str) -> io::Result<()> {
    let Some(dir) = Path::new(path).parent() else { return Ok(()) };
    match File::open(dir)?.sync_all() {
        // File systems that live in the kernel (cgroups) have nothing to sync.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

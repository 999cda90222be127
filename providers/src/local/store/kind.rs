//! How copies are made in a cache: what its file system and the host can do, chosen once.

use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::statfs;

use crate::local::host;

/// `f_type` of btrfs (linux/magic.h).
pub(super) const BTRFS_MAGIC: u64 = 0x9123_683E;

/// `f_type` of overlayfs (linux/magic.h).
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// Smallest loop file that carries a template and a few machines.
const SMALLEST: u64 = 10 << 30;

/// How copies are made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Snapshots; the cache itself lies on btrfs.
    Btrfs,
    /// Snapshots in a btrfs loop file.
    Loop,
    /// overlayfs over the template.
    Overlay,
}

/// As chosen once: disks of one kind are of no use to another, whatever the host can do by now.
pub(super) fn kind(cache: &Path) -> anyhow::Result<Kind> {
    let path = cache.join("store.kind");
    match std::fs::read_to_string(&path).ok().as_deref().map(str::trim) {
        Some("btrfs") => return Ok(Kind::Btrfs),
        Some("loop") => return Ok(Kind::Loop),
        Some("overlay") => return Ok(Kind::Overlay),
        _ => {}
    }
    let kind = pick(cache)?;
    let name = match kind {
        Kind::Btrfs => "btrfs",
        Kind::Loop => "loop",
        Kind::Overlay => "overlay",
    };
    std::fs::write(&path, format!("{name}\n")).with_context(|| format!("writing {}", path.display()))?;
    Ok(kind)
}

/// Why a host can have no disks of machines in `cache`, which need not be there yet.
pub(crate) fn unfit(cache: &Path) -> Option<String> {
    if cache.join("store.kind").exists() {
        return None;
    }
    let there = cache.ancestors().find(|dir| dir.is_dir())?;
    pick(there).err().map(|error| format!("{error:#}"))
}

fn pick(cache: &Path) -> anyhow::Result<Kind> {
    if cache.join("store.btrfs").exists() {
        return Ok(Kind::Loop);
    }
    let magic = magic(cache)?;
    if magic == BTRFS_MAGIC {
        return Ok(Kind::Btrfs);
    }
    let loops = Path::new("/dev/loop-control").exists();
    if loops && host::can_mount("btrfs") && size(cache)? >= SMALLEST {
        return Ok(Kind::Loop);
    }
    if magic != OVERLAY_MAGIC && host::can_mount("overlay") {
        return Ok(Kind::Overlay);
    }
    bail!(
        "{}: machines need btrfs or overlayfs, and {} GB of free space; neither can be had there",
        cache.display(),
        SMALLEST >> 30
    )
}

/// Three quarters of what is free: the file is sparse and shall not fill the host.
pub(super) fn size(cache: &Path) -> anyhow::Result<u64> {
    let stat = statfs(cache).with_context(|| format!("looking at {}", cache.display()))?;
    let free = stat.f_bavail.saturating_mul(u64::try_from(stat.f_bsize)?);
    Ok((free / 4 * 3) >> 20 << 20)
}

pub(super) fn magic(path: &Path) -> anyhow::Result<u64> {
    let stat = statfs(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok(u64::try_from(stat.f_type)? & 0xffff_ffff)
}

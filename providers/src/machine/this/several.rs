//! Several things made at once. A sync waits for the disk, and on file systems that write a whole transaction for it (a new
//! file in a new directory, a name that changed) for tens of milliseconds: one for all costs what one for each does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Context;

use super::files::{beside, new_dir, stage, stage_link, sync_dir_of};
use crate::machine::New;

/// Directories, then everything under other names, synced; then the names in their order, and between one directory and the
/// next, which may be on another file system, a sync.
pub(super) fn make(all: &[New<'_>]) -> anyhow::Result<()> {
    let result = named(all);
    if result.is_err() {
        for new in all.iter().filter(|new| !matches!(new, New::Dir { .. })) {
            let _ = fs::remove_file(beside(new.path()));
        }
    }
    result
}

fn named(all: &[New<'_>]) -> anyhow::Result<()> {
    let doing = |path: &str| format!("writing {path}");
    let mut written: Vec<(&str, File)> = Vec::new();
    for new in all {
        match new {
            New::Dir { path, mode } => drop(new_dir(path, *mode)?),
            New::File { path, content, mode } => {
                written.push((path, stage(path, *mode, |file| file.write_all(content)).with_context(|| doing(path))?));
            }
            New::Link { path, target } => {
                stage_link(path, target).with_context(|| format!("linking {path} to {target}"))?;
            }
        }
    }
    for (path, file) in written {
        file.sync_all().with_context(|| doing(path))?;
    }
    let (dirs, others): (Vec<&New<'_>>, Vec<&New<'_>>) = all.iter().partition(|new| matches!(new, New::Dir { .. }));
    let mut synced = BTreeSet::new();
    for dir in dirs {
        if synced.insert(Path::new(dir.path()).parent()) {
            sync_dir_of(dir.path()).with_context(|| format!("making the directory {}", dir.path()))?;
        }
    }
    for (at, new) in others.iter().enumerate() {
        fs::rename(beside(new.path()), new.path()).with_context(|| doing(new.path()))?;
        let next = others.get(at + 1).map(|next| Path::new(next.path()).parent());
        if next != Some(Path::new(new.path()).parent()) {
            sync_dir_of(new.path()).with_context(|| doing(new.path()))?;
        }
    }
    Ok(())
}

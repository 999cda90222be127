//! Trees on btrfs: the file system in a loop file, and subvolumes to remove.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::kind::{BTRFS_MAGIC, magic, size};
use super::{Kind, Store};
use crate::local::tool::{run, text};

impl Store {
    pub(super) async fn mount(&self) -> anyhow::Result<()> {
        let dir = self.dir();
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        if magic(&dir)? == BTRFS_MAGIC {
            return Ok(());
        }
        let file = self.cache.join("store.btrfs");
        if !file.exists() {
            let partial = self.cache.join("store.btrfs.partial");
            let size = size(&self.cache)?;
            std::fs::File::create(&partial)
                .and_then(|f| f.set_len(size))
                .with_context(|| format!("making {}", partial.display()))?;
            run("mkfs.btrfs", &["--quiet", "--force", text(&partial)?]).await?;
            std::fs::rename(&partial, &file)?;
        }
        // `ssd`: else syncs that come side by side each wait some milliseconds for more of them, as for a spinning disk.
        run("mount", &["-o", "loop,noatime,ssd,discard=async", text(&file)?, text(&dir)?]).await?;
        Ok(())
    }

    /// Removes a tree: the subvolumes in it (a machine's systemd may have made some), then the rest.
    pub(super) async fn remove_tree(&self, path: &Path) -> anyhow::Result<()> {
        if std::fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        if self.kind != Kind::Overlay && is_subvolume(path) {
            for inner in subvolumes(path).await? {
                run("btrfs", &["-q", "subvolume", "delete", text(&inner)?]).await?;
            }
            run("btrfs", &["-q", "subvolume", "delete", text(path)?]).await?;
            return Ok(());
        }
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))
        })
        .await?
    }
}

/// The root of a btrfs subvolume always has inode 256.
fn is_subvolume(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.ino() == 256)
}

/// Subvolumes below a subvolume, deepest first.
async fn subvolumes(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = run("btrfs", &["subvolume", "list", "-o", text(path)?]).await?;
    let mut found: Vec<PathBuf> = listed
        .lines()
        .filter_map(|line| line.split_once(" path "))
        .filter_map(|(_, at)| {
            // Paths are from the top of the file system; what follows our own name is below us.
            let own = path.file_name()?.to_str()?;
            let below = at.split_once(&format!("{own}/")).map(|(_, below)| below)?;
            Some(path.join(below))
        })
        .filter(|path| is_subvolume(path))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}

//! Disks of machines: templates that never change, and one copy of a template a machine, made in a moment.
//!
//! ```text
//! CACHE/store.btrfs           the loop file, where the cache's own file system is not btrfs
//! CACHE/store/templates/NAME  a tree; a subvolume on btrfs
//! CACHE/store/machines/ID/    root, and on overlayfs upper, work and the directories that must not lie on an overlay
//! ```

mod overlay;
mod templates;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::statfs;

pub use self::templates::Held;
use super::host;
use super::tool::{run, text, try_run};

/// `f_type` of btrfs (linux/magic.h).
const BTRFS_MAGIC: u64 = 0x9123_683E;

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

/// The disks of this host's machines.
#[derive(Debug, Clone)]
pub struct Store {
    cache: PathBuf,
    kind: Kind,
}

/// A machine's disk, ready to boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The root directory.
    pub root: PathBuf,
    /// Directories of the host to mount over paths of the machine: (host, machine).
    pub binds: Vec<(PathBuf, String)>,
}

impl Store {
    /// Opens the store, making and mounting what it needs. `cache` is a directory that is kprov's.
    ///
    /// # Errors
    /// When the file system for it cannot be made or mounted.
    pub async fn open(cache: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
        let _lock = lock(&cache.join("store.lock")).await?;
        let store = Self { cache: cache.to_owned(), kind: kind(cache)? };
        if store.kind == Kind::Loop {
            store.mount().await?;
        }
        for dir in [store.templates(), store.machines()] {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(store)
    }

    /// How copies are made.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Waits for a lock among all kprov processes that use this store; gone when dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub async fn lock(&self, name: &str) -> anyhow::Result<File> {
        lock(&self.cache.join(format!("{name}.lock"))).await
    }

    /// The directory of templates and machines.
    fn dir(&self) -> PathBuf {
        self.cache.join("store")
    }

    fn templates(&self) -> PathBuf {
        self.dir().join("templates")
    }

    fn machines(&self) -> PathBuf {
        self.dir().join("machines")
    }

    /// Where a template's tree is.
    pub fn template(&self, name: &str) -> PathBuf {
        self.templates().join(name)
    }

    /// Where all of a machine's disk is.
    fn machine(&self, id: &str) -> PathBuf {
        self.machines().join(id)
    }

    /// True when a template is there, whole.
    pub fn has(&self, template: &str) -> bool {
        self.template(template).is_dir()
    }

    /// True when a machine of this id has a disk.
    pub fn has_machine(&self, id: &str) -> bool {
        self.machine(id).is_dir()
    }

    /// Begins a template: an empty tree to fill. What an earlier try left is removed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn begin(&self, template: &str) -> anyhow::Result<PathBuf> {
        let partial = self.templates().join(format!("{template}.partial"));
        self.remove_tree(&partial).await?;
        if self.kind == Kind::Overlay {
            std::fs::create_dir(&partial).with_context(|| format!("making {}", partial.display()))?;
        } else {
            run("btrfs", &["-q", "subvolume", "create", text(&partial)?]).await?;
        }
        Ok(partial)
    }

    /// Gives a begun template its name, now that it is whole and on the disk.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub async fn finish(&self, template: &str) -> anyhow::Result<()> {
        let partial = self.templates().join(format!("{template}.partial"));
        run("sync", &["-f", text(&partial)?]).await?;
        std::fs::rename(&partial, self.template(template)).with_context(|| format!("naming template {template}"))?;
        run("sync", &["-f", text(&self.templates())?]).await?;
        Ok(())
    }

    /// Makes a template of a machine that is not running; the machine's disk is gone then.
    ///
    /// # Errors
    /// When the copy cannot be made.
    pub async fn freeze(&self, id: &str, template: &str) -> anyhow::Result<()> {
        let partial = self.templates().join(format!("{template}.partial"));
        self.remove_tree(&partial).await?;
        if self.kind == Kind::Overlay {
            overlay::flatten(&self.machine(id), &partial).await?;
        } else {
            let root = self.machine(id).join("root");
            run("btrfs", &["-q", "subvolume", "snapshot", text(&root)?, text(&partial)?]).await?;
        }
        self.finish(template).await?;
        self.delete(id).await
    }

    /// Makes a machine's disk from a template.
    ///
    /// # Errors
    /// When there is no such template, or the copy cannot be made.
    pub async fn copy(&self, template: &str, id: &str) -> anyhow::Result<Disk> {
        let from = self.template(template);
        if !from.is_dir() {
            bail!("no template {template} in {}", self.templates().display());
        }
        let machine = self.machine(id);
        std::fs::create_dir_all(&machine).with_context(|| format!("making {}", machine.display()))?;
        if self.kind == Kind::Overlay {
            overlay::create(&from, &machine).await?;
        } else {
            let root = machine.join("root");
            run("btrfs", &["-q", "subvolume", "snapshot", text(&from)?, text(&root)?]).await?;
        }
        self.attach(id).await
    }

    /// A machine's disk, mounted where that needs doing (overlayfs).
    ///
    /// # Errors
    /// When there is none, or it cannot be mounted.
    pub async fn attach(&self, id: &str) -> anyhow::Result<Disk> {
        let machine = self.machine(id);
        let root = machine.join("root");
        if !root.is_dir() {
            bail!("no disk of machine {id} in {}", self.machines().display());
        }
        let binds = if self.kind == Kind::Overlay { overlay::attach(&machine).await? } else { Vec::new() };
        Ok(Disk { root, binds })
    }

    /// Takes back what [`attach`](Self::attach) mounted. The machine must not run.
    pub async fn detach(&self, id: &str) {
        if self.kind == Kind::Overlay {
            overlay::detach(&self.machine(id)).await;
        }
    }

    /// Removes a machine's disk. None there is success.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub async fn delete(&self, id: &str) -> anyhow::Result<()> {
        let machine = self.machine(id);
        if !machine.exists() {
            return Ok(());
        }
        self.detach(id).await;
        self.remove_tree(&machine.join("root")).await?;
        self.remove_tree(&machine).await
    }

    /// Removes a template. None there is success.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub async fn forget(&self, template: &str) -> anyhow::Result<()> {
        self.remove_tree(&self.template(template)).await
    }

    /// Names of all templates.
    pub fn list(&self) -> Vec<String> {
        names(&self.templates())
    }

    /// Ids of all machines with a disk.
    pub fn list_machines(&self) -> Vec<String> {
        names(&self.machines())
    }

    /// Unmounts the loop file if no machine has a disk in it. Templates stay in it.
    ///
    /// # Errors
    /// When it cannot be locked.
    pub async fn close(self) -> anyhow::Result<()> {
        let _lock = self.lock("store").await?;
        if self.kind == Kind::Loop && self.list_machines().is_empty() {
            // Somebody may be making a template in it just now; then the last one to end unmounts it.
            try_run("umount", &[text(&self.dir())?]).await;
        }
        Ok(())
    }

    async fn mount(&self) -> anyhow::Result<()> {
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
        run("mount", &["-o", "loop,noatime,discard=async", text(&file)?, text(&dir)?]).await?;
        Ok(())
    }

    /// Removes a tree: the subvolumes in it (a machine's systemd may have made some), then the rest.
    async fn remove_tree(&self, path: &Path) -> anyhow::Result<()> {
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

/// Waits for a lock file among processes; gone when dropped. The file may be removed by whoever holds it.
pub(crate) async fn lock(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::MetadataExt;
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        loop {
            let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
            file.lock().with_context(|| format!("locking {}", path.display()))?;
            // The one who had it may have removed it: then this is a lock on nothing.
            if std::fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|own| own.ino() == now.ino())) {
                return Ok(file);
            }
        }
    })
    .await?
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.ends_with(".partial"))
        .collect();
    names.sort();
    names
}

fn magic(path: &Path) -> anyhow::Result<u64> {
    let stat = statfs(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok(u64::try_from(stat.f_type)? & 0xffff_ffff)
}

/// As chosen once: disks of one kind are of no use to another, whatever the host can do by now.
fn kind(cache: &Path) -> anyhow::Result<Kind> {
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
pub(super) fn unfit(cache: &Path) -> Option<String> {
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
fn size(cache: &Path) -> anyhow::Result<u64> {
    let stat = statfs(cache).with_context(|| format!("looking at {}", cache.display()))?;
    let free = stat.f_bavail.saturating_mul(u64::try_from(stat.f_bsize)?);
    Ok((free / 4 * 3) >> 20 << 20)
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

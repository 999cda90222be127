//! Disks of machines: templates that never change, and one copy of a template a machine, made in a moment.
//!
//! ```text
//! CACHE/store.btrfs           the loop file, where the cache's own file system is not btrfs
//! CACHE/store/templates/NAME  a tree; a subvolume on btrfs
//! CACHE/store/machines/ID/    root, and on overlayfs upper, work and the directories that must not lie on an overlay
//! ```

mod btrfs;
mod kind;
mod overlay;
mod templates;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub use self::kind::Kind;
use self::kind::kind;
pub(super) use self::kind::unfit;
pub use self::templates::Held;
use super::tool::{run, text, try_run};

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

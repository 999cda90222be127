//! Templates: begun, finished, made of machines; and which stay: each is a gigabyte, and bundles come and go.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use anyhow::Context;

use super::{Kind, Store, lock, overlay};
use crate::local::tool::{run, text};

/// Whoever may be about to copy a template holds this lock, shared; whoever forgets templates has it alone.
const LOCK: &str = "copying.lock";

/// While this is there, no template is forgotten.
#[derive(Debug)]
pub struct Held(File);

impl Store {
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

    /// Removes a template. None there is success.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub async fn forget(&self, template: &str) -> anyhow::Result<()> {
        self.remove_tree(&self.template(template)).await
    }

    /// Keeps others from forgetting templates.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub async fn hold(&self) -> anyhow::Result<Held> {
        let path = self.cache.join(LOCK);
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let file = tokio::task::spawn_blocking(move || file.lock_shared().map(|()| file)).await?;
        Ok(Held(file.with_context(|| format!("locking {}", path.display()))?))
    }

    /// Forgets the templates whose names begin with `prefix`, except `keep`, unless a machine has a disk (its lower
    /// directory may be one of them) or somebody else may be about to copy one. Gives the names of those that are gone.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn forget_others(&self, held: &Held, prefix: &str, keep: &str) -> anyhow::Result<Vec<String>> {
        // Two that would make their lock an exclusive one at once would lose both.
        let _one = lock(&self.cache.join("forgetting.lock")).await?;
        match held.0.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // The try may have cost the shared lock.
                held.0.lock_shared().context("locking the templates again")?;
                return Ok(Vec::new());
            }
            Err(TryLockError::Error(e)) => return Err(e).context("locking the templates"),
        }
        let mut gone = Vec::new();
        let mut result = Ok(());
        if self.list_machines().is_empty() {
            for name in self.list().into_iter().filter(|name| name.starts_with(prefix) && name != keep) {
                result = self.forget(&name).await;
                if result.is_err() {
                    break;
                }
                gone.push(name);
            }
        }
        held.0.lock_shared().context("locking the templates again")?;
        result.map(|()| gone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn store(cache: &std::path::Path) -> Store {
        for name in ["kube-v1.36.3-old", "kube-v1.36.3-new", "bare-1"] {
            std::fs::create_dir_all(cache.join("store/templates").join(name)).unwrap();
        }
        std::fs::create_dir_all(cache.join("store/machines")).unwrap();
        Store { cache: cache.to_owned(), kind: Kind::Overlay }
    }

    #[tokio::test]
    async fn others_go_when_nobody_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let held = store.hold().await.unwrap();
        let machine = dir.path().join("store/machines/m-1");
        std::fs::create_dir(&machine).unwrap();
        assert!(store.forget_others(&held, "kube-", "kube-v1.36.3-new").await.unwrap().is_empty(), "a machine's own");
        std::fs::remove_dir(&machine).unwrap();
        let other = store.hold().await.unwrap();
        assert!(
            store.forget_others(&held, "kube-", "kube-v1.36.3-new").await.unwrap().is_empty(),
            "about to be copied"
        );
        drop(other);
        // A process that another test is just starting has a copy of every open file, and with it of the lock, until it
        // is the program that it is to be.
        let mut gone = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        while gone.is_empty() && Instant::now() < end {
            gone = store.forget_others(&held, "kube-", "kube-v1.36.3-new").await.unwrap();
        }
        assert_eq!(gone, ["kube-v1.36.3-old"]);
        assert_eq!(store.list(), ["bare-1", "kube-v1.36.3-new"]);
    }
}

//! Imports the images of an unpacked bundle into containerd.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use kprov_providers::machine::Exit;
use kprov_providers::steps::Label;
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch};

use super::store::Store;
use super::{content, folder};
use crate::bundle::images;
use crate::bundle::locate::Found;
use crate::bundle::manifest::Image;
use crate::bundle::sets::{Set, short};

/// Label of images that the kubelet's garbage collection must not take: nobody can pull them again.
pub const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// Imports one set of a bundle's images.
pub struct ImportImages {
    label: Label,
    machine: Arc<dyn Machine>,
    store: Arc<Store>,
    archive: String,
    bundle: PathBuf,
    id: String,
    set: Set,
    images: Vec<Image>,
    ours: bool,
}

impl ImportImages {
    /// Imports a set of images of an unpacked bundle. `ours`: all that this containerd has was made by kprov.
    pub fn new(
        label: Label,
        machine: Arc<dyn Machine>,
        store: Arc<Store>,
        found: &Found,
        set: Set,
        ours: bool,
    ) -> Self {
        Self {
            label,
            machine,
            store,
            archive: format!("{}/{}", folder(&found.id), set.archive()),
            bundle: found.path.clone(),
            id: found.id.clone(),
            set,
            images: set.images(&found.manifest).into_iter().cloned().collect(),
            ours,
        }
    }

    /// True when an import that was killed left something undone; containerd would do it when a container starts, and
    /// nothing would sync it.
    async fn half_done(&self) -> anyhow::Result<bool> {
        let whole = self.store.whole().await?;
        Ok(whole.is_some_and(|whole| self.images.iter().any(|image| !whole.contains(&image.name))))
    }

    /// How the images stand in containerd.
    async fn look(&self) -> anyhow::Result<Status> {
        let Some(known) = self.store.known().await? else { return Ok(Status::Missing) };
        let (mut missing, mut differs, mut foreign) = (false, Vec::new(), Vec::new());
        for image in &self.images {
            match known.get(&image.name) {
                None => missing = true,
                Some(there) if there.digest == image.digest => missing |= self.ours && !there.pinned,
                Some(there) if self.ours || there.pinned => {
                    differs.push(format!("-{} {}\n+{} {}", image.name, there.digest, image.name, image.digest));
                }
                Some(_) => foreign.push(format!("ctr -n k8s.io images remove {}", image.name)),
            }
        }
        // In somebody else's containerd, what is there under these names is used. To bring only some would need an
        // archive of only those, for a case that a line of text settles.
        if !foreign.is_empty() && missing {
            return Ok(Status::Foreign(format!(
                "containerd has some of the bundle's images, others under these names, and lacks the rest; remove them \
                 first, or pull the rest:\n{}",
                foreign.join("\n")
            )));
        }
        Ok(match (differs.is_empty(), missing) {
            (false, _) => Status::Differs(differs.join("\n")),
            (true, true) => Status::Missing,
            (true, false) => Status::Ready(Outputs::none()),
        })
    }

    /// Takes the archive from the bundle once more: it was imported and removed, or damaged by a power cut.
    async fn export(&self) -> anyhow::Result<()> {
        let (bundle, id) = (self.bundle.clone(), self.id.clone());
        let (archive, machine) = (self.archive.clone(), self.machine.clone());
        let only = Some(self.set);
        let export = move || -> anyhow::Result<()> {
            if let Some(path) = machine.real_path(&archive) {
                images::export(&bundle, &id, &path, only)?;
                return Ok(());
            }
            let beside = tempfile::tempdir().context("making a directory to unpack in")?;
            let path = beside.path().join("images.tar");
            images::export(&bundle, &id, &path, only)?;
            machine.write(&archive, &std::fs::read(&path)?, 0o644)
        };
        tokio::task::spawn_blocking(export).await.context("taking the images from the bundle")?
    }

    /// containerd syncs what it keeps of images, but the files that it unpacks from them only when told so: after a power
    /// cut they could be empty, and nothing would ever mend that.
    async fn import(&self) -> anyhow::Result<Exit> {
        let import = ["images", "import", "--local", "--sync-fs", "--label", PINNED, &*self.archive];
        self.store.run(&import, Duration::from_secs(900)).await
    }
}

#[async_trait]
impl Step for ImportImages {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        let names = self.images.iter().map(|image| short(&image.name));
        format!("import the images of {}", names.collect::<Vec<_>>().join(", "))
    }

    fn content(&self) -> Option<String> {
        let lines = self.images.iter().map(|image| format!("{} {}", image.name, image.digest));
        Some(lines.collect::<Vec<_>>().join("\n"))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(match self.look().await? {
            // Imported, and killed before the archive was removed; or not needed at all.
            Status::Ready(_) if self.machine.meta(&self.archive)?.is_some() => Status::Missing,
            Status::Ready(_) if self.ours && self.half_done().await? => Status::Missing,
            other => other,
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        // Our own containerd goes with everything in it.
        if self.ours {
            return Ok(vec![Made::Nothing]);
        }
        let known = self.store.known().await?.unwrap_or_default();
        let new = self.images.iter().filter(|image| !known.contains_key(&image.name));
        Ok(new
            .map(|image| Made::Image {
                name: image.name.clone(),
                ctr: self.store.ctr.clone(),
                address: self.store.address.clone(),
            })
            .collect())
    }

    /// Tried again where it fails. The archive may be damaged by a power cut: it is not synced. What containerd holds may
    /// be as well, and of a blob that it was just taking in it does not notice: it goes on with what the disk has of it,
    /// and keeps that under another name. The next import finds nothing half taken in, and brings the blob as it is.
    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        // Our own images are imported again even where they all seem to be there: what was killed may be half done.
        if !self.ours
            && let Status::Ready(outputs) = self.look().await?
        {
            self.machine.remove(&self.archive)?;
            return Ok(outputs);
        }
        let fresh = self.machine.meta(&self.archive)?.is_none();
        if fresh {
            self.export().await?;
        }
        let mut exit = self.import().await?;
        for again in 0..2 {
            if exit.success() || String::from_utf8_lossy(&exit.stderr).contains("no space left") {
                break;
            }
            if !fresh && again == 0 {
                self.export().await?;
            }
            // Somebody else's containerd is not ours to mend.
            if self.ours {
                // A containerd that does not answer is told of by the import itself.
                let Ok(gone) = content::forget_damaged(&self.store).await else { break };
                watch.say(format!("importing the images again, without {gone} damaged parts of them"));
            }
            exit = self.import().await?;
        }
        if !exit.success() {
            let text = String::from_utf8_lossy(&exit.stderr);
            let last: Vec<&str> = text.lines().rev().take(5).collect();
            bail!("ctr images import: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.machine.remove(&self.archive)?;
        self.store.forget().await;
        match self.look().await.context("looking at the imported images")? {
            Status::Ready(outputs) => Ok(outputs),
            other => bail!("the images are imported, but not as they should be: {other:?}"),
        }
    }
}

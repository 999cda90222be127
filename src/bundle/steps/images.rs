//! Imports the images of an unpacked bundle into containerd.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use kprov_providers::machine::{Command, Exit};
use kprov_providers::steps::Label;
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch};

use super::folder;
use crate::bundle::images;
use crate::bundle::locate::Found;
use crate::bundle::manifest::Image;
use crate::bundle::unpack::IMAGES;

/// Label of images that the kubelet's garbage collection must not take: nobody can pull them again.
pub const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// Where containerd keeps its images.
const ROOT: &str = "/var/lib/containerd";

/// Imports the images of a bundle.
pub struct ImportImages {
    label: Label,
    machine: Arc<dyn Machine>,
    ctr: String,
    address: String,
    archive: String,
    bundle: PathBuf,
    id: String,
    images: Vec<Image>,
    ours: bool,
}

/// One image that containerd knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    digest: String,
    pinned: bool,
}

/// What `ctr images ls` prints: REF TYPE DIGEST SIZE PLATFORMS LABELS, the size being two words.
fn known_images(table: &str) -> BTreeMap<String, Known> {
    let rows = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, _type, digest) = (words.next()?, words.next()?, words.next()?);
        let pinned = words.last().is_some_and(|labels| labels.split(',').any(|label| label == PINNED));
        digest.starts_with("sha256:").then(|| (name.to_owned(), Known { digest: digest.to_owned(), pinned }))
    });
    rows.collect()
}

/// Names of images of which all is there, unpacked. `ctr images check` prints REF TYPE DIGEST STATUS SIZE UNPACKED.
fn unpacked_images(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, status, unpacked) = (words.next()?, words.nth(2)?, words.last()?);
        (status == "complete" && unpacked == "true").then(|| name.to_owned())
    });
    rows.collect()
}

impl ImportImages {
    /// Imports the images of an unpacked bundle through the containerd at `address` (a path), with the `ctr` at that
    /// path. `ours`: all that this containerd has was made by kprov.
    pub fn new(
        label: Label,
        machine: Arc<dyn Machine>,
        ctr: impl Into<String>,
        address: impl Into<String>,
        found: &Found,
        ours: bool,
    ) -> Self {
        Self {
            label,
            machine,
            ctr: ctr.into(),
            address: address.into(),
            archive: format!("{}/{IMAGES}", folder(&found.id)),
            bundle: found.path.clone(),
            id: found.id.clone(),
            images: found.manifest.images.clone(),
            ours,
        }
    }

    async fn ctr(&self, args: &[&str], limit: Duration) -> anyhow::Result<Exit> {
        let mut command = Command::new(&*self.ctr, ["--address", &*self.address, "--namespace", "k8s.io"]);
        command.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        command.timeout = Some(limit);
        self.machine.run(command).await
    }

    /// What containerd has; none while it does not answer.
    async fn known(&self) -> anyhow::Result<Option<BTreeMap<String, Known>>> {
        if self.machine.meta(&self.address)?.is_none() || self.machine.meta(&self.ctr)?.is_none() {
            return Ok(None);
        }
        let exit = self.ctr(&["images", "list"], Duration::from_secs(30)).await?;
        Ok(exit.success().then(|| known_images(&exit.text())))
    }

    /// True when an import that was killed left something undone; containerd would do it when a container starts, and
    /// nothing would sync it.
    async fn half_done(&self) -> anyhow::Result<bool> {
        let exit = self.ctr(&["images", "check"], Duration::from_secs(60)).await?;
        let whole = unpacked_images(&exit.text());
        Ok(exit.success() && self.images.iter().any(|image| !whole.contains(&image.name)))
    }

    /// How the images stand in containerd.
    async fn look(&self) -> anyhow::Result<Status> {
        let Some(known) = self.known().await? else { return Ok(Status::Missing) };
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
            (true, false) if self.ours && self.half_done().await? => Status::Missing,
            (true, false) => Status::Ready(Outputs::none()),
        })
    }

    /// Takes the archive from the bundle once more: it was imported and removed, or damaged by a power cut.
    async fn export(&self) -> anyhow::Result<()> {
        let (bundle, id) = (self.bundle.clone(), self.id.clone());
        let (archive, machine) = (self.archive.clone(), self.machine.clone());
        let export = move || -> anyhow::Result<()> {
            if let Some(path) = machine.real_path(&archive) {
                images::export(&bundle, &id, &path)?;
                return Ok(());
            }
            let beside = tempfile::tempdir().context("making a directory to unpack in")?;
            let path = beside.path().join(IMAGES);
            images::export(&bundle, &id, &path)?;
            machine.write(&archive, &std::fs::read(&path)?, 0o644)
        };
        tokio::task::spawn_blocking(export).await.context("taking the images from the bundle")?
    }

    /// containerd syncs what it keeps of images, but not the files that it unpacks from them: after a power cut they
    /// could be empty, and nothing would ever mend that.
    async fn sync(&self) -> anyhow::Result<()> {
        let Some(path) = self.machine.real_path(ROOT) else { return Ok(()) };
        let sync = move || -> std::io::Result<()> {
            match std::fs::File::open(&path) {
                Ok(dir) => Ok(rustix::fs::syncfs(dir)?),
                // Another's containerd may keep its images elsewhere.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    rustix::fs::sync();
                    Ok(())
                }
                Err(e) => Err(e),
            }
        };
        tokio::task::spawn_blocking(sync).await?.with_context(|| format!("syncing {ROOT}"))
    }

    async fn import(&self) -> anyhow::Result<Exit> {
        let import = ["images", "import", "--local", "--label", PINNED, &*self.archive];
        self.ctr(&import, Duration::from_secs(900)).await
    }
}

#[async_trait]
impl Step for ImportImages {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("import {} images", self.images.len())
    }

    fn content(&self) -> Option<String> {
        let lines = self.images.iter().map(|image| format!("{} {}", image.name, image.digest));
        Some(lines.collect::<Vec<_>>().join("\n"))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(match self.look().await? {
            // Imported, and killed before the archive was removed; or not needed at all.
            Status::Ready(_) if self.machine.meta(&self.archive)?.is_some() => Status::Missing,
            other => other,
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        // Our own containerd goes with everything in it.
        if self.ours {
            return Ok(vec![Made::Nothing]);
        }
        let known = self.known().await?.unwrap_or_default();
        let new = self.images.iter().filter(|image| !known.contains_key(&image.name));
        Ok(new
            .map(|image| Made::Image { name: image.name.clone(), ctr: self.ctr.clone(), address: self.address.clone() })
            .collect())
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        if let Status::Ready(outputs) = self.look().await? {
            self.machine.remove(&self.archive)?;
            return Ok(outputs);
        }
        let fresh = self.machine.meta(&self.archive)?.is_none();
        if fresh {
            self.export().await?;
        }
        let mut exit = self.import().await?;
        if !exit.success() && !fresh {
            self.export().await?;
            exit = self.import().await?;
        }
        if !exit.success() {
            let text = String::from_utf8_lossy(&exit.stderr);
            let last: Vec<&str> = text.lines().rev().take(5).collect();
            bail!("ctr images import: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.machine.remove(&self.archive)?;
        self.sync().await?;
        match self.look().await.context("looking at the imported images")? {
            Status::Ready(outputs) => Ok(outputs),
            other => bail!("the images are imported, but not as they should be: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ctr_prints() {
        let table = "\
REF                                     TYPE                                       DIGEST                                                                  SIZE      PLATFORMS   LABELS
registry.k8s.io/kube-proxy:v1.36.3      application/vnd.oci.image.manifest.v1+json sha256:8a967c9a9413beb343cf11d13b9813f2eacf165afbf43cabf7132d01f90f9b2c 132.0 MiB linux/amd64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned
registry.k8s.io/pause:3.10.1            application/vnd.oci.image.manifest.v1+json sha256:71aba80686994046aa74e1132c580c5fdf2097d1d8d4d9ca0f460475736b9075 668.0 KiB linux/amd64 io.cri-containerd.image=managed
";
        let known = known_images(table);
        assert_eq!(known.len(), 2);
        assert!(known["registry.k8s.io/kube-proxy:v1.36.3"].pinned);
        assert!(!known["registry.k8s.io/pause:3.10.1"].pinned);
        assert!(known["registry.k8s.io/pause:3.10.1"].digest.starts_with("sha256:71aba"));
        let table = "\
REF            TYPE     DIGEST     STATUS           SIZE                UNPACKED
a:1            type     sha256:d   complete (5/5)   64.8 MiB/64.8 MiB   true
b:1            type     sha256:d   complete (5/5)   64.8 MiB/64.8 MiB   false
c:1            type     sha256:d   incomplete (4/5) 64.8 MiB/64.8 MiB   true
";
        assert_eq!(unpacked_images(table), BTreeSet::from(["a:1".to_owned()]));
    }
}

//! Verifies a bundle file and unpacks it.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use kprov_providers::machine::Kind;
use kprov_providers::steps::{Label, made_parents, make_parents};
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch};

use super::folder;
use crate::bundle::pack::MANIFEST_NAME;
use crate::bundle::sets::Set;
use crate::bundle::sign::open_again;
use crate::bundle::unpack::{FILES, is_whole, unpack};

/// Verifies a bundle file and unpacks it into its folder.
pub struct Unpack {
    label: Label,
    machine: Arc<dyn Machine>,
    bundle: PathBuf,
    id: String,
}

impl Unpack {
    /// Unpacks the file `bundle` whose manifest has the hash `id`.
    pub fn new(label: Label, machine: Arc<dyn Machine>, bundle: impl Into<PathBuf>, id: impl Into<String>) -> Self {
        Self { label, machine, bundle: bundle.into(), id: id.into() }
    }

    fn whole(&self) -> bool {
        let at = |name: &str| format!("{}/{name}", folder(&self.id));
        let size = |name: &str| match self.machine.meta(&at(name)) {
            Ok(Some(meta)) if meta.kind == Kind::File => Some(meta.size),
            _ => None,
        };
        is_whole(&self.id, |name| self.machine.read(&at(name)).ok().flatten(), size).is_some()
    }
}

#[async_trait]
impl Step for Unpack {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("verify and unpack {}", self.bundle.display())
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        Ok(if self.whole() { Status::Ready(Outputs::none()) } else { Status::Missing })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        let folder = folder(&self.id);
        let mut made = made_parents(self.machine.as_ref(), &folder)?;
        made.push(Made::Tree { path: format!("{folder}.staging") });
        made.push(Made::Tree { path: folder });
        Ok(made)
    }

    async fn apply(&self, _known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        let (bundle, id, machine, watch) = (self.bundle.clone(), self.id.clone(), self.machine.clone(), watch.clone());
        tokio::task::spawn_blocking(move || bring(&bundle, &id, machine.as_ref(), &watch))
            .await
            .context("unpacking the bundle")??;
        Ok(Outputs::none())
    }
}

/// Unpacks where the machine's files are; for a machine in memory, beside and then into it.
fn bring(bundle: &Path, id: &str, machine: &dyn Machine, watch: &Watch) -> anyhow::Result<()> {
    let folder = folder(id);
    make_parents(machine, &folder)?;
    let opened = open_again(bundle, id)?;
    let mut told = 0;
    let mut progress = |done: u64, total: u64| {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        if percent >= told + 25 {
            told = percent;
            watch.say(format!("{percent} % of {} MB unpacked", total / 1_000_000));
        }
        !watch.cancelled()
    };
    if let Some(dest) = machine.real_path(&folder) {
        unpack(opened, &dest, &mut progress)?;
        return Ok(());
    }
    let beside = tempfile::tempdir().context("making a directory to unpack in")?;
    let dest = beside.path().join("bundle");
    let manifest = unpack(opened, &dest, &mut progress)?;
    for dir in [folder.clone(), format!("{folder}/{FILES}")] {
        machine.make_dir(&dir, 0o755)?;
    }
    let names =
        crate::bundle::unpack::contents(&manifest).into_iter().map(|(hex, (_, mode))| (format!("{FILES}/{hex}"), mode));
    // The manifest comes last: a folder with one is whole.
    let archives = Set::there(&manifest).map(|set| (set.archive(), 0o644));
    for (name, mode) in names.chain(archives).chain([(MANIFEST_NAME.to_owned(), 0o644)]) {
        let mut content = Cursor::new(Vec::new());
        std::io::copy(&mut std::fs::File::open(dest.join(&name))?, &mut content)?;
        machine.write(&format!("{folder}/{name}"), content.get_ref(), mode)?;
    }
    Ok(())
}

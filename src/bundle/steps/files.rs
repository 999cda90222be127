//! Puts files of an unpacked bundle in their places on the machine.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use async_trait::async_trait;
use kprov_providers::machine::Kind;
use kprov_providers::steps::{Label, made_file, make_parents};
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch};

use super::{DIR, folder};
use crate::bundle::Manifest;
use crate::bundle::manifest::{Content, HostFile};
use crate::bundle::pack::MANIFEST_NAME;
use crate::bundle::unpack::FILES;

/// Puts some files of a bundle in their places.
pub struct InstallFiles {
    label: Label,
    machine: Arc<dyn Machine>,
    what: String,
    folder: String,
    files: Vec<HostFile>,
}

/// How one file stands.
#[derive(Debug, PartialEq, Eq)]
enum At {
    /// As wanted, or not wanted because what it is for is there.
    Right,
    Missing,
    /// Of another bundle of ours, or with another mode.
    Other(String),
    /// Somebody else's.
    Foreign(String),
}

impl InstallFiles {
    /// The files of the bundle `id` that are to be put in place; `what` names them for people.
    pub fn new(
        label: Label,
        machine: Arc<dyn Machine>,
        what: impl Into<String>,
        id: &str,
        files: impl IntoIterator<Item = HostFile>,
    ) -> Self {
        Self { label, machine, what: what.into(), folder: folder(id), files: files.into_iter().collect() }
    }

    fn stored(&self, hex: &str) -> String {
        format!("{}/{FILES}/{hex}", self.folder)
    }

    fn at(&self, file: &HostFile) -> anyhow::Result<At> {
        let path = file.path.as_str();
        let machine = self.machine.as_ref();
        let Some(meta) = machine.meta(path)? else {
            for other in &file.unless {
                if machine.meta(other)?.is_some() {
                    return Ok(At::Right);
                }
            }
            return Ok(At::Missing);
        };
        let Some(hex) = file.sha256() else {
            let Content::Link(target) = &file.content else { return Ok(At::Right) };
            return Ok(match meta.kind {
                Kind::Link(found) if found == *target => At::Right,
                _ => At::Foreign(path.to_owned()),
            });
        };
        if meta.kind != Kind::File {
            return Ok(At::Foreign(path.to_owned()));
        }
        let stored = self.stored(hex);
        if !self.is_untouched(&stored, path) {
            let found = machine.sha256(path)?.unwrap_or_default();
            if found != hex {
                let ours = self.is_of_another_bundle(path, &found)?;
                return Ok(if ours {
                    At::Other(format!("{path} is of another bundle"))
                } else {
                    At::Foreign(path.to_owned())
                });
            }
        }
        if meta.mode != file.mode {
            return Ok(At::Other(format!("{path}: mode {:04o} becomes {:04o}", meta.mode, file.mode)));
        }
        Ok(At::Right)
    }

    /// True when the file is the very one that was unpacked, and nobody wrote into it since: the manifest beside it was
    /// written after it. Spares hashing hundreds of megabytes on every run.
    fn is_untouched(&self, stored: &str, path: &str) -> bool {
        let real = |path: &str| self.machine.real_path(path).and_then(|p| std::fs::symlink_metadata(p).ok());
        let manifest = format!("{}/{MANIFEST_NAME}", self.folder);
        match (real(stored), real(path), real(&manifest)) {
            (Some(a), Some(b), Some(manifest)) => {
                a.dev() == b.dev()
                    && a.ino() == b.ino()
                    && (b.mtime(), b.mtime_nsec()) <= (manifest.mtime(), manifest.mtime_nsec())
            }
            _ => false,
        }
    }

    /// True when another bundle that is unpacked here has this content at this place.
    fn is_of_another_bundle(&self, path: &str, sha256: &str) -> anyhow::Result<bool> {
        for id in self.machine.list(DIR)?.unwrap_or_default() {
            let Some(bytes) = self.machine.read(&format!("{DIR}/{id}/{MANIFEST_NAME}"))? else { continue };
            let Ok(manifest) = Manifest::from_bytes(&bytes) else { continue };
            if manifest.files.iter().any(|f| f.path == path && f.sha256() == Some(sha256)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[async_trait]
impl Step for InstallFiles {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("install {}", self.what)
    }

    fn content(&self) -> Option<String> {
        let lines = self.files.iter().map(|f| match &f.content {
            Content::Link(target) => format!("{} -> {target}", f.path),
            _ => format!("{} {:04o}", f.path, f.mode),
        });
        Some(lines.collect::<Vec<_>>().join("\n"))
    }

    async fn check(&self, _known: &Outputs) -> anyhow::Result<Status> {
        let (mut missing, mut differs, mut foreign) = (false, Vec::new(), Vec::new());
        for file in &self.files {
            match self.at(file)? {
                At::Right => {}
                At::Missing => missing = true,
                At::Other(text) => differs.push(text),
                At::Foreign(path) => foreign.push(path),
            }
        }
        if !foreign.is_empty() {
            return Ok(Status::Foreign(format!(
                "there is another one than the bundle's, which kprov does not replace: {}",
                foreign.join(", ")
            )));
        }
        Ok(match (missing, differs.is_empty()) {
            (_, false) => Status::Differs(differs.join("\n")),
            (true, true) => Status::Missing,
            (false, true) => Status::Ready(Outputs::none()),
        })
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        let mut made: Vec<Made> = Vec::new();
        for file in &self.files {
            if self.at(file)? != At::Missing {
                continue;
            }
            for new in made_file(self.machine.as_ref(), &file.path)? {
                if !made.contains(&new) {
                    made.push(new);
                }
            }
        }
        Ok(made)
    }

    async fn apply(&self, _known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        for file in &self.files {
            match self.at(file)? {
                At::Right => continue,
                At::Missing | At::Other(_) => {}
                At::Foreign(path) => {
                    anyhow::bail!("there is another one than the bundle's, which kprov does not replace: {path}")
                }
            }
            make_parents(self.machine.as_ref(), &file.path)?;
            match (&file.content, file.sha256()) {
                (Content::Link(target), _) => self.machine.link(&file.path, target)?,
                (_, Some(hex)) => self.machine.share(&self.stored(hex), &file.path, file.mode)?,
                (_, None) => {}
            }
        }
        Ok(Outputs::none())
    }
}

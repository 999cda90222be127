//! A file with a content.

use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;

use super::{Label, diff, made_file, make_parents};
use crate::machine::Kind;
use crate::{Machine, Made, Outputs, Status, Step, Watch};

/// Works a content out at apply, from what is on the machine and what earlier steps handed on. `None`: what it needs is
/// not there yet.
type Work = Box<dyn Fn(&dyn Machine, &Outputs) -> anyhow::Result<Option<Vec<u8>>> + Send + Sync>;

/// Recognises a content that may be replaced.
type Ours = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

enum Content {
    Known(Vec<u8>),
    Worked(Work),
}

/// Writes a file whole; makes missing directories above it.
pub struct WriteFile {
    label: Label,
    machine: Arc<dyn Machine>,
    path: String,
    mode: u32,
    content: Content,
    shown: Option<String>,
    secret: bool,
    keep: bool,
    ours: Option<Ours>,
}

impl WriteFile {
    /// A file with a content that is known now, mode 0644.
    pub fn new(label: Label, machine: Arc<dyn Machine>, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        let content = Content::Known(content.into());
        Self {
            label,
            machine,
            path: path.into(),
            mode: 0o644,
            content,
            shown: None,
            secret: false,
            keep: false,
            ours: None,
        }
    }

    /// A file whose content is worked out at apply. Looking works it out too, so it must always come to the same bytes
    /// and not touch anything; while what it needs is not there yet it gives `None`.
    pub fn worked(
        label: Label,
        machine: Arc<dyn Machine>,
        path: impl Into<String>,
        work: impl Fn(&dyn Machine, &Outputs) -> anyhow::Result<Option<Vec<u8>>> + Send + Sync + 'static,
    ) -> Self {
        Self { content: Content::Worked(Box::new(work)), ..Self::new(label, machine, path, Vec::new()) }
    }

    /// With these permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Shows this as the content as long as the real one is not worked out.
    #[must_use]
    pub fn shown(mut self, text: impl Into<String>) -> Self {
        self.shown = Some(text.into());
        self
    }

    /// Never shows the content.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// A file that is there already is right whatever it holds (random contents).
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// Another content than the wanted one is replaced only when this recognises it as ours; else it is foreign.
    #[must_use]
    pub fn foreign_unless(mut self, ours: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.ours = Some(Box::new(ours));
        self
    }

    fn wanted(&self, known: &Outputs) -> anyhow::Result<Option<Vec<u8>>> {
        match &self.content {
            Content::Known(content) => Ok(Some(content.clone())),
            Content::Worked(work) => work(self.machine.as_ref(), known),
        }
    }

    fn difference(&self, there: &[u8], wanted: &[u8]) -> String {
        if self.secret {
            return "<secret>".to_owned();
        }
        match (std::str::from_utf8(there), std::str::from_utf8(wanted)) {
            (Ok(there), Ok(wanted)) => diff(there, wanted),
            _ => format!("{} bytes become {}", there.len(), wanted.len()),
        }
    }
}

#[async_trait]
impl Step for WriteFile {
    crate::labelled!();

    fn describe(&self) -> String {
        format!("write {}", self.path)
    }

    fn content(&self) -> Option<String> {
        Some(match (&self.content, self.secret) {
            (_, true) => "<secret>".to_owned(),
            (Content::Known(content), false) => String::from_utf8_lossy(content).into_owned(),
            (Content::Worked(_), false) => match (&self.shown, self.label.needs.last()) {
                (Some(shown), _) => shown.clone(),
                (None, Some(need)) => format!("known after {need}"),
                (None, None) => "known later".to_owned(),
            },
        })
    }

    async fn check(&self, known: &Outputs) -> anyhow::Result<Status> {
        let Some(meta) = self.machine.meta(&self.path)? else { return Ok(Status::Missing) };
        if matches!(meta.kind, Kind::Dir | Kind::Other) {
            return Ok(Status::Foreign(format!("something that is no file is in its place, {}", self.path)));
        }
        // A link that leads nowhere is replaced.
        let Some(there) = self.machine.read(&self.path)? else { return Ok(Status::Missing) };
        if self.keep {
            return Ok(Status::Ready(Outputs::none()));
        }
        let Some(wanted) = self.wanted(known)? else { return Ok(Status::Missing) };
        if there != wanted {
            if self.ours.as_ref().is_some_and(|ours| !ours(&there)) {
                return Ok(Status::Foreign(format!("another file that is not ours is there, {}", self.path)));
            }
            return Ok(Status::Differs(self.difference(&there, &wanted)));
        }
        if meta.kind == Kind::File && meta.mode != self.mode {
            return Ok(Status::Differs(format!("mode {:04o} becomes {:04o}", meta.mode, self.mode)));
        }
        Ok(Status::Ready(Outputs::none()))
    }

    async fn made(&self, _known: &Outputs) -> anyhow::Result<Vec<Made>> {
        made_file(self.machine.as_ref(), &self.path)
    }

    async fn apply(&self, known: &Outputs, _watch: &Watch) -> anyhow::Result<Outputs> {
        let wanted = self.wanted(known).with_context(|| format!("working out {}", self.path))?;
        let Some(wanted) = wanted else { bail!("what it is made of is not there, {}", self.path) };
        make_parents(self.machine.as_ref(), &self.path)?;
        self.machine.write(&self.path, &wanted, self.mode)?;
        if crate::made::is_unit_file(&self.path) {
            self.machine.units_reload().await?;
        }
        Ok(Outputs::none())
    }
}

//! The journal: what did happen, line by line.
//!
//! A line that announces something is on the disk before that is done. One that tells that something is over is written at
//! once and reaches the disk with the next of the others, as lines do in their order: where a power cut takes it, its step
//! is looked at again, as after a kill. Lines written side by side are synced together.
//!
//! Each line is one JSON object. A line counts only when its newline is on the disk; a last line cut by a power loss is
//! left out and cut off when the journal is opened for writing. Lines say which format they have (`v`): a line of a newer
//! format is refused, because not understanding it could leave things behind. Within a format, unknown fields and
//! unknown kinds of line may be passed over; whatever must not be passed over gets a new format number.

mod line;
mod place;
mod record;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kprov_providers::Made;

pub use line::{FORMAT, Line, What};
use place::{lock, make_parents, remove};
pub use record::{Entry, Record};

/// Where the journal of a machine is.
pub const DEFAULT: &str = "/var/lib/kprov/journal.jsonl";

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process writes it.
    #[error("another kprov is at work on this machine: {who}")]
    Busy {
        /// Command, process and since when, as far as the journal tells.
        who: String,
    },
    /// A later release wrote it.
    #[error(
        "line {line} of the journal has format {found}, and this kprov {here} knows up to {FORMAT}: use the release that wrote it, {path}"
    )]
    Newer {
        /// Number of the line, from 1.
        line: usize,
        /// The line's format.
        found: u32,
        /// This release.
        here: &'static str,
        /// The journal.
        path: PathBuf,
    },
    /// A line that is not the last one cannot be read.
    #[error("line {line} of the journal cannot be read ({why}), {path}")]
    Broken {
        /// Number of the line, from 1.
        line: usize,
        /// What the parser said.
        why: String,
        /// The journal.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("{doing} the journal {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The journal.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// When a [`Tap`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the line is written.
    Before,
    /// After the line is written and, where it announces something, on the disk.
    After,
}

/// Called around each line. An error of it is an error of the write: this is how a test kills a run at a line.
pub type Tap = Box<dyn Fn(Moment, &Line) -> io::Result<()> + Send + Sync>;

/// The journal opened for writing, by one process at a time. Removed again when nothing was ever written.
pub struct Journal {
    path: PathBuf,
    tap: Option<Tap>,
    file: File,
    /// How much of the file is on the disk. Taken before `inner` where both are.
    synced: Mutex<u64>,
    inner: Mutex<Inner>,
}

struct Inner {
    record: Record,
    /// Length of the file.
    len: u64,
    /// How often lines that could not be synced were cut off.
    cuts: u32,
    /// Directories that were made for the file, outermost first.
    dirs: Vec<PathBuf>,
    /// The begin line that is written before the first other line: a command that finds nothing to do writes nothing.
    pending: Option<What>,
    /// Where it was written to, until it is on the disk: cut off with what follows, it is pending again.
    begun: Option<(u64, What)>,
    command: String,
    gone: bool,
    /// Half a line is at the end.
    half: bool,
}

impl Journal {
    /// Opens the journal for writing, making it and its directories when they are not there.
    ///
    /// # Errors
    /// [`JournalError`]; [`JournalError::Busy`] after a second when another process has it open.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        Self::tapped(path, None)
    }

    /// As [`Journal::open`], with something that is called around each line.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn tapped(path: impl Into<PathBuf>, tap: Option<Tap>) -> Result<Self, JournalError> {
        let path = path.into();
        let fail = |doing| {
            let path = path.clone();
            move |source| JournalError::Io { doing, path, source }
        };
        let dirs = make_parents(&path).map_err(fail("making the directory of"))?;
        let file = lock(&path)?;
        let record = Record::parse(&std::fs::read(&path).map_err(fail("reading"))?, &path)?;
        if record.torn() {
            file.set_len(record.good_len()).map_err(fail("cutting the torn last line of"))?;
            file.sync_all().map_err(fail("syncing"))?;
        }
        let len = record.good_len();
        let inner = Inner {
            record,
            len,
            cuts: 0,
            dirs,
            pending: None,
            begun: None,
            command: String::new(),
            gone: false,
            half: false,
        };
        Ok(Self { path, tap, file, synced: Mutex::new(len), inner: Mutex::new(inner) })
    }

    /// Reads a journal without opening it for writing: nothing is made, nothing locked. No file is an empty record.
    ///
    /// # Errors
    /// [`JournalError`], never [`JournalError::Busy`].
    pub fn read(path: impl AsRef<Path>) -> Result<Record, JournalError> {
        let path = path.as_ref();
        match std::fs::read(path) {
            Ok(bytes) => Record::parse(&bytes, path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(JournalError::Io { doing: "reading", path: path.to_owned(), source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy of what it says up to now.
    pub fn record(&self) -> Record {
        self.lock().record.clone()
    }

    /// A command sets out. Its line is written together with the first other line.
    pub fn begin(&self, command: &str, plan_hash: &str) {
        let mut inner = self.lock();
        let made = inner.dirs.iter().map(|dir| Made::Dir { path: dir.to_string_lossy().into_owned() }).collect();
        command.clone_into(&mut inner.command);
        inner.pending = Some(What::Begin {
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            plan: plan_hash.to_owned(),
            pid: std::process::id(),
            made,
        });
    }

    /// Writes a line; where it announces something, it is on the disk when the call returns.
    ///
    /// # Errors
    /// [`JournalError::Io`]; then the line does not count and what it announces must not be done.
    pub fn write(&self, what: What) -> Result<(), JournalError> {
        let fail = |source| JournalError::Io { doing: "writing", path: self.path.clone(), source };
        let announces = what.announces();
        let line = |what| Line { v: FORMAT, time: kprov_providers::event::now(), what };
        let mut inner = self.lock();
        let mut lines: Vec<Line> = inner.pending.clone().into_iter().map(line).collect();
        lines.push(line(what));
        let cuts = inner.cuts;
        for line in &lines {
            self.tap(Moment::Before, line).map_err(fail)?;
            let at = inner.len;
            inner.append(&self.file, line).map_err(fail)?;
            if let Some(begin) = inner.pending.take() {
                inner.begun = Some((at, begin));
            }
        }
        let end = inner.len;
        drop(inner);
        if announces {
            self.sync(end, cuts).map_err(fail)?;
        }
        lines.iter().try_for_each(|line| self.tap(Moment::After, line)).map_err(fail)
    }

    /// The command came to its end. Writes nothing where it wrote nothing before and had come to a good end earlier.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn end(&self, ok: bool) -> Result<(), JournalError> {
        let inner = self.lock();
        let command = inner.command.clone();
        let nothing_new = inner.pending.is_some() && (!ok || inner.record.finished(&command));
        drop(inner);
        if nothing_new { Ok(()) } else { self.write(What::End { command, ok }) }
    }

    /// Removes the journal and the directories that were made for it: the last act of a reset.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn remove(&self) -> Result<(), JournalError> {
        let mut inner = self.lock();
        let mut dirs: Vec<PathBuf> = inner.record.journal_dirs().map(PathBuf::from).collect();
        dirs.extend(self.path.parent().map(Path::to_owned));
        dirs.append(&mut inner.dirs.clone());
        remove(&self.path, dirs)?;
        inner.gone = true;
        inner.record = Record::default();
        Ok(())
    }

    /// Waits until the file is on the disk up to there, syncing it where nobody else did meanwhile. `cuts` is how often
    /// lines had been cut off when the line was written.
    fn sync(&self, end: u64, cuts: u32) -> io::Result<()> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = self.lock();
        if inner.cuts != cuts {
            return Err(io::Error::other("it could not be synced"));
        }
        if *synced >= end {
            return Ok(());
        }
        let len = inner.len;
        // Others write on meanwhile; they wait for the next sync.
        drop(inner);
        match self.file.sync_data() {
            Ok(()) => {
                *synced = len;
                Ok(())
            }
            Err(error) => {
                self.lock().cut(&self.file, &self.path, *synced);
                Err(error)
            }
        }
    }

    fn tap(&self, moment: Moment, line: &Line) -> io::Result<()> {
        self.tap.as_ref().map_or(Ok(()), |tap| tap(moment, line))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Appends a line. What a full disk took of it is cut off again: the next line must not follow half a line.
    fn append(&mut self, mut file: &File, line: &Line) -> io::Result<()> {
        if self.half {
            return Err(io::Error::other("half a line is at its end and could not be cut off"));
        }
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written = file.write_all(&text);
        match written {
            Ok(()) => {
                self.len += text.len() as u64;
                self.record.take(line.clone());
            }
            Err(_) => self.half = file.set_len(self.len).is_err(),
        }
        written
    }

    /// Cuts off what could not be synced: its writers are told that it does not count.
    fn cut(&mut self, file: &File, path: &Path, len: u64) {
        self.cuts += 1;
        let left = file.set_len(len).and_then(|()| std::fs::read(path));
        match left.ok().and_then(|bytes| Record::parse(&bytes, path).ok()) {
            Some(record) => {
                (self.record, self.len) = (record, len);
                if let Some((_, begin)) = self.begun.take_if(|(at, _)| *at >= len) {
                    self.pending = Some(begin);
                }
            }
            // Nothing more may be written behind what may be half a line.
            None => self.half = true,
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let empty = self.file.metadata().is_ok_and(|meta| meta.len() == 0);
        if !inner.gone && empty {
            // Best effort: an empty journal that stays does no harm.
            let _ = remove(&self.path, std::mem::take(&mut inner.dirs));
        }
    }
}

#[cfg(test)]
mod tests;

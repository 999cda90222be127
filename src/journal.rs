//! The journal: what did happen, one synced line at a time.
//!
//! Each line is one JSON object. A line counts only when its newline is on the disk; a last line cut by a power loss is
//! left out and cut off when the journal is opened for writing. Lines say which format they have (`v`): a line of a newer
//! format is refused, because not understanding it could leave things behind. Within a format, unknown fields and
//! unknown kinds of line may be passed over; whatever must not be passed over gets a new format number.

mod record;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kprov_providers::{Key, Made, Outputs};
use serde::{Deserialize, Serialize};

pub use record::{Entry, Record};

/// Where the journal of a machine is.
pub const DEFAULT: &str = "/var/lib/kprov/journal.jsonl";

/// How long another process may hold the lock before that is an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Format of the lines that this release writes, and the newest that it understands.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// [`FORMAT`] of its writer.
    pub v: u32,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What a line tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum What {
    /// A command sets out to change something.
    Begin {
        /// `init`, `join`, `reset`, `bundle-install`, …
        command: String,
        /// Release of kprov.
        version: String,
        /// Hash of the plan ([`crate::engine::plan_hash`]); empty where there is none.
        #[serde(default)]
        plan: String,
        /// Process that writes.
        #[serde(default)]
        pid: u32,
        /// Directories made for the journal itself.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        made: Vec<Made>,
    },
    /// A step is about to be made; what it will newly leave.
    Start {
        /// The step.
        key: Key,
        /// Undone backwards by reset.
        made: Vec<Made>,
    },
    /// A step is made.
    Done {
        /// The step.
        key: Key,
        /// Values for later steps.
        #[serde(default, skip_serializing_if = "Outputs::is_empty")]
        outputs: Outputs,
        /// Hash of the step as planned ([`crate::engine::step_hash`]).
        #[serde(default)]
        hash: String,
    },
    /// All that a step made is taken back.
    Undone {
        /// The step.
        key: Key,
    },
    /// A command came to its end.
    End {
        /// The command of the last begin.
        command: String,
        /// True when nothing failed.
        ok: bool,
    },
    /// A kind of line that a later release added and that may be passed over.
    #[serde(other, skip_serializing)]
    Other,
}

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
    /// After the line is on the disk.
    After,
}

/// Called around each line. An error of it is an error of the write: this is how a test kills a run at a line.
pub type Tap = Box<dyn Fn(Moment, &Line) -> io::Result<()> + Send + Sync>;

/// The journal opened for writing, by one process at a time. Removed again when nothing was ever written.
pub struct Journal {
    path: PathBuf,
    tap: Option<Tap>,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    record: Record,
    /// Directories that were made for the file, outermost first.
    dirs: Vec<PathBuf>,
    /// The begin line that is written before the first other line: a command that finds nothing to do writes nothing.
    pending: Option<What>,
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
        let inner = Inner { file, record, dirs, pending: None, command: String::new(), gone: false, half: false };
        Ok(Self { path, tap, inner: Mutex::new(inner) })
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

    /// Writes a line and syncs it.
    ///
    /// # Errors
    /// [`JournalError::Io`]; then the line does not count and what it announces must not be done.
    pub fn write(&self, what: What) -> Result<(), JournalError> {
        let mut inner = self.lock();
        if let Some(begin) = inner.pending.take() {
            self.put(&mut inner, begin)?;
        }
        self.put(&mut inner, what)
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

    fn put(&self, inner: &mut Inner, what: What) -> Result<(), JournalError> {
        let fail = |source| JournalError::Io { doing: "writing", path: self.path.clone(), source };
        let line = Line { v: FORMAT, time: kprov_providers::event::now(), what };
        self.tap(Moment::Before, &line).map_err(fail)?;
        let mut text = serde_json::to_vec(&line).map_err(|e| fail(e.into()))?;
        text.push(b'\n');
        inner.append(&text).map_err(fail)?;
        inner.record.take(line.clone());
        self.tap(Moment::After, &line).map_err(fail)
    }

    fn tap(&self, moment: Moment, line: &Line) -> io::Result<()> {
        self.tap.as_ref().map_or(Ok(()), |tap| tap(moment, line))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Appends a line, synced. What a full disk took of it is cut off again: the next line must not follow half a line.
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if self.half {
            return Err(io::Error::other("half a line is at its end and could not be cut off"));
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(text).and_then(|()| self.file.sync_data());
        if written.is_err() {
            self.half = self.file.set_len(before).is_err();
        }
        written
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let empty = inner.file.metadata().is_ok_and(|meta| meta.len() == 0);
        if !inner.gone && empty {
            // Best effort: an empty journal that stays does no harm.
            let _ = remove(&self.path, std::mem::take(&mut inner.dirs));
        }
    }
}

/// Makes the directories above a path; returns those that were not there, outermost first.
fn make_parents(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut missing: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .map(Path::to_owned)
        .collect();
    missing.reverse();
    for dir in &missing {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => sync_parent(dir)?,
        }
    }
    Ok(missing)
}

/// Opens and locks the file that is at this path when the lock is held, not one that a reset has just removed.
fn lock(path: &Path) -> Result<File, JournalError> {
    let fail = |doing| move |source| JournalError::Io { doing, path: path.to_owned(), source };
    // A process that was killed holds its lock until its last write to a slow disk is over.
    let patience = Instant::now() + PATIENCE;
    loop {
        let new = !path.exists();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(fail("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            Err(TryLockError::WouldBlock) => return Err(JournalError::Busy { who: holder(path) }),
            Err(TryLockError::Error(source)) => return Err(fail("locking")(source)),
        }
        if new {
            sync_parent(path).map_err(fail("syncing the directory of"))?;
        }
        let ours = file.metadata().map_err(fail("looking at"))?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(fail("looking at")(source)),
        }
    }
}

/// Who holds the lock, as far as the journal tells.
fn holder(path: &Path) -> String {
    let last = Journal::read(path).ok().and_then(|record| record.last_begin().cloned());
    match last {
        Some(Line { time, what: What::Begin { command, pid, .. }, .. }) => {
            format!("kprov {command} since {time} (process {pid}, journal {})", path.display())
        }
        _ => format!("it has just begun (journal {})", path.display()),
    }
}

fn remove(path: &Path, mut dirs: Vec<PathBuf>) -> Result<(), JournalError> {
    let fail = |source| JournalError::Io { doing: "removing", path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    if path.parent().is_some_and(Path::exists) {
        sync_parent(path).map_err(fail)?;
    }
    dirs.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
    for dir in dirs {
        match std::fs::remove_dir(&dir) {
            Ok(()) => sync_parent(&dir).map_err(fail)?,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

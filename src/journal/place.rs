//! The journal's file: its directories, its lock, its end.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Journal, JournalError, Line, What};

/// How long another process may hold the lock before that is an error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes the directories above a path; returns those that were not there, outermost first.
pub(super) fn make_parents(path: &Path) -> io::Result<Vec<PathBuf>> {
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
pub(super) fn lock(path: &Path) -> Result<File, JournalError> {
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

pub(super) fn remove(path: &Path, mut dirs: Vec<PathBuf>) -> Result<(), JournalError> {
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

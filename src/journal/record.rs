//! What a journal says, read line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kprov_providers::{Key, Made, Outputs};
use serde::Deserialize;

use super::{FORMAT, JournalError, Line, What};

/// Things that one start line announced and that are not taken back yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The step.
    pub key: Key,
    /// What it makes, parents first.
    pub made: Vec<Made>,
}

/// All that a journal says, taken together.
#[derive(Debug, Clone, Default)]
pub struct Record {
    entries: Vec<Entry>,
    done: BTreeMap<Key, Outputs>,
    /// In the order of their done lines: later values win.
    order: Vec<Key>,
    finished: BTreeSet<String>,
    journal_dirs: Vec<String>,
    begin: Option<Line>,
    lines: usize,
    passed_over: usize,
    torn: bool,
    good_len: u64,
}

/// Only what is needed to tell whether a line can be understood at all.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Record {
    /// Reads all lines.
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, JournalError> {
        let mut record = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let number = record.lines + 1;
            let Some(end) = rest.iter().position(|b| *b == b'\n') else {
                record.torn = true;
                break;
            };
            let (line, after) = rest.split_at(end + 1);
            let last = after.iter().all(|b| matches!(b, 0 | b'\n'));
            match parse_line(line, number, path) {
                Ok(line) => record.take(line),
                // Blocks of a lost write may come back as zeros or rubbish, but only at the end.
                Err(JournalError::Broken { .. }) if last && serde_json::from_slice::<Version>(line).is_err() => {
                    record.torn = true;
                    break;
                }
                Err(e) => return Err(e),
            }
            record.good_len += line.len() as u64;
            rest = after;
        }
        Ok(record)
    }

    /// Takes one line in.
    pub(super) fn take(&mut self, line: Line) {
        self.lines += 1;
        match &line.what {
            What::Begin { made, .. } => {
                self.journal_dirs.extend(made.iter().filter_map(|made| match made {
                    Made::Dir { path } => Some(path.clone()),
                    _ => None,
                }));
                self.begin = Some(line);
            }
            What::Start { key, made } => {
                self.done.remove(key);
                self.order.retain(|k| k != key);
                self.entries.push(Entry { key: key.clone(), made: made.clone() });
            }
            What::Done { key, outputs, .. } => {
                self.done.insert(key.clone(), outputs.clone());
                self.order.retain(|k| k != key);
                self.order.push(key.clone());
            }
            What::Undone { key } => {
                self.entries.retain(|entry| entry.key != *key);
                self.done.remove(key);
                self.order.retain(|k| k != key);
                // Once something is taken back no command's work is whole any more.
                self.finished.clear();
            }
            What::End { command, ok } => {
                if *ok {
                    self.finished.insert(command.clone());
                }
            }
            What::Other => self.passed_over += 1,
        }
    }

    /// True when nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// True when the step has its done line.
    pub fn done(&self, key: &Key) -> bool {
        self.done.contains_key(key)
    }

    /// True when the step has a start line (and perhaps its done line).
    pub fn started(&self, key: &Key) -> bool {
        self.entries.iter().any(|entry| entry.key == *key)
    }

    /// What a done step handed on.
    pub fn outputs(&self, key: &Key) -> Option<&Outputs> {
        self.done.get(key)
    }

    /// What all done steps handed on.
    pub fn all_outputs(&self) -> Outputs {
        let mut all = Outputs::none();
        for key in &self.order {
            if let Some(outputs) = self.done.get(key) {
                all.merge(outputs.clone());
            }
        }
        all
    }

    /// What the steps announced and nobody took back, in the order in which it was made.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Everything of [`Record::entries`], flat.
    pub fn made(&self) -> impl Iterator<Item = &Made> {
        self.entries.iter().flat_map(|entry| &entry.made)
    }

    /// True when this path, or a tree that holds it, is ours. For the checks that pass over what we made.
    pub fn made_path(&self, path: &str) -> bool {
        self.made().any(|made| match made {
            Made::File { path: ours } | Made::Dir { path: ours } => ours == path,
            Made::Tree { path: ours } | Made::Filled { path: ours, .. } => {
                path.strip_prefix(ours.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            _ => false,
        })
    }

    /// True when this unit runs or is enabled because of us.
    pub fn made_unit(&self, name: &str) -> bool {
        self.made().any(|made| matches!(made, Made::Unit { name: ours } if ours == name))
    }

    /// True when this command came to a good end and nothing was taken back since.
    pub fn finished(&self, command: &str) -> bool {
        self.finished.contains(command)
    }

    /// The command of the last begin line.
    pub fn last_command(&self) -> Option<&str> {
        match &self.begin.as_ref()?.what {
            What::Begin { command, .. } => Some(command),
            _ => None,
        }
    }

    /// The last begin line.
    pub fn last_begin(&self) -> Option<&Line> {
        self.begin.as_ref()
    }

    /// True when the last line was cut (by a power loss); it does not count.
    pub fn torn(&self) -> bool {
        self.torn
    }

    /// How many lines of kinds that this release does not know were passed over.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Directories that were made for the journal itself.
    pub(super) fn journal_dirs(&self) -> impl Iterator<Item = &str> {
        self.journal_dirs.iter().map(String::as_str)
    }

    /// Length of all whole lines in bytes.
    pub(super) fn good_len(&self) -> u64 {
        self.good_len
    }
}

fn parse_line(line: &[u8], number: usize, path: &Path) -> Result<Line, JournalError> {
    let broken =
        |e: serde_json::Error| JournalError::Broken { line: number, why: e.to_string(), path: path.to_owned() };
    let version: Version = serde_json::from_slice(line).map_err(broken)?;
    if version.v > FORMAT {
        let here = env!("CARGO_PKG_VERSION");
        return Err(JournalError::Newer { line: number, found: version.v, here, path: path.to_owned() });
    }
    serde_json::from_slice(line).map_err(broken)
}

//! The general steps: files, directories, links, units, sysctls, waits.
//!
//! Each is made by `new` with a [`Label`] and refined by methods that take and give it back.

mod dir;
mod file;
mod grows;
mod install;
mod link;
mod moved;
mod remove;
mod swap;
mod sysctl;
mod unit;
mod wait;

pub use dir::MakeDir;
pub use file::WriteFile;
pub use grows::Grows;
pub use install::InstallFile;
pub use link::Link;
pub use moved::MoveAway;
pub use remove::RemoveFile;
pub use swap::SwapOff;
pub use sysctl::Sysctl;
pub use unit::UnitStep;
pub use wait::{Answer, WaitFor};

use crate::machine::missing_parents;
use crate::{Key, Machine, Made};

/// What every step has: its name, its phase, and what it needs.
#[derive(Debug, Clone)]
pub struct Label {
    /// Stable, unique in a plan.
    pub key: Key,
    /// Named as in kubeadm.
    pub phase: String,
    /// What must be done first.
    pub needs: Vec<Key>,
}

impl Label {
    /// A label without needs.
    pub fn new(key: impl Into<Key>, phase: impl Into<String>) -> Self {
        Self { key: key.into(), phase: phase.into(), needs: Vec::new() }
    }

    /// The same with more needs.
    #[must_use]
    pub fn needs<K: Into<Key>>(mut self, needs: impl IntoIterator<Item = K>) -> Self {
        self.needs.extend(needs.into_iter().map(Into::into));
        self
    }
}

/// The three methods of [`Step`](crate::Step) that answer from `self.label`.
#[macro_export]
macro_rules! labelled {
    () => {
        fn key(&self) -> &$crate::Key {
            &self.label.key
        }

        fn phase(&self) -> &str {
            &self.label.phase
        }

        fn needs(&self) -> &[$crate::Key] {
            &self.label.needs
        }
    };
}

/// The missing directories above a path as what will be made.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn made_parents(machine: &dyn Machine, path: &str) -> anyhow::Result<Vec<Made>> {
    Ok(missing_parents(machine, path)?.into_iter().map(|path| Made::Dir { path }).collect())
}

/// The missing directories above a path and the path itself, if nothing is there yet, as what will be made.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn made_file(machine: &dyn Machine, path: &str) -> anyhow::Result<Vec<Made>> {
    let mut made = made_parents(machine, path)?;
    if machine.meta(path)?.is_none() {
        made.push(Made::File { path: path.to_owned() });
    }
    Ok(made)
}

/// Makes the missing directories above a path, mode 0755.
///
/// # Errors
/// When one cannot be made.
pub fn make_parents(machine: &dyn Machine, path: &str) -> anyhow::Result<()> {
    for dir in missing_parents(machine, path)? {
        machine.make_dir(&dir, 0o755)?;
    }
    Ok(())
}

/// What differs between two texts: the lines that go with `-`, those that come with `+`, without the common beginning
/// and end.
pub fn diff(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old.iter().skip(head).rev().zip(new.iter().skip(head).rev()).take_while(|(a, b)| a == b).count();
    let middle = |lines: &[&str], sign: char| -> Vec<String> {
        let count = lines.len().saturating_sub(head + tail);
        lines.iter().skip(head).take(count).map(|line| format!("{sign}{line}")).collect()
    };
    [middle(&old, '-'), middle(&new, '+')].concat().join("\n")
}

#[cfg(test)]
mod tests;

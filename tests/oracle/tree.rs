//! All files that a tool has left on a machine, whoever holds them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kprov_providers::Machine;
use kprov_providers::machine::Kind;
use kprov_providers::machine::fake::FakeMachine;

/// One thing at a path.
#[derive(Debug, Clone)]
pub(crate) struct Thing {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Dir,
    Link(String),
    File(Vec<u8>),
    /// A socket or the like, in find's letter.
    #[allow(dead_code)]
    Other(char),
}

/// Path → what is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, Thing>);

impl Tree {
    /// What is below a directory that stands for `/`.
    pub(crate) fn of_folder(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.walk_folder(root, "");
        tree
    }

    fn walk_folder(&mut self, root: &Path, at: &str) {
        for entry in fs::read_dir(root.join(at.trim_start_matches('/'))).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{at}/{}", entry.file_name().to_str().unwrap());
            let meta = entry.metadata().unwrap();
            let what = match meta.file_type() {
                kind if kind.is_dir() => What::Dir,
                kind if kind.is_symlink() => {
                    What::Link(fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
                }
                _ => What::File(fs::read(entry.path()).unwrap()),
            };
            let dir = matches!(what, What::Dir);
            let thing = Thing { mode: meta.mode() & 0o7777, owner: (meta.uid(), meta.gid()), what };
            self.0.insert(path.clone(), thing);
            if dir {
                self.walk_folder(root, &path);
            }
        }
    }

    /// What is on a machine in memory, which says of everything that it is root's.
    pub(crate) fn of_machine(machine: &FakeMachine) -> Self {
        let mut tree = Self::default();
        tree.walk_machine(machine, "");
        tree
    }

    fn walk_machine(&mut self, machine: &FakeMachine, at: &str) {
        let here = if at.is_empty() { "/" } else { at };
        for name in machine.list(here).unwrap().unwrap_or_default() {
            let path = format!("{at}/{name}");
            let meta = machine.meta(&path).unwrap().unwrap();
            let what = match meta.kind {
                Kind::Dir => What::Dir,
                Kind::Link(target) => What::Link(target),
                _ => What::File(machine.read(&path).unwrap().unwrap()),
            };
            let dir = matches!(what, What::Dir);
            self.0.insert(path.clone(), Thing { mode: meta.mode, owner: (meta.uid, meta.gid), what });
            if dir {
                self.walk_machine(machine, &path);
            }
        }
    }

    /// A file's content, following one link.
    pub(crate) fn file(&self, path: &str) -> Option<&[u8]> {
        match &self.0.get(path)?.what {
            What::File(bytes) => Some(bytes),
            What::Link(target) => match &self.0.get(target)?.what {
                What::File(bytes) => Some(bytes),
                _ => None,
            },
            What::Dir | What::Other(_) => None,
        }
    }

    /// A file as text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.file(path).map(|bytes| std::str::from_utf8(bytes).unwrap())
    }

    /// Paths of files below a directory.
    pub(crate) fn files_below(&self, dir: &str) -> Vec<&str> {
        let start = format!("{dir}/");
        let below = self.0.iter().filter(|(path, thing)| path.starts_with(&start) && !matches!(thing.what, What::Dir));
        below.map(|(path, _)| path.as_str()).collect()
    }
}

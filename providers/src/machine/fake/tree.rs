//! The files of a machine in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::machine::{Kind, Meta};

/// What every Linux machine with systemd has.
const DIRS: [&str; 28] = [
    "/",
    "/dev",
    "/etc",
    "/etc/systemd",
    "/etc/systemd/system",
    "/home",
    "/opt",
    "/proc",
    "/proc/sys",
    "/root",
    "/run",
    "/run/systemd",
    "/run/systemd/system",
    "/sys",
    "/sys/class",
    "/sys/class/net",
    "/sys/fs",
    "/sys/fs/cgroup",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib/systemd",
    "/usr/lib/systemd/system",
    "/usr/local",
    "/usr/local/bin",
    "/var",
    "/var/lib",
];

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) what: Kind,
    pub(super) mode: u32,
    content: Vec<u8>,
}

impl Node {
    pub(super) fn file(content: &[u8], mode: u32) -> Self {
        Self { what: Kind::File, mode, content: content.to_vec() }
    }

    pub(super) fn dir(mode: u32) -> Self {
        Self { what: Kind::Dir, mode, content: Vec::new() }
    }

    pub(super) fn link(target: &str) -> Self {
        Self { what: Kind::Link(target.to_owned()), mode: 0o777, content: Vec::new() }
    }

    pub(super) fn meta(&self) -> Meta {
        Meta { kind: self.what.clone(), mode: self.mode, uid: 0, gid: 0, size: self.content.len() as u64 }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Tree(BTreeMap<String, Node>);

impl Tree {
    pub(super) fn booted() -> Self {
        let mut tree = Self(DIRS.iter().map(|dir| ((*dir).to_owned(), Node::dir(0o755))).collect());
        for (name, value) in [
            ("net/ipv4/ip_forward", "0\n"),
            ("net/ipv6/conf/all/forwarding", "0\n"),
            ("net/ipv6/conf/default/forwarding", "0\n"),
            ("net/bridge/bridge-nf-call-iptables", "0\n"),
            ("vm/overcommit_memory", "0\n"),
            ("kernel/panic", "0\n"),
        ] {
            tree.put(&format!("/proc/sys/{name}"), value.as_bytes());
        }
        tree
    }

    pub(super) fn put(&mut self, path: &str, content: &[u8]) {
        let mut at = path;
        while let Some((dir, _)) = at.rsplit_once('/') {
            if dir.is_empty() {
                break;
            }
            self.0.entry(dir.to_owned()).or_insert_with(|| Node::dir(0o755));
            at = dir;
        }
        self.0.insert(path.to_owned(), Node::file(content, 0o644));
    }

    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(&self.real(path)?)
    }

    /// The path with links in its directories followed, not its last name.
    fn real(&self, path: &str) -> Option<String> {
        let mut at = path.to_owned();
        for _ in 0..8 {
            let Some(link) = at.match_indices('/').skip(1).find_map(|(end, _)| {
                let dir = at.get(..end)?;
                match &self.0.get(dir)?.what {
                    Kind::Link(target) => Some((dir.to_owned(), target.clone())),
                    _ => None,
                }
            }) else {
                return Some(at);
            };
            let (dir, target) = link;
            let rest = at.get(dir.len()..)?.to_owned();
            at = beside(&dir, &target) + &rest;
        }
        None
    }

    pub(super) fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let mut at = path.to_owned();
        for _ in 0..8 {
            match self.get(&at) {
                None => return Ok(None),
                Some(Node { what: Kind::Link(target), .. }) => at = beside(&at, target),
                Some(Node { what: Kind::File, content, .. }) => return Ok(Some(content.clone())),
                Some(_) => bail!("is a directory"),
            }
        }
        bail!("too many links")
    }

    pub(super) fn list(&self, dir: &str) -> Option<Vec<String>> {
        let dir = self.real(dir)?;
        let node = self.0.get(&dir)?;
        if let Kind::Link(target) = &node.what {
            return self.list(&beside(&dir, target));
        }
        if node.what != Kind::Dir {
            return None;
        }
        let start = if dir == "/" { dir } else { dir + "/" };
        let below = self.0.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let names = below.filter_map(|(path, _)| path.strip_prefix(&start));
        Some(names.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned).collect())
    }

    pub(super) fn write(&mut self, path: &str, node: Node) -> anyhow::Result<()> {
        let path = self.real(path).context("too many links")?;
        let (parent, _) = path.rsplit_once('/').context("not an absolute path")?;
        let parent = if parent.is_empty() { "/" } else { parent };
        match self.0.get(parent).map(|node| &node.what) {
            Some(Kind::Dir) => {}
            _ => bail!("no such directory: {parent}"),
        }
        if node.what != Kind::Dir && self.0.get(&path).is_some_and(|there| there.what == Kind::Dir) {
            bail!("is a directory: {path}");
        }
        self.0.insert(path, node);
        Ok(())
    }

    pub(super) fn chmod(&mut self, path: &str, mode: u32) -> anyhow::Result<()> {
        let real = self.real(path).context("too many links")?;
        self.0.get_mut(&real).with_context(|| format!("setting the mode: nothing is there, {path}"))?.mode = mode;
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        let node = self.get(from).cloned().with_context(|| format!("renaming: nothing is there, {from}"))?;
        self.write(to, node)?;
        let below = format!("{from}/");
        let moved: Vec<String> = self.0.keys().filter(|path| path.starts_with(&below)).cloned().collect();
        for path in moved {
            if let (Some(node), Some(rest)) = (self.0.remove(&path), path.strip_prefix(from)) {
                self.0.insert(format!("{to}{rest}"), node);
            }
        }
        self.0.remove(from);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) {
        if let Some(real) = self.real(path) {
            self.0.remove(&real);
        }
    }

    pub(super) fn remove_tree(&mut self, path: &str) {
        let Some(real) = self.real(path) else { return };
        let below = format!("{real}/");
        self.0.retain(|path, _| *path != real && !path.starts_with(&below));
    }

    pub(super) fn unit_file(&self, name: &str) -> bool {
        ["/etc/systemd/system", "/usr/lib/systemd/system"]
            .iter()
            .any(|dir| self.get(&format!("{dir}/{name}")).is_some())
    }

    pub(super) fn enable(&mut self, name: &str) -> anyhow::Result<()> {
        let link = wants(name);
        if let Some((dir, _)) = link.rsplit_once('/') {
            self.0.entry(dir.to_owned()).or_insert_with(|| Node::dir(0o755));
        }
        self.write(&link, Node::link(&format!("/etc/systemd/system/{name}")))
    }

    /// As systemctl: an empty directory goes too.
    pub(super) fn disable(&mut self, name: &str) {
        let link = wants(name);
        self.0.remove(&link);
        if let Some((dir, _)) = link.rsplit_once('/')
            && self.list(dir).is_some_and(|names| names.is_empty())
        {
            self.0.remove(dir);
        }
    }

    pub(super) fn dump(&self, content: &impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> String {
        let mut text = String::new();
        for (path, node) in &self.0 {
            let _ = match &node.what {
                Kind::Dir => writeln!(text, "{path} dir {:04o}", node.mode),
                Kind::Link(target) => writeln!(text, "{path} link {target}"),
                Kind::File | Kind::Other => {
                    let shown = content(path, &node.content).unwrap_or_else(|| node.content.clone());
                    writeln!(text, "{path} file {:04o} {}", node.mode, sha256(&shown))
                }
            };
        }
        text
    }
}

/// Where systemd links an enabled unit.
pub(super) fn wants(name: &str) -> String {
    format!("/etc/systemd/system/multi-user.target.wants/{name}")
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// A link's target, seen from the link.
fn beside(link: &str, target: &str) -> String {
    match link.rsplit_once('/') {
        Some((dir, _)) if !target.starts_with('/') => format!("{dir}/{target}"),
        _ => target.to_owned(),
    }
}

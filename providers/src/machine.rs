//! A host whose files, units and containers kprov looks at and changes: the one it runs on, or a fake one in memory.

pub mod fake;
pub mod this;

use std::time::Duration;

use async_trait::async_trait;

/// What is at a path, without following links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Kind of the thing.
    pub kind: Kind,
    /// Permission bits, 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
}

/// Kind of a thing at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link and what it names.
    Link(String),
    /// Socket, device, pipe.
    Other,
}

/// A process to run. Arguments never hold a secret; `stdin` may.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Program, looked up in PATH or absolute.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Additional environment.
    pub env: Vec<(String, String)>,
    /// What it reads on its standard input; empty: nothing.
    pub stdin: Vec<u8>,
    /// After this it is killed and the run fails; none: as long as it takes.
    pub timeout: Option<Duration>,
}

impl Command {
    /// A command with arguments.
    pub fn new<S: Into<String>>(program: impl Into<String>, args: impl IntoIterator<Item = S>) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Exit {
    /// Exit code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// What systemd says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `loaded`, `not-found`, `masked`.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating` (also one whose start is queued behind another unit's).
    pub active: String,
    /// `enabled`, `disabled`, `static`; empty where there is no unit file.
    pub enabled: String,
    /// Main process, 0 if none.
    pub main_pid: u32,
    /// Its files are not those that systemd has read.
    pub outdated: bool,
}

impl UnitState {
    /// It runs, or is on its way to: stopping it makes a difference.
    pub fn runs(&self) -> bool {
        !matches!(self.active.as_str(), "inactive" | "failed" | "")
    }
}

/// What to do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitVerb {
    /// Start now.
    Start,
    /// Stop now.
    Stop,
    /// Stop if it runs, then start.
    Restart,
    /// Start at boot.
    Enable,
    /// Do not start at boot.
    Disable,
    /// Forget a failed state.
    ResetFailed,
}

/// Something to make.
#[derive(Clone, Copy)]
pub enum New<'a> {
    /// A directory, as with [`Machine::make_dir`]. Its parent is there or comes before it.
    Dir {
        /// Where.
        path: &'a str,
        /// Its permission bits where it is new.
        mode: u32,
    },
    /// A file, as with [`Machine::write`].
    File {
        /// Where.
        path: &'a str,
        /// What; may be secret.
        content: &'a [u8],
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link, as with [`Machine::link`].
    Link {
        /// Where.
        path: &'a str,
        /// What it names.
        target: &'a str,
    },
}

impl<'a> New<'a> {
    /// Where.
    pub fn path(&self) -> &'a str {
        match self {
            Self::Dir { path, .. } | Self::File { path, .. } | Self::Link { path, .. } => path,
        }
    }
}

/// A host. File calls are synchronous: they are short and local. All paths are absolute.
///
/// Errors name the path or program; "not there" is `None`, not an error.
#[async_trait]
pub trait Machine: Send + Sync {
    /// What is at the path, not following a link.
    fn meta(&self, path: &str) -> anyhow::Result<Option<Meta>>;

    /// A file's content, following links. `None` when there is nothing.
    fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>>;

    /// Names in a directory, sorted; `None` when there is no directory.
    fn list(&self, dir: &str) -> anyhow::Result<Option<Vec<String>>>;

    /// Lower-case hex SHA-256 of a file, read in pieces.
    fn sha256(&self, path: &str) -> anyhow::Result<Option<String>>;

    /// Writes a file whole: temporary name, mode, sync, rename, sync the directory. The parent must be there.
    fn write(&self, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()>;

    /// Makes all of these, directories first and the others in this order, with as few syncs as that takes: where one is
    /// there after a power cut, those before it are too; when the call returns all are on the disk.
    fn make_all(&self, all: &[New<'_>]) -> anyhow::Result<()> {
        all.iter().try_for_each(|new| match new {
            New::Dir { path, mode } => self.make_dir(path, *mode),
            New::File { path, content, mode } => self.write(path, content, *mode),
            New::Link { path, target } => self.link(path, target),
        })
    }

    /// Writes into a file that is there, in place: for procfs and sysfs alone.
    fn write_in_place(&self, path: &str, content: &[u8]) -> anyhow::Result<()>;

    /// Copies a file whole (sharing blocks where the file system can), as careful as [`Machine::write`].
    fn copy(&self, from: &str, to: &str, mode: u32) -> anyhow::Result<()>;

    /// Puts a file at a second place without using space twice: a hard link where that is possible and the mode is the
    /// same, else a copy. For files that nobody writes into.
    fn share(&self, from: &str, to: &str, mode: u32) -> anyhow::Result<()> {
        self.copy(from, to, mode)
    }

    /// Where a path of this machine is on the file system of this process, so that much data can be streamed there.
    /// `None` for a machine in memory.
    fn real_path(&self, path: &str) -> Option<std::path::PathBuf> {
        let _ = path;
        None
    }

    /// Makes one directory with this mode; there already is success (its mode is left alone). The parent must be there.
    fn make_dir(&self, path: &str, mode: u32) -> anyhow::Result<()>;

    /// Makes or replaces a symbolic link, atomically.
    fn link(&self, path: &str, target: &str) -> anyhow::Result<()>;

    /// Changes permission bits.
    fn chmod(&self, path: &str, mode: u32) -> anyhow::Result<()>;

    /// Renames within one file system and syncs both directories.
    fn rename(&self, from: &str, to: &str) -> anyhow::Result<()>;

    /// Syncs a file that another program wrote, following links, and the directory of the path. Nothing there is success.
    fn sync(&self, path: &str) -> anyhow::Result<()>;

    /// Removes a file or link. Nothing there is success.
    fn remove(&self, path: &str) -> anyhow::Result<()>;

    /// Removes a directory if it is empty. Nothing there is success; not empty: `false`.
    fn remove_dir(&self, path: &str) -> anyhow::Result<bool>;

    /// Unmounts everything below a directory and removes it with all that is in it, never crossing into another file
    /// system. Nothing there is success.
    fn remove_tree(&self, path: &str) -> anyhow::Result<()>;

    /// Runs a process to its end. A non-zero exit is not an error here; a program that is not there is.
    async fn run(&self, command: Command) -> anyhow::Result<Exit>;

    /// What systemd says of a unit.
    async fn unit(&self, name: &str) -> anyhow::Result<UnitState>;

    /// Does something to a unit and waits until systemd has done it.
    async fn unit_do(&self, name: &str, verb: UnitVerb) -> anyhow::Result<()>;

    /// Makes systemd read its unit files again.
    async fn units_reload(&self) -> anyhow::Result<()>;

    /// GET without following redirects, not verifying the server's certificate (health ports of this very machine
    /// only): status and body. `None`: nothing answers there yet.
    async fn probe(&self, url: &str) -> anyhow::Result<Option<(u16, String)>>;
}

/// The absolute parents of a path that are not there yet, topmost first.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn missing_parents(machine: &dyn Machine, path: &str) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut at = path;
    while let Some(slash) = at.rfind('/') {
        at = at.get(..slash).unwrap_or_default();
        if at.is_empty() || machine.meta(at)?.is_some() {
            break;
        }
        missing.push(at.to_owned());
    }
    missing.reverse();
    Ok(missing)
}

/// Names of all network links. From /proc, which always shows the process's own network namespace; /sys shows that of
/// whoever mounted it, which in a container may be the host's.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn links(machine: &dyn Machine) -> anyhow::Result<Vec<String>> {
    let table = machine.read("/proc/net/dev")?.unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    Ok(table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect())
}

/// A swap area that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// Its device or file.
    pub device: String,
    /// Its priority; below 0 where the kernel chose it.
    pub priority: i32,
}

/// All swap areas in use. In a container these are the host's.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn swaps(machine: &dyn Machine) -> anyhow::Result<Vec<Swap>> {
    let table = machine.read("/proc/swaps")?.unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    Ok(table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // The kernel writes blanks in a path in octal.
            let device = words.next()?.replace("\\040", " ").replace("\\011", "\t");
            Some(Swap { device, priority: words.nth(3)?.parse().ok()? })
        })
        .collect())
}

//! A machine in memory, for tests: files, units, answered commands, and the nth call that fails.

mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use futures_util::future::BoxFuture;

use self::tree::{Node, Tree};
use super::{Command, Exit, Kind, Machine, Meta, UnitState, UnitVerb};

/// Answers a command.
type Answer = Arc<dyn Fn(&FakeMachine, &Command) -> anyhow::Result<Exit> + Send + Sync>;
/// Answers a health probe.
type Probe = Arc<dyn Fn(FakeMachine, String) -> BoxFuture<'static, Option<(u16, String)>> + Send + Sync>;
/// Called after something was done to a unit.
type UnitHook = Arc<dyn Fn(&FakeMachine, &str, UnitVerb) -> anyhow::Result<()> + Send + Sync>;

/// A machine in memory. It starts with the directories that every Linux machine has. Cheap to clone: a clone is the
/// same machine.
#[derive(Clone, Default)]
pub struct FakeMachine(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    tree: Tree,
    units: BTreeMap<String, UnitState>,
    /// Unit files written since systemd last read them.
    unread: BTreeSet<String>,
    answers: BTreeMap<String, Answer>,
    probe: Option<Probe>,
    unit_hook: Option<UnitHook>,
    commands: Vec<Command>,
    /// Mutating calls so far.
    changes: u64,
    /// The number of the mutating call that fails.
    fail: Option<u64>,
    /// After so many mutating calls everything fails, as if the process were gone.
    crash: Option<u64>,
    dead: bool,
}

impl FakeMachine {
    /// A machine with the usual directories and the sysctls of a freshly booted one.
    pub fn new() -> Self {
        let machine = Self::default();
        machine.lock().tree = Tree::booted();
        machine
    }

    /// Puts a file there, with all directories above it, as something that was there before kprov.
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        self.lock().tree.put(path, content.as_ref());
    }

    /// Answers all runs of a program from now on.
    pub fn on(
        &self,
        program: &str,
        answer: impl Fn(&FakeMachine, &Command) -> anyhow::Result<Exit> + Send + Sync + 'static,
    ) {
        self.lock().answers.insert(program.to_owned(), Arc::new(answer));
    }

    /// Answers health probes from now on.
    pub fn on_probe(
        &self,
        probe: impl Fn(FakeMachine, String) -> BoxFuture<'static, Option<(u16, String)>> + Send + Sync + 'static,
    ) {
        self.lock().probe = Some(Arc::new(probe));
    }

    /// Is called after something was done to a unit: to make what the unit's program would make.
    pub fn on_unit(&self, hook: impl Fn(&FakeMachine, &str, UnitVerb) -> anyhow::Result<()> + Send + Sync + 'static) {
        self.lock().unit_hook = Some(Arc::new(hook));
    }

    /// Commands that were run, in order.
    pub fn commands(&self) -> Vec<Command> {
        self.lock().commands.clone()
    }

    /// How many calls have changed something.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Lets the nth mutating call from now on (1: the next) fail, once.
    pub fn fail_nth(&self, n: u64) {
        let mut inner = self.lock();
        inner.fail = Some(inner.changes + n);
    }

    /// Lets everything after the nth mutating call from now on fail, looks too: the process is gone.
    pub fn crash_after(&self, n: u64) {
        let mut inner = self.lock();
        inner.crash = Some(inner.changes + n);
    }

    /// The process is gone: all calls fail from now on.
    pub fn kill(&self) {
        self.lock().dead = true;
    }

    /// A new process on the same machine: calls work again.
    pub fn revive(&self) {
        let mut inner = self.lock();
        (inner.dead, inner.crash, inner.fail) = (false, None, None);
    }

    /// Another machine on which all is as it is here now.
    #[must_use]
    pub fn fork(&self) -> Self {
        let inner = self.lock();
        Self(Arc::new(Mutex::new(Inner {
            tree: inner.tree.clone(),
            units: inner.units.clone(),
            answers: inner.answers.clone(),
            probe: inner.probe.clone(),
            unit_hook: inner.unit_hook.clone(),
            ..Inner::default()
        })))
    }

    /// Everything there is, a line each (path, kind, mode, hash or target; units), for comparison.
    pub fn dump(&self) -> String {
        self.dump_with(|_, _| None)
    }

    /// As [`FakeMachine::dump`], with the content of some files replaced (for what is random by nature).
    pub fn dump_with(&self, content: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> String {
        let inner = self.lock();
        let mut text = inner.tree.dump(&content);
        for (name, state) in &inner.units {
            if state.active != "inactive" {
                let _ = writeln!(text, "unit {name} {}", state.active);
            }
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look.
    fn look(&self) -> anyhow::Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        if inner.dead { Err(anyhow!("the process was killed")) } else { Ok(inner) }
    }

    /// A change: counted, and refused where the test wants it.
    fn change(&self) -> anyhow::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.look()?;
        if inner.crash.is_some_and(|after| inner.changes >= after) {
            inner.dead = true;
            bail!("the process was killed");
        }
        inner.changes += 1;
        if inner.fail == Some(inner.changes) {
            bail!("no space left on device (made up)");
        }
        Ok(inner)
    }
}

#[async_trait]
impl Machine for FakeMachine {
    fn meta(&self, path: &str) -> anyhow::Result<Option<Meta>> {
        Ok(self.look()?.tree.get(path).map(Node::meta))
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        self.look()?.tree.read(path).with_context(|| format!("reading {path}"))
    }

    fn list(&self, dir: &str) -> anyhow::Result<Option<Vec<String>>> {
        Ok(self.look()?.tree.list(dir))
    }

    fn sha256(&self, path: &str) -> anyhow::Result<Option<String>> {
        Ok(self.read(path)?.map(|bytes| tree::sha256(&bytes)))
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        let mut inner = self.change()?;
        if crate::made::is_unit_file(path) {
            inner.unread.insert(path.to_owned());
        }
        inner.tree.write(path, Node::file(content, mode)).with_context(|| format!("writing {path}"))
    }

    fn write_in_place(&self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut inner = self.change()?;
        let mode =
            inner.tree.get(path).map(|node| node.mode).with_context(|| format!("no file to write into, {path}"))?;
        let mut content = content.to_vec();
        if path.starts_with("/proc/sys/") && !content.ends_with(b"\n") {
            content.push(b'\n');
        }
        inner.tree.write(path, Node::file(&content, mode))
    }

    fn copy(&self, from: &str, to: &str, mode: u32) -> anyhow::Result<()> {
        let content = self.read(from)?.with_context(|| format!("no file to copy, {from}"))?;
        self.write(to, &content, mode)
    }

    fn make_dir(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        let mut inner = self.change()?;
        match inner.tree.get(path).map(|node| &node.what) {
            Some(Kind::Dir) => Ok(()),
            Some(_) => bail!("making a directory: a file is there already, {path}"),
            None => inner.tree.write(path, Node::dir(mode)),
        }
    }

    fn link(&self, path: &str, target: &str) -> anyhow::Result<()> {
        self.change()?.tree.write(path, Node::link(target)).with_context(|| format!("linking {path}"))
    }

    fn chmod(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        self.change()?.tree.chmod(path, mode)
    }

    fn rename(&self, from: &str, to: &str) -> anyhow::Result<()> {
        self.change()?.tree.rename(from, to)
    }

    /// What is in memory is lost whole or not at all.
    fn sync(&self, _path: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn remove(&self, path: &str) -> anyhow::Result<()> {
        let mut inner = self.change()?;
        if inner.tree.get(path).is_some_and(|node| node.what == Kind::Dir) {
            bail!("removing a file: it is a directory, {path}");
        }
        inner.tree.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> anyhow::Result<bool> {
        let mut inner = self.change()?;
        let empty = inner.tree.list(path).is_none_or(|names| names.is_empty());
        if empty {
            inner.tree.remove(path);
        }
        Ok(empty)
    }

    fn remove_tree(&self, path: &str) -> anyhow::Result<()> {
        self.change()?.tree.remove_tree(path);
        Ok(())
    }

    async fn run(&self, command: Command) -> anyhow::Result<Exit> {
        let answer = {
            let mut inner = self.change()?;
            inner.commands.push(Command { stdin: Vec::new(), ..command.clone() });
            inner.answers.get(&command.program).cloned()
        };
        match answer {
            Some(answer) => answer(self, &command),
            None => bail!("starting {}: no such file or directory", command.program),
        }
    }

    async fn unit(&self, name: &str) -> anyhow::Result<UnitState> {
        let inner = self.look()?;
        let known = inner.tree.unit_file(name);
        let mut state = inner.units.get(name).cloned().unwrap_or_default();
        state.load = if known { "loaded" } else { "not-found" }.to_owned();
        state.outdated =
            inner.unread.iter().any(|path| path.split('/').any(|part| part.trim_end_matches(".d") == name));
        if state.active.is_empty() {
            "inactive".clone_into(&mut state.active);
        }
        state.enabled = match (known, inner.tree.get(&tree::wants(name)).is_some()) {
            (true, true) => "enabled",
            (true, false) => "disabled",
            (false, _) => "",
        }
        .to_owned();
        Ok(state)
    }

    async fn unit_do(&self, name: &str, verb: UnitVerb) -> anyhow::Result<()> {
        let hook = {
            let mut inner = self.change()?;
            if !inner.tree.unit_file(name) && !matches!(verb, UnitVerb::Stop | UnitVerb::ResetFailed) {
                bail!("systemctl: unit {name} not found");
            }
            match verb {
                UnitVerb::Start | UnitVerb::Restart => {
                    let state = inner.units.entry(name.to_owned()).or_default();
                    "active".clone_into(&mut state.active);
                    state.main_pid = 4242;
                }
                UnitVerb::Stop | UnitVerb::ResetFailed => drop(inner.units.remove(name)),
                UnitVerb::Enable => inner.tree.enable(name)?,
                UnitVerb::Disable => inner.tree.disable(name),
            }
            inner.unit_hook.clone()
        };
        hook.map_or(Ok(()), |hook| hook(self, name, verb))
    }

    async fn units_reload(&self) -> anyhow::Result<()> {
        self.change()?.unread.clear();
        Ok(())
    }

    async fn probe(&self, url: &str) -> anyhow::Result<Option<(u16, String)>> {
        let probe = self.look()?.probe.clone();
        match probe {
            Some(probe) => Ok(probe(self.clone(), url.to_owned()).await),
            None => Ok(None),
        }
    }
}

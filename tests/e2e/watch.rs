//! Watches what is started while a scenario goes on: arguments and environment of every process of the machines, and of
//! those that the test starts. The machines' processes are seen from this host, so nothing is left or changed on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::ensure;

/// Between two looks: what lives longer is seen, what is sooner gone by luck. A look takes about a millisecond.
const PAUSE: Duration = Duration::from_millis(10);

/// For so many looks a new process is read each time, because it soon becomes another program; then each [`SELDOM`] looks.
const YOUNG: u32 = 10;
const SELDOM: u32 = 10;

/// A watch that goes on until it is ended or dropped.
pub struct Watch {
    ended: Sender<()>,
    thread: JoinHandle<Seen>,
}

/// All that was seen, each once.
#[derive(Default)]
struct Seen {
    commands: BTreeSet<Vec<String>>,
    environments: BTreeSet<String>,
    /// Command lines that the test gave to ssh.
    typed: BTreeSet<String>,
}

/// A process at the last look.
struct Known {
    looks: u32,
    command: Vec<u8>,
}

impl Watch {
    /// Begins.
    pub fn start() -> Self {
        let (ended, end) = channel();
        Self { ended, thread: std::thread::spawn(move || watch(&end)) }
    }

    /// Ends it; all that was seen, one line each, but for what the test itself typed. Commands that begin with these
    /// words must have been seen.
    ///
    /// # Errors
    /// When one was not: then nothing is shown by what was seen.
    pub fn end(self, wanted: &[&str]) -> anyhow::Result<String> {
        drop(self.ended);
        let seen = self.thread.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        let all: Vec<(String, bool)> = seen.commands.iter().map(|args| (line(args), seen.users(args))).collect();
        for words in wanted {
            ensure!(all.iter().any(|(line, _)| line.starts_with(*words)), "the watch saw no process {words}");
        }
        ensure!(!seen.environments.is_empty(), "the watch saw no environment");
        let others = all.into_iter().filter(|(_, users)| !users).map(|(line, _)| format!("process: {line}\n"));
        let environments = seen.environments.iter().map(|one| format!("environment: {one}\n"));
        Ok(others.chain(environments).collect())
    }
}

impl Seen {
    /// True for the shell that sshd starts with a command line of the test's, and for the kprov that is typed there: its
    /// arguments are the user's own. What that kprov starts has others.
    fn users(&self, args: &[String]) -> bool {
        match args {
            [shell, flag, command] if shell == "bash" && flag == "-c" => self.typed.contains(command),
            [kprov, ..] if kprov == "/root/kprov" => self.typed.iter().any(|typed| typed.starts_with(&line(args))),
            _ => false,
        }
    }

    fn take(&mut self, pid: u32, command: &[u8]) {
        let args = strings(command);
        // The test's own ssh; its environment is the test's.
        if let [ssh, .., typed] = args.as_slice()
            && ssh == "ssh"
            && parent(pid) == Some(std::process::id())
        {
            self.typed.insert(typed.clone());
            return;
        }
        self.commands.insert(args);
        self.environments.extend(strings(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()));
    }
}

fn watch(end: &Receiver<()>) -> Seen {
    let (mut seen, mut known) = (Seen::default(), BTreeMap::<u32, Known>::new());
    let own = namespace(std::process::id());
    for round in 0u32.. {
        let mut there = BTreeMap::new();
        for pid in processes() {
            let old = known.remove(&pid).unwrap_or(Known { looks: 0, command: Vec::new() });
            // Not all of them in the same round.
            if old.looks >= YOUNG && !round.wrapping_add(pid).is_multiple_of(SELDOM) {
                there.insert(pid, old);
                continue;
            }
            // Empty for the kernel's own, and for one that has ended.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if !command.is_empty() && command != old.command && watched(pid, own.as_deref()) {
                seen.take(pid, &command);
            }
            there.insert(pid, Known { looks: old.looks.saturating_add(1), command });
        }
        known = there;
        if end.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    seen
}

/// A machine's, or begun by the test: what else runs on this host is not ours to look at.
fn watched(pid: u32, own: Option<&Path>) -> bool {
    match namespace(pid) {
        None => false,
        Some(its) if Some(its.as_path()) != own => true,
        Some(_) => std::iter::successors(parent(pid), |pid| parent(*pid)).any(|pid| pid == std::process::id()),
    }
}

fn namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The second field behind the program's name, which may hold spaces and parentheses (proc_pid_stat(5)).
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(1)?.parse().ok()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Strings with NULs between them, as the kernel shows arguments and environments.
fn strings(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|one| String::from_utf8_lossy(one).replace('\n', " ")).collect()
}

fn line(args: &[String]) -> String {
    args.join(" ")
}

//! Running another program with its output in a log, whose end is shown when it fails.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{BuildError, Result};

/// So many lines of a failed program are shown.
const TAIL: usize = 30;

/// Progress is not told more often.
const PERIOD: Duration = Duration::from_secs(10);

/// The programs that a build has running, so that it can be ended from outside. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<Mutex<Groups>>);

#[derive(Debug, Default)]
struct Groups {
    ended: bool,
    ids: BTreeSet<i32>,
}

impl Running {
    /// Ends what runs, and lets nothing begin any more.
    pub fn end(&self) {
        let mut groups = self.groups();
        groups.ended = true;
        for id in &groups.ids {
            if let Some(id) = rustix::process::Pid::from_raw(*id) {
                // One that has just ended by itself is no error.
                let _ = rustix::process::kill_process_group(id, rustix::process::Signal::TERM);
            }
        }
    }

    /// True after [`end`](Self::end).
    pub fn ended(&self) -> bool {
        self.groups().ended
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run.
pub(crate) struct Run<'a> {
    /// Where it is noted while it runs.
    pub(crate) running: &'a Running,
    /// The part that it is for.
    pub(crate) part: &'a str,
    /// What it does, as a noun: `compiling`.
    pub(crate) what: &'a str,
    /// Where its output goes, after what is there.
    pub(crate) log: &'a Path,
    /// What is fed to it.
    pub(crate) input: Option<&'a str>,
    /// Told of progress: the number of lines so far.
    pub(crate) progress: &'a dyn Fn(usize),
}

impl Run<'_> {
    /// Runs the program to its end.
    ///
    /// # Errors
    /// With the end of its output, when it cannot be started or does not end with 0.
    pub(crate) fn run(self, mut command: Command) -> Result<()> {
        let failed = |tail: String| BuildError::Part {
            part: self.part.to_owned(),
            what: self.what.to_owned(),
            tail,
            log: self.log.to_owned(),
        };
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(self.log)
            .map_err(BuildError::file(format!("opening {}", self.log.display())))?;
        let (reader, writer) = std::io::pipe().map_err(BuildError::file("a pipe"))?;
        let other = writer.try_clone().map_err(BuildError::file("a pipe"))?;
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let name = command_name(&command);
        // A group of its own: what it starts ends with it, and Ctrl-C reaches it through us alone.
        command.stdin(stdin).stdout(writer).stderr(other).process_group(0);
        let mut child = {
            let mut groups = self.running.groups();
            if groups.ended {
                return Err(BuildError::Interrupted);
            }
            let child = command.spawn().map_err(|error| failed(format!("{name}: {error}")))?;
            groups.ids.insert(child.id().cast_signed());
            child
        };
        // The command holds the pipe's writing ends: without this the reader would never see the end.
        drop(command);
        if let (Some(text), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // A program that ends early shows why in its own output.
            let _ = stdin.write_all(text.as_bytes());
        }

        let (mut tail, mut lines, mut told_at) = (VecDeque::with_capacity(TAIL), 0_usize, Instant::now());
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let _ = log.write_all(&line);
            lines = lines.saturating_add(1);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
            if told_at.elapsed() >= PERIOD {
                told_at = Instant::now();
                (self.progress)(lines);
            }
        }
        let id = child.id().cast_signed();
        let status = child.wait();
        self.running.groups().ids.remove(&id);
        let status = status.map_err(BuildError::file(format!("waiting for {name}")))?;
        if self.running.ended() {
            return Err(BuildError::Interrupted);
        }
        if status.success() {
            return Ok(());
        }
        tail.push_back(format!("{name} ended with {status}"));
        Err(failed(Vec::from(tail).join("\n")))
    }
}

fn command_name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// A short program's stdout, trimmed; none when it is not there or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: Option<&str>) -> (Result<()>, String) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let result =
            Run { running: &Running::default(), part: "etcd", what: "compiling", log: &log, input, progress: &|_| {} }
                .run(command);
        (result, std::fs::read_to_string(&log).unwrap())
    }

    #[test]
    fn a_failure_shows_the_end_of_both_outputs() {
        let (result, log) = sh("seq 1 100; echo broken >&2; exit 3", None);
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("compiling of etcd failed"), "{error}");
        assert!(error.contains("\n100\nbroken\n") && !error.contains("\n50\n"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert_eq!(log.lines().count(), 101);
    }

    #[test]
    fn input_is_fed_and_a_missing_program_is_named() {
        let (result, log) = sh("cat", Some("fed\n"));
        result.unwrap();
        assert_eq!(log, "fed\n");
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let run = Run {
            running: &Running::default(),
            part: "x",
            what: "compiling",
            log: &log,
            input: None,
            progress: &|_| {},
        };
        let error = run.run(Command::new("/nonexistent/tool")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/tool: No such file"), "{error}");
    }

    #[test]
    fn ending_ends_what_runs_and_lets_nothing_begin() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let running = Running::default();
        let sleep = || {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "echo begun; sleep 1000 & wait"]);
            Run { running: &running, part: "etcd", what: "compiling", log: &log, input: None, progress: &|_| {} }
                .run(command)
        };
        std::thread::scope(|scope| {
            let run = scope.spawn(sleep);
            while std::fs::read_to_string(&log).unwrap_or_default().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            running.end();
            assert!(matches!(run.join().unwrap(), Err(BuildError::Interrupted)));
        });
        assert!(matches!(sleep(), Err(BuildError::Interrupted)));
    }
}

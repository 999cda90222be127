//! kprov running on a machine, followed from here.
//!
//! It runs there as a transient systemd unit, so it goes on when the connection breaks, and whoever connects next
//! attaches to it. Its input goes through stdin into a 0600 file in /run that is removed once it is open; its events
//! are lines of a file there, read from wherever the last reader stopped.

use std::time::{Duration, Instant};

use anyhow::Context;
use kprov_providers::ssh::{self, Chunk, Host, Session, upload::quote};
use kprov_providers::{Event, Events};
use serde_json::{Map, Value};

/// Where kprov is on a machine.
pub const KPROV: &str = "/usr/local/bin/kprov";

/// How long a lost connection is tried again before the user is told.
const LOST: Duration = Duration::from_secs(30);

/// A command of kprov on a machine.
#[derive(Debug, Clone)]
pub struct Task {
    /// Names the unit: `kprov-NAME.service`.
    pub name: String,
    /// The command and its arguments, without a secret.
    pub args: Vec<String>,
    /// What it reads on standard input; may hold secrets.
    pub input: Vec<u8>,
    /// A file whose presence shows that an earlier, finished run still holds: then its result is read again.
    pub witness: Option<String>,
}

/// kprov there said no.
#[derive(Debug, thiserror::Error)]
#[error("{message}: {host}")]
pub struct Refused {
    /// The machine.
    pub host: String,
    /// Why.
    pub message: String,
    /// Its exit code.
    pub code: u8,
    /// Its hints.
    pub hints: Vec<String>,
}

/// Starts the task on a host, or attaches to it where it runs already, passes its events on, and returns the fields
/// of its result. Keys of events get the host's name in front.
///
/// # Errors
/// [`ssh::Error`] when the host cannot be reached (any more); [`Refused`] when kprov there failed.
pub async fn run(host: &Host, task: &Task, events: &Events) -> anyhow::Result<Map<String, Value>> {
    let mut session = host.connect_within(LOST).await?;
    let begun = session.done(&format!("starting kprov {}", task.name), &start_script(task), &task.input).await?;
    match begun.trim() {
        "running" => events.note(format!("{}: kprov {} runs there already; following it", host.name, task.name)),
        "finished" => events.note(format!("{}: kprov {} had finished there; reading its result", host.name, task.name)),
        _ => {}
    }
    let mut reader = Reader::new(&host.name, events.clone());
    let mut since = Instant::now();
    loop {
        match follow(&session, task, &mut reader).await {
            Ok(()) => break,
            Err(error) if error.passes() && since.elapsed() < LOST => {
                events.warn(format!("{error}; connecting again, kprov goes on there"));
                session = host.connect_within(LOST).await?;
                since = Instant::now();
            }
            Err(error) => return Err(error.into()),
        }
    }
    match reader.result {
        Some(result) => finish(&host.name, result),
        None => {
            let log = session.run(&format!("tail -n 20 {}/log", dir(task)), b"").await?.text();
            let log = log.trim();
            let said = if log.is_empty() { String::new() } else { format!(":\n{log}") };
            Err(Refused {
                host: host.name.clone(),
                message: format!("kprov {} ended without a result{said}", task.name),
                code: 3,
                hints: Vec::new(),
            }
            .into())
        }
    }
}

fn dir(task: &Task) -> String {
    format!("/run/kprov-up/{}", task.name)
}

/// Prints `running`, `finished` or `started`.
fn start_script(task: &Task) -> String {
    let dir = dir(task);
    let unit = format!("kprov-{}.service", task.name);
    let args: Vec<String> = task.args.iter().map(|arg| quote(arg)).collect();
    let held = task.witness.as_ref().map_or_else(|| "false".to_owned(), |path| format!("test -e {}", quote(path)));
    format!(
        "set -eu; umask 077; mkdir -p {dir}; cd {dir}\n\
         case $(systemctl show -p ActiveState --value {unit}) in\n\
         active|activating|deactivating) cat >/dev/null; echo running; exit 0;;\n\
         esac\n\
         if {held} && tail -n 1 events 2>/dev/null | grep '\"type\":\"result\"' | grep -q '\"state\":\"done\"'; then\n\
         cat >/dev/null; echo finished; exit 0\n\
         fi\n\
         cat >input; : >events; : >log\n\
         systemctl reset-failed {unit} 2>/dev/null || :\n\
         systemd-run --quiet --collect --unit={unit} --property=Type=exec --setenv=HOME=/root \
         --property=StandardInput=file:{dir}/input --property=StandardOutput=append:{dir}/events \
         --property=StandardError=append:{dir}/log -- {KPROV} {}\n\
         rm -f input; echo started",
        args.join(" ")
    )
}

/// Hands new events to the reader until the unit has ended.
async fn follow(session: &Session, task: &Task, reader: &mut Reader) -> Result<(), ssh::Error> {
    let (dir, unit) = (dir(task), format!("kprov-{}.service", task.name));
    // tail looks once more after the process has ended, so nothing is missed.
    let command = format!(
        "pid=$(systemctl show -p MainPID --value {unit}); from={}; \
         if [ \"$pid\" -gt 0 ]; then exec tail -c +$from -f -s 0.1 --pid=$pid {dir}/events; \
         else exec tail -c +$from {dir}/events; fi",
        reader.offset + 1
    );
    reader.rest.clear();
    let code = session
        .stream(&command, b"", |chunk| {
            if let Chunk::Out(bytes) = chunk {
                reader.take(bytes);
            }
        })
        .await?;
    if code != 0 && reader.result.is_none() {
        tracing::debug!(code, "tail ended");
    }
    Ok(())
}

fn finish(host: &str, mut result: Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    if result.get("state").and_then(Value::as_str) == Some("done") {
        return Ok(result);
    }
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    let code = result.get("exitCode").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok()).unwrap_or(4);
    let hints = match result.remove("hints") {
        Some(Value::Array(hints)) => hints.into_iter().map(|hint| text(Some(hint))).collect(),
        _ => Vec::new(),
    };
    Err(Refused { host: host.to_owned(), message: text(result.remove("message")), code, hints }.into())
}

/// Turns bytes into events; counts whole lines only, so that a broken one is read again.
struct Reader {
    host: String,
    events: Events,
    /// Bytes of all whole lines so far.
    offset: usize,
    rest: Vec<u8>,
    result: Option<Map<String, Value>>,
}

impl Reader {
    fn new(host: &str, events: Events) -> Self {
        Self { host: host.to_owned(), events, offset: 0, rest: Vec::new(), result: None }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.offset += line.len();
            self.line(&line);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Ok(Value::Object(fields)) = serde_json::from_slice(line) else { return };
        if fields.get("type").and_then(Value::as_str) == Some("result") {
            self.result = Some(fields);
            return;
        }
        // A newer kprov may send what this one does not know; that is passed over.
        let Ok(mut event) = serde_json::from_value::<Event>(Value::Object(fields)) else { return };
        match &mut event.key {
            Some(key) => *key = format!("{}/{key}", self.host),
            None => event.message = format!("{}: {}", self.host, event.message),
        }
        self.events.send(event);
    }
}

/// Brings kprov (and a bundle) onto a host, where the very same is not there yet.
///
/// # Errors
/// As [`kprov_providers::ssh::upload::upload`].
pub async fn bring(
    host: &Host,
    files: &[(&std::path::Path, &str, u32)],
    mut say: impl FnMut(String) + Send,
) -> anyhow::Result<()> {
    let session = host.connect_within(LOST).await?;
    for (from, to, mode) in files {
        let size = std::fs::metadata(from).with_context(|| format!("reading {}", from.display()))?.len().max(1);
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut tenth = 0;
        let progress = |sent: u64| {
            if sent * 10 / size > tenth {
                tenth = sent * 10 / size;
                say(format!("{name}: {} % of {} MB", tenth * 10, size / 1_000_000));
            }
        };
        ssh::upload::upload(&session, from, to, *mode, progress).await?;
    }
    session.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kprov_providers::event::{State, Type};

    fn lines() -> Vec<u8> {
        let step = Event::new(Type::Step, "write a file").about("certs/ca", "certs").state(State::Done);
        let mut text = serde_json::to_string(&step).unwrap() + "\n";
        text += "{\"v\":1,\"type\":\"from-the-future\"}\nnot json\n";
        text += "{\"v\":1,\"time\":\"x\",\"type\":\"result\",\"state\":\"done\",\"message\":\"\",\"node\":\"a\"}\n";
        text.into_bytes()
    }

    #[test]
    fn events_are_passed_on_under_the_hosts_name() {
        let (events, mut heard) = Events::channel();
        let mut reader = Reader::new("kprov-cp-1", events);
        for piece in lines().chunks(7) {
            reader.take(piece);
        }
        assert_eq!(reader.offset, lines().len());
        assert_eq!(heard.try_recv().unwrap().key.as_deref(), Some("kprov-cp-1/certs/ca"));
        assert!(heard.try_recv().is_err());
        assert_eq!(reader.result.unwrap()["node"], "a");
    }

    #[test]
    fn half_a_line_is_read_again() {
        let (events, _heard) = Events::channel();
        let mut reader = Reader::new("x", events);
        let all = lines();
        let cut = all.len() - 10;
        reader.take(&all[..cut]);
        assert!(reader.result.is_none());
        // The connection breaks; the next one starts at the offset.
        reader.rest.clear();
        let offset = reader.offset;
        reader.take(&all[offset..]);
        assert!(reader.result.is_some());
    }

    #[test]
    fn a_failure_there_keeps_its_exit_code_and_hints() {
        let fields =
            serde_json::json!({"state":"failed","exitCode":1,"message":"port 6443 is in use","hints":["ss -ltnp"]});
        let Value::Object(fields) = fields else { unreachable!() };
        let error = finish("kprov-cp-1", fields).unwrap_err();
        let refused = error.downcast_ref::<Refused>().unwrap();
        assert_eq!((refused.code, refused.hints.len()), (1, 1));
        assert_eq!(error.to_string(), "port 6443 is in use: kprov-cp-1");
    }

    #[test]
    fn secrets_are_not_in_the_script() {
        let task = Task {
            name: "init".into(),
            args: vec!["init".into(), "it's".into()],
            input: b"s3cret".to_vec(),
            witness: None,
        };
        let script = start_script(&task);
        assert!(!script.contains("s3cret"));
        assert!(script.contains(r"'it'\''s'"));
        let checked = std::process::Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
        assert!(checked.success());
    }
}

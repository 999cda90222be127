//! Processes of this machine.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::machine::{Command, Exit};

/// Runs a process to its end. In a process group of its own: a Ctrl-C at the terminal is for kprov, which decides; and a
/// process that overstays is killed with its children. Dropping the future kills it too.
pub(super) async fn run(command: Command) -> anyhow::Result<Exit> {
    let program = command.program.clone();
    let since = std::time::Instant::now();
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(if command.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A process that does not read its input to the end is not an error: its exit code tells.
            let _ = stdin.write_all(&command.stdin).await;
        }
    };
    let drain = async |pipe: Option<&mut (dyn tokio::io::AsyncRead + Unpin + Send)>| -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        if let Some(pipe) = pipe {
            pipe.read_to_end(&mut all).await?;
        }
        Ok(all)
    };
    let (mut stdout, mut stderr) = (stdout, stderr);
    let work = async {
        let (wait, out, err, ()) = tokio::join!(
            child.wait(),
            drain(stdout.as_mut().map(|pipe| pipe as _)),
            drain(stderr.as_mut().map(|pipe| pipe as _)),
            feed
        );
        Ok::<_, std::io::Error>((wait?, out?, err?))
    };
    let ended = match command.timeout {
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(ended) => ended,
            Err(_) => {
                drop(group);
                bail!("no end after {} s, killed: {program} {}", limit.as_secs_f64(), command.args.join(" "));
            }
        },
        None => work.await,
    };
    let (status, stdout, stderr) = ended.with_context(|| format!("running {program}"))?;
    group.over();
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    let code = code.ok_or_else(|| anyhow!("ended in no known way: {program}"))?;
    // Arguments hold no secrets: those go through standard input.
    tracing::debug!(code, seconds = since.elapsed().as_secs_f32(), "ran {program} {}", command.args.join(" "));
    Ok(Exit { code, stdout, stderr })
}

/// A process group that is killed when it is dropped before its leader is over.
struct Group(Option<Pid>);

impl Group {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

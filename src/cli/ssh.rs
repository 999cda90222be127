//! `kprov ssh`: a shell or a command on a machine of a cluster. Passes stdin, the terminal and the exit status on.

use std::io::{IsTerminal as _, Write as _};

use kprov_providers::ssh::{Chunk, Host, Terminal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::clusters::{self, NameArg, failure};
use super::error::{Failure, Result};

/// A shell, or a command, on a machine of a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kprov ssh
  kprov ssh worker-1 uptime
  kprov ssh --name dev cp-1 -- journalctl -u kubelet -n 20")]
pub(super) struct Args {
    #[command(flatten)]
    name: NameArg,

    /// The machine, by its node's name or without the cluster's
    #[arg(default_value = "cp-1")]
    machine: String,

    /// A command and its arguments, put together with spaces for the shell there [default: a login shell]
    #[arg(allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,

    /// The same behind --
    #[arg(last = true, hide = true, value_name = "COMMAND")]
    last: Vec<String>,
}

/// Runs the command; the exit code is the one from there.
pub(super) fn run(args: &Args) -> Result<u8> {
    let places = clusters::places()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::internal)?;
    let code = runtime.block_on(async {
        let machines = clusters::open(&places, &args.name.name).await?;
        let prefix = format!("{}-", args.name.name);
        let machine = args.machine.strip_prefix(&prefix).unwrap_or(&args.machine);
        let host = machines.ssh(machine).map_err(|error| {
            let names: Vec<&str> = machines.record().machines.keys().map(String::as_str).collect();
            Failure::user(error).hint(format!("one of: {}", names.join(", ")))
        })?;
        let words: Vec<&str> = args.command.iter().chain(&args.last).map(String::as_str).collect();
        let command = (!words.is_empty()).then(|| words.join(" "));
        talk(&host, command.as_deref()).await
    });
    // A read of stdin may be under way; nobody waits for it.
    runtime.shutdown_background();
    code
}

async fn talk(host: &Host, command: Option<&str>) -> Result<u8> {
    let session = host.connect().await.map_err(|error| failure(error.into()))?;
    let stdin = std::io::stdin();
    // As ssh does: a terminal for a shell, none for a command.
    let terminal = (command.is_none() && stdin.is_terminal()).then(terminal);
    let (resized, sizes) = mpsc::channel(4);
    let _raw = match &terminal {
        Some(_) => Some(Raw::enter()?),
        None => None,
    };
    if terminal.is_some() {
        let mut changes = signal(SignalKind::window_change()).map_err(Failure::internal)?;
        tokio::spawn(async move {
            while changes.recv().await.is_some() {
                let Terminal { columns, rows, .. } = self::terminal();
                if resized.send((columns, rows)).await.is_err() {
                    return;
                }
            }
        });
    } else {
        drop(resized);
    }
    let code = session
        .talk(command, terminal.as_ref(), input()?, sizes, |chunk| {
            // Whoever reads us may go away; the command there ends by itself then.
            let _ = match chunk {
                Chunk::Out(bytes) => write(std::io::stdout().lock(), bytes),
                Chunk::Err(bytes) => write(std::io::stderr().lock(), bytes),
            };
        })
        .await
        .map_err(|error| failure(error.into()))?;
    Ok(u8::try_from(code).unwrap_or(255))
}

/// Standard input as something that can be waited for beside other things: a thread reads it and hands it on.
fn input() -> Result<tokio::net::UnixStream> {
    let pair = || {
        let (mut from, to) = std::os::unix::net::UnixStream::pair()?;
        to.set_nonblocking(true)?;
        std::thread::spawn(move || {
            // Ends with the input, or when nobody reads any more.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut from);
        });
        tokio::net::UnixStream::from_std(to)
    };
    pair().map_err(Failure::internal)
}

fn write(mut to: impl std::io::Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn terminal() -> Terminal {
    let size = tcgetwinsize(std::io::stdin()).ok();
    Terminal {
        kind: std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned()),
        columns: size.map_or(80, |size| u32::from(size.ws_col)),
        rows: size.map_or(24, |size| u32::from(size.ws_row)),
    }
}

/// The terminal in raw mode: every key goes over there. Put back when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).map_err(Failure::internal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(Failure::internal)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to put back.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        let _ = std::io::stdout().flush();
    }
}

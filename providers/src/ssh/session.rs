//! One connection, and the commands that run over it.

use russh::client::{Handle, Msg};
use russh::{Channel, ChannelMsg};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::{Error, Known};
use crate::machine::Exit;

/// A piece of what a command says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// On its standard output.
    Out(&'a [u8]),
    /// On its standard error.
    Err(&'a [u8]),
}

/// The terminal that a command over there is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// `TERM`.
    pub kind: String,
    /// Columns.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// A connection to a host.
pub struct Session {
    host: String,
    handle: Handle<Known>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(host: String, handle: Handle<Known>) -> Self {
        Self { host, handle }
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn lost(&self, reason: russh::Error) -> Error {
        Error::Lost { host: self.host.clone(), reason }
    }

    /// Runs a command (read by the login shell over there) to its end. Secrets go to `stdin`, never into the command.
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection breaks before it ended; a non-zero exit is no error.
    pub async fn run(&self, command: &str, stdin: &[u8]) -> Result<Exit, Error> {
        let mut exit = Exit::default();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        exit.code = self
            .stream(command, stdin, |chunk| match chunk {
                Chunk::Out(bytes) => stdout.extend_from_slice(bytes),
                Chunk::Err(bytes) => stderr.extend_from_slice(bytes),
            })
            .await?;
        exit.stdout = stdout;
        exit.stderr = stderr;
        Ok(exit)
    }

    /// As [`run`](Self::run); a non-zero exit is an error. Returns the standard output as text.
    ///
    /// # Errors
    /// [`Error::Lost`]; [`Error::Command`] with `what` and the last line of its standard error.
    pub async fn done(&self, what: &str, command: &str, stdin: &[u8]) -> Result<String, Error> {
        let exit = self.run(command, stdin).await?;
        if exit.success() {
            return Ok(exit.text());
        }
        let said = String::from_utf8_lossy(&exit.stderr).trim().lines().last().unwrap_or_default().to_owned();
        Err(Error::Command { host: self.host.clone(), what: what.to_owned(), code: exit.code, said })
    }

    /// Runs a command and hands on what it says while it says it. Returns its exit code.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn stream(&self, command: &str, stdin: &[u8], said: impl FnMut(Chunk<'_>) + Send) -> Result<i32, Error> {
        let (_, sizes) = mpsc::channel(1);
        self.talk(Some(command), None, stdin, sizes, said).await
    }

    /// Runs a command, or the login shell, with whatever comes from `input`, on a terminal if one is given. `sizes` are
    /// the terminal's new columns and rows. Returns the exit code.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn talk(
        &self,
        command: Option<&str>,
        terminal: Option<&Terminal>,
        input: impl AsyncRead + Unpin + Send,
        sizes: mpsc::Receiver<(u32, u32)>,
        said: impl FnMut(Chunk<'_>) + Send,
    ) -> Result<i32, Error> {
        tracing::debug!(host = self.host, "runs {}", command.unwrap_or("a login shell"));
        let channel = self.handle.channel_open_session().await.map_err(|error| self.lost(error))?;
        if let Some(terminal) = terminal {
            let Terminal { kind, columns, rows } = terminal;
            let asked = channel.request_pty(false, kind, *columns, *rows, 0, 0, &[]).await;
            asked.map_err(|error| self.lost(error))?;
        }
        let begun = match command {
            Some(command) => channel.exec(true, command).await,
            None => channel.request_shell(true).await,
        };
        begun.map_err(|error| self.lost(error))?;
        self.pump(channel, input, sizes, said).await
    }

    async fn pump(
        &self,
        channel: Channel<Msg>,
        mut input: impl AsyncRead + Unpin + Send,
        mut sizes: mpsc::Receiver<(u32, u32)>,
        mut said: impl FnMut(Chunk<'_>) + Send,
    ) -> Result<i32, Error> {
        let (mut from, to) = channel.split();
        let feed = async {
            let mut buffer = vec![0u8; 128 << 10];
            loop {
                let read = input.read(&mut buffer).await.unwrap_or(0);
                let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
                // A command that ended without reading all of it says how it ended.
                if to.data(piece).await.is_err() {
                    break;
                }
            }
            let _ = to.eof().await;
        };
        tokio::pin!(feed);
        let (mut fed, mut sized) = (false, false);
        let mut code = None;
        loop {
            tokio::select! {
                () = &mut feed, if !fed => fed = true,
                size = sizes.recv(), if !sized => match size {
                    Some((columns, rows)) => drop(to.window_change(columns, rows, 0, 0).await),
                    None => sized = true,
                },
                message = from.wait() => match message {
                    Some(ChannelMsg::Data { data }) => said(Chunk::Out(&data)),
                    Some(ChannelMsg::ExtendedData { data, .. }) => said(Chunk::Err(&data)),
                    Some(ChannelMsg::ExitStatus { exit_status }) => code = i32::try_from(exit_status).ok(),
                    // A shell says 128 + the signal's number; the name is all that SSH tells.
                    Some(ChannelMsg::ExitSignal { .. }) => code = Some(128),
                    Some(_) => {}
                    None => break,
                },
            }
        }
        code.ok_or_else(|| self.lost(russh::Error::Disconnect))
    }

    /// True when the connection is no more.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Ends the connection in good order.
    pub async fn close(self) {
        let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "en").await;
    }
}

//! Brings a file onto a host: what arrived before a broken connection is kept, and the whole is verified over there
//! before it gets its name. The far side needs a shell and coreutils only.

use std::io::SeekFrom;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use super::{Error, Session};

/// SHA-256 of a file here, lower-case hex.
///
/// # Errors
/// [`Error::File`] when it cannot be read.
pub async fn sha256(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { path: path.display().to_string(), source };
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = file.read(&mut buffer).await.map_err(failed)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        hash.update(piece);
    }
    Ok(data_encoding::HEXLOWER.encode(&hash.finalize()))
}

/// Brings a file to `to` (absolute, parents are made) with these permission bits, unless the very same content is
/// there already: then nothing is sent and the answer is false. `progress` is told how many bytes are over there.
///
/// # Errors
/// [`Error::Lost`]; calling again goes on where it broke. [`Error::Damaged`], [`Error::Command`], [`Error::File`].
pub async fn upload(
    session: &Session,
    from: &Path,
    to: &str,
    mode: u32,
    mut progress: impl FnMut(u64) + Send,
) -> Result<bool, Error> {
    let sum = sha256(from).await?;
    let (path, part) = (quote(to), quote(&format!("{to}.{}.part", sum.get(..12).unwrap_or(&sum))));
    let dir = quote(to.rsplit_once('/').map_or("/", |(dir, _)| if dir.is_empty() { "/" } else { dir }));
    // What is there, whole or in part, in one round trip.
    let look = format!(
        "mkdir -p {dir} && {{ sha256sum {path} 2>/dev/null || echo - ; }} && {{ stat -c %s {part} 2>/dev/null || echo 0; }}"
    );
    let there = session.done("looking for what is there already", &look, b"").await?;
    let mut lines = there.lines();
    if lines.next().is_some_and(|line| line.trim_start_matches('\\').starts_with(&sum)) {
        session.done("setting permissions", &format!("chmod {mode:o} {path}"), b"").await?;
        return Ok(false);
    }
    let failed = |source| Error::File { path: from.display().to_string(), source };
    let size = tokio::fs::metadata(from).await.map_err(failed)?.len();
    let offset = lines.next().and_then(|line| line.trim().parse::<u64>().ok()).filter(|at| *at <= size).unwrap_or(0);
    let mut file = tokio::fs::File::open(from).await.map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
    let mut sent = offset;
    progress(sent);
    let counted = Counted {
        inner: file,
        told: |bytes: u64| {
            sent += bytes;
            progress(sent);
        },
    };
    let redirect = if offset == 0 { ">" } else { ">>" };
    let (_, sizes) = mpsc::channel(1);
    let mut said = Vec::new();
    let command = format!("cat {redirect}{part}");
    let code = session
        .talk(Some(&command), None, counted, sizes, |chunk| {
            if let super::Chunk::Err(bytes) = chunk {
                said.extend_from_slice(bytes);
            }
        })
        .await?;
    if code != 0 {
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        return Err(Error::Command { host: session.host().to_owned(), what: format!("writing {to}"), code, said });
    }
    let verify = format!(
        "if echo {} | sha256sum -c --status -; then chmod {mode:o} {part} && sync {part} && mv -f {part} {path}; \
         else rm -f {part}; exit 65; fi",
        quote(&format!("{sum}  {to}.{}.part", sum.get(..12).unwrap_or(&sum)))
    );
    let exit = session.run(&verify, b"").await?;
    match exit.code {
        0 => Ok(true),
        65 => Err(Error::Damaged { host: session.host().to_owned(), path: to.to_owned() }),
        code => {
            let said = String::from_utf8_lossy(&exit.stderr).trim().to_owned();
            Err(Error::Command { host: session.host().to_owned(), what: format!("naming {to}"), code, said })
        }
    }
}

/// A text as one word of a POSIX shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A reader that tells how many bytes were read.
struct Counted<R, F> {
    inner: R,
    told: F,
}

impl<R: tokio::io::AsyncRead + Unpin, F: FnMut(u64) + Unpin> tokio::io::AsyncRead for Counted<R, F> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = std::pin::Pin::new(&mut this.inner).poll_read(context, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        if read > 0 {
            (this.told)(u64::try_from(read).unwrap_or(u64::MAX));
        }
        polled
    }
}

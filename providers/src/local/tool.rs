//! Runs the host's own tools (`ip`, `nft`, `btrfs` …) and turns their failures into one line.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, anyhow};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started, or ends with another code than 0: the last line of what it said is part of the error.
pub(crate) async fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    feed(program, args, b"").await
}

/// As [`run`], with something to read on its standard input.
pub(crate) async fn feed(program: &str, args: &[&str], stdin: &[u8]) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends without reading says so with its exit code.
        let _ = pipe.write_all(stdin).await;
    }
    let output = child.wait_with_output().await.with_context(|| format!("running {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or_default();
    Err(anyhow!("{program} {}: {}: {last}", args.join(" "), output.status))
}

/// As [`run`]; a failure is success, for taking back what may be gone already.
pub(crate) async fn try_run(program: &str, args: &[&str]) -> Option<String> {
    run(program, args).await.ok()
}

/// Where a program is, in the places where distributions put what the administrator runs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

/// A path as UTF-8 text, as tools take it.
pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("path is not UTF-8: {}", path.display()))
}

//! Images of the user's own onto nodes: an archive (docker's or OCI's) into each node's containerd, pinned, because it
//! could not be pulled again.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};
use kprov_providers::ssh::{Chunk, Host};

/// containerd's client on a node reads the archive from its standard input. The kubelet's images are in the namespace
/// k8s.io; it never removes a pinned one. What is unpacked is synced, or it could be empty after a power cut, for good.
const IMPORT: &str = "PATH=/usr/local/bin:$PATH exec ctr --namespace k8s.io images import --local --sync-fs \
                      --label io.cri-containerd.pinned=pinned -";

/// Loads an archive into a node over SSH.
///
/// # Errors
/// When the node cannot be reached, or its containerd refuses the archive.
pub async fn load(host: &Host, archive: &Path) -> anyhow::Result<()> {
    match over_ssh(host, archive).await {
        Err(error) if is_worth_another(&error) => over_ssh(host, archive).await,
        other => other,
    }
}

/// True for a blob that containerd should have and does not: it goes on with one that it was just taking in when the power
/// was cut, whatever the disk has of it, and keeps that under another name. The next import finds nothing of it.
fn is_worth_another(error: &anyhow::Error) -> bool {
    let said = error.to_string();
    said.contains("content digest sha256:") && said.contains(": not found")
}

async fn over_ssh(host: &Host, archive: &Path) -> anyhow::Result<()> {
    let session = host.connect().await?;
    let file = tokio::fs::File::open(archive).await.with_context(|| format!("opening {}", archive.display()))?;
    let (_, sizes) = tokio::sync::mpsc::channel(1);
    let mut said = Vec::new();
    let code = session
        .talk(Some(IMPORT), None, file, sizes, |chunk| {
            let (Chunk::Out(bytes) | Chunk::Err(bytes)) = chunk;
            said.extend_from_slice(bytes);
        })
        .await?;
    ended(code == 0, &said, &host.name)
}

/// Loads an archive into this very machine, which is a node.
///
/// # Errors
/// When its containerd refuses the archive.
pub async fn load_here(archive: &Path) -> anyhow::Result<()> {
    match by_ctr(archive).await {
        Err(error) if is_worth_another(&error) => by_ctr(archive).await,
        other => other,
    }
}

async fn by_ctr(archive: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let output = tokio::process::Command::new("sh")
        .args(["-c", IMPORT])
        .stdin(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .context("starting ctr")?;
    ended(output.status.success(), &output.stderr, "this machine")
}

fn ended(well: bool, said: &[u8], host: &str) -> anyhow::Result<()> {
    if well {
        return Ok(());
    }
    let said = String::from_utf8_lossy(said);
    let why = said.trim().lines().last().unwrap_or("ctr says no reason").trim_start_matches("ctr: ").to_owned();
    bail!("the image archive was refused by containerd ({why}): {host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let error = ended(false, b"x\nctr: unrecognized image format\n", "kprov-cp-1").unwrap_err().to_string();
        assert_eq!(error, "the image archive was refused by containerd (unrecognized image format): kprov-cp-1");
        assert!(ended(true, b"", "x").is_ok());
        let lost = ended(false, b"ctr: content digest sha256:00: not found\n", "x").unwrap_err();
        assert!(is_worth_another(&lost) && !is_worth_another(&anyhow::anyhow!(error)));
    }
}

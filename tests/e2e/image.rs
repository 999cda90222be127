//! The image that the scenarios run: the static probe and nothing else, as `docker save` would write it.

use std::path::Path;

use anyhow::Context;
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Its name.
pub const NAME: &str = "kprov.test/probe:1";

/// Writes the archive.
///
/// # Errors
/// When the probe cannot be read or the archive not be written.
pub fn write(probe: &Path, path: &Path) -> anyhow::Result<()> {
    let probe = std::fs::read(probe).with_context(|| format!("reading {}", probe.display()))?;
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "probe", 0o755, &probe)?;
    let layer = layer.into_inner()?;
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/"], "Entrypoint": ["/probe"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&layer)))]},
    }))?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(std::fs::File::create(path)?);
    append(&mut archive, "config.json", 0o644, &config)?;
    append(&mut archive, "layer.tar", 0o644, &layer)?;
    append(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
    archive.into_inner()?.sync_all()?;
    Ok(())
}

/// One entry of an archive.
pub fn append<W: std::io::Write>(to: &mut tar::Builder<W>, name: &str, mode: u32, data: &[u8]) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    to.append_data(&mut header, name, data)?;
    Ok(())
}

//! The images of Kubernetes' components with programs of their own in the place of the bundle's files, as upstream's
//! images have them: for comparing memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use data_encoding::HEXLOWER;
use kprov::bundle::manifest::Manifest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::image::append;

/// Components that run in containers.
const COMPONENTS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"];

/// Writes an archive as `docker save` would. `archive` is the bundle's own (OCI), from which the other layers come.
///
/// # Errors
/// When an image or a program is not there.
pub fn images(manifest: &Manifest, archive: &Path, programs: &Path, to: &Path) -> anyhow::Result<()> {
    let mut out = tar::Builder::new(File::create(to)?);
    let (mut described, mut shared) = (Vec::new(), BTreeSet::new());
    for name in COMPONENTS {
        let image = manifest.images.iter().find(|image| image.name.contains(&format!("/{name}:")));
        let image = image.with_context(|| format!("the bundle has no {name}"))?;
        // The last layer is the program's, which several share.
        let (_, others) = image.layers.split_last().context("an image without layers")?;
        let others: Vec<&str> = others.iter().map(|layer| layer.trim_start_matches("sha256:")).collect();
        shared.extend(others.iter().map(|hex| (*hex).to_owned()));

        let mut layer = tar::Builder::new(Vec::new());
        append(&mut layer, &format!("usr/local/bin/{name}"), 0o755, &std::fs::read(programs.join(name))?)?;
        let layer = layer.into_inner()?;
        append(&mut out, &format!("{name}.tar"), 0o644, &layer)?;
        let own = HEXLOWER.encode(&Sha256::digest(&layer));
        let ids: Vec<String> =
            others.iter().copied().chain([own.as_str()]).map(|hex| format!("sha256:{hex}")).collect();
        let config: Value = json!({
            "architecture": manifest.arch,
            "os": "linux",
            "config": {
                "Entrypoint": [format!("/usr/local/bin/{name}")],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        append(&mut out, &format!("{name}.json"), 0o644, &serde_json::to_vec(&config)?)?;
        let layers: Vec<String> =
            others.iter().map(|hex| format!("{hex}.tar")).chain([format!("{name}.tar")]).collect();
        described.push(json!({"Config": format!("{name}.json"), "RepoTags": [image.name], "Layers": layers}));
    }
    let mut bundled = tar::Archive::new(File::open(archive)?);
    for entry in bundled.entries()? {
        let mut entry = entry?;
        let hex = entry.path()?.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if shared.remove(&hex) {
            let mut layer = Vec::new();
            entry.read_to_end(&mut layer)?;
            append(&mut out, &format!("{hex}.tar"), 0o644, &layer)?;
        }
    }
    append(&mut out, "manifest.json", 0o644, &serde_json::to_vec(&described)?)?;
    out.into_inner()?.sync_all()?;
    Ok(())
}

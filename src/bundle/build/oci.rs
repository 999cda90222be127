//! An image's own documents, the configuration and the manifest: their bytes follow from the layers alone.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{BuildError, Result};
use crate::bundle::manifest::{Blob, Image, sha256_hex};

/// A blob's hash, where it lies, and its size.
type Source = (String, (PathBuf, u64));

/// An image of these layers, lowest first; its documents are written into `dir`. An empty `user` is root.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn image(
    name: &str,
    arch: &str,
    layers: &[Blob],
    entrypoint: &[&str],
    user: &str,
    dir: &Path,
) -> Result<(Image, [Source; 2])> {
    let digest = |blob: &Blob| format!("sha256:{}", blob.sha256);
    let diff_ids: Vec<String> = layers.iter().map(digest).collect();
    let mut run = json!({
        "Entrypoint": entrypoint,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": "/",
    });
    if let (false, Some(run)) = (user.is_empty(), run.as_object_mut()) {
        run.insert("User".into(), user.into());
    }
    let history = json!({"created": "1970-01-01T00:00:00Z", "created_by": "kprov"});
    let config = document(
        dir,
        &json!({
            "architecture": arch,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": vec![history; layers.len()],
        }),
    )?;
    let described = |layer: &Blob| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest(layer),
            "size": layer.size,
        })
    };
    let manifest = document(
        dir,
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", config.0),
                "size": config.1.1,
            },
            "layers": layers.iter().map(described).collect::<Vec<_>>(),
        }),
    )?;
    let image = Image {
        name: name.to_owned(),
        digest: format!("sha256:{}", manifest.0),
        config: format!("sha256:{}", config.0),
        layers: diff_ids,
    };
    Ok((image, [config, manifest]))
}

/// A document as a blob.
fn document(dir: &Path, value: &Value) -> Result<Source> {
    let text = value.to_string();
    let hex = sha256_hex(text.as_bytes());
    let path = dir.join(&hex);
    std::fs::write(&path, &text).map_err(BuildError::file("writing an image's document"))?;
    Ok((hex, (path, text.len() as u64)))
}

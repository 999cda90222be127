//! What is in a bundle, for people and programs.

use std::path::Path;

use serde::Serialize;

use super::error::BundleError;
use super::manifest::{Content, Manifest, hex_of};
use super::verify::open;

/// What `kprov bundle inspect` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// SHA-256 of the manifest.
    pub id: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of all blobs.
    pub unpacked: u64,
    /// The manifest itself.
    pub manifest: Manifest,
}

/// Reads a bundle's manifest; the rest is not verified.
///
/// # Errors
/// A file that cannot be read or is no bundle.
pub fn inspect(path: &Path) -> Result<Inspection, BundleError> {
    let opened = open(path)?;
    let size = std::fs::metadata(path).map_err(|error| BundleError::Read { path: path.to_owned(), error })?.len();
    let unpacked = opened.manifest().blobs.iter().map(|b| b.size).sum();
    Ok(Inspection { id: opened.id().to_owned(), size, unpacked, manifest: opened.manifest().clone() })
}

impl Inspection {
    /// As lines of text.
    pub fn text(&self) -> String {
        let manifest = &self.manifest;
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let mut lines = vec![
            format!("kubernetes  {}", manifest.kubernetes),
            format!("arch        {}", manifest.arch),
            format!("id          {}", self.id),
            format!("size        {} ({} unpacked)", mb(self.size), mb(self.unpacked)),
            String::new(),
            "PARTS".to_owned(),
        ];
        let width = manifest.parts.keys().map(String::len).max().unwrap_or_default();
        lines.extend(manifest.parts.iter().map(|(name, version)| format!("  {name:width$}  {version}")));
        lines.extend([String::new(), "FILES".to_owned()]);
        let size_of = |hex: &str| manifest.size_of(hex);
        let width = manifest.files.iter().map(|f| f.path.len()).max().unwrap_or_default();
        lines.extend(manifest.files.iter().map(|file| match &file.content {
            Content::Blob(hex) => format!("  {:width$}  {:>9}", file.path, mb(size_of(hex))),
            Content::Member { size, .. } => format!("  {:width$}  {:>9}  (shared with images)", file.path, mb(*size)),
            Content::Link(target) => format!("  {:width$}  -> {target}", file.path),
        }));
        lines.extend([String::new(), "IMAGES".to_owned()]);
        let width = manifest.images.iter().map(|i| i.name.len()).max().unwrap_or_default();
        lines.extend(manifest.images.iter().map(|image| {
            let size: u64 = image.layers.iter().map(|l| size_of(hex_of(l))).sum();
            format!("  {:width$}  {:>9}  {}", image.name, mb(size), image.digest)
        }));
        lines.push(String::new());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;

    #[test]
    fn tells_what_is_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bundle = synthetic::small("amd64");
        std::fs::write(file.path(), bundle.bytes()).unwrap();
        let seen = inspect(file.path()).unwrap();
        assert_eq!(seen.id, bundle.manifest.id().unwrap());
        let text = seen.text();
        for part in
            ["v1.36.3", "amd64", "containerd", "/usr/bin/kubelet", "-> kubectl", "kube-scheduler:v1.36.3", &seen.id]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

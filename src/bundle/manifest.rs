//! `kprov-manifest.json`: the first entry of a bundle, which names all others.
//!
//! Reading order: [`host_file`] (files for the machine), [`uses`] (what blobs are), [`check`] (what is refused).

mod check;
mod host_file;
mod uses;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::host_file::{Content, HostFile};
pub use self::uses::Role;

/// Version of the bundle format.
pub const FORMAT: u32 = 1;

/// No manifest is longer, in bytes.
pub const MAX_MANIFEST: u64 = 1 << 20;

/// Image manifests and configurations are no longer, in bytes: they are held in memory.
pub const MAX_DOCUMENT: u64 = 1 << 20;

/// No bundle unpacks to more, in bytes.
pub const MAX_TOTAL: u64 = 8 << 30;

/// Directories in which a bundle may put files on a machine.
pub const HOST_DIRS: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib/kprov", "/opt/cni/bin"];

/// Name of kprov's own flannel image: others of that word (the project's own, for `--cni FILE`) are started otherwise.
pub const FLANNEL: &str = "kprov.io/flannel";

/// What a bundle holds. Every byte after it is checked against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// `v1.36.3`.
    pub kubernetes: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Versions of the upstream parts by name: `containerd` → `2.3.7`; Debian packages with their own versions.
    pub parts: BTreeMap<String, String>,
    /// Files for the machine itself.
    pub files: Vec<HostFile>,
    /// Container images.
    pub images: Vec<Image>,
    /// All blobs, in the order in which they follow.
    pub blobs: Vec<Blob>,
}

/// An image of the OCI layout. Layers are uncompressed tars: the bundle as a whole is compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Full name: `registry.k8s.io/kube-apiserver:v1.36.3`.
    pub name: String,
    /// Digest of its manifest: `sha256:HEX`.
    pub digest: String,
    /// Digest of its configuration: `sha256:HEX`.
    pub config: String,
    /// Digests of its layers, lowest first: `sha256:HEX`.
    pub layers: Vec<String>,
}

/// One blob: `blobs/sha256/HEX`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blob {
    /// Lower-case hex SHA-256.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// A manifest that contradicts itself or wants something that no bundle may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {part}")]
pub struct Defect {
    /// The part it is about: a path, an image's name, a blob.
    pub part: String,
    /// What is wrong.
    pub why: String,
}

fn defect(why: impl Into<String>, part: impl Into<String>) -> Defect {
    Defect { part: part.into(), why: why.into() }
}

/// `sha256:HEX` → `HEX`.
pub fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Lower-case hex SHA-256 of bytes.
pub fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// 64 lower-case hex digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// True for a relative path of plain components, as it may stand in a layer.
pub fn is_plain_relative(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0') && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl Manifest {
    /// The bytes that stand in the bundle. Their hash is the bundle's [`id`](Self::id).
    ///
    /// # Errors
    /// None that a manifest of this type can cause.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// SHA-256 of the manifest's bytes: it names the bundle and all that is in it.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes).
    pub fn id(&self) -> serde_json::Result<String> {
        Ok(sha256_hex(&self.to_bytes()?))
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// A [`Defect`] with what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Defect> {
        let part = "kprov-manifest.json";
        // The format is looked at first: a newer bundle is to be called that, not a puzzle of unknown fields.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| defect(e.to_string(), part))?;
        if version.format != FORMAT {
            return Err(defect(format!("format {} is not {FORMAT}, which this kprov knows", version.format), part));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| defect(e.to_string(), part))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// kprov's own flannel image, with its tag.
    pub fn flannel(&self) -> Option<&Image> {
        self.images.iter().find(|image| image.name.rsplit_once(':').is_some_and(|(name, _)| name == FLANNEL))
    }

    /// `index.json` of the OCI layout, which follows from the manifest.
    pub fn index_json(&self) -> Vec<u8> {
        self.index_of(&self.images.iter().collect::<Vec<_>>())
    }

    /// An OCI index of some of the images.
    pub(crate) fn index_of(&self, images: &[&Image]) -> Vec<u8> {
        let sizes: BTreeMap<&str, u64> = self.blobs.iter().map(|b| (b.sha256.as_str(), b.size)).collect();
        let manifests: Vec<serde_json::Value> = images
            .iter()
            .map(|image| {
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": image.digest,
                    "size": sizes.get(hex_of(&image.digest)).copied().unwrap_or_default(),
                    "platform": {"architecture": self.arch, "os": "linux"},
                    "annotations": {
                        "io.containerd.image.name": image.name,
                        "org.opencontainers.image.ref.name": image.name,
                    },
                })
            })
            .collect();
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        })
        .to_string()
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;

    #[test]
    fn survives_the_way_through_json() {
        let manifest = synthetic::small("amd64").manifest;
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let manifest = synthetic::small("amd64").manifest;
        let text =
            String::from_utf8(manifest.to_bytes().unwrap()).unwrap().replacen("\"arch\"", "\"extra\": 1, \"arch\"", 1);
        assert!(Manifest::from_bytes(text.as_bytes()).unwrap_err().to_string().contains("unknown field `extra`"));
    }
}

//! `kprov-manifest.json`: the first entry of a bundle, which names all others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the bundle format.
pub const FORMAT: u32 = 1;

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

/// A file that goes onto the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostFile {
    /// Absolute path on the machine: `/usr/bin/kubelet`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What the file is.
    #[serde(flatten)]
    pub content: Content,
}

/// Where a host file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// A blob of its own: lower-case hex SHA-256.
    Blob(String),
    /// A member of a layer blob, so that a binary shared with images is stored once.
    Member {
        /// The layer (an uncompressed tar): lower-case hex SHA-256.
        layer: String,
        /// Name within the tar.
        name: String,
        /// SHA-256 of the member itself.
        sha256: String,
        /// Size of the member in bytes.
        size: u64,
    },
    /// A symbolic link and its target.
    Link(String),
}

/// An image of the OCI layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Full name: `registry.k8s.io/kube-apiserver:v1.36.3`.
    pub name: String,
    /// Digest of its manifest: `sha256:HEX`.
    pub digest: String,
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

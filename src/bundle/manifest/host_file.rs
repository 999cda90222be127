//! A file for the machine, and where its content comes from.

use serde::{Deserialize, Serialize};

/// A file that goes onto the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Written")]
pub struct HostFile {
    /// Absolute path on the machine: `/usr/bin/kubelet`, in one of [`HOST_DIRS`](super::HOST_DIRS).
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The file is not needed, and not installed, where something is at one of these absolute paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<String>,
    /// What the file is.
    #[serde(flatten)]
    pub content: Content,
}

/// Where a host file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// A blob of its own: lower-case hex SHA-256.
    Blob(String),
    /// A member of a layer blob, so that a binary shared with images is stored once.
    Member {
        /// The layer (an uncompressed tar): lower-case hex SHA-256.
        layer: String,
        /// Name within the tar, without a leading `/` or `./`.
        name: String,
        /// SHA-256 of the member itself.
        sha256: String,
        /// Size of the member in bytes.
        size: u64,
    },
    /// A symbolic link and its target.
    Link(String),
}

/// A host file as it is written: serde cannot refuse unknown fields beside a flattened one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    path: String,
    mode: u32,
    #[serde(default)]
    unless: Vec<String>,
    blob: Option<String>,
    member: Option<WrittenMember>,
    link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenMember {
    layer: String,
    name: String,
    sha256: String,
    size: u64,
}

impl TryFrom<Written> for HostFile {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { path, mode, unless, blob, member, link } = written;
        let content = match (blob, member, link) {
            (Some(blob), None, None) => Content::Blob(blob),
            (None, Some(WrittenMember { layer, name, sha256, size }), None) => {
                Content::Member { layer, name, sha256, size }
            }
            (None, None, Some(link)) => Content::Link(link),
            _ => return Err(format!("not exactly one of blob, member and link: {path}")),
        };
        Ok(Self { path, mode, unless, content })
    }
}

impl HostFile {
    /// SHA-256 of its content; none for a link.
    pub fn sha256(&self) -> Option<&str> {
        match &self.content {
            Content::Blob(hex) => Some(hex),
            Content::Member { sha256, .. } => Some(sha256),
            Content::Link(_) => None,
        }
    }
}

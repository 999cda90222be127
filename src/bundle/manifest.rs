//! `kprov-manifest.json`: the first entry of a bundle, which names all others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// A file that goes onto the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Written")]
pub struct HostFile {
    /// Absolute path on the machine: `/usr/bin/kubelet`, in one of [`HOST_DIRS`].
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

/// What a blob is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An image's manifest.
    ImageManifest,
    /// An image's configuration.
    ImageConfig,
    /// A layer of one or more images.
    Layer,
    /// A file for the machine, in no image.
    HostFile,
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

    /// What each blob is used as, by its hash. A blob that nothing uses is not in it.
    pub fn roles(&self) -> BTreeMap<&str, Role> {
        let mut roles = BTreeMap::new();
        for file in &self.files {
            if let Content::Blob(hex) = &file.content {
                roles.insert(hex.as_str(), Role::HostFile);
            }
        }
        for image in &self.images {
            for layer in &image.layers {
                roles.insert(hex_of(layer), Role::Layer);
            }
        }
        for image in &self.images {
            roles.insert(hex_of(&image.config), Role::ImageConfig);
            roles.insert(hex_of(&image.digest), Role::ImageManifest);
        }
        roles
    }

    /// Bytes of a blob; 0 where the bundle does not have it.
    pub fn size_of(&self, hex: &str) -> u64 {
        self.blobs.iter().find(|b| b.sha256 == hex).map_or(0, |b| b.size)
    }

    /// A blob's name for people: its entry, and what it is.
    pub fn label(&self, hex: &str) -> String {
        let mut of: Vec<&str> = Vec::new();
        for file in &self.files {
            match &file.content {
                Content::Blob(own) if own == hex => of.push(&file.path),
                Content::Member { layer, .. } if layer == hex => of.push(&file.path),
                _ => {}
            }
        }
        for image in &self.images {
            if [&image.digest, &image.config].into_iter().chain(&image.layers).any(|d| hex_of(d) == hex) {
                of.push(&image.name);
            }
        }
        match of.as_slice() {
            [] => format!("blobs/sha256/{hex}"),
            [one] => format!("blobs/sha256/{hex} ({one})"),
            [one, rest @ ..] => format!("blobs/sha256/{hex} ({one} and {} more)", rest.len()),
        }
    }

    /// Sorts the blobs as they are best read: image manifests, configurations, files for the machine, layers; each
    /// kind as it stands in `images` and `files`. Blobs that nothing uses go last (and are refused by
    /// [`check`](Self::check)).
    pub fn arrange(&mut self) {
        let mut order: BTreeMap<String, usize> = BTreeMap::new();
        let files = self.files.iter().filter_map(|f| match &f.content {
            Content::Blob(hex) => Some(hex.as_str()),
            _ => None,
        });
        let all = (self.images.iter().map(|i| hex_of(&i.digest)))
            .chain(self.images.iter().map(|i| hex_of(&i.config)))
            .chain(files)
            .chain(self.images.iter().flat_map(|i| i.layers.iter().map(|l| hex_of(l))));
        for hex in all {
            let next = order.len();
            order.entry(hex.to_owned()).or_insert(next);
        }
        self.blobs.sort_by_key(|b| (order.get(&b.sha256).copied().unwrap_or(usize::MAX), b.sha256.clone()));
        self.blobs.dedup();
    }

    /// Checks that the manifest agrees with itself and wants nothing that a bundle may not do.
    ///
    /// # Errors
    /// The first [`Defect`].
    pub fn check(&self) -> Result<(), Defect> {
        let part = "kprov-manifest.json";
        if self.format != FORMAT {
            return Err(defect(format!("format {} is not {FORMAT}, which this kprov knows", self.format), part));
        }
        if !matches!(self.arch.as_str(), "amd64" | "arm64") {
            return Err(defect(format!("architecture {} is not known", self.arch), part));
        }
        self.check_blobs()?;
        self.check_files()?;
        self.check_images()?;
        let roles = self.roles();
        let unused = self.blobs.iter().find(|b| !roles.contains_key(b.sha256.as_str()));
        unused.map_or(Ok(()), |b| Err(defect("nothing uses the blob", self.label(&b.sha256))))
    }

    fn check_blobs(&self) -> Result<(), Defect> {
        let (mut seen, mut total) = (BTreeSet::new(), 0_u64);
        for blob in &self.blobs {
            if !is_sha256(&blob.sha256) {
                return Err(defect("not a lower-case hex SHA-256", &blob.sha256));
            }
            if !seen.insert(&blob.sha256) {
                return Err(defect("listed twice", self.label(&blob.sha256)));
            }
            total = total.saturating_add(blob.size);
            if total > MAX_TOTAL {
                return Err(defect(
                    format!("the bundle unpacks to more than {MAX_TOTAL} bytes"),
                    self.label(&blob.sha256),
                ));
            }
        }
        Ok(())
    }

    fn has(&self, hex: &str, whose: &str) -> Result<(), Defect> {
        if self.blobs.iter().any(|b| b.sha256 == hex) {
            return Ok(());
        }
        Err(defect(format!("its blob {hex} is not in the bundle"), whose))
    }

    fn check_files(&self) -> Result<(), Defect> {
        let mut paths = BTreeSet::new();
        let host_path = |path: &str| {
            let (dir, name) = path.rsplit_once('/').unwrap_or_default();
            HOST_DIRS.contains(&dir) && is_plain_relative(name)
        };
        for file in &self.files {
            let path = file.path.as_str();
            if !host_path(path) {
                return Err(defect(format!("not a file in {}", HOST_DIRS.join(", ")), path));
            }
            if !paths.insert(path) {
                return Err(defect("listed twice", path));
            }
            if file.mode & !0o777 != 0 {
                return Err(defect(format!("mode {:o} is more than permission bits", file.mode), path));
            }
            match &file.content {
                Content::Blob(hex) => self.has(hex, path)?,
                Content::Member { layer, name, sha256, .. } => {
                    self.has(layer, path)?;
                    if !self.images.iter().any(|i| i.layers.iter().any(|l| hex_of(l) == layer)) {
                        return Err(defect(format!("{layer} is no image's layer"), path));
                    }
                    if !is_plain_relative(name) {
                        return Err(defect(format!("its name in the layer climbs out: {name}"), path));
                    }
                    if !is_sha256(sha256) {
                        return Err(defect("its hash is not a lower-case hex SHA-256", path));
                    }
                }
                Content::Link(target) => {
                    // A name in the same directory, or one of the places where the bundle may put files.
                    if !(host_path(target) || (is_plain_relative(target) && !target.contains('/'))) {
                        return Err(defect(format!("link climbs out to {target}"), path));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_images(&self) -> Result<(), Defect> {
        let mut names = BTreeSet::new();
        let host: BTreeSet<&str> = self
            .files
            .iter()
            .filter_map(|f| if let Content::Blob(hex) = &f.content { Some(hex.as_str()) } else { None })
            .collect();
        for image in &self.images {
            let name = image.name.as_str();
            if name.is_empty() || !names.insert(name) {
                return Err(defect("an image without a name of its own", name));
            }
            for digest in [&image.digest, &image.config].into_iter().chain(&image.layers) {
                if !digest.starts_with("sha256:") {
                    return Err(defect(format!("not a sha256: digest: {digest}"), name));
                }
                self.has(hex_of(digest), name)?;
                if host.contains(hex_of(digest)) {
                    return Err(defect("one blob is both a file for the machine and part of an image", name));
                }
            }
            for document in [&image.digest, &image.config] {
                let size = self.blobs.iter().find(|b| b.sha256 == hex_of(document)).map_or(0, |b| b.size);
                if size > MAX_DOCUMENT {
                    return Err(defect(format!("manifest or configuration of {size} bytes"), name));
                }
            }
        }
        let roles = self.roles();
        let mixed = self.images.iter().find(|i| {
            roles.get(hex_of(&i.digest)) != Some(&Role::ImageManifest)
                || roles.get(hex_of(&i.config)) != Some(&Role::ImageConfig)
                || i.layers.iter().any(|l| roles.get(hex_of(l)) != Some(&Role::Layer))
        });
        mixed.map_or(Ok(()), |i| Err(defect("one blob is used as two kinds of thing", &i.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;

    fn defect_of(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = synthetic::small("amd64").manifest;
        change(&mut manifest);
        let bytes = manifest.to_bytes().unwrap();
        Manifest::from_bytes(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn survives_the_way_through_json() {
        let manifest = synthetic::small("amd64").manifest;
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn refuses_what_climbs_out() {
        for path in
            ["/etc/shadow", "/usr/bin/../../etc/shadow", "usr/bin/x", "/usr/bin/", "/usr/bin/a/b", "/usr/bin/.."]
        {
            let text = defect_of(|m| m.files[0].path = path.into());
            assert!(text.starts_with("not a file in /usr/bin, "), "{text}");
            assert!(text.ends_with(path), "{text}");
        }
        for target in ["../../etc/shadow", "/etc/shadow", "..", "", "/usr/bin/../../etc/passwd"] {
            let text = defect_of(|m| m.files[0].content = Content::Link(target.into()));
            assert!(text.contains("link climbs out"), "{text}");
        }
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        assert!(defect_of(|m| m.format = 2).contains("format 2 is not 1"));
        assert!(defect_of(|m| m.arch = "sparc".into()).contains("architecture sparc"));
        assert!(defect_of(|m| drop(m.blobs.remove(0))).contains("is not in the bundle"));
        assert!(defect_of(|m| m.blobs.push(m.blobs[0].clone())).contains("listed twice"));
        assert!(defect_of(|m| m.files.push(m.files[0].clone())).contains("listed twice: /usr/"));
        assert!(defect_of(|m| m.blobs.push(Blob { sha256: "0".repeat(64), size: 1 })).contains("nothing uses"));
        assert!(defect_of(|m| m.files[0].mode = 0o4755).contains("more than permission bits"));
        assert!(defect_of(|m| m.blobs[0].size = u64::MAX).contains("unpacks to more than"));
        assert!(defect_of(|m| m.images[0].config = m.images[0].digest.clone()).contains("two kinds"));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let manifest = synthetic::small("amd64").manifest;
        let text =
            String::from_utf8(manifest.to_bytes().unwrap()).unwrap().replacen("\"arch\"", "\"extra\": 1, \"arch\"", 1);
        assert!(Manifest::from_bytes(text.as_bytes()).unwrap_err().to_string().contains("unknown field `extra`"));
    }
}

//! What differs between two bundles: parts, files for the machine, images.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::inspect::Inspection;
use super::manifest::{Content, HostFile, Manifest, hex_of};

/// What `kprov bundle diff` tells. Empty lists: the bundles hold the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// The first bundle.
    pub from: Side,
    /// The second.
    pub to: Side,
    /// Both are the same bundle: the same id.
    pub same: bool,
    /// Upstream parts; the values are versions.
    pub parts: Vec<Change<String>>,
    /// Files for the machine, by path.
    pub files: Vec<Change<FileFacts>>,
    /// Images, by name without tag.
    pub images: Vec<Change<ImageFacts>>,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// SHA-256 of its manifest.
    pub id: String,
    /// `v1.36.3`.
    pub kubernetes: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of all blobs.
    pub unpacked: u64,
}

/// Something that only one has, or both have differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change<T> {
    /// What it is about.
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub change: Kind,
    /// In the first bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<T>,
    /// In the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<T>,
}

/// How a thing changed on the way from the first bundle to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, not alike.
    Changed,
}

/// A file for the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileFacts {
    /// Permission bits.
    pub mode: u32,
    /// Bytes; 0 for a link.
    pub size: u64,
    /// Hex SHA-256 of its content; none for a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A link's target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Where one of these is, the file is not installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageFacts {
    /// Its tag.
    pub tag: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Bytes of its layers, some of which other images may have too.
    pub size: u64,
}

/// Compares two bundles by their manifests, which name every byte.
pub fn diff(from: &Inspection, to: &Inspection) -> Diff {
    Diff {
        same: from.id == to.id,
        parts: changes(&from.manifest.parts, &to.manifest.parts),
        files: changes(&files(&from.manifest), &files(&to.manifest)),
        images: changes(&images(&from.manifest), &images(&to.manifest)),
        from: side(from),
        to: side(to),
    }
}

fn side(of: &Inspection) -> Side {
    Side {
        id: of.id.clone(),
        kubernetes: of.manifest.kubernetes.clone(),
        arch: of.manifest.arch.clone(),
        size: of.size,
        unpacked: of.unpacked,
    }
}

fn changes<T: Clone + PartialEq>(from: &BTreeMap<String, T>, to: &BTreeMap<String, T>) -> Vec<Change<T>> {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let change = |name: &String| {
        let (from, to) = (from.get(name).cloned(), to.get(name).cloned());
        let change = match (&from, &to) {
            (Some(a), Some(b)) if a == b => return None,
            (Some(_), Some(_)) => Kind::Changed,
            (Some(_), None) => Kind::Removed,
            (None, _) => Kind::Added,
        };
        Some(Change { name: name.clone(), change, from, to })
    };
    names.into_iter().filter_map(change).collect()
}

fn files(manifest: &Manifest) -> BTreeMap<String, FileFacts> {
    let facts = |file: &HostFile| FileFacts {
        mode: file.mode,
        size: match &file.content {
            Content::Blob(hex) => manifest.size_of(hex),
            Content::Member { size, .. } => *size,
            Content::Link(_) => 0,
        },
        sha256: file.sha256().map(str::to_owned),
        link: if let Content::Link(target) = &file.content { Some(target.clone()) } else { None },
        unless: file.unless.clone(),
    };
    manifest.files.iter().map(|file| (file.path.clone(), facts(file))).collect()
}

fn images(manifest: &Manifest) -> BTreeMap<String, ImageFacts> {
    let mut found = BTreeMap::new();
    for image in &manifest.images {
        let (name, tag) = image.name.rsplit_once(':').unwrap_or((&image.name, ""));
        let size = image.layers.iter().map(|layer| manifest.size_of(hex_of(layer))).sum();
        let facts = ImageFacts { tag: tag.to_owned(), digest: image.digest.clone(), size };
        // Two tags of one name are two images.
        let twice = manifest.images.iter().filter(|i| i.name.rsplit_once(':').is_some_and(|(n, _)| n == name)).count();
        found.insert(if twice > 1 { image.name.clone() } else { name.to_owned() }, facts);
    }
    found
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

impl FileFacts {
    fn text(&self) -> String {
        self.link.as_ref().map_or_else(|| mb(self.size), |target| format!("-> {target}"))
    }
}

impl ImageFacts {
    fn text(&self) -> String {
        format!("{} ({}, {})", self.tag, mb(self.size), self.digest.get(..19).unwrap_or(&self.digest))
    }
}

/// `1.2 becomes 1.3`; a change that the short form does not show is named.
fn line<T>(change: &Change<T>, text: impl Fn(&T) -> String, why: impl Fn(&T, &T) -> String) -> String {
    match (&change.from, &change.to) {
        (Some(a), Some(b)) if text(a) == text(b) => format!("{} ({})", text(a), why(a, b)),
        (Some(a), Some(b)) => format!("{} becomes {}", text(a), text(b)),
        (a, b) => a.as_ref().or(b.as_ref()).map(text).unwrap_or_default(),
    }
}

fn list<T>(out: &mut String, title: &str, changes: &[Change<T>], line: impl Fn(&Change<T>) -> String) {
    if changes.is_empty() {
        return;
    }
    let width = changes.iter().map(|change| change.name.len()).max().unwrap_or_default();
    let _ = writeln!(out, "\n{title}");
    for change in changes {
        let sign = match change.change {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
        };
        let _ = writeln!(out, "  {sign} {:width$}  {}", change.name, line(change));
    }
}

impl Diff {
    /// Nothing differs but, perhaps, the way the bundles are packed.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.files.is_empty() && self.images.is_empty() && self.from.arch == self.to.arch
    }

    /// As lines of text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (sign, side) in [('-', &self.from), ('+', &self.to)] {
            let Side { kubernetes, arch, id, size, unpacked } = side;
            let _ = writeln!(
                out,
                "{sign} Kubernetes {kubernetes}, {arch}, {} ({} unpacked), id {id}",
                mb(*size),
                mb(*unpacked)
            );
        }
        if self.is_empty() {
            out.push_str("\nno difference\n");
            return out;
        }
        list(&mut out, "PARTS", &self.parts, |c| line(c, Clone::clone, |_, _| String::new()));
        list(&mut out, "FILES", &self.files, |c| {
            line(c, FileFacts::text, |a, b| match () {
                () if a.sha256 != b.sha256 => "other content".into(),
                () if a.mode != b.mode => format!("mode {:04o} becomes {:04o}", a.mode, b.mode),
                () => "needed under other conditions".into(),
            })
        });
        list(&mut out, "IMAGES", &self.images, |c| line(c, ImageFacts::text, |_, _| "other digest".into()));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::inspect::inspect;
    use crate::bundle::synthetic::{self, Synthetic, elf};

    fn seen(bundle: &Synthetic) -> Inspection {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bundle.bytes()).unwrap();
        inspect(file.path()).unwrap()
    }

    #[test]
    fn a_bundle_and_itself_are_the_same() {
        let one = seen(&synthetic::small("amd64"));
        let found = diff(&one, &one);
        assert!(found.same && found.is_empty());
        assert!(found.text().ends_with("no difference\n"), "{}", found.text());
    }

    #[test]
    fn names_what_came_went_and_changed() {
        let mut later = synthetic::small("amd64");
        later.manifest.kubernetes = "v1.36.4".into();
        later.manifest.parts.insert("containerd".into(), "2.3.8".into());
        later.manifest.parts.insert("runc".into(), "1.4.3".into());
        later.manifest.images[0].name = "registry.k8s.io/kube-apiserver:v1.36.4".into();
        later.manifest.files.retain(|file| file.path != "/usr/local/bin/k");
        later.manifest.files[1].mode = 0o700;
        later.file("/usr/local/bin/runc", elf("amd64", &[1; 2_000_000]));
        later.manifest.arrange();
        let found = diff(&seen(&synthetic::small("amd64")), &seen(&later));
        assert!(!found.same);
        let kinds = |name: &str| {
            let of = |list: Vec<(String, Kind)>| list.into_iter().find(|(n, _)| n == name).map(|(_, kind)| kind);
            of(found.parts.iter().map(|c| (c.name.clone(), c.change)).collect())
                .or(of(found.files.iter().map(|c| (c.name.clone(), c.change)).collect()))
                .or(of(found.images.iter().map(|c| (c.name.clone(), c.change)).collect()))
        };
        assert_eq!(kinds("containerd"), Some(Kind::Changed));
        assert_eq!(kinds("runc"), Some(Kind::Added));
        assert_eq!(kinds("/usr/local/bin/k"), Some(Kind::Removed));
        assert_eq!(kinds("/usr/bin/kubelet"), Some(Kind::Changed));
        assert_eq!(kinds("registry.k8s.io/kube-apiserver"), Some(Kind::Changed));
        assert_eq!(kinds("registry.k8s.io/kube-scheduler"), None);
        let text = found.text();
        for part in [
            "~ containerd  2.3.7 becomes 2.3.8",
            "+ runc        1.4.3",
            "- /usr/local/bin/k     -> kubectl",
            "+ /usr/local/bin/runc  2.0 MB",
            "mode 0755 becomes 0700",
            "v1.36.3 (0.0 MB, sha256:",
            "becomes v1.36.4 (",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["parts"][0]["change"], "changed");
        assert_eq!(json["parts"][1].get("from"), None);
    }
}

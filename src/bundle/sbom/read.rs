//! Looks into the programs and layers of a bundle while it is verified.

use std::collections::{BTreeMap, BTreeSet};

use super::goinfo::{GoInfo, Search};
use crate::bundle::error::{BundleError, bad};
use crate::bundle::layer::{Members, Scan};
use crate::bundle::manifest::{Blob, Role};
use crate::bundle::verify::Sink;

/// Lists of packages are no longer, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Go programs that are blobs of their own, by the blob's hash.
    pub(crate) programs: BTreeMap<String, GoInfo>,
    /// What is in each layer, by its hash.
    pub(crate) layers: BTreeMap<String, LayerFound>,
}

/// What is in a layer.
#[derive(Debug, Default)]
pub(crate) struct LayerFound {
    /// Go programs by their path.
    pub(crate) programs: BTreeMap<String, GoInfo>,
    /// Packages of the distribution, as its own lists have them.
    pub(crate) packages: BTreeSet<Package>,
}

/// A package of a distribution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// `deb` or `apk`.
    pub(crate) kind: &'static str,
    /// `libc6`.
    pub(crate) name: String,
    /// `2.36-9+deb12u13`.
    pub(crate) version: String,
}

/// A sink that only looks.
#[derive(Default)]
pub(crate) struct Looker {
    pub(crate) found: Found,
    now: Option<Now>,
}

enum Now {
    Program(String, Search),
    Layer(String, Box<Scan>, Look),
}

/// Looks at the files of one layer.
#[derive(Default)]
struct Look {
    found: LayerFound,
    file: Option<File>,
}

enum File {
    Program(String, Search),
    List(&'static str, Vec<u8>),
}

/// The lists in which distributions keep what is installed; what is built without their tools (distroless images) has
/// one list for each package.
fn list_of(name: &str) -> Option<&'static str> {
    match name {
        "var/lib/dpkg/status" => Some("deb"),
        "lib/apk/db/installed" | "usr/lib/apk/db/installed" => Some("apk"),
        _ => name.starts_with("var/lib/dpkg/status.d/").then_some("deb").filter(|_| !name.ends_with(".md5sums")),
    }
}

impl Members for Look {
    fn begin(&mut self, name: &str, size: u64) -> Result<(), String> {
        self.file = Some(match list_of(name) {
            Some(kind) if size <= MAX_LIST => File::List(kind, Vec::new()),
            _ => File::Program(name.to_owned(), Search::default()),
        });
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), String> {
        match &mut self.file {
            Some(File::Program(_, search)) => search.feed(bytes),
            Some(File::List(_, text)) => text.extend_from_slice(bytes),
            None => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.file.take() {
            Some(File::Program(name, search)) => {
                self.found.programs.extend(search.found().map(|info| (name, info)));
            }
            Some(File::List(kind, text)) => {
                self.found.packages.extend(packages(kind, &String::from_utf8_lossy(&text)));
            }
            None => {}
        }
        Ok(())
    }
}

/// Paragraphs of fields: `Package:` and `Version:` of dpkg, `P:` and `V:` of apk.
fn packages(kind: &'static str, text: &str) -> Vec<Package> {
    let (name, version) = if kind == "deb" { ("Package:", "Version:") } else { ("P:", "V:") };
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        // dpkg remembers packages that were removed.
        let removed = field("Status:").is_some_and(|status| !status.ends_with(" installed"));
        if let (Some(name), Some(version), false) = (field(name), field(version), removed) {
            found.push(Package { kind, name: name.to_owned(), version: version.to_owned() });
        }
    }
    found
}

impl Sink for Looker {
    fn begin(&mut self, blob: &Blob, role: Role) -> Result<(), BundleError> {
        self.now = match role {
            Role::HostFile => Some(Now::Program(blob.sha256.clone(), Search::default())),
            Role::Layer => Some(Now::Layer(blob.sha256.clone(), Box::new(Scan::every()), Look::default())),
            Role::ImageManifest | Role::ImageConfig => None,
        };
        Ok(())
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        match &mut self.now {
            Some(Now::Program(_, search)) => search.feed(bytes),
            Some(Now::Layer(hex, scan, look)) => {
                scan.feed(bytes, look).map_err(|why| bad(why, format!("blobs/sha256/{hex}")))?;
            }
            None => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BundleError> {
        match self.now.take() {
            Some(Now::Program(hex, search)) => {
                self.found.programs.extend(search.found().map(|info| (hex, info)));
            }
            Some(Now::Layer(hex, _, look)) => {
                self.found.layers.insert(hex, look.found);
            }
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_packages_are_read() {
        let status = "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9+deb12u13\nDescription: C\n more\n\n\
                      Package: old\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: tzdata\nVersion: 2026a\n";
        let found: Vec<_> = packages("deb", status).into_iter().map(|p| (p.name, p.version)).collect();
        assert_eq!(found, [("libc6".into(), "2.36-9+deb12u13".into()), ("tzdata".to_owned(), "2026a".to_owned())]);
        let found = packages("apk", "C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nC:Q2\nP:nftables\nV:1.1.1-r0\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("musl", "1.2.5-r0"));
        assert_eq!(list_of("var/lib/dpkg/status.d/base-files"), Some("deb"));
        assert_eq!(list_of("var/lib/dpkg/status.d/base-files.md5sums"), None);
    }
}

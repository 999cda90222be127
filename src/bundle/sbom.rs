//! The list of a bundle's parts as CycloneDX, for tools that look for known weaknesses.
//!
//! It is read from the bundle itself: versions from its manifest, Go modules from the programs, packages of a
//! distribution from the layers. The same bundle gives the same list, so it has no time of its making.

mod goinfo;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use self::goinfo::{GoInfo, Module};
use self::read::{Found, Looker, Package};
use super::build::PARTS;
use super::error::BundleError;
use super::manifest::{Content, HostFile, Image, Manifest, hex_of};
use super::verify::open;

/// Reads a whole bundle, verifies it, and lists what is in it.
///
/// # Errors
/// A file that cannot be read or is no whole bundle.
pub fn sbom(path: &Path) -> Result<Value, BundleError> {
    let opened = open(path)?;
    let id = opened.id().to_owned();
    let mut looker = Looker::default();
    let manifest = opened.read(&mut looker)?;
    Ok(document(&manifest, &id, &looker.found))
}

/// Rows for people: type, name, version, and how many things it is in.
pub fn rows(document: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for edge in document.get("dependencies").and_then(Value::as_array).into_iter().flatten() {
        for needed in edge.get("dependsOn").and_then(Value::as_array).into_iter().flatten() {
            *users.entry(needed.as_str().unwrap_or_default()).or_default() += 1;
        }
    }
    let components = document.get("components").and_then(Value::as_array).into_iter().flatten();
    components
        .map(|component| {
            let used = users.get(text(component, "bom-ref").as_str()).copied().unwrap_or_default();
            vec![text(component, "type"), text(component, "name"), text(component, "version"), used.to_string()]
        })
        .collect()
}

/// Components by their reference, and what each is made of.
#[derive(Default)]
struct List {
    components: BTreeMap<String, Value>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl List {
    fn add(&mut self, reference: &str, mut component: Value) -> String {
        if let Some(fields) = component.as_object_mut() {
            fields.insert("bom-ref".into(), reference.into());
        }
        self.components.entry(reference.to_owned()).or_insert(component);
        reference.to_owned()
    }

    fn edge(&mut self, from: &str, to: String) {
        self.edges.entry(from.to_owned()).or_default().insert(to);
    }

    fn program(&mut self, user: &str, info: &GoInfo) {
        let go = info.go.split_whitespace().next().unwrap_or_default().trim_start_matches("go");
        let library = Module { path: "stdlib".into(), version: format!("v{go}"), sum: String::new() };
        for module in info.modules.iter().chain([&library]) {
            let purl = golang(&module.path, &module.version);
            let mut component =
                json!({"type": "library", "name": module.path, "version": module.version, "purl": purl});
            if let (false, Some(fields)) = (module.sum.is_empty(), component.as_object_mut()) {
                fields.insert("properties".into(), json!([{"name": "kprov:go.sum", "value": module.sum}]));
            }
            let reference = self.add(&purl, component);
            self.edge(user, reference);
        }
    }

    fn package(&mut self, user: &str, package: &Package, arch: &str) {
        let Package { kind, name, version } = package;
        let (vendor, arch) = match (*kind, arch) {
            ("apk", "amd64") => ("alpine", "x86_64"),
            ("apk", _) => ("alpine", "aarch64"),
            (_, arch) => ("debian", arch),
        };
        let purl = format!("pkg:{kind}/{vendor}/{}@{}?arch={arch}", encode(name), encode(version));
        let reference = self.add(&purl, json!({"type": "library", "name": name, "version": version, "purl": purl}));
        self.edge(user, reference);
    }
}

fn document(manifest: &Manifest, id: &str, found: &Found) -> Value {
    let whole = format!("bundle:{id}");
    let mut list = List::default();
    for (name, version) in &manifest.parts {
        if let Some(name) = name.strip_prefix("debian/") {
            let package = Package { kind: "deb", name: name.to_owned(), version: version.clone() };
            list.package(&whole, &package, &manifest.arch);
        } else {
            let mut component = json!({"type": "application", "name": name, "version": version});
            if let (Some(purl), Some(fields)) = (part_purl(name, version), component.as_object_mut()) {
                fields.insert("purl".into(), purl.into());
            }
            let reference = list.add(&format!("part:{name}"), component);
            list.edge(&whole, reference);
        }
    }
    for file in &manifest.files {
        host_file(&mut list, &whole, file, found);
    }
    for image in &manifest.images {
        container(&mut list, &whole, image, manifest, found);
    }
    let edges = list.edges.iter().map(|(from, to)| json!({"ref": from, "dependsOn": to}));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": serial(id),
        "version": 1,
        "metadata": {
            "component": {
                "type": "platform",
                "bom-ref": whole,
                "name": "kprov-bundle",
                "version": manifest.kubernetes,
                "properties": [
                    {"name": "kprov:arch", "value": manifest.arch},
                    {"name": "kprov:id", "value": id},
                ],
            },
        },
        "components": list.components.values().collect::<Vec<_>>(),
        "dependencies": edges.collect::<Vec<_>>(),
    })
}

fn host_file(list: &mut List, whole: &str, file: &HostFile, found: &Found) {
    let Some(sha256) = file.sha256() else { return };
    let component = json!({
        "type": "file", "name": file.path, "hashes": [{"alg": "SHA-256", "content": sha256}],
    });
    let reference = list.add(&format!("file:{}", file.path), component);
    list.edge(whole, reference.clone());
    let info = match &file.content {
        Content::Blob(hex) => found.programs.get(hex),
        Content::Member { layer, name, .. } => found.layers.get(layer).and_then(|layer| layer.programs.get(name)),
        Content::Link(_) => None,
    };
    if let Some(info) = info {
        list.program(&reference, info);
    }
}

fn container(list: &mut List, whole: &str, image: &Image, manifest: &Manifest, found: &Found) {
    let (repository, tag) = image.name.rsplit_once(':').unwrap_or((&image.name, ""));
    let short = repository.rsplit('/').next().unwrap_or(repository);
    let purl = format!(
        "pkg:oci/{}@{}?arch={}&repository_url={}&tag={}",
        encode(&short.to_lowercase()),
        encode(&image.digest),
        manifest.arch,
        encode(repository),
        encode(tag)
    );
    let component = json!({
        "type": "container", "name": repository, "version": tag, "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": hex_of(&image.digest)}],
    });
    let reference = list.add(&format!("image:{}", image.name), component);
    list.edge(whole, reference.clone());
    for layer in image.layers.iter().filter_map(|layer| found.layers.get(hex_of(layer))) {
        for info in layer.programs.values() {
            list.program(&reference, info);
        }
        for package in &layer.packages {
            list.package(&reference, package, &manifest.arch);
        }
    }
}

/// A UUID that follows from the bundle's id (version 8: its bits are ours).
fn serial(id: &str) -> String {
    let part = |range: std::ops::Range<usize>| id.get(range).unwrap_or_default();
    format!("urn:uuid:{}-{}-8{}-8{}-{}", part(0..8), part(8..12), part(12..15), part(15..18), part(18..30))
}

fn part_purl(name: &str, version: &str) -> Option<String> {
    let module = match name {
        "kubernetes" => "k8s.io/kubernetes",
        "go" => return Some(format!("pkg:generic/go@{}", encode(version))),
        _ => PARTS.iter().find(|(part, ..)| *part == name).map(|(_, module, _)| *module)?,
    };
    (!module.is_empty()).then(|| golang(module, &format!("v{version}")))
}

fn golang(path: &str, version: &str) -> String {
    let path: Vec<String> = path.split('/').map(|word| encode(&word.to_lowercase())).collect();
    format!("pkg:golang/{}@{}", path.join("/"), encode(version))
}

/// As package URLs want it: everything but letters, digits and `.-_~` in percent.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_written_as_their_specification_says() {
        assert_eq!(
            golang("github.com/Masterminds/semver/v3", "v3.4.0"),
            "pkg:golang/github.com/masterminds/semver/v3@v3.4.0"
        );
        assert_eq!(encode("1:1.8.9-2+b1"), "1%3A1.8.9-2%2Bb1");
        assert_eq!(part_purl("runc", "1.4.3").unwrap(), "pkg:golang/github.com/opencontainers/runc@v1.4.3");
        assert_eq!(part_purl("pause", "3.10"), None);
    }
}

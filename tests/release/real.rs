//! A release bundle of our own build's programs and images: what comes out holds the same files and image ids.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kprov::bundle::manifest::{Content, hex_of};
use kprov::bundle::sets::Set;
use kprov::bundle::{sign, unpack, verify};

use crate::LeftOut;
use crate::content::{self, Image, official, push};
use crate::servers::{nginx, registry};
use crate::tools::{good, kprov, text};

/// Serves our own bundle's content as publishers would, and builds a bundle of it.
pub fn of_our_own() -> Result<(), LeftOut> {
    let bundle = std::env::var_os("KPROV_BUNDLE").map(PathBuf::from).filter(|file| file.is_file());
    let bundle = bundle.ok_or_else(|| LeftOut("KPROV_BUNDLE names no bundle (scripts/bundle builds one)".into()))?;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let own = unpack::unpack(verify::open(&bundle).unwrap(), &at("own"), &mut |_, _| true).unwrap();
    let mut blobs = BTreeMap::new();
    for set in Set::there(&own) {
        blobs.extend(layout(&at("own").join(set.archive())));
    }
    let hash = |name: &str| -> String {
        let file = own.files.iter().find(|file| file.path.rsplit('/').next() == Some(name)).unwrap();
        match &file.content {
            // kubectl is a link to the one program that is all of Kubernetes.
            Content::Link(target) => own.files.iter().find(|f| f.path == *target).unwrap().sha256().unwrap().to_owned(),
            _ => file.sha256().unwrap().to_owned(),
        }
    };
    content::write(&official(|name| fs::read(at("own").join(unpack::FILES).join(hash(name))).unwrap()), &at("files"));
    let images: Vec<Image> = own
        .images
        .iter()
        .map(|image| {
            let (name, tag) = image.name.rsplit_once(':').unwrap();
            Image {
                repository: name.split_once('/').unwrap().1.to_owned(),
                tag: tag.to_owned(),
                config: blobs[hex_of(&image.config)].clone(),
                layers: image.layers.iter().map(|layer| blobs[hex_of(layer)].clone()).collect(),
            }
        })
        .collect();
    let files = nginx(&at("files"), None)?;
    let registry = registry(&at("registry"), None)?;
    push(registry.address, &images);
    let flannel = own.images.iter().find(|image| image.name.contains("/flannel:")).unwrap();
    let out = at("release.tar.zst");
    let mut build = kprov();
    build.args(["bundle", "build", "--from", "release", "--arch", &own.arch, "--kubernetes", &own.kubernetes]);
    build.args(["--level", "1", "--image", &flannel.name, "--out", text(&out)]).arg("--cache").arg(at("cache"));
    build.args(["--mirror", &format!("http://{}", files.address)]);
    build.args(["--registry", &format!("http://{}", registry.address)]);
    good(build.output().unwrap());

    let (made, _) = sign::verify_signed(&out, Some(&own.arch), None).unwrap();
    let ids = |manifest: &kprov::bundle::Manifest| -> BTreeMap<String, (String, Vec<String>)> {
        let images = manifest.images.iter();
        images.map(|image| (image.name.clone(), (image.config.clone(), image.layers.clone()))).collect()
    };
    assert_eq!(ids(&made), ids(&own));
    for file in &made.files {
        assert_eq!(file.sha256().unwrap(), hash(file.path.rsplit('/').next().unwrap()), "{}", file.path);
    }
    if let Some(keep) = std::env::var_os("KPROV_KEEP_RELEASE") {
        fs::copy(&out, keep).unwrap();
    }
    Ok(())
}

/// Blobs of an OCI archive by their hash.
fn layout(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(fs::File::open(archive).unwrap());
    let mut blobs = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        if let Some(hex) = path.strip_prefix("blobs/sha256/") {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            blobs.insert(hex.to_owned(), content);
        }
    }
    blobs
}

//! A release bundle of our own build's programs and images: what comes out holds the same files and image ids, and a
//! flannel of its own with the same programs in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kprov::bundle::manifest::{hex_of, sha256_hex};
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
        file.sha256().unwrap().to_owned()
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
    // Compiled before, for our own bundle; the name of its folder follows from its sources.
    let compiled = home_cache().join("parts");
    if compiled.is_dir() {
        fs::create_dir(at("cache")).unwrap();
        std::os::unix::fs::symlink(compiled, at("cache/parts")).unwrap();
    }
    let out = at("release.tar.zst");
    let mut build = kprov();
    build.args(["bundle", "build", "--from", "release", "--arch", &own.arch, "--kubernetes", &own.kubernetes]);
    build.args(["--level", "1", "--out", text(&out)]).arg("--cache").arg(at("cache"));
    build.args(["--mirror", &format!("http://{}", files.address)]);
    build.args(["--registry", &format!("http://{}", registry.address)]);
    good(build.output().unwrap());

    let (made, _) = sign::verify_signed(&out, Some(&own.arch), None).unwrap();
    let of = |manifest: &kprov::bundle::Manifest| manifest.flannel().unwrap().clone();
    let ids = |manifest: &kprov::bundle::Manifest| -> BTreeMap<String, (String, Vec<String>)> {
        let others = manifest.images.iter().filter(|image| **image != of(manifest));
        others.map(|image| (image.name.clone(), (image.config.clone(), image.layers.clone()))).collect()
    };
    assert_eq!(ids(&made), ids(&own));
    assert_eq!(of(&made).name, of(&own).name);
    // It stands on kube-proxy's image, and all that is in ours is in it, to the bit.
    let proxy = made.images.iter().find(|image| image.name.contains("/kube-proxy:")).unwrap();
    assert_eq!(of(&made).layers[..proxy.layers.len()], proxy.layers[..]);
    unpack::unpack(verify::open(&out).unwrap(), &at("made"), &mut |_, _| true).unwrap();
    let made_blobs: BTreeMap<String, Vec<u8>> =
        Set::there(&made).flat_map(|set| layout(&at("made").join(set.archive()))).collect();
    let (ours, its) = (tree(&of(&own), &blobs), tree(&of(&made), &made_blobs));
    assert!(ours.contains_key("usr/local/bin/flanneld") && ours.contains_key("usr/sbin/nft"));
    for (path, content) in &ours {
        assert_eq!(its.get(path), Some(content), "{path} in flannel's image");
    }
    let config = |image: &kprov::bundle::manifest::Image, blobs: &BTreeMap<String, Vec<u8>>| {
        let text: serde_json::Value = serde_json::from_slice(&blobs[hex_of(&image.config)]).unwrap();
        text["config"].clone()
    };
    assert_eq!(config(&of(&made), &made_blobs), config(&of(&own), &blobs));
    for file in &made.files {
        assert_eq!(file.sha256().unwrap(), hash(file.path.rsplit('/').next().unwrap()), "{}", file.path);
    }
    if let Some(keep) = std::env::var_os("KPROV_KEEP_RELEASE") {
        fs::copy(&out, keep).unwrap();
    }
    Ok(())
}

/// Files and links of an image: path → hash or target.
fn tree(image: &kprov::bundle::manifest::Image, blobs: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    for layer in &image.layers {
        for entry in tar::Archive::new(blobs[hex_of(layer)].as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                tree.insert(path, format!("{:o} {}", entry.header().mode().unwrap(), sha256_hex(&content)));
            } else if kind.is_symlink() {
                tree.insert(path, entry.link_name().unwrap().unwrap().display().to_string());
            }
        }
    }
    tree
}

/// Where `kprov bundle build` keeps what it compiled.
fn home_cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache")).join("kprov")
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

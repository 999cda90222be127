//! From what was fetched to a bundle.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::assemble::{PLUGINS, pack_or_keep, plain_versions};
use super::super::layer::{Hashing, Layer, Written};
use super::super::recipe::{FLANNELD, Plan, flannel_image};
use super::super::{BuildError, Result, Shop, golang, oci};
use super::Fetched;
use super::hosts::Archive;
use super::image::{self, Pulled};
use crate::bundle::manifest::{Blob, Content, FORMAT, HostFile, Image, Manifest, hex_of, sha256_hex};
use crate::bundle::pack::Packed;

/// No program is longer, in bytes.
const MAX_PROGRAM: u64 = 1 << 30;

/// Assembles and packs. `flanneld`: kprov's flannel, where it was compiled. True when the file was there already.
///
/// # Errors
/// An archive or image that lacks something, or a file that cannot be read or written.
pub(crate) fn bundle(
    shop: &Shop<'_>,
    plan: &Plan,
    files: &[Fetched],
    images: &[Pulled],
    flanneld: Option<&Path>,
    out: &Path,
    level: i32,
) -> Result<(Packed, bool)> {
    let dir = shop.work.path().join("blobs");
    std::fs::create_dir_all(&dir).map_err(BuildError::file("creating a folder"))?;
    let mut bench = Bench { dir, sources: BTreeMap::new() };
    let mut manifest = Manifest {
        format: FORMAT,
        kubernetes: plan.kubernetes.clone(),
        arch: plan.arch.clone(),
        parts: plain_versions(plan),
        files: Vec::new(),
        images: Vec::new(),
        blobs: Vec::new(),
    };
    // Nothing of Debian is in it, and of a flannel that was pulled the version is not known.
    manifest.parts.retain(|name, _| name != "debian" && (name != "flannel" || flanneld.is_some()));
    for fetched in files {
        for (path, blob) in bench.programs(fetched)? {
            manifest.files.push(HostFile { path, mode: 0o755, unless: Vec::new(), content: Content::Blob(blob) });
        }
    }
    for pulled in images {
        manifest.images.push(bench.image(pulled, &plan.arch)?);
    }
    if let Some(flanneld) = flanneld {
        manifest.parts.insert("go".into(), golang::PINNED.into());
        bench.flannel(plan, flanneld, &mut manifest)?;
    }
    let roles = manifest.roles();
    bench.sources.retain(|hex, _| roles.contains_key(hex.as_str()));
    manifest.blobs = bench.sources.iter().map(|(hex, (_, size))| Blob { sha256: hex.clone(), size: *size }).collect();
    manifest.arrange();
    pack_or_keep(&manifest, &bench.sources, out, level)
}

struct Bench {
    dir: PathBuf,
    /// Path and size of each blob by its hash.
    sources: BTreeMap<String, (PathBuf, u64)>,
}

impl Bench {
    /// The programs in a file: where they go on the machine, and their blobs.
    fn programs(&mut self, fetched: &Fetched) -> Result<Vec<(String, String)>> {
        let source = &fetched.source;
        let name = source.lock_name.rsplit('/').next().unwrap_or_default();
        let lacks = |what: String| BuildError::Lacks { part: name.to_owned(), what };
        if source.archive == Archive::None {
            let reading = BuildError::file(format!("reading {}", fetched.path.display()));
            let size = std::fs::metadata(&fetched.path).map_err(reading)?.len();
            // The download has checked that its name is its hash.
            let hex = fetched.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.sources.insert(hex.clone(), (fetched.path.clone(), size));
            return Ok(source.members.iter().map(|(_, path)| ((*path).to_owned(), hex.clone())).collect());
        }
        let reading = || BuildError::file(format!("unpacking {name}"));
        let packed = File::open(&fetched.path).map_err(reading())?;
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(packed)));
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        for entry in archive.entries().map_err(reading())? {
            let entry = entry.map_err(reading())?;
            let inside = entry.path().map_err(reading())?.to_string_lossy().into_owned();
            let inside = inside.strip_prefix("./").unwrap_or(&inside);
            let Some((member, _)) = source.members.iter().find(|(member, _)| *member == inside) else { continue };
            if !entry.header().entry_type().is_file() {
                return Err(lacks(format!("{inside} is no plain file")));
            }
            let hex = self.keep(entry.take(MAX_PROGRAM)).map_err(reading())?;
            if found.insert(member, hex).is_some() {
                return Err(lacks(format!("{inside} is in it twice")));
            }
        }
        let place = |(member, path): &(&'static str, &'static str)| {
            let hex = found.get(member).ok_or_else(|| lacks(format!("no {member} in it")))?;
            Ok(((*path).to_owned(), hex.clone()))
        };
        source.members.iter().map(place).collect()
    }

    /// Some bytes as a blob.
    fn keep(&mut self, from: impl Read) -> io::Result<String> {
        let mut temporary = tempfile::NamedTempFile::new_in(&self.dir)?;
        let mut hashing = Hashing::new(from);
        io::copy(&mut hashing, &mut temporary)?;
        let Blob { sha256, size } = hashing.blob();
        let path = self.dir.join(&sha256);
        temporary.persist(&path).map_err(|e| e.error)?;
        self.sources.insert(sha256.clone(), (path, size));
        Ok(sha256)
    }

    fn image(&mut self, pulled: &Pulled, arch: &str) -> Result<Image> {
        let reading = BuildError::file(format!("reading the configuration of {}", pulled.name));
        let config = std::fs::read(&pulled.config).map_err(reading)?;
        let digests = image::layers_of(pulled, &config, arch)?;
        let mut layers = Vec::new();
        for (packed, digest) in pulled.layers.iter().zip(&digests) {
            let (path, size) = image::unpack(&pulled.name, packed, digest, &self.dir)?;
            self.sources.insert(hex_of(digest).to_owned(), (path, size));
            layers.push((digest.clone(), size));
        }
        let config_digest = pulled.manifest.config.digest.clone();
        self.sources.insert(hex_of(&config_digest).to_owned(), (pulled.config.clone(), config.len() as u64));
        let document = image::manifest(pulled, config.len() as u64, &layers).to_string();
        let hex = sha256_hex(document.as_bytes());
        self.keep(document.as_bytes()).map_err(BuildError::file("writing an image's manifest"))?;
        Ok(Image { name: pulled.name.clone(), digest: format!("sha256:{hex}"), config: config_digest, layers: digests })
    }

    /// kprov's flannel: on top of kube-proxy's image, which has the iptables and nft that it calls, and with the plugins
    /// that nodes of kubeadm's users may lack. The machine's own plugins are taken from that layer then.
    fn flannel(&mut self, plan: &Plan, flanneld: &Path, manifest: &mut Manifest) -> Result<()> {
        let lacks = |what: String| BuildError::Lacks { part: "flannel".into(), what };
        let below = manifest.images.iter().find(|image| image.name.contains("/kube-proxy:"));
        let below = below.ok_or_else(|| lacks("no image of kube-proxy to put it on".into()))?.layers.clone();
        let mut layers = Vec::new();
        for digest in &below {
            let hex = hex_of(digest);
            let (_, size) = self.sources.get(hex).ok_or_else(|| lacks(format!("no layer {digest}")))?;
            layers.push(Blob { sha256: hex.to_owned(), size: *size });
        }
        let mut cni = Layer::default();
        for plugin in PLUGINS {
            let host = format!("/opt/cni/bin/{plugin}");
            let file = manifest.files.iter().find(|file| file.path == host).and_then(HostFile::sha256);
            let source = file.and_then(|hex| self.sources.get(hex));
            let (path, _) = source.ok_or_else(|| lacks(format!("no plugin {plugin}")))?;
            cni.file(host.trim_start_matches('/'), path, 0o755);
        }
        let cni = self.layer(&cni)?;
        for file in &mut manifest.files {
            let name = file.path.trim_start_matches('/').to_owned();
            if let Some(Blob { sha256, size }) = cni.members.get(&name).cloned() {
                file.content = Content::Member { layer: cni.blob.sha256.clone(), name, sha256, size };
            }
        }
        let mut own = Layer::default();
        own.file(FLANNELD, flanneld, 0o755);
        layers.extend([cni.blob, self.layer(&own)?.blob]);
        let (image, documents) =
            oci::image(&flannel_image(plan), &plan.arch, &layers, &[&format!("/{FLANNELD}")], "", &self.dir)?;
        self.sources.extend(documents);
        manifest.images.push(image);
        Ok(())
    }

    fn layer(&mut self, layer: &Layer) -> Result<Written> {
        let written = layer.write(&self.dir)?;
        self.sources.insert(written.blob.sha256.clone(), (written.path.clone(), written.blob.size));
        Ok(written)
    }
}

//! Images as a registry has them, made into what a bundle holds: the configuration as it is, so an image keeps its id;
//! layers unpacked, because the bundle as a whole is packed; a manifest that names these.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::recipe::Plan;
use super::super::{BuildError, Result};
use super::From;
use super::hosts::IMAGES;
use crate::bundle::fetch::registry::ImageManifest;
use crate::bundle::manifest::{hex_of, is_sha256};

/// No layer unpacks to more, in bytes.
const MAX_LAYER: u64 = 4 << 30;

/// An image and where it is pulled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// Its full name in the bundle: `registry.k8s.io/pause:3.10.2`.
    pub(crate) name: String,
    /// Scheme and host of the registry.
    pub(crate) base: String,
    /// Repository there.
    pub(crate) repository: String,
    /// Tag there.
    pub(crate) tag: String,
}

/// An image whose blobs are in the cache.
pub(crate) struct Pulled {
    pub(crate) name: String,
    pub(crate) manifest: ImageManifest,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) config: PathBuf,
}

/// All images of a plan.
///
/// # Errors
/// A name or registry that is none.
pub(crate) fn names(plan: &Plan, from: &From) -> Result<Vec<Name>> {
    let tag = |part: &str| match part {
        "etcd" => plan.etcd_tag.clone(),
        _ => plan.version(part).to_owned(),
    };
    let own = IMAGES.iter().map(|(name, part)| (format!("{name}:{}", tag(part)), None));
    let all = own.chain(from.images.iter().cloned());
    let mut names: Vec<Name> = Vec::new();
    for (name, source) in all {
        let found = place(&name, source.as_deref(), from.registry.as_deref())?;
        if names.iter().any(|other| other.name == found.name) {
            return Err(BuildError::Unknown(format!("the image {name} is named twice")));
        }
        names.push(found);
    }
    Ok(names)
}

/// `HOST[:PORT]/PATH:TAG` → its three parts.
fn split(image: &str) -> Result<(&str, &str, &str)> {
    let bad = || BuildError::Unknown(format!("{image} is no full name of an image (HOST/PATH:TAG)"));
    let (host, rest) = image.split_once('/').ok_or_else(bad)?;
    let (path, tag) = rest.rsplit_once(':').ok_or_else(bad)?;
    let plain = |text: &str, more: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b) || more.as_bytes().contains(&b))
    };
    let host_like = host == "localhost" || host.contains(['.', ':']);
    let path_like = path.split('/').all(|part| plain(part, "") && part != "." && part != "..");
    if host_like && plain(host, ":[]") && path_like && plain(tag, "") { Ok((host, path, tag)) } else { Err(bad()) }
}

/// Where an image is: at its own name, at another one, or at the registry that stands for all.
fn place(name: &str, source: Option<&str>, registry: Option<&str>) -> Result<Name> {
    let (host, path, tag) = split(name)?;
    let (base, repository, tag) = match (source, registry) {
        (Some(source), _) => {
            let (scheme, rest) = source.split_once("://").unwrap_or(("https", source));
            let (host, path, tag) = split(rest)?;
            (format!("{scheme}://{host}"), path.to_owned(), tag)
        }
        (None, Some(registry)) => {
            let text = if registry.contains("://") { registry.to_owned() } else { format!("https://{registry}") };
            let url = super::parse(text.trim_end_matches('/'))?;
            let prefix = url.path().trim_matches('/');
            let base = url.as_str().trim_end_matches('/');
            let base = base.strip_suffix(prefix).unwrap_or(base).trim_end_matches('/');
            let path = if prefix.is_empty() { path.to_owned() } else { format!("{prefix}/{path}") };
            (base.to_owned(), path, tag)
        }
        (None, None) => (format!("https://{host}"), path.to_owned(), tag),
    };
    super::parse(&base)?;
    Ok(Name { name: name.to_owned(), base, repository, tag: tag.to_owned() })
}

/// What an image's configuration says of its layers: the digests of what they unpack to.
///
/// # Errors
/// A configuration that is none, or for another architecture.
pub(crate) fn layers_of(pulled: &Pulled, config: &[u8], arch: &str) -> Result<Vec<String>> {
    let bad = |what: String| BuildError::Lacks { part: pulled.name.clone(), what };
    let json: Value = serde_json::from_slice(config).map_err(|e| bad(format!("no image configuration ({e})")))?;
    let found = json.get("architecture").and_then(Value::as_str).unwrap_or_default();
    if found != arch {
        return Err(bad(format!("an image for {found:?}, not for {arch}")));
    }
    let listed = json.pointer("/rootfs/diff_ids").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let digests: Vec<String> = listed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let good = digests.iter().all(|digest| digest.strip_prefix("sha256:").is_some_and(is_sha256));
    if !good || digests.len() != pulled.layers.len() || digests.len() != listed.len() {
        return Err(bad("its configuration and its manifest do not agree about its layers".into()));
    }
    Ok(digests)
}

/// Unpacks a layer (gzip, zstd or plain) into the folder, under the name of its hash, which must be `digest`. Gives its
/// path and size.
///
/// # Errors
/// A layer that is not what the configuration says.
pub(crate) fn unpack(image: &str, packed: &Path, digest: &str, to: &Path) -> Result<(PathBuf, u64)> {
    let path = to.join(hex_of(digest));
    let reading = || BuildError::file(format!("unpacking a layer of {image}"));
    if let Ok(there) = std::fs::metadata(&path) {
        return Ok((path, there.len()));
    }
    let mut file = File::open(packed).map_err(reading())?;
    let mut magic = [0; 4];
    let n = file.read(&mut magic).map_err(reading())?;
    let whole = magic.get(..n).unwrap_or_default().chain(file);
    let mut reader: Box<dyn Read> = match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 17, whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole).map_err(reading())?),
        _ => Box::new(whole),
    };
    let mut temporary = tempfile::NamedTempFile::new_in(to).map_err(reading())?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0_u64, vec![0; 1 << 18]);
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(reading()(e)),
        };
        let piece = buffer.get(..n).unwrap_or_default();
        size = size.saturating_add(n as u64);
        if size > MAX_LAYER {
            return Err(reading()(io::Error::other(format!("it unpacks to more than {MAX_LAYER} bytes"))));
        }
        hash.update(piece);
        temporary.write_all(piece).map_err(reading())?;
    }
    let found = data_encoding::HEXLOWER.encode(&hash.finalize());
    if found != hex_of(digest) {
        let what = format!("a layer unpacks to sha256:{found}, its configuration says {digest}");
        return Err(BuildError::Lacks { part: image.to_owned(), what });
    }
    temporary.persist(&path).map_err(|e| reading()(e.error))?;
    Ok((path, size))
}

/// The manifest of the image as the bundle holds it. Where it came from stands in it.
pub(crate) fn manifest(pulled: &Pulled, config_size: u64, layers: &[(String, u64)]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .map(|(digest, size)| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size})
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": pulled.manifest.config.digest,
            "size": config_size,
        },
        "layers": layers,
        // Not the registry that it was pulled from: the same image gives the same bundle through any mirror.
        "annotations": {"io.kprov.upstream.digest": pulled.manifest.digest},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, source: Option<&str>, registry: Option<&str>) -> (String, String, String) {
        let found = place(name, source, registry).unwrap();
        (found.base, found.repository, found.tag)
    }

    #[test]
    fn an_image_is_where_the_user_says() {
        let name = "registry.k8s.io/coredns/coredns:v1.14.2";
        let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(at(name, None, None), three("https://registry.k8s.io", "coredns/coredns", "v1.14.2"));
        assert_eq!(
            at(name, None, Some("own.example:5000")),
            three("https://own.example:5000", "coredns/coredns", "v1.14.2")
        );
        assert_eq!(
            at(name, None, Some("http://127.0.0.1:5000/team/k8s/")),
            three("http://127.0.0.1:5000", "team/k8s/coredns/coredns", "v1.14.2")
        );
        assert_eq!(
            at("kprov.io/flannel:v1", Some("own.example/net/flannel:2"), Some("other.example")),
            three("https://own.example", "net/flannel", "2")
        );
        for bad in ["pause:3", "pause", "host.example/pause", "host.example/../x:1", "host.example/a b:1", "x/y:1"] {
            assert!(place(bad, None, None).is_err(), "{bad}");
        }
        assert!(place(name, None, Some("user:secret@own.example")).is_err());
    }

    #[test]
    fn a_layer_must_unpack_to_what_the_configuration_says() {
        let dir = tempfile::tempdir().unwrap();
        let content = vec![7; 100_000];
        let digest = format!("sha256:{}", crate::bundle::manifest::sha256_hex(&content));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).unwrap();
        for packed in [content.clone(), gzip.finish().unwrap(), zstd::encode_all(content.as_slice(), 1).unwrap()] {
            let (from, to) = (dir.path().join("packed"), tempfile::tempdir().unwrap());
            std::fs::write(&from, &packed).unwrap();
            let (path, size) = unpack("i:1", &from, &digest, to.path()).unwrap();
            assert_eq!((std::fs::read(path).unwrap(), size), (content.clone(), 100_000));
            let other = format!("sha256:{}", "0".repeat(64));
            assert!(
                unpack("i:1", &from, &other, to.path()).unwrap_err().to_string().contains("its configuration says")
            );
        }
    }
}

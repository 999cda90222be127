//! What is fed: each target is a parser that meets what strangers made, and seeds that it takes.

use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::str::FromStr;

use kprov::bundle::verify::{Nowhere, Opened};
use kprov::cluster::flags::{CommonFlags, InitFlags, JoinFlags, ResetFlags};
use kprov::cluster::{load_init, load_join, load_reset};
use kprov::discovery::{ClusterInfo, place};
use kprov::journal::Journal;
use kprov::up;
use kprov_pki::inspect::Cert;
use kprov_pki::issue::{self, Validity};
use kprov_pki::kubeconfig::{Kubeconfig, User};
use kprov_pki::pin::Pin;
use kprov_pki::spec::Authority;
use kprov_pki::token::Token;
use kprov_pki::{Algorithm, Key, jws};
use serde_json::json;

use crate::lib::synthetic::{Synthetic, layer, small};

pub(crate) const NAMES: [&str; 9] =
    ["documents", "token", "cluster-info", "kubeconfig", "pem", "bundle", "bundle-tar", "image-layer", "journal"];

/// True where the input was taken.
type Parse = Box<dyn FnMut(&[u8]) -> bool>;

/// A parser, and what it takes.
pub(crate) struct Target {
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) parse: Parse,
}

pub(crate) fn target(name: &str) -> Target {
    match name {
        "documents" => documents(),
        "token" => token(),
        "cluster-info" => cluster_info(),
        "kubeconfig" => kubeconfig(),
        "pem" => pem(),
        "bundle" => bundle(),
        "bundle-tar" => bundle_tar(),
        "image-layer" => image_layer(),
        "journal" => journal(),
        name if crate::planted::NAMES.contains(&name) => crate::planted::target(name),
        _ => panic!("no such target: {name}"),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this ending.
fn files(dir: &str, ending: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(dir)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(path.strip_prefix(root()).unwrap().to_str().unwrap(), ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(std::fs::read(path).unwrap());
        }
    }
    found
}

/// Anchors, aliases, merge keys and tags, which nobody's documents have and everybody's may.
const MERGED: &[u8] = b"apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer: &server
  extraArgs: &args
  - {name: v, value: !!str 2}
controllerManager: {<<: *server}
scheduler:
  <<: [*server, {extraArgs: *args}]
";

/// kubeadm's documents. Whatever is wrong is said in words, never by a panic.
fn documents() -> Target {
    let mut seeds = files("tests/golden", ".yaml");
    seeds.extend(files("src/cluster/tests", ".yaml"));
    seeds.extend(files("tests/oracle", "input.yaml"));
    seeds.push(MERGED.to_vec());
    let read = |name: &str| serde_json::from_slice(&std::fs::read(root().join("tests/golden").join(name)).unwrap());
    let (facts, manifest) = (read("facts.json").unwrap(), read("bundle.json").unwrap());
    let (facts, manifest) = (serde_json::from_value(facts).unwrap(), serde_json::from_value(manifest).unwrap());
    let common = CommonFlags { config: Some("f".into()), ..CommonFlags::default() };
    let init = InitFlags { common: common.clone(), ..InitFlags::default() };
    let join = JoinFlags { common: common.clone(), ..JoinFlags::default() };
    let reset = ResetFlags { common, ..ResetFlags::default() };
    let parse = move |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let config = Some(("f", text.as_ref()));
        let said = [
            load_init(&init, config, None, &facts, &manifest).err(),
            load_join(&join, config, &facts).err(),
            load_reset(&reset, config).err(),
        ];
        for problems in said.iter().flatten() {
            assert!(!problems.is_empty() && !problems.to_string().is_empty());
        }
        said.iter().any(Option::is_none)
    };
    Target { seeds, parse: Box::new(parse) }
}

/// Tokens and pins: what is taken is what was typed.
fn token() -> Target {
    let pin = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let parse = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let token = Token::from_str(&text);
        if let Ok(token) = &token {
            assert_eq!(*token.reveal(), *text);
        }
        let pin = Pin::from_str(&text);
        if let Ok(pin) = &pin {
            assert_eq!(pin.to_string(), text.to_lowercase());
        }
        token.is_ok() || pin.is_ok()
    };
    Target { seeds: vec![b"abcdef.0123456789abcdef".to_vec(), pin.into_bytes()], parse: Box::new(parse) }
}

fn ca() -> (String, String) {
    let key = Key::generate(Algorithm::EcdsaP256).unwrap();
    let validity = Validity { now: time::OffsetDateTime::UNIX_EPOCH, length: time::Duration::days(36500) };
    let cert = issue::authority(Authority::Cluster.common_name(), &key, validity).unwrap();
    (cert, key.to_pem().unwrap().to_string())
}

/// cluster-info from nobody knows whom: a signature holds for one text only.
fn cluster_info() -> Target {
    let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
    let (ca, _) = ca();
    let config = Kubeconfig::cluster_info("https://192.0.2.1:6443", ca.as_bytes());
    let text = kprov::yaml::to_string(&config).unwrap();
    let signature = jws::sign(text.as_bytes(), &token);
    let mut data = serde_json::Map::new();
    data.insert("kubeconfig".into(), text.clone().into());
    data.insert(jws::key_for(token.id()), signature.into());
    let map = json!({"kind": "ConfigMap", "data": data, "metadata": {"creationTimestamp": "2026-11-21T10:00:00Z"}});
    let parse = move |input: &[u8]| {
        // Both as an answer and, so that bending reaches it, as the text within one.
        let _ = place(&String::from_utf8_lossy(input)).map_err(|why| assert!(!why.is_empty()));
        let Some(info) = ClusterInfo::read(input, &token) else { return false };
        let Some(found) = &info.kubeconfig else { return false };
        let _ = place(found);
        let holds = info.signature.is_some_and(|signature| jws::verify(found.as_bytes(), &token, &signature));
        assert!(!holds || *found == text, "a signature holds for another text");
        holds
    };
    Target {
        seeds: vec![serde_json::to_vec(&map).unwrap(), kprov::yaml::to_string(&config).unwrap().into_bytes()],
        parse: Box::new(parse),
    }
}

/// Kubeconfigs of users, which are merged, renamed and read for the join line.
fn kubeconfig() -> Target {
    let (ca, key) = ca();
    let user = User::embedded(ca.as_bytes(), key.as_bytes());
    let config = Kubeconfig::new("kubernetes", "https://192.0.2.1:6443", ca.as_bytes(), "kubernetes-admin", user);
    let text = kprov::yaml::to_string(&config).unwrap();
    let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
    let good = text.clone();
    let parse = move |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let _ = kprov::token::line(input, &token);
        let _ = up::kubeconfig::merge(&good, &text);
        let _ = up::kubeconfig::merge(&text, &good);
        let _ = up::kubeconfig::without(&text, "kprov", "mine");
        up::kubeconfig::rename(&text, "kprov").is_ok()
    };
    Target { seeds: vec![text.into_bytes()], parse: Box::new(parse) }
}

/// Keys and certificates that are there already.
fn pem() -> Target {
    let (cert, key) = ca();
    let parse = |input: &[u8]| {
        let _ = Key::from_pem(input);
        Cert::chain_from_pem(input).is_ok_and(|chain| chain.iter().map(Pin::of).count() > 0)
    };
    Target {
        seeds: vec![cert.clone().into_bytes(), key.clone().into_bytes(), (cert + &key).into_bytes()],
        parse: Box::new(parse),
    }
}

fn read(bytes: &[u8]) -> bool {
    Opened::new(bytes).and_then(|opened| opened.read(&mut Nowhere)).is_ok()
}

/// A bundle's file: one changed byte of its content, and it is refused.
fn bundle() -> Target {
    let whole = small("amd64").bytes();
    let content = zstd::decode_all(whole.as_slice()).unwrap();
    let seed = whole.clone();
    let parse = move |input: &[u8]| {
        let taken = read(input);
        // A frame has bits that mean nothing; what comes out of it must be the same to the last byte.
        assert!(taken || input != whole, "a bundle is not taken as it was made");
        assert!(!taken || zstd::decode_all(input).unwrap() == content, "other content is taken");
        taken
    };
    Target { seeds: vec![seed], parse: Box::new(parse) }
}

/// What is within the compression: whoever can write zstd can write this.
fn bundle_tar() -> Target {
    let mut whole = Vec::new();
    zstd::Decoder::new(Cursor::new(small("amd64").bytes())).unwrap().read_to_end(&mut whole).unwrap();
    let seed = whole.clone();
    let parse = move |input: &[u8]| {
        let taken = read(&frame(input));
        assert!(!taken || input == whole, "a bundle's bytes follow from its manifest");
        taken
    };
    Target { seeds: vec![seed], parse: Box::new(parse) }
}

/// One frame as the format wants it.
pub(crate) fn frame(content: &[u8]) -> Vec<u8> {
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.include_contentsize(true).unwrap();
    zstd.set_pledged_src_size(Some(content.len() as u64)).unwrap();
    zstd.write_all(content).unwrap();
    zstd.finish().unwrap()
}

/// Layers of images, in a bundle whose hashes are all right: what whoever makes bundles can do.
fn image_layer() -> Target {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "usr/bin/a", "../lib/".repeat(30)).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    tar.append_data(&mut header, "usr/lib/".repeat(20) + "long", b"abc".as_slice()).unwrap();
    let links = tar.into_inner().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("path", b"usr/lib/b".as_slice()), ("linkpath", b"../a"), ("size", b"3")]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    tar.append_data(&mut header, "usr/lib/other", b"abc".as_slice()).unwrap();
    let pax = tar.into_inner().unwrap();
    let one = |layer: Vec<u8>| {
        let mut bundle = Synthetic::new("amd64");
        bundle.image("registry.k8s.io/pause:3.10.2", &[layer]);
        bundle.manifest.arrange();
        read(&bundle.bytes())
    };
    // Some as they are bent, which a header's checksum mostly tells; the others as by somebody who knows of checksums.
    let parse = move |input: &[u8]| one(if input.len().is_multiple_of(3) { input.to_vec() } else { summed(input) });
    let seeds = vec![layer(&[("etc/passwd", b"root"), ("usr/bin/x", b"x")]), links, pax];
    Target { seeds, parse: Box::new(parse) }
}

/// A tar whose headers have the right checksums, and whole blocks.
fn summed(tar: &[u8]) -> Vec<u8> {
    let mut bytes = tar.to_vec();
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + 512).filter(|block| block.iter().any(|byte| *byte != 0)) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = tar::Header::from_byte_slice(block).entry_size().unwrap_or_default();
        // Beyond the end there is nothing to sum.
        let content = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len()).div_ceil(512) * 512;
        at += 512 + content;
    }
    bytes
}

/// Journals of this release and others, whole and torn.
fn journal() -> Target {
    let mut seeds = files("tests/journals", ".jsonl");
    seeds.push(b"{\"v\":2,\"time\":\"2027-01-01T00:00:00Z\",\"line\":\"pledge\",\"key\":\"x\"}\n".to_vec());
    let file = tempfile::NamedTempFile::new().unwrap();
    let parse = move |input: &[u8]| {
        std::fs::write(file.path(), input).unwrap();
        Journal::read(file.path()).map_err(|error| assert!(!error.to_string().is_empty())).is_ok_and(|record| {
            record.made().for_each(|made| drop(format!("{made:?}")));
            let _ = (record.finished("init"), record.last_command(), record.all_outputs());
            true
        })
    };
    Target { seeds, parse: Box::new(parse) }
}

//! Small bundles for tests, made with the real writer.

use std::collections::BTreeMap;
use std::io;

use super::manifest::{Blob, Content, FORMAT, HostFile, Image, Manifest, sha256_hex};
use super::pack;

/// A manifest and the blobs it names.
pub(crate) struct Synthetic {
    pub(crate) manifest: Manifest,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

/// The first bytes of an ELF file of this architecture, then `filling`.
pub(crate) fn elf(arch: &str, filling: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&(if arch == "arm64" { 183_u16 } else { 62 }).to_le_bytes());
    bytes.extend_from_slice(filling);
    bytes
}

/// A layer of regular files.
pub(crate) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

impl Synthetic {
    pub(crate) fn new(arch: &str) -> Self {
        let manifest = Manifest {
            format: FORMAT,
            kubernetes: "v1.36.3".into(),
            arch: arch.into(),
            parts: [("containerd".to_owned(), "2.3.7".to_owned())].into(),
            files: Vec::new(),
            images: Vec::new(),
            blobs: Vec::new(),
        };
        Self { manifest, blobs: BTreeMap::new() }
    }

    /// Adds a blob; gives its hash.
    pub(crate) fn blob(&mut self, content: Vec<u8>) -> String {
        let hex = sha256_hex(&content);
        if !self.manifest.blobs.iter().any(|b| b.sha256 == hex) {
            self.manifest.blobs.push(Blob { sha256: hex.clone(), size: content.len() as u64 });
        }
        self.blobs.insert(hex.clone(), content);
        hex
    }

    /// Adds a file for the machine.
    pub(crate) fn file(&mut self, path: &str, content: Vec<u8>) {
        let hex = self.blob(content);
        self.host(path, Content::Blob(hex));
    }

    /// Adds a file for the machine whose content is elsewhere.
    pub(crate) fn host(&mut self, path: &str, content: Content) {
        self.manifest.files.push(HostFile { path: path.into(), mode: 0o755, unless: Vec::new(), content });
    }

    /// Adds an image of these layers; gives the layers' hashes.
    pub(crate) fn image(&mut self, name: &str, layers: &[Vec<u8>]) -> Vec<String> {
        let hexes: Vec<String> = layers.iter().map(|l| self.blob(l.clone())).collect();
        let diffs: Vec<String> = hexes.iter().map(|h| format!("sha256:{h}")).collect();
        let config = serde_json::json!({
            "architecture": self.manifest.arch, "os": "linux",
            "config": {"Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        let config = config.to_string().into_bytes();
        let config_len = config.len();
        let config = format!("sha256:{}", self.blob(config));
        let described: Vec<_> = layers
            .iter()
            .zip(&diffs)
            .map(|(l, d)| {
                serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": d, "size": l.len()})
            })
            .collect();
        let document = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_len},
            "layers": described,
        });
        let digest = format!("sha256:{}", self.blob(document.to_string().into_bytes()));
        self.manifest.images.push(Image { name: name.into(), digest, config, layers: diffs });
        hexes
    }

    /// The bundle as a file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        pack::write_to(&self.manifest, |b| Ok(Box::new(io::Cursor::new(self.blobs[&b.sha256].clone()))), &mut out, 1)
            .unwrap();
        out
    }
}

/// Two binaries, one of them in a layer that two images share, and a link.
pub(crate) fn small(arch: &str) -> Synthetic {
    let mut bundle = Synthetic::new(arch);
    let kube = elf(arch, b"kube");
    bundle.file("/usr/local/bin/containerd", elf(arch, b"containerd"));
    let shared = layer(&[("etc/passwd", b"root"), ("usr/local/bin/kube", &kube)]);
    let hexes = bundle.image("registry.k8s.io/kube-apiserver:v1.36.3", std::slice::from_ref(&shared));
    bundle.image("registry.k8s.io/kube-scheduler:v1.36.3", &[shared, layer(&[("etc/group", b"root")])]);
    for path in ["/usr/bin/kubelet", "/usr/local/bin/kubectl"] {
        bundle.host(
            path,
            Content::Member {
                layer: hexes[0].clone(),
                name: "usr/local/bin/kube".into(),
                sha256: sha256_hex(&kube),
                size: kube.len() as u64,
            },
        );
    }
    bundle.host("/usr/local/bin/k", Content::Link("kubectl".into()));
    bundle.manifest.arrange();
    bundle
}

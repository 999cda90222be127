//! What the servers serve: the tree of official files and the images, as their publishers would.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::lib::manifest::sha256_hex;
use crate::lib::synthetic::{elf, layer};

pub const KUBERNETES: &str = "v1.36.3";

/// A path below the root of a mirror and its content, by what is published there.
pub fn official(file: impl Fn(&str) -> Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let mut tree = BTreeMap::new();
    let mut put = |path: String, content: Vec<u8>, sums: &str| {
        let name = path.rsplit('/').next().unwrap();
        let hex = sha256_hex(&content);
        // Each publisher has its own way.
        let (at, sum) = match sums {
            "alone" => (format!("{path}.sha256"), hex),
            "runc" => {
                let dir = path.rsplit_once('/').unwrap().0;
                (format!("{dir}/runc.sha256sum"), format!("{}  runc.arm64\n{hex} *{name}\n", "0".repeat(64)))
            }
            suffix => (format!("{path}{suffix}"), format!("{hex}  {name}\n")),
        };
        tree.insert(at, sum.into_bytes());
        tree.insert(path, content);
    };
    for name in ["kubelet", "kubectl"] {
        put(format!("release/{KUBERNETES}/bin/linux/amd64/{name}"), file(name), "alone");
    }
    let releases = |project: &str, version: &str| format!("{project}/releases/download/{version}");
    let at = releases("containerd/containerd", "v2.3.7");
    let members = ["containerd", "containerd-shim-runc-v2", "ctr"].map(|name| (format!("bin/{name}"), file(name)));
    put(format!("{at}/containerd-2.3.7-linux-amd64.tar.gz"), tar_gz(&members), ".sha256sum");
    put(format!("{}/runc.amd64", releases("opencontainers/runc", "v1.4.3")), file("runc"), "runc");
    let at = releases("kubernetes-sigs/cri-tools", "v1.36.0");
    put(format!("{at}/crictl-v1.36.0-linux-amd64.tar.gz"), tar_gz(&[("crictl".into(), file("crictl"))]), ".sha256");
    let at = releases("containernetworking/plugins", "v1.9.1");
    let plugins = ["bridge", "host-local", "loopback", "portmap", "bandwidth", "firewall"];
    let members = plugins.map(|name| (format!("./{name}"), file(name)));
    put(format!("{at}/cni-plugins-linux-amd64-v1.9.1.tgz"), tar_gz(&members), ".sha256");
    tree
}

fn tar_gz(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// Writes a tree.
pub fn write(tree: &BTreeMap<String, Vec<u8>>, root: &Path) {
    for (path, content) in tree {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// So many bytes that do not compress and are another program's for another name.
pub fn noise(name: &str, size: usize) -> Vec<u8> {
    let mut state = name.bytes().fold(0x9e37_79b9_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut content = elf("amd64", name.as_bytes());
    while content.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        content.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    content
}

/// An image: the name in the registry, its tag, its configuration and its layers.
pub struct Image {
    pub repository: String,
    pub tag: String,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

/// The images of a control plane with made-up content; all share a layer.
pub fn images(size: usize) -> Vec<Image> {
    let shared = layer(&[("etc/passwd", b"root")]);
    let names = [
        ("kube-apiserver", KUBERNETES),
        ("kube-controller-manager", KUBERNETES),
        ("kube-scheduler", KUBERNETES),
        ("kube-proxy", KUBERNETES),
        ("etcd", "3.6.8-0"),
        ("coredns/coredns", "v1.14.2"),
        ("pause", "3.10.2"),
    ];
    let image = |(name, tag): (&str, &str)| {
        let layers = vec![shared.clone(), layer(&[("program", &noise(name, size))])];
        let diffs: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256_hex(layer))).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/program"]},
            "rootfs": {"type": "layers", "diff_ids": diffs}});
        Image { repository: name.into(), tag: tag.into(), config: config.to_string().into_bytes(), layers }
    };
    names.into_iter().map(image).collect()
}

/// Pushes images as publishers do: layers in gzip, an index with several architectures; every other one with Docker's
/// types.
pub fn push(registry: SocketAddr, images: &[Image]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().no_proxy().build().unwrap();
        for (n, image) in images.iter().enumerate() {
            push_one(&client, &format!("http://{registry}/v2/{}", image.repository), image, n % 2 == 0).await;
        }
    });
}

async fn push_one(client: &Client, base: &str, image: &Image, docker: bool) {
    let kind = |oci: &str, docker_kind: &str| {
        if docker {
            format!("application/vnd.docker.{docker_kind}")
        } else {
            format!("application/vnd.oci.image.{oci}")
        }
    };
    let mut layers = Vec::new();
    for layer in &image.layers {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(layer).unwrap();
        let packed = gzip.finish().unwrap();
        layers.push(json!({
            "mediaType": kind("layer.v1.tar+gzip", "image.rootfs.diff.tar.gzip"),
            "size": packed.len(), "digest": blob(client, base, packed).await,
        }));
    }
    let manifest_type = kind("manifest.v1+json", "distribution.manifest.v2+json");
    let config = json!({
        "mediaType": kind("config.v1+json", "container.image.v1+json"),
        "size": image.config.len(), "digest": blob(client, base, image.config.clone()).await,
    });
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
    let (digest, size) = put(client, base, None, &manifest_type, &manifest).await;
    let other = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": []});
    let (other, other_size) = put(client, base, None, &manifest_type, &other).await;
    let index_type = kind("index.v1+json", "distribution.manifest.list.v2+json");
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [
        {"mediaType": manifest_type, "size": other_size, "digest": other, "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": manifest_type, "size": size, "digest": digest, "platform": {"os": "linux", "architecture": "amd64"}},
    ]});
    put(client, base, Some(&image.tag), &index_type, &index).await;
}

async fn blob(client: &Client, base: &str, content: Vec<u8>) -> String {
    let digest = format!("sha256:{}", sha256_hex(&content));
    let begun = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let sign = if location.contains('?') { '&' } else { '?' };
    let put = client.put(format!("{location}{sign}digest={digest}")).body(content).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
    digest
}

async fn put(client: &Client, base: &str, tag: Option<&str>, kind: &str, document: &Value) -> (String, usize) {
    let text = document.to_string();
    let digest = format!("sha256:{}", sha256_hex(text.as_bytes()));
    let url = format!("{base}/manifests/{}", tag.unwrap_or(&digest));
    let size = text.len();
    let put = client.put(url).header("content-type", kind).body(text).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
    (digest, size)
}

//! From parts to a bundle: layers, images, files for the machine, manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::layer::{Layer, Written};
use super::recipe::{FLANNELD, Plan, flannel_image};
use super::{BuildError, Result, Shop, golang, oci};
use crate::bundle::manifest::{Blob, Content, FORMAT, HostFile, Image, Manifest};
use crate::bundle::pack::{Packed, pack, tar_size};
use crate::bundle::verify;

/// `CAP_NET_BIND_SERVICE`, permitted and effective, as the kernel's `vfs_cap_data` revision 2.
const NET_BIND_SERVICE: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where the node's own nft has its libraries; nothing else looks there.
const PRIVATE: &str = "/usr/local/lib/kprov";

/// The names by which the control plane's one binary is called in images.
const CONTROL_PLANE: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The plugins that the pod network itself needs: flannel's image brings them to nodes that have none.
pub(crate) const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// Assembles and packs. True when the file was there already.
///
/// # Errors
/// When a part lacks a file, or something cannot be read or written.
pub(crate) fn bundle(
    shop: &Shop<'_>,
    plan: &Plan,
    dirs: &BTreeMap<&'static str, PathBuf>,
    out: &Path,
    level: i32,
) -> Result<(Packed, bool)> {
    let blobs = shop.work.path().join("blobs");
    std::fs::create_dir_all(&blobs).map_err(BuildError::file("creating a folder"))?;
    let mut bench = Bench { plan, dirs, blobs, images: Vec::new(), files: Vec::new(), sources: BTreeMap::new() };
    bench.everything()?;
    let mut manifest = Manifest {
        format: FORMAT,
        kubernetes: plan.kubernetes.clone(),
        arch: plan.arch.clone(),
        parts: versions(plan, dirs)?,
        files: bench.files,
        images: bench.images,
        blobs: bench.sources.iter().map(|(hex, (_, size))| Blob { sha256: hex.clone(), size: *size }).collect(),
    };
    manifest.arrange();
    pack_or_keep(&manifest, &bench.sources, out, level)
}

/// Packs blobs that are on the disk, unless the file holds just these. True when it did.
///
/// # Errors
/// When something cannot be read or written.
pub(crate) fn pack_or_keep(
    manifest: &Manifest,
    sources: &BTreeMap<String, (PathBuf, u64)>,
    out: &Path,
    level: i32,
) -> Result<(Packed, bool)> {
    if let Some(packed) = same(manifest, out) {
        return Ok((packed, true));
    }
    let open = |blob: &Blob| -> io::Result<Box<dyn Read>> {
        let (path, _) = sources.get(&blob.sha256).ok_or_else(|| io::Error::other("no source"))?;
        Ok(Box::new(File::open(path)?))
    };
    Ok((pack(manifest, open, out, level)?, false))
}

/// The bundle that is there, when it is whole and holds just this: packing takes minutes, reading seconds.
fn same(manifest: &Manifest, out: &Path) -> Option<Packed> {
    let found = verify::verify(out, None).ok()?;
    if found != *manifest {
        return None;
    }
    let size = std::fs::metadata(out).ok()?.len();
    Some(Packed { id: found.id().ok()?, size, unpacked: tar_size(found.to_bytes().ok()?.len() as u64, &found) })
}

/// Versions of upstream's parts.
pub(crate) fn plain_versions(plan: &Plan) -> BTreeMap<String, String> {
    let plain = |version: &str| version.trim_start_matches('v').to_owned();
    let mut all: BTreeMap<String, String> =
        plan.parts.iter().map(|part| (part.name.to_owned(), plain(&part.version))).collect();
    if let Some(kube) = all.remove("kube") {
        all.insert("kubernetes".into(), kube);
    }
    all
}

/// Versions of all parts, of Debian's packages, and of Go.
fn versions(plan: &Plan, dirs: &BTreeMap<&'static str, PathBuf>) -> Result<BTreeMap<String, String>> {
    let mut all = plain_versions(plan);
    all.insert("go".into(), golang::PINNED.into());
    for dir in dirs.values() {
        let path = dir.join("versions");
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(BuildError::file(format!("reading {}", path.display())))?;
        for (package, version) in text.lines().filter_map(|line| line.split_once(' ')) {
            all.insert(format!("debian/{package}"), version.to_owned());
        }
    }
    Ok(all)
}

struct Bench<'a> {
    plan: &'a Plan,
    dirs: &'a BTreeMap<&'static str, PathBuf>,
    /// Where layers and documents are written.
    blobs: PathBuf,
    images: Vec<Image>,
    files: Vec<HostFile>,
    /// Path and size of each blob by its hash.
    sources: BTreeMap<String, (PathBuf, u64)>,
}

impl Bench<'_> {
    fn everything(&mut self) -> Result<()> {
        let base = self.layer(&self.base()?)?;
        let net = self.layer(&self.net()?)?;
        let kube = self.layer(&self.kube("kube", &CONTROL_PLANE)?)?;
        let node = self.layer(&self.kube("node", &["kube-proxy"])?)?;
        let cni = self.layer(&self.cni()?)?;

        let v = self.plan.kubernetes.clone();
        for name in CONTROL_PLANE {
            let entrypoint = format!("/usr/local/bin/{name}");
            self.image(&format!("registry.k8s.io/{name}:{v}"), &[&base, &kube], &[&entrypoint], "")?;
        }
        let name = format!("registry.k8s.io/kube-proxy:{v}");
        self.image(&name, &[&base, &net, &node], &["/usr/local/bin/kube-proxy"], "")?;
        let mut etcd = Layer::default();
        etcd.file("usr/local/bin/etcd", self.part("etcd", "etcd")?, 0o755);
        etcd.link("usr/local/bin/etcdctl", "etcd");
        etcd.link("usr/local/bin/etcdutl", "etcd");
        let etcd = self.layer(&etcd)?;
        let name = format!("registry.k8s.io/etcd:{}", self.plan.etcd_tag);
        self.image(&name, &[&base, &etcd], &["/usr/local/bin/etcd"], "")?;

        // As upstream: not root, with the one capability on the file. kubeadm's Deployment grants it.
        let mut coredns = Layer::default();
        coredns.capable("coredns", self.part("coredns", "coredns")?, NET_BIND_SERVICE);
        let coredns = self.layer(&coredns)?;
        let name = format!("registry.k8s.io/coredns/coredns:{}", self.plan.version("coredns"));
        self.image(&name, &[&base, &coredns], &["/coredns"], "65532:65532")?;

        let mut pause = Layer::default();
        pause.file("pause", self.part("pause", "pause")?, 0o755);
        let pause = self.layer(&pause)?;
        let name = format!("registry.k8s.io/pause:{}", self.plan.version("pause"));
        self.image(&name, &[&pause], &["/pause"], "65535:65535")?;

        let mut flannel = Layer::default();
        flannel.file(FLANNELD, self.part("flannel", "flanneld")?, 0o755);
        let flannel = self.layer(&flannel)?;
        self.image(&flannel_image(self.plan), &[&base, &net, &cni, &flannel], &[&format!("/{FLANNELD}")], "")?;

        self.machine([&kube, &node], &cni, &net)
    }

    /// What every image has: names for the user ids, a place for temporary files, certificates.
    fn base(&self) -> Result<Layer> {
        let mut layer = Layer::default();
        layer.text(
            "etc/passwd",
            "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n\
             nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
        );
        layer.text("etc/group", "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n");
        layer.text("etc/nsswitch.conf", "hosts: files dns\n");
        layer.file("etc/ssl/certs/ca-certificates.crt", self.part("debian", "certs")?, 0o644);
        layer.dir("root", 0o700);
        layer.dir("tmp", 0o1777);
        Ok(layer)
    }

    /// nft, iptables, conntrack and ipset with their libraries.
    fn net(&self) -> Result<Layer> {
        let mut layer = Layer::default();
        layer.tree(&self.part("debian", "net")?)?;
        Ok(layer)
    }

    /// One of the two files of Kubernetes, and the names by which it is called.
    fn kube(&self, file: &str, names: &[&str]) -> Result<Layer> {
        let mut layer = Layer::default();
        layer.file(&format!("usr/local/bin/{file}"), self.part("kube", file)?, 0o755);
        for name in names {
            layer.link(&format!("usr/local/bin/{name}"), file);
        }
        Ok(layer)
    }

    /// The plugins that the pod network itself needs, where flannel's `install-cni` looks for them.
    fn cni(&self) -> Result<Layer> {
        let mut layer = Layer::default();
        for plugin in PLUGINS {
            layer.file(&format!("opt/cni/bin/{plugin}"), self.part("cni", plugin)?, 0o755);
        }
        Ok(layer)
    }

    /// The files of the machine itself. What an image has too is taken from its layer.
    fn machine(&mut self, [kube, node]: [&Written; 2], cni: &Written, net: &Written) -> Result<()> {
        self.member("/usr/bin/kubelet", node, "usr/local/bin/node", 0o755, &[])?;
        self.member("/usr/local/bin/kubectl", kube, "usr/local/bin/kube", 0o755, &[])?;
        for (name, file) in [
            ("containerd", "containerd"),
            ("containerd-shim-runc-v2", "containerd-shim-runc-v2"),
            ("ctr", "containerd"),
        ] {
            self.own(&format!("/usr/local/bin/{name}"), &self.part("containerd", file)?)?;
        }
        self.own("/usr/local/bin/runc", &self.part("runc", "runc")?)?;
        self.own("/usr/local/bin/crictl", &self.part("crictl", "crictl")?)?;
        for plugin in PLUGINS {
            self.member(&format!("/opt/cni/bin/{plugin}"), cni, &format!("opt/cni/bin/{plugin}"), 0o755, &[])?;
        }
        for plugin in ["bandwidth", "firewall"] {
            self.own(&format!("/opt/cni/bin/{plugin}"), &self.part("cni", plugin)?)?;
        }
        self.nft(net)
    }

    /// hostPort needs nft (or iptables) on the machine itself. Where it has none, Debian's comes along with its own
    /// libraries and loader, started by a few lines of shell.
    fn nft(&mut self, net: &Written) -> Result<()> {
        let unless = ["/usr/sbin/nft"];
        let loader = self.part("debian", "loader")?;
        let loader = std::fs::read_to_string(&loader)
            .map_err(BuildError::file(format!("reading {}", loader.display())))?
            .trim()
            .to_owned();
        let script = format!(
            "#!/bin/sh\n# nft of kprov's bundle, with its own C library.\n\
             exec {PRIVATE}/{loader} --library-path {PRIVATE} {PRIVATE}/nft \"$@\"\n"
        );
        let path = self.blobs.join("nft.sh");
        std::fs::write(&path, script).map_err(BuildError::file("writing the start of nft"))?;
        self.member(&format!("{PRIVATE}/nft"), net, "usr/sbin/nft", 0o755, &unless)?;
        for (name, library) in libraries(&self.part("debian", "net")?)? {
            let mode = if name == loader { 0o755 } else { 0o644 };
            self.member(&format!("{PRIVATE}/{name}"), net, &library, mode, &unless)?;
        }
        let content = Content::Blob(self.keep(&path)?);
        self.push("/usr/local/sbin/nft", 0o755, content, &unless);
        Ok(())
    }

    fn part(&self, part: &str, file: &str) -> Result<PathBuf> {
        let lacks = || BuildError::Lacks { part: part.to_owned(), what: format!("no {file}") };
        let path = self.dirs.get(part).ok_or_else(lacks)?.join(file);
        if path.exists() { Ok(path) } else { Err(lacks()) }
    }

    fn layer(&mut self, layer: &Layer) -> Result<Written> {
        let written = layer.write(&self.blobs)?;
        self.sources.insert(written.blob.sha256.clone(), (written.path.clone(), written.blob.size));
        Ok(written)
    }

    /// A file of the disk as a blob.
    fn keep(&mut self, path: &Path) -> Result<String> {
        let failed = |e| BuildError::file(format!("reading {}", path.display()))(e);
        let mut hashing = super::layer::Hashing::new(File::open(path).map_err(failed)?);
        io::copy(&mut hashing, &mut io::sink()).map_err(failed)?;
        let blob = hashing.blob();
        self.sources.insert(blob.sha256.clone(), (path.to_owned(), blob.size));
        Ok(blob.sha256)
    }

    fn image(&mut self, name: &str, layers: &[&Written], entrypoint: &[&str], user: &str) -> Result<()> {
        let (blobs, arch) = (layers.iter().map(|layer| layer.blob.clone()).collect::<Vec<_>>(), &self.plan.arch);
        let (image, documents) = oci::image(name, arch, &blobs, entrypoint, user, &self.blobs)?;
        self.sources.extend(documents);
        self.images.push(image);
        Ok(())
    }

    fn own(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = Content::Blob(self.keep(from)?);
        self.push(path, 0o755, content, &[]);
        Ok(())
    }

    fn member(&mut self, path: &str, layer: &Written, name: &str, mode: u32, unless: &[&str]) -> Result<()> {
        let Some(member) = layer.members.get(name) else {
            return Err(BuildError::Lacks { part: path.to_owned(), what: format!("no {name} in its layer") });
        };
        let content = Content::Member {
            layer: layer.blob.sha256.clone(),
            name: name.to_owned(),
            sha256: member.sha256.clone(),
            size: member.size,
        };
        self.push(path, mode, content, unless);
        Ok(())
    }

    fn push(&mut self, path: &str, mode: u32, content: Content, unless: &[&str]) {
        let unless = unless.iter().map(|path| (*path).to_owned()).collect();
        self.files.push(HostFile { path: path.to_owned(), mode, unless, content });
    }
}

/// The shared libraries of a tree: file name and path in it.
fn libraries(net: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let base = net.join("usr/lib");
    let failed = |e| BuildError::file(format!("reading {}", base.display()))(e);
    for triplet in std::fs::read_dir(&base).map_err(failed)? {
        let triplet = triplet.map_err(failed)?;
        if !triplet.file_type().map_err(failed)?.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(triplet.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().map_err(failed)?.is_file() {
                let path = format!("usr/lib/{}/{name}", triplet.file_name().to_string_lossy());
                found.insert(name, path);
            }
        }
    }
    Ok(found)
}

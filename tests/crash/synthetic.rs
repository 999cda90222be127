//! A bundle with everything that a plan asks for, each part a few bytes long.

use std::path::Path;

use kprov::bundle::Manifest;
use kprov::bundle::locate::{Found, Search, locate};

use crate::lib::synthetic::{Synthetic, elf, layer};

const IMAGES: [&str; 8] = [
    "registry.k8s.io/kube-apiserver:v1.36.3",
    "registry.k8s.io/kube-controller-manager:v1.36.3",
    "registry.k8s.io/kube-scheduler:v1.36.3",
    "registry.k8s.io/kube-proxy:v1.36.3",
    "registry.k8s.io/etcd:3.6.8-0",
    "registry.k8s.io/coredns/coredns:v1.14.2",
    "registry.k8s.io/pause:3.10.2",
    "kprov.io/flannel:v0.28.4-kprov1",
];

const FILES: [&str; 11] = [
    "/usr/bin/kubelet",
    "/usr/local/bin/kubectl",
    "/usr/local/bin/crictl",
    "/usr/local/bin/containerd",
    "/usr/local/bin/containerd-shim-runc-v2",
    "/usr/local/bin/ctr",
    "/usr/local/bin/runc",
    "/opt/cni/bin/bridge",
    "/opt/cni/bin/host-local",
    "/opt/cni/bin/loopback",
    "/opt/cni/bin/portmap",
];

/// Writes it into a directory.
pub(crate) fn bundle(dir: &Path) -> Found {
    of(dir, None, &IMAGES)
}

/// The same of a real bundle's Kubernetes release and images.
#[allow(dead_code)]
pub(crate) fn like(dir: &Path, real: &Manifest) -> Found {
    let images: Vec<&str> = real.images.iter().map(|image| image.name.as_str()).collect();
    of(dir, Some(&real.kubernetes), &images)
}

fn of(dir: &Path, kubernetes: Option<&str>, images: &[&str]) -> Found {
    let mut bundle = Synthetic::new("amd64");
    if let Some(kubernetes) = kubernetes {
        bundle.manifest.kubernetes = kubernetes.to_owned();
    }
    for path in FILES {
        bundle.file(path, elf("amd64", path.as_bytes()));
    }
    for name in images {
        bundle.image(name, &[layer(&[("etc/name", name.as_bytes())])]);
    }
    bundle.manifest.arrange();
    let file = dir.join("bundle.tar.zst");
    std::fs::write(&file, bundle.bytes()).unwrap();
    let search =
        Search { file: Some(file), beside: None, cache: None, arch: "amd64".to_owned(), version: None, key: None };
    locate(&search).unwrap()
}

//! Where official releases are. The only place that names their servers; `--mirror` and `--registry` replace them all.

use reqwest::Url;

use super::super::recipe::Plan;
use super::super::{BuildError, Result};
use crate::bundle::fetch::FetchError;
use crate::bundle::manifest::is_sha256;

/// A program or an archive of programs, where its publisher puts it. ARCH and VERSION (with its `v`, PLAIN without) are
/// replaced.
pub struct Official {
    /// The part whose version it has.
    pub part: &'static str,
    /// Scheme and host.
    pub host: &'static str,
    /// The path there.
    pub path: &'static str,
    /// What is added to the path for its sum; with a `/` before it, a file of many sums beside it.
    pub sums: &'static str,
    /// What of it goes where on the machine: the name in the archive (empty: the file itself), and the path.
    pub members: &'static [(&'static str, &'static str)],
}

/// Kubernetes' own programs come from the host that kubeadm looks at too, the others from their projects' pages.
pub const FILES: &[Official] = &[
    Official {
        part: "kube",
        host: "https://dl.k8s.io",
        path: "release/VERSION/bin/linux/ARCH/kubelet",
        sums: ".sha256",
        members: &[("", "/usr/bin/kubelet")],
    },
    Official {
        part: "kube",
        host: "https://dl.k8s.io",
        path: "release/VERSION/bin/linux/ARCH/kubectl",
        sums: ".sha256",
        members: &[("", "/usr/local/bin/kubectl")],
    },
    Official {
        part: "containerd",
        host: "https://github.com",
        path: "containerd/containerd/releases/download/VERSION/containerd-PLAIN-linux-ARCH.tar.gz",
        sums: ".sha256sum",
        members: &[
            ("bin/containerd", "/usr/local/bin/containerd"),
            ("bin/containerd-shim-runc-v2", "/usr/local/bin/containerd-shim-runc-v2"),
            ("bin/ctr", "/usr/local/bin/ctr"),
        ],
    },
    Official {
        part: "runc",
        host: "https://github.com",
        path: "opencontainers/runc/releases/download/VERSION/runc.ARCH",
        sums: "/runc.sha256sum",
        members: &[("", "/usr/local/bin/runc")],
    },
    Official {
        part: "crictl",
        host: "https://github.com",
        path: "kubernetes-sigs/cri-tools/releases/download/VERSION/crictl-VERSION-linux-ARCH.tar.gz",
        sums: ".sha256",
        members: &[("crictl", "/usr/local/bin/crictl")],
    },
    Official {
        part: "cni",
        host: "https://github.com",
        path: "containernetworking/plugins/releases/download/VERSION/cni-plugins-linux-ARCH-VERSION.tgz",
        sums: ".sha256",
        members: &[
            ("bridge", "/opt/cni/bin/bridge"),
            ("host-local", "/opt/cni/bin/host-local"),
            ("loopback", "/opt/cni/bin/loopback"),
            ("portmap", "/opt/cni/bin/portmap"),
            ("bandwidth", "/opt/cni/bin/bandwidth"),
            ("firewall", "/opt/cni/bin/firewall"),
        ],
    },
];

/// The images of a control plane, under kubeadm's own names. Of each: the name, and the part whose version is its tag.
pub const IMAGES: &[(&str, &str)] = &[
    ("registry.k8s.io/kube-apiserver", "kube"),
    ("registry.k8s.io/kube-controller-manager", "kube"),
    ("registry.k8s.io/kube-scheduler", "kube"),
    ("registry.k8s.io/kube-proxy", "kube"),
    ("registry.k8s.io/etcd", "etcd"),
    ("registry.k8s.io/coredns/coredns", "coredns"),
    ("registry.k8s.io/pause", "pause"),
];

/// How a file is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    /// It is the program.
    None,
    /// A tar in gzip.
    TarGz,
}

/// A file to be fetched for one plan.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The file.
    pub(crate) url: Url,
    /// Its published sum.
    pub(crate) sums: Url,
    /// Its name in a lock: the path, which mirrors have too.
    pub(crate) lock_name: String,
    /// How it is unpacked.
    pub(crate) archive: Archive,
    /// What goes where.
    pub(crate) members: &'static [(&'static str, &'static str)],
}

/// All files of a plan.
///
/// # Errors
/// A mirror that is no address.
pub(crate) fn sources(plan: &Plan, mirror: Option<&str>) -> Result<Vec<Source>> {
    let mirror = mirror.map(mirror_of).transpose()?;
    let source = |official: &Official| {
        let version = plan.version(official.part);
        let filled = |text: &str| {
            let plain = version.trim_start_matches('v');
            text.replace("VERSION", version).replace("PLAIN", plain).replace("ARCH", &plan.arch)
        };
        let path = filled(official.path);
        let sums = match official.sums.strip_prefix('/') {
            None => format!("{path}{}", official.sums),
            Some(name) => path.rsplit_once('/').map_or_else(|| name.to_owned(), |(dir, _)| format!("{dir}/{name}")),
        };
        let base = mirror.as_deref().unwrap_or(official.host);
        let archive = if path.ends_with(".gz") || path.ends_with(".tgz") { Archive::TarGz } else { Archive::None };
        Ok(Source {
            url: super::parse(&format!("{base}/{path}"))?,
            sums: super::parse(&format!("{base}/{sums}"))?,
            lock_name: path,
            archive,
            members: official.members,
        })
    };
    FILES.iter().map(source).collect()
}

/// A mirror's address without a slash at its end.
///
/// # Errors
/// When it is no address, or has a password in it.
pub fn mirror_of(text: &str) -> Result<String> {
    let url = super::parse(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(BuildError::Unknown(format!("{text}: a mirror's address has no ? and no #")));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The sum of a file in what its publisher wrote: the sum alone, or lines of sum and name.
pub(crate) fn sum_of(sums: &Url, text: &[u8], file: &Url) -> std::result::Result<String, FetchError> {
    let bad = |why: String| FetchError::Answer { url: sums.to_string(), why };
    let text = std::str::from_utf8(text).map_err(|_| bad("no text".into()))?;
    let name = file.path_segments().and_then(Iterator::last).unwrap_or_default();
    let mut words = text.split_whitespace();
    if let (Some(only), None) = (words.next(), words.next()) {
        let only = only.to_lowercase();
        return if is_sha256(&only) { Ok(only) } else { Err(bad("no SHA-256 in it".into())) };
    }
    let line = |line: &str| {
        let (sum, of) = line.split_once(char::is_whitespace)?;
        let of = of.trim().trim_start_matches('*').rsplit('/').next()?;
        let sum = sum.to_lowercase();
        (of == name && is_sha256(&sum)).then_some(sum)
    };
    text.lines().find_map(line).ok_or_else(|| bad(format!("no SHA-256 of {name} in it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::build::recipe;

    #[test]
    fn addresses_are_those_that_publishers_have() {
        let plan = recipe::plan("v1.36.3", "arm64", &Default::default()).unwrap();
        let urls = |mirror: Option<&str>| -> Vec<(String, String)> {
            let found = sources(&plan, mirror).unwrap();
            found.iter().map(|s| (s.url.to_string(), s.sums.to_string())).collect()
        };
        let official = urls(None);
        assert_eq!(official[0].0, "https://dl.k8s.io/release/v1.36.3/bin/linux/arm64/kubelet");
        assert_eq!(official[0].1, "https://dl.k8s.io/release/v1.36.3/bin/linux/arm64/kubelet.sha256");
        let containerd =
            "https://github.com/containerd/containerd/releases/download/v2.3.7/containerd-2.3.7-linux-arm64.tar.gz";
        assert_eq!(official[2], (containerd.to_owned(), format!("{containerd}.sha256sum")));
        assert!(official[3].1.ends_with("/v1.4.3/runc.sha256sum"), "{official:?}");
        let mirrored = urls(Some("http://127.0.0.1:8080/pub/"));
        assert_eq!(mirrored[0].0, "http://127.0.0.1:8080/pub/release/v1.36.3/bin/linux/arm64/kubelet");
        assert!(
            mirrored.iter().all(|(url, sums)| [url, sums].iter().all(|u| u.starts_with("http://127.0.0.1:8080/pub/")))
        );
        for bad in ["mirror", "ftp://a/b", "https://me:secret@a/b", "https://a/?x"] {
            let error = sources(&plan, Some(bad)).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn sums_are_read_as_publishers_write_them() {
        let url = Url::parse("https://a/x/runc.amd64").unwrap();
        let (one, two) = ("a".repeat(64), "B".repeat(64));
        let sum = |text: &str| sum_of(&url, text.as_bytes(), &url).map_err(|e| e.to_string());
        assert_eq!(sum(&one).unwrap(), one);
        assert_eq!(sum(&format!("{one}\n")).unwrap(), one);
        let many =
            format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{one}  runc.arm64\n{two} *./runc.amd64\n");
        assert_eq!(sum(&many).unwrap(), two.to_lowercase());
        assert!(sum(&format!("{one}  runc.arm64\n")).unwrap_err().contains("no SHA-256 of runc.amd64"));
        assert!(sum("<html>").unwrap_err().contains("no SHA-256"));
        assert!(sum("").is_err());
    }
}

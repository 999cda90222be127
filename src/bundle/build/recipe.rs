//! Which parts a bundle is made of, and their versions.

use std::collections::BTreeMap;

use super::{BuildError, Result};
use crate::bundle::manifest::FLANNEL;

/// The Kubernetes release that is built when none is named.
pub const DEFAULT_KUBERNETES: &str = "v1.36.3";

/// A Kubernetes release and what `cmd/kubeadm/app/constants` of it names.
pub(crate) struct Release {
    /// `v1.36.3`.
    pub(crate) kubernetes: &'static str,
    /// When it was tagged: stamped into the binaries, so that they do not depend on when they are built.
    pub(crate) time: &'static str,
    /// `DefaultEtcdVersion`: the image's tag. The module's version is the same without the image's own revision.
    pub(crate) etcd: &'static str,
    /// `CoreDNSVersion`.
    pub(crate) coredns: &'static str,
    /// `PauseVersion`.
    pub(crate) pause: &'static str,
}

/// All releases that can be bundled, newest first.
pub(crate) const RELEASES: [Release; 2] = [
    Release {
        kubernetes: "v1.36.3",
        time: "2026-07-22T18:07:38Z",
        etcd: "3.6.8-0",
        coredns: "v1.14.2",
        pause: "3.10.2",
    },
    Release {
        kubernetes: "v1.35.4",
        time: "2026-04-15T18:01:22Z",
        etcd: "3.6.6-0",
        coredns: "v1.13.1",
        pause: "3.10.1",
    },
];

/// The parts whose version can be chosen, with the module whose version it is and the version that every release
/// takes (empty: the release names it).
pub const PARTS: [(&str, &str, &str); 8] = [
    ("cni", "github.com/containernetworking/plugins", "v1.9.1"),
    ("containerd", "github.com/containerd/containerd/v2", "v2.3.7"),
    ("coredns", "github.com/coredns/coredns", ""),
    ("crictl", "sigs.k8s.io/cri-tools", "v1.36.0"),
    ("etcd", "go.etcd.io/etcd", ""),
    ("flannel", "github.com/flannel-io/flannel", "v0.28.4"),
    ("pause", "", ""),
    ("runc", "github.com/opencontainers/runc", "v1.4.3"),
];

/// The program in it.
pub(crate) const FLANNELD: &str = "usr/local/bin/flanneld";

/// The image of our flannel has a name and a revision of its own: it is not upstream's.
pub(crate) fn flannel_image(plan: &Plan) -> String {
    format!("{FLANNEL}:{}-kprov3", plan.version("flannel"))
}

/// One part to build.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// `etcd`.
    pub(crate) name: &'static str,
    /// `v3.6.8`.
    pub(crate) version: String,
    /// How.
    pub(crate) kind: Kind,
}

/// How a part is built.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A Go module of `bundle/`.
    Go(Go),
    /// `pause.c`, in the build root.
    Pause,
    /// Files of Debian packages, picked in the build root.
    Debian,
}

/// How a Go module is built.
#[derive(Debug, Clone)]
pub(crate) struct Go {
    /// The module whose version the part has; for a version without embedded sums.
    pub(crate) module: &'static str,
    /// Packages to build and the file each becomes; `.` is the module's own main.
    pub(crate) packages: &'static [(&'static str, &'static str)],
    /// Build tags.
    pub(crate) tags: &'static str,
    /// Linker flags beside `-s -w`.
    pub(crate) ldflags: String,
    /// With C, statically linked in the build root.
    pub(crate) cgo: bool,
}

impl Part {
    /// True when it is built in the build root, which only root can make.
    pub(crate) fn needs_root(&self) -> bool {
        match &self.kind {
            Kind::Go(go) => go.cgo,
            Kind::Pause | Kind::Debian => true,
        }
    }
}

/// All that a bundle is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `v1.36.3`.
    pub(crate) kubernetes: String,
    /// Go's and Debian's word: `amd64`.
    pub(crate) arch: String,
    /// Tag of etcd's image.
    pub(crate) etcd_tag: String,
    /// In the order in which they are built: the longest first.
    pub(crate) parts: Vec<Part>,
}

impl Plan {
    /// The same with one part alone.
    pub(crate) fn only(&self, name: &str) -> Self {
        let mut plan = self.clone();
        plan.parts.retain(|part| part.name == name);
        plan
    }

    /// A part's version.
    pub(crate) fn version(&self, name: &str) -> &str {
        self.parts.iter().find(|p| p.name == name).map_or("", |p| p.version.as_str())
    }
}

/// Checks what was asked for and lists the parts.
///
/// # Errors
/// An architecture, release or part that is not known, with those that are.
pub(crate) fn plan(kubernetes: &str, arch: &str, chosen: &BTreeMap<String, String>) -> Result<Plan> {
    if !matches!(arch, "amd64" | "arm64") {
        return Err(BuildError::Unknown(format!("architecture {arch} is neither amd64 nor arm64")));
    }
    let Some(release) = RELEASES.iter().find(|r| r.kubernetes == kubernetes) else {
        let known: Vec<&str> = RELEASES.iter().map(|r| r.kubernetes).collect();
        return Err(BuildError::Unknown(format!(
            "this kprov has no sums of Kubernetes {kubernetes}, only of {}",
            known.join(" and ")
        )));
    };
    for (name, version) in chosen {
        if !PARTS.iter().any(|(part, ..)| part == name) {
            let known: Vec<&str> = PARTS.iter().map(|(part, ..)| *part).collect();
            return Err(BuildError::Unknown(format!(
                "no part {name} whose version can be chosen, only {}",
                known.join(", ")
            )));
        }
        let plain = version.strip_prefix('v').unwrap_or(version);
        let good = plain.starts_with(|c: char| c.is_ascii_digit())
            && plain.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        if !good {
            return Err(BuildError::Unknown(format!("{version} is no version of {name}")));
        }
    }
    let version = |name: &str| -> String {
        let wanted = chosen.get(name).map(String::as_str);
        let plain = |v: &str| v.trim_start_matches('v').to_owned();
        match name {
            "pause" => plain(wanted.unwrap_or(release.pause)),
            "etcd" => format!("v{}", plain(wanted.unwrap_or(release.etcd)).split('-').next().unwrap_or_default()),
            "coredns" => format!("v{}", plain(wanted.unwrap_or(release.coredns))),
            _ => {
                let own = PARTS.iter().find(|(part, ..)| *part == name).map_or("", |(.., own)| own);
                format!("v{}", plain(wanted.unwrap_or(own)))
            }
        }
    };
    let etcd_tag = match chosen.get("etcd") {
        None => release.etcd.to_owned(),
        Some(_) => format!("{}-0", version("etcd").trim_start_matches('v')),
    };
    let go = |name: &'static str, packages, tags, ldflags: &str, cgo| {
        let version = version(name);
        let module = PARTS.iter().find(|(part, ..)| *part == name).map_or("", |(_, module, _)| module);
        let ldflags = ldflags.replace("VERSION", &version);
        Part { name, version, kind: Kind::Go(Go { module, packages, tags, ldflags, cgo }) }
    };
    let own = |name: &'static str, version: String, kind| Part { name, version, kind };
    let parts = vec![
        own("kube", kubernetes.to_owned(), Kind::Go(kube(release))),
        go(
            "containerd",
            &[
                (".", "containerd"),
                ("github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "containerd-shim-runc-v2"),
            ],
            "no_btrfs,no_devmapper,no_zfs,urfave_cli_no_docs",
            "-X github.com/containerd/containerd/v2/version.Version=VERSION",
            false,
        ),
        go("coredns", &[(".", "coredns")], "grpcnotrace", "", false),
        go("flannel", &[(".", "flanneld")], "", "-X github.com/flannel-io/flannel/pkg/version.Version=VERSION", false),
        go("etcd", &[(".", "etcd")], "", "", false),
        go(
            "crictl",
            &[("sigs.k8s.io/cri-tools/cmd/crictl", "crictl")],
            "",
            "-X sigs.k8s.io/cri-tools/pkg/version.Version=VERSION",
            false,
        ),
        go(
            "cni",
            &[
                ("github.com/containernetworking/plugins/plugins/main/bridge", "bridge"),
                ("github.com/containernetworking/plugins/plugins/ipam/host-local", "host-local"),
                ("github.com/containernetworking/plugins/plugins/main/loopback", "loopback"),
                ("github.com/containernetworking/plugins/plugins/meta/portmap", "portmap"),
                ("github.com/containernetworking/plugins/plugins/meta/firewall", "firewall"),
                ("github.com/containernetworking/plugins/plugins/meta/bandwidth", "bandwidth"),
            ],
            "",
            "-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=VERSION",
            false,
        ),
        go(
            "runc",
            &[("github.com/opencontainers/runc", "runc")],
            "seccomp,netgo,osusergo",
            "-linkmode external -extldflags -static",
            true,
        ),
        own("pause", version("pause"), Kind::Pause),
        own("debian", "bookworm".into(), Kind::Debian),
    ];
    Ok(Plan { kubernetes: kubernetes.to_owned(), arch: arch.to_owned(), etcd_tag, parts })
}

/// kubeadm refuses a kubelet without version stamps as too old.
fn kube(release: &Release) -> Go {
    let mut numbers = release.kubernetes.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let stamps = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].map(|package| {
        [
            ("gitVersion", release.kubernetes),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "archive"),
            ("buildDate", release.time),
        ]
        .map(|(name, value)| format!("-X {package}.{name}={value}"))
        .join(" ")
    });
    Go {
        module: "k8s.io/kubernetes",
        packages: &[(".", "kube"), ("./node", "node")],
        // As upstream builds them, without the stand-ins for tests.
        tags: "selinux,notest,grpcnotrace",
        ldflags: stamps.join(" "),
        cgo: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::build::sources;

    fn with(parts: &[(&str, &str)]) -> Result<Plan> {
        let parts = parts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        plan(DEFAULT_KUBERNETES, "amd64", &parts)
    }

    #[test]
    fn every_release_has_its_sums() {
        for release in &RELEASES {
            let plan = plan(release.kubernetes, "arm64", &BTreeMap::new()).unwrap();
            for part in &plan.parts {
                if matches!(part.kind, Kind::Go(_)) {
                    let names: Vec<&str> =
                        sources::module(part.name, &part.version).into_iter().map(|(name, _)| name).collect();
                    assert!(names.contains(&"go.mod") && names.contains(&"go.sum"), "{} {}", part.name, part.version);
                }
            }
        }
    }

    #[test]
    fn a_chosen_version_replaces_the_releases() {
        let plan = with(&[("etcd", "3.6.16"), ("pause", "v3.11")]).unwrap();
        assert_eq!((plan.version("etcd"), plan.etcd_tag.as_str()), ("v3.6.16", "3.6.16-0"));
        assert_eq!((plan.version("pause"), plan.version("coredns")), ("3.11", "v1.14.2"));
        assert_eq!(with(&[]).unwrap().etcd_tag, "3.6.8-0");
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        for (parts, why) in [
            (&[("kube", "v1.36.3")][..], "no part kube whose version can be chosen"),
            (&[("etcd", "latest")], "latest is no version of etcd"),
            (&[("etcd", "v1; rm")], "is no version"),
        ] {
            let error = with(parts).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = plan("v1.29.0", "amd64", &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("only of v1.36.3 and v1.35.4"), "{error}");
        assert!(plan(DEFAULT_KUBERNETES, "riscv64", &BTreeMap::new()).is_err());
    }

    #[test]
    fn kubernetes_carries_its_stamps_twice() {
        let flags = kube(&RELEASES[0]).ldflags;
        assert_eq!(flags.matches(".gitVersion=v1.36.3").count(), 2);
        assert_eq!(flags.matches(".gitMinor=36").count(), 2);
    }
}

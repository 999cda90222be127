//! The folder `bundle/` of the repository, embedded: building works wherever the binary is.

use std::path::Path;

use super::{BuildError, Result};

macro_rules! embed {
    ($($path:literal),* $(,)?) => {
        /// Path below `bundle/` and content.
        pub(crate) const FILES: &[(&str, &str)] =
            &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/bundle/", $path)))),*];
    };
}

embed![
    "cni/tools.go",
    "cni/v1.9.1/go.mod",
    "cni/v1.9.1/go.sum",
    "containerd/main.go",
    "containerd/tools.go",
    "containerd/v2.3.7/go.mod",
    "containerd/v2.3.7/go.sum",
    "coredns/main.go",
    "coredns/v1.13.1/go.mod",
    "coredns/v1.13.1/go.sum",
    "coredns/v1.14.2/go.mod",
    "coredns/v1.14.2/go.sum",
    "crictl/tools.go",
    "crictl/v1.36.0/go.mod",
    "crictl/v1.36.0/go.sum",
    "debian/collect.sh",
    "debian/root.sh",
    "etcd/main.go",
    "etcd/v3.6.6/go.mod",
    "etcd/v3.6.6/go.sum",
    "etcd/v3.6.8/go.mod",
    "etcd/v3.6.8/go.sum",
    "flannel/cni.go",
    "flannel/main.go",
    "flannel/manager.go",
    "flannel/network.go",
    "flannel/v0.28.4/go.mod",
    "flannel/v0.28.4/go.sum",
    "kube/main.go",
    "kube/node/main.go",
    "kube/v1.35.4/go.mod",
    "kube/v1.35.4/go.sum",
    "kube/v1.36.3/go.mod",
    "kube/v1.36.3/go.sum",
    "pause/pause.c",
    "runc/tools.go",
    "runc/v1.4.3/go.mod",
    "runc/v1.4.3/go.sum",
];

/// One file.
pub(crate) fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// The files of a Go part as they stand in its module: Go files, also those of packages in folders of their own, and go.mod
/// and go.sum of this version.
pub(crate) fn module(part: &str, version: &str) -> Vec<(&'static str, &'static str)> {
    FILES
        .iter()
        .filter_map(|(path, text)| {
            let rest = path.strip_prefix(part)?.strip_prefix('/')?;
            match rest.split_once('/') {
                None => Some((rest, *text)),
                Some((own, name)) if own == version => Some((name, *text)),
                Some(_) => rest.ends_with(".go").then_some((rest, *text)),
            }
        })
        .collect()
}

/// The versions of a Go part whose sums are embedded, as they stand here.
pub(crate) fn versions(part: &str) -> Vec<&'static str> {
    FILES.iter().filter_map(|(path, _)| path.strip_prefix(part)?.strip_prefix('/')?.strip_suffix("/go.mod")).collect()
}

/// Writes files into a folder.
pub(crate) fn write(files: &[(&str, &str)], to: &Path) -> Result<()> {
    for (name, text) in files {
        let path = to.join(name);
        let dir = path.parent().unwrap_or(to);
        std::fs::create_dir_all(dir).map_err(BuildError::file(format!("creating {}", dir.display())))?;
        std::fs::write(&path, text).map_err(BuildError::file(format!("writing {}", path.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn walk(dir: &Path, base: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, into);
            } else {
                into.insert(path.strip_prefix(base).unwrap().to_string_lossy().into_owned());
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundle");
        let mut on_disk = BTreeSet::new();
        walk(&base, &base, &mut on_disk);
        // What is not an input of a bundle.
        on_disk.retain(|path| !path.starts_with("kubeadm/") && !path.ends_with(".md") && path.contains('/'));
        let embedded: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(embedded, on_disk);
    }

    #[test]
    fn every_module_pins_the_same_tool_chain() {
        for (path, text) in FILES.iter().filter(|(path, _)| path.ends_with("go.mod")) {
            let pinned = format!("toolchain go{}", super::super::golang::PINNED);
            let required = format!("go {}", super::super::golang::PINNED);
            assert!(text.lines().any(|line| line == pinned || line == required), "{path} does not say {pinned}");
        }
    }
}

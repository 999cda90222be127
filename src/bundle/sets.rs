//! In which order images are brought: each set is an archive of its own, imported as a whole, so that what starts first
//! need not wait for the rest.

use super::manifest::{Image, Manifest};

/// Images that are imported together. A layer that images of several sets share is in each of their archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// What every pod needs, and etcd, which everything waits for.
    First,
    /// Kubernetes' own components.
    Kubernetes,
    /// Add-ons.
    Addons,
}

/// `registry.k8s.io/etcd:3.6.8-0` → `etcd`.
pub(crate) fn short(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next().unwrap_or_default()
}

impl Set {
    /// All of them, in the order in which they are needed.
    pub const ALL: [Self; 3] = [Self::First, Self::Kubernetes, Self::Addons];

    /// The set of the image of this name: `registry.k8s.io/etcd:3.6.8-0`.
    pub fn of(image: &str) -> Self {
        match short(image) {
            "etcd" | "pause" => Self::First,
            name if name.starts_with("kube-") => Self::Kubernetes,
            _ => Self::Addons,
        }
    }

    /// Its name for files and keys: `first`.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Kubernetes => "kubernetes",
            Self::Addons => "addons",
        }
    }

    /// Its archive in the folder of an unpacked bundle.
    pub fn archive(self) -> String {
        format!("images-{}.tar", self.name())
    }

    /// Its images in a bundle.
    pub fn images(self, manifest: &Manifest) -> Vec<&Image> {
        manifest.images.iter().filter(|image| Self::of(&image.name) == self).collect()
    }

    /// The sets of which a bundle has images.
    pub fn there(manifest: &Manifest) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| manifest.images.iter().any(|image| Self::of(&image.name) == *set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_set() {
        for (name, set) in [
            ("registry.k8s.io/etcd:3.6.8-0", Set::First),
            ("registry.local:5000/pause@sha256:00", Set::First),
            ("registry.k8s.io/kube-proxy:v1.36.3", Set::Kubernetes),
            ("registry.k8s.io/coredns/coredns:v1.14.2", Set::Addons),
            ("kprov.io/flannel:v0.28.4-kprov1", Set::Addons),
            ("", Set::Addons),
        ] {
            assert_eq!(Set::of(name), set, "{name}");
        }
    }
}

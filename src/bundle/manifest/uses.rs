//! What each blob is used as, what people call it, and in which order blobs are best read.

use std::collections::BTreeMap;

use super::{Content, Manifest, hex_of};

/// What a blob is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An image's manifest.
    ImageManifest,
    /// An image's configuration.
    ImageConfig,
    /// A layer of one or more images.
    Layer,
    /// A file for the machine, in no image.
    HostFile,
}

impl Manifest {
    /// What each blob is used as, by its hash. A blob that nothing uses is not in it.
    pub fn roles(&self) -> BTreeMap<&str, Role> {
        let mut roles = BTreeMap::new();
        for file in &self.files {
            if let Content::Blob(hex) = &file.content {
                roles.insert(hex.as_str(), Role::HostFile);
            }
        }
        for image in &self.images {
            for layer in &image.layers {
                roles.insert(hex_of(layer), Role::Layer);
            }
        }
        for image in &self.images {
            roles.insert(hex_of(&image.config), Role::ImageConfig);
            roles.insert(hex_of(&image.digest), Role::ImageManifest);
        }
        roles
    }

    /// Bytes of a blob; 0 where the bundle does not have it.
    pub fn size_of(&self, hex: &str) -> u64 {
        self.blobs.iter().find(|b| b.sha256 == hex).map_or(0, |b| b.size)
    }

    /// A blob's name for people: its entry, and what it is.
    pub fn label(&self, hex: &str) -> String {
        let mut of: Vec<&str> = Vec::new();
        for file in &self.files {
            match &file.content {
                Content::Blob(own) if own == hex => of.push(&file.path),
                Content::Member { layer, .. } if layer == hex => of.push(&file.path),
                _ => {}
            }
        }
        for image in &self.images {
            if [&image.digest, &image.config].into_iter().chain(&image.layers).any(|d| hex_of(d) == hex) {
                of.push(&image.name);
            }
        }
        match of.as_slice() {
            [] => format!("blobs/sha256/{hex}"),
            [one] => format!("blobs/sha256/{hex} ({one})"),
            [one, rest @ ..] => format!("blobs/sha256/{hex} ({one} and {} more)", rest.len()),
        }
    }

    /// Sorts the blobs as they are best read: image manifests, configurations, files for the machine, layers; each
    /// kind as it stands in `images` and `files`. Blobs that nothing uses go last (and are refused by
    /// [`check`](Self::check)).
    pub fn arrange(&mut self) {
        let mut order: BTreeMap<String, usize> = BTreeMap::new();
        let files = self.files.iter().filter_map(|f| match &f.content {
            Content::Blob(hex) => Some(hex.as_str()),
            _ => None,
        });
        let all = (self.images.iter().map(|i| hex_of(&i.digest)))
            .chain(self.images.iter().map(|i| hex_of(&i.config)))
            .chain(files)
            .chain(self.images.iter().flat_map(|i| i.layers.iter().map(|l| hex_of(l))));
        for hex in all {
            let next = order.len();
            order.entry(hex.to_owned()).or_insert(next);
        }
        self.blobs.sort_by_key(|b| (order.get(&b.sha256).copied().unwrap_or(usize::MAX), b.sha256.clone()));
        self.blobs.dedup();
    }
}

//! What a manifest must be to be believed: it agrees with itself and wants nothing that a bundle may not do.

use std::collections::BTreeSet;

use super::{
    Content, Defect, FORMAT, HOST_DIRS, MAX_DOCUMENT, MAX_TOTAL, Manifest, Role, defect, hex_of, is_plain_relative,
    is_sha256,
};

impl Manifest {
    /// Checks that the manifest agrees with itself and wants nothing that a bundle may not do.
    ///
    /// # Errors
    /// The first [`Defect`].
    pub fn check(&self) -> Result<(), Defect> {
        let part = "kprov-manifest.json";
        if self.format != FORMAT {
            return Err(defect(format!("format {} is not {FORMAT}, which this kprov knows", self.format), part));
        }
        if !matches!(self.arch.as_str(), "amd64" | "arm64") {
            return Err(defect(format!("architecture {} is not known", self.arch), part));
        }
        self.check_blobs()?;
        self.check_files()?;
        self.check_images()?;
        let roles = self.roles();
        let unused = self.blobs.iter().find(|b| !roles.contains_key(b.sha256.as_str()));
        unused.map_or(Ok(()), |b| Err(defect("nothing uses the blob", self.label(&b.sha256))))
    }

    fn check_blobs(&self) -> Result<(), Defect> {
        let (mut seen, mut total) = (BTreeSet::new(), 0_u64);
        for blob in &self.blobs {
            if !is_sha256(&blob.sha256) {
                return Err(defect("not a lower-case hex SHA-256", &blob.sha256));
            }
            if !seen.insert(&blob.sha256) {
                return Err(defect("listed twice", self.label(&blob.sha256)));
            }
            total = total.saturating_add(blob.size);
            if total > MAX_TOTAL {
                return Err(defect(
                    format!("the bundle unpacks to more than {MAX_TOTAL} bytes"),
                    self.label(&blob.sha256),
                ));
            }
        }
        Ok(())
    }

    fn has(&self, hex: &str, whose: &str) -> Result<(), Defect> {
        if self.blobs.iter().any(|b| b.sha256 == hex) {
            return Ok(());
        }
        Err(defect(format!("its blob {hex} is not in the bundle"), whose))
    }

    fn check_files(&self) -> Result<(), Defect> {
        let mut paths = BTreeSet::new();
        let host_path = |path: &str| {
            let (dir, name) = path.rsplit_once('/').unwrap_or_default();
            HOST_DIRS.contains(&dir) && is_plain_relative(name)
        };
        for file in &self.files {
            let path = file.path.as_str();
            if !host_path(path) {
                return Err(defect(format!("not a file in {}", HOST_DIRS.join(", ")), path));
            }
            if !paths.insert(path) {
                return Err(defect("listed twice", path));
            }
            if file.mode & !0o777 != 0 {
                return Err(defect(format!("mode {:o} is more than permission bits", file.mode), path));
            }
            match &file.content {
                Content::Blob(hex) => self.has(hex, path)?,
                Content::Member { layer, name, sha256, .. } => {
                    self.has(layer, path)?;
                    if !self.images.iter().any(|i| i.layers.iter().any(|l| hex_of(l) == layer)) {
                        return Err(defect(format!("{layer} is no image's layer"), path));
                    }
                    if !is_plain_relative(name) {
                        return Err(defect(format!("its name in the layer climbs out: {name}"), path));
                    }
                    if !is_sha256(sha256) {
                        return Err(defect("its hash is not a lower-case hex SHA-256", path));
                    }
                }
                Content::Link(target) => {
                    // A name in the same directory, or one of the places where the bundle may put files.
                    if !(host_path(target) || (is_plain_relative(target) && !target.contains('/'))) {
                        return Err(defect(format!("link climbs out to {target}"), path));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_images(&self) -> Result<(), Defect> {
        let mut names = BTreeSet::new();
        let host: BTreeSet<&str> = self
            .files
            .iter()
            .filter_map(|f| if let Content::Blob(hex) = &f.content { Some(hex.as_str()) } else { None })
            .collect();
        for image in &self.images {
            let name = image.name.as_str();
            if name.is_empty() || !names.insert(name) {
                return Err(defect("an image without a name of its own", name));
            }
            for digest in [&image.digest, &image.config].into_iter().chain(&image.layers) {
                if !digest.starts_with("sha256:") {
                    return Err(defect(format!("not a sha256: digest: {digest}"), name));
                }
                self.has(hex_of(digest), name)?;
                if host.contains(hex_of(digest)) {
                    return Err(defect("one blob is both a file for the machine and part of an image", name));
                }
            }
            for document in [&image.digest, &image.config] {
                let size = self.blobs.iter().find(|b| b.sha256 == hex_of(document)).map_or(0, |b| b.size);
                if size > MAX_DOCUMENT {
                    return Err(defect(format!("manifest or configuration of {size} bytes"), name));
                }
            }
        }
        let roles = self.roles();
        let mixed = self.images.iter().find(|i| {
            roles.get(hex_of(&i.digest)) != Some(&Role::ImageManifest)
                || roles.get(hex_of(&i.config)) != Some(&Role::ImageConfig)
                || i.layers.iter().any(|l| roles.get(hex_of(l)) != Some(&Role::Layer))
        });
        mixed.map_or(Ok(()), |i| Err(defect("one blob is used as two kinds of thing", &i.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::Blob;
    use crate::bundle::synthetic;

    fn defect_of(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = synthetic::small("amd64").manifest;
        change(&mut manifest);
        let bytes = manifest.to_bytes().unwrap();
        Manifest::from_bytes(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn refuses_what_climbs_out() {
        for path in
            ["/etc/shadow", "/usr/bin/../../etc/shadow", "usr/bin/x", "/usr/bin/", "/usr/bin/a/b", "/usr/bin/.."]
        {
            let text = defect_of(|m| m.files[0].path = path.into());
            assert!(text.starts_with("not a file in /usr/bin, "), "{text}");
            assert!(text.ends_with(path), "{text}");
        }
        for target in ["../../etc/shadow", "/etc/shadow", "..", "", "/usr/bin/../../etc/passwd"] {
            let text = defect_of(|m| m.files[0].content = Content::Link(target.into()));
            assert!(text.contains("link climbs out"), "{text}");
        }
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        assert!(defect_of(|m| m.format = 2).contains("format 2 is not 1"));
        assert!(defect_of(|m| m.arch = "sparc".into()).contains("architecture sparc"));
        assert!(defect_of(|m| drop(m.blobs.remove(0))).contains("is not in the bundle"));
        assert!(defect_of(|m| m.blobs.push(m.blobs[0].clone())).contains("listed twice"));
        assert!(defect_of(|m| m.files.push(m.files[0].clone())).contains("listed twice: /usr/"));
        assert!(defect_of(|m| m.blobs.push(Blob { sha256: "0".repeat(64), size: 1 })).contains("nothing uses"));
        assert!(defect_of(|m| m.files[0].mode = 0o4755).contains("more than permission bits"));
        assert!(defect_of(|m| m.blobs[0].size = u64::MAX).contains("unpacks to more than"));
        assert!(defect_of(|m| m.images[0].config = m.images[0].digest.clone()).contains("two kinds"));
    }
}

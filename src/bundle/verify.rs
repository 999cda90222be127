//! Reading a bundle once, forwards, with little memory, and believing nothing that the manifest does not say.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::thread;

use sha2::{Digest, Sha256};

use super::error::{BundleError, bad};
use super::layer::{Members, Scan};
use super::manifest::{Blob, Content, MAX_MANIFEST, Manifest, Role, hex_of, sha256_hex};
use super::pack::{HASH_NAME, INDEX_NAME, LAYOUT, LAYOUT_NAME, MANIFEST_NAME};
use super::stream::{Frame, Stream};

/// Takes a bundle's content as it streams by. It is not verified before [`Opened::read`] has returned.
pub trait Sink {
    /// A blob begins.
    ///
    /// # Errors
    /// These and all others end the reading.
    fn begin(&mut self, blob: &Blob, role: Role) -> Result<(), BundleError>;
    /// Its next bytes.
    ///
    /// # Errors
    /// See [`begin`](Self::begin).
    fn piece(&mut self, bytes: &[u8]) -> Result<(), BundleError>;
    /// It is over, and its hash was right.
    ///
    /// # Errors
    /// See [`begin`](Self::begin).
    fn end(&mut self) -> Result<(), BundleError>;
    /// Within a layer, a file for the machine begins; its pieces come between those of the layer. Passed over by whoever
    /// does not care.
    ///
    /// # Errors
    /// See [`begin`](Self::begin).
    fn member_begin(&mut self, _sha256: &str, _size: u64) -> Result<(), BundleError> {
        Ok(())
    }
    /// Its next bytes.
    ///
    /// # Errors
    /// See [`begin`](Self::begin).
    fn member_piece(&mut self, _bytes: &[u8]) -> Result<(), BundleError> {
        Ok(())
    }
    /// It is over, and its hash was right.
    ///
    /// # Errors
    /// See [`begin`](Self::begin).
    fn member_end(&mut self) -> Result<(), BundleError> {
        Ok(())
    }
}

/// A sink that keeps nothing.
pub struct Nowhere;

impl Sink for Nowhere {
    fn begin(&mut self, _: &Blob, _: Role) -> Result<(), BundleError> {
        Ok(())
    }
    fn piece(&mut self, _: &[u8]) -> Result<(), BundleError> {
        Ok(())
    }
    fn end(&mut self) -> Result<(), BundleError> {
        Ok(())
    }
}

/// A bundle of which only the manifest has been read.
pub struct Opened<R: Read> {
    stream: Stream<BufReader<Frame<R>>>,
    manifest: Manifest,
    id: String,
}

/// Opens a bundle file and reads its manifest, which takes a few milliseconds.
///
/// # Errors
/// A file that cannot be read, is no bundle, or has a bad manifest.
pub fn open(path: &Path) -> Result<Opened<File>, BundleError> {
    let file = File::open(path).map_err(|error| BundleError::Read { path: path.to_owned(), error })?;
    Opened::new(file)
}

/// Reads a whole bundle file and checks every byte. `arch` is what it must be for; none: what it says it is for.
///
/// # Errors
/// The first part that is not what the manifest says.
pub fn verify(path: &Path, arch: Option<&str>) -> Result<Manifest, BundleError> {
    open(path)?.for_arch(arch)?.read(&mut Nowhere)
}

impl<R: Read> Opened<R> {
    /// Reads the manifest.
    ///
    /// # Errors
    /// Something that is no bundle, or a bad manifest.
    pub fn new(reader: R) -> Result<Self, BundleError> {
        let mut stream = Stream::new(reader)?;
        let size = stream.first(MANIFEST_NAME, MAX_MANIFEST)?;
        let bytes = stream.small(size, MANIFEST_NAME)?;
        Ok(Self { stream, manifest: Manifest::from_bytes(&bytes)?, id: sha256_hex(&bytes) })
    }

    /// What it says it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest, which names the bundle.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Refuses a bundle for another architecture.
    ///
    /// # Errors
    /// [`BundleError::Arch`].
    pub fn for_arch(self, arch: Option<&str>) -> Result<Self, BundleError> {
        match arch {
            Some(wanted) if wanted != self.manifest.arch => {
                Err(BundleError::Arch { found: self.manifest.arch, wanted: wanted.to_owned() })
            }
            _ => Ok(self),
        }
    }

    /// Reads all the rest. What `sink` got is verified once this has returned.
    ///
    /// # Errors
    /// The first part that is not what the manifest says, or the sink's own.
    pub fn read(self, sink: &mut dyn Sink) -> Result<Manifest, BundleError>
    where
        R: Send,
    {
        let Self { stream, manifest, id } = self;
        // Decompressing takes as long as hashing and writing: each has a thread.
        thread::scope(|scope| read_parts(stream.ahead(scope), &manifest, &id, sink))?;
        Ok(manifest)
    }
}

fn read_parts(
    mut stream: Stream<impl BufRead>,
    manifest: &Manifest,
    id: &str,
    sink: &mut dyn Sink,
) -> Result<(), BundleError> {
    let index = manifest.index_json();
    for (name, content) in [(LAYOUT_NAME, LAYOUT), (INDEX_NAME, index.as_slice())] {
        stream.expect(name, name, content.len() as u64)?;
        if stream.small(content.len() as u64, name)? != content {
            return Err(bad("its content does not follow from the manifest", name));
        }
    }
    let roles = manifest.roles();
    for blob in &manifest.blobs {
        let role = roles.get(blob.sha256.as_str()).copied().unwrap_or(Role::HostFile);
        read_blob(&mut stream, manifest, blob, role, sink)?;
    }
    let hash = format!("{id}\n");
    stream.expect(HASH_NAME, HASH_NAME, hash.len() as u64)?;
    if stream.small(hash.len() as u64, HASH_NAME)? != hash.as_bytes() {
        return Err(bad("not the manifest's hash", HASH_NAME));
    }
    stream.end()
}

fn read_blob(
    stream: &mut Stream<impl BufRead>,
    manifest: &Manifest,
    blob: &Blob,
    role: Role,
    sink: &mut dyn Sink,
) -> Result<(), BundleError> {
    let label = manifest.label(&blob.sha256);
    stream.expect(&format!("blobs/sha256/{}", blob.sha256), &label, blob.size)?;
    sink.begin(blob, role)?;
    let mut hash = Sha256::new();
    let mut document = Vec::new();
    let mut elf = Elf::default();
    let wanted = members_of(manifest, &blob.sha256);
    let mut scan = Scan::new(wanted.keys().cloned());
    let mut taker = Taker { wanted: &wanted, arch: &manifest.arch, sink, now: None, failed: None };
    stream.body(blob.size, &label, |piece| {
        hash.update(piece);
        match role {
            Role::ImageManifest | Role::ImageConfig => document.extend_from_slice(piece),
            Role::HostFile => elf.see(piece),
            Role::Layer => taker.feed(&mut scan, piece, &label)?,
        }
        taker.sink.piece(piece)
    })?;
    // Only a blob whose hash is right is worth a closer look.
    if data_encoding::HEXLOWER.encode(&hash.finalize()) != blob.sha256 {
        return Err(bad("its content is not what its hash says", label));
    }
    match role {
        Role::Layer => scan.finish().map_err(|why| bad(why, label.as_str()))?,
        Role::HostFile => elf.check(&manifest.arch).map_err(|why| bad(why, label.as_str()))?,
        Role::ImageManifest => {
            check_image_manifest(manifest, blob, &document).map_err(|why| bad(why, label.as_str()))?
        }
        Role::ImageConfig => check_image_config(manifest, blob, &document).map_err(|why| bad(why, label.as_str()))?,
    }
    sink.end()
}

/// What files for the machine are in a layer: name → hash and size.
fn members_of<'a>(manifest: &'a Manifest, hex: &str) -> BTreeMap<String, (&'a str, u64)> {
    let members = manifest.files.iter().filter_map(|file| match &file.content {
        Content::Member { layer, name, sha256, size } if layer == hex => Some((name.clone(), (sha256.as_str(), *size))),
        _ => None,
    });
    members.collect()
}

/// A member that is being handed out.
struct Current<'a> {
    name: String,
    sha256: &'a str,
    hash: Sha256,
    elf: Elf,
}

/// Hands members on to the sink and checks them.
struct Taker<'a, 'b> {
    wanted: &'a BTreeMap<String, (&'a str, u64)>,
    arch: &'a str,
    sink: &'b mut dyn Sink,
    now: Option<Current<'a>>,
    failed: Option<BundleError>,
}

impl Taker<'_, '_> {
    fn feed(&mut self, scan: &mut Scan, piece: &[u8], label: &str) -> Result<(), BundleError> {
        scan.feed(piece, self).map_err(|why| self.failed.take().unwrap_or_else(|| bad(why, label)))
    }

    fn keep<T>(&mut self, result: Result<T, BundleError>) -> Result<T, String> {
        result.map_err(|e| {
            let text = e.to_string();
            self.failed = Some(e);
            text
        })
    }
}

impl Members for Taker<'_, '_> {
    fn begin(&mut self, name: &str, size: u64) -> Result<(), String> {
        let Some((sha256, wanted)) = self.wanted.get(name).copied() else { return Ok(()) };
        if size != wanted {
            return Err(format!("{name} has {size} bytes, the manifest says {wanted}"));
        }
        self.now = Some(Current { name: name.to_owned(), sha256, hash: Sha256::new(), elf: Elf::default() });
        let begun = self.sink.member_begin(sha256, size);
        self.keep(begun)
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some(now) = &mut self.now {
            now.hash.update(bytes);
            now.elf.see(bytes);
        }
        let taken = self.sink.member_piece(bytes);
        self.keep(taken)
    }

    fn end(&mut self) -> Result<(), String> {
        if let Some(now) = self.now.take() {
            if data_encoding::HEXLOWER.encode(&now.hash.finalize()) != now.sha256 {
                return Err(format!("{} is not what its hash says", now.name));
            }
            now.elf.check(self.arch).map_err(|why| format!("{}: {why}", now.name))?;
        }
        let ended = self.sink.member_end();
        self.keep(ended)
    }
}

/// The first bytes of a file, enough to tell for which processor it is.
#[derive(Default)]
struct Elf(Vec<u8>);

impl Elf {
    fn see(&mut self, piece: &[u8]) {
        let missing = 20_usize.saturating_sub(self.0.len()).min(piece.len());
        self.0.extend_from_slice(piece.get(..missing).unwrap_or_default());
    }

    /// A program must be for this architecture; what is no ELF file (a script, data) may be anything.
    fn check(&self, arch: &str) -> Result<(), String> {
        let &[0x7f, b'E', b'L', b'F', .., low, high] = self.0.as_slice() else { return Ok(()) };
        let found = match u16::from_le_bytes([low, high]) {
            62 => "amd64",
            183 => "arm64",
            _ => "another architecture",
        };
        if found == arch { Ok(()) } else { Err(format!("a program for {found} in a bundle for {arch}")) }
    }
}

/// An image's own manifest must name what the bundle's names.
fn check_image_manifest(manifest: &Manifest, blob: &Blob, document: &[u8]) -> Result<(), String> {
    let json: serde_json::Value =
        serde_json::from_slice(document).map_err(|e| format!("not an image manifest ({e})"))?;
    let size_of = |hex: &str| manifest.blobs.iter().find(|b| b.sha256 == hex).map(|b| b.size);
    let same = |described: Option<&serde_json::Value>, digest: &str| {
        let described = described?;
        let same =
            described.get("digest")?.as_str()? == digest && described.get("size")?.as_u64() == size_of(hex_of(digest));
        same.then_some(())
    };
    for image in manifest.images.iter().filter(|i| hex_of(&i.digest) == blob.sha256) {
        let layers = json.get("layers").and_then(|l| l.as_array()).map(Vec::as_slice).unwrap_or_default();
        let alike = layers.len() == image.layers.len()
            && layers.iter().zip(&image.layers).all(|(found, wanted)| same(Some(found), wanted).is_some())
            && same(json.get("config"), &image.config).is_some();
        if !alike {
            return Err(format!(
                "{} names other layers or another configuration than the bundle's manifest",
                image.name
            ));
        }
        let media = layers.iter().filter_map(|l| l.get("mediaType").and_then(|m| m.as_str()));
        if let Some(other) = media.into_iter().find(|m| *m != "application/vnd.oci.image.layer.v1.tar") {
            return Err(format!("{} has a layer of type {other}", image.name));
        }
    }
    Ok(())
}

/// An image must be for the bundle's architecture, and its layers must be those that it will be unpacked from.
fn check_image_config(manifest: &Manifest, blob: &Blob, document: &[u8]) -> Result<(), String> {
    let json: serde_json::Value =
        serde_json::from_slice(document).map_err(|e| format!("not an image configuration ({e})"))?;
    let arch = json.get("architecture").and_then(|a| a.as_str()).unwrap_or_default();
    if arch != manifest.arch {
        return Err(format!("an image for {arch:?} in a bundle for {}", manifest.arch));
    }
    let diffs = json.pointer("/rootfs/diff_ids").and_then(|d| d.as_array()).map(Vec::as_slice).unwrap_or_default();
    for image in manifest.images.iter().filter(|i| hex_of(&i.config) == blob.sha256) {
        if !diffs.iter().map(|d| d.as_str()).eq(image.layers.iter().map(|l| Some(l.as_str()))) {
            return Err(format!("{} has other layers than the bundle's manifest says", image.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

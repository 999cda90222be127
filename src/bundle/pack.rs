//! Writing a bundle: one tar in one zstd frame, the same bytes for the same input.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use zstd::zstd_safe::CParameter;

use super::manifest::{Blob, Defect, Manifest, sha256_hex};

/// First entry.
pub const MANIFEST_NAME: &str = "kprov-manifest.json";
/// Last entry: the manifest's own hash in hex and a line feed.
pub const HASH_NAME: &str = "kprov-manifest.sha256";
/// Second entry.
pub const LAYOUT_NAME: &str = "oci-layout";
/// Its content.
pub const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Third entry.
pub const INDEX_NAME: &str = "index.json";

/// Window of the zstd frame, as a power of two: 8 MiB, so that reading needs little memory.
pub const WINDOW_LOG: u32 = 23;
/// Level for bundles that are shipped: the highest that `--level` takes. 17 makes them a twentieth larger in two thirds of the
/// time; tests take a lower one.
pub const LEVEL: i32 = 19;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The bundle's id: SHA-256 of its manifest.
    pub id: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes before compression.
    pub unpacked: u64,
}

/// Why a bundle was not written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The manifest is no good.
    #[error(transparent)]
    Manifest(#[from] Defect),
    /// A blob's source gave something else than the manifest says.
    #[error("{why}: {part}")]
    Part {
        /// The blob's name.
        part: String,
        /// What is wrong.
        why: String,
    },
    /// The file could not be written.
    #[error("writing bundle: {0}")]
    Write(#[from] io::Error),
}

/// One tar header, always the same for the same name and size: mode 0644, owner 0, time 0.
pub(crate) fn header(name: &str, size: u64) -> io::Result<[u8; 512]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Zeros with which an entry of this size is filled up to whole blocks.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; 512] = [0; 512];
    let len = usize::try_from((512 - size % 512) % 512).unwrap_or_default();
    ZEROS.get(..len).unwrap_or_default()
}

/// Bytes of the whole tar, by which a reader knows the end before it has seen it.
pub(crate) fn tar_size(manifest_len: u64, manifest: &Manifest) -> u64 {
    let entry = |size: u64| 512_u64.saturating_add(size).saturating_add(padding(size).len() as u64);
    let small = [manifest_len, LAYOUT.len() as u64, manifest.index_json().len() as u64, 65];
    let sizes = small.into_iter().chain(manifest.blobs.iter().map(|b| b.size));
    sizes.fold(1024, |sum, size| sum.saturating_add(entry(size)))
}

/// Writes a bundle to `out`, which appears only when it is whole. `source` opens a blob's content; hash and size are
/// checked against the manifest on the way.
///
/// # Errors
/// A defective manifest, a source that differs from it, or a file that cannot be written.
pub fn pack(
    manifest: &Manifest,
    source: impl FnMut(&Blob) -> io::Result<Box<dyn Read>>,
    out: &Path,
    level: i32,
) -> Result<Packed, PackError> {
    let dir = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".kprov-bundle-").tempfile_in(dir)?;
    let packed = write_to(manifest, source, temporary.as_file_mut(), level)?;
    use std::os::unix::fs::PermissionsExt;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    temporary.as_file().sync_all()?;
    temporary.persist(out).map_err(|e| e.error)?;
    File::open(dir)?.sync_all()?;
    Ok(packed)
}

/// Writes a bundle to any writer.
///
/// # Errors
/// As [`pack`].
pub fn write_to(
    manifest: &Manifest,
    mut source: impl FnMut(&Blob) -> io::Result<Box<dyn Read>>,
    out: impl Write,
    level: i32,
) -> Result<Packed, PackError> {
    manifest.check()?;
    let bytes = manifest.to_bytes().map_err(io::Error::from)?;
    let id = sha256_hex(&bytes);
    let unpacked = tar_size(bytes.len() as u64, manifest);

    let mut counted = Counted { inner: BufWriter::new(out), bytes: 0 };
    let mut zstd = zstd::Encoder::new(&mut counted, level)?;
    zstd.include_checksum(true)?;
    zstd.include_contentsize(true)?;
    zstd.set_pledged_src_size(Some(unpacked))?;
    zstd.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
    // Two workers or ten give the same bytes; none at all would give others.
    zstd.multithread(workers())?;

    entry(&mut zstd, MANIFEST_NAME, &bytes)?;
    entry(&mut zstd, LAYOUT_NAME, LAYOUT)?;
    entry(&mut zstd, INDEX_NAME, &manifest.index_json())?;
    for blob in &manifest.blobs {
        let part = |why: String| PackError::Part { part: manifest.label(&blob.sha256), why };
        zstd.write_all(&header(&format!("blobs/sha256/{}", blob.sha256), blob.size)?)?;
        let mut reader = source(blob).map_err(|e| part(e.to_string()))?;
        copy_checked(&mut *reader, &mut zstd, blob).map_err(|e| match e {
            CopyError::Differs(why) => part(why),
            CopyError::Io(e) => PackError::Write(e),
        })?;
        zstd.write_all(padding(blob.size))?;
    }
    entry(&mut zstd, HASH_NAME, format!("{id}\n").as_bytes())?;
    zstd.write_all(&[0; 1024])?;
    zstd.finish()?;
    counted.flush()?;
    Ok(Packed { id, size: counted.bytes, unpacked })
}

fn workers() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)).clamp(1, 16)
}

fn entry(out: &mut impl Write, name: &str, content: &[u8]) -> io::Result<()> {
    out.write_all(&header(name, content.len() as u64)?)?;
    out.write_all(content)?;
    out.write_all(padding(content.len() as u64))
}

enum CopyError {
    Differs(String),
    Io(io::Error),
}

fn copy_checked(from: &mut dyn Read, to: &mut impl Write, blob: &Blob) -> Result<(), CopyError> {
    let mut hash = Sha256::new();
    let mut left = blob.size;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Differs(e.to_string())),
        };
        let piece = buffer.get(..n).unwrap_or_default();
        left =
            left.checked_sub(n as u64).ok_or_else(|| CopyError::Differs(format!("longer than {} bytes", blob.size)))?;
        hash.update(piece);
        to.write_all(piece).map_err(CopyError::Io)?;
    }
    if left > 0 {
        return Err(CopyError::Differs(format!("{left} of {} bytes are missing", blob.size)));
    }
    let found = data_encoding::HEXLOWER.encode(&hash.finalize());
    if found == blob.sha256 { Ok(()) } else { Err(CopyError::Differs(format!("its hash is {found}"))) }
}

struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;

    #[test]
    fn same_input_same_bytes() {
        let bundle = synthetic::small("amd64");
        assert_eq!(bundle.bytes(), bundle.bytes());
    }

    #[test]
    fn an_ordinary_tar_reader_reads_it_in_the_documented_order() {
        let bundle = synthetic::small("amd64");
        let packed = bundle.bytes();
        let tar = zstd::decode_all(packed.as_slice()).unwrap();
        let bytes = bundle.manifest.to_bytes().unwrap();
        assert_eq!(tar.len() as u64, tar_size(bytes.len() as u64, &bundle.manifest));
        let mut archive = tar::Archive::new(tar.as_slice());
        let names: Vec<String> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned()).collect();
        let mut want = vec![MANIFEST_NAME.to_owned(), LAYOUT_NAME.to_owned(), INDEX_NAME.to_owned()];
        want.extend(bundle.manifest.blobs.iter().map(|b| format!("blobs/sha256/{}", b.sha256)));
        want.push(HASH_NAME.to_owned());
        assert_eq!(names, want);
    }

    #[test]
    fn a_source_that_differs_is_refused_by_name() {
        let bundle = synthetic::small("amd64");
        let hex = bundle.manifest.blobs.last().unwrap().sha256.clone();
        for (content, why) in [(&b"short"[..], "are missing"), (&[7; 1 << 20][..], "longer than")] {
            let error = write_to(
                &bundle.manifest,
                |b| {
                    let own: Vec<u8> = if b.sha256 == hex { content.to_vec() } else { bundle.blobs[&b.sha256].clone() };
                    Ok(Box::new(io::Cursor::new(own)))
                },
                Vec::new(),
                1,
            )
            .unwrap_err()
            .to_string();
            assert!(error.contains(why) && error.contains(&hex), "{error}");
        }
    }

    #[test]
    fn nothing_is_left_where_packing_fails() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = synthetic::small("amd64");
        let out = dir.path().join("b.tar.zst");
        let refuse = |_: &Blob| -> io::Result<Box<dyn Read>> { Err(io::Error::other("no such part")) };
        assert!(pack(&bundle.manifest, refuse, &out, 1).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

//! The outer archive, read strictly forwards: one zstd frame, in it a tar of which every header is known beforehand.

use std::io::{self, BufRead, BufReader, Read};

use super::error::{BundleError, bad};
use super::manifest::is_plain_relative;
use super::pack::{WINDOW_LOG, header, padding};

/// A reader of the outer archive. It accepts exactly what the writer writes.
pub(crate) struct Stream<R: Read> {
    zstd: zstd::Decoder<'static, BufReader<R>>,
}

impl<R: Read> Stream<R> {
    /// Looks at the frame's header only.
    pub(crate) fn new(reader: R) -> Result<Self, BundleError> {
        let file = "the file itself";
        let mut reader = BufReader::with_capacity(1 << 17, reader);
        let start = reader.fill_buf().map_err(|e| bad(e.to_string(), file))?;
        match start {
            [0x28, 0xb5, 0x2f, 0xfd, descriptor, ..] if descriptor & 0x04 != 0 => {}
            [0x28, 0xb5, 0x2f, 0xfd, _, ..] => return Err(bad("its zstd frame has no checksum", file)),
            _ => return Err(bad("not a zstd file", file)),
        }
        let zstd = zstd::Decoder::with_buffer(reader).and_then(|mut zstd| {
            // A frame that asks for more memory than ours do is refused by the decoder.
            zstd.window_log_max(WINDOW_LOG)?;
            Ok(zstd.single_frame())
        });
        Ok(Self { zstd: zstd.map_err(|e| bad(e.to_string(), file))? })
    }

    fn exact(&mut self, buffer: &mut [u8], part: &str) -> Result<(), BundleError> {
        self.zstd.read_exact(buffer).map_err(|e| damaged(&e, part))
    }

    /// Reads the header of the part that comes next, whose size must be at most `max`. Gives the size.
    pub(crate) fn first(&mut self, name: &str, max: u64) -> Result<u64, BundleError> {
        let mut found = [0; 512];
        self.exact(&mut found, name)?;
        let size = tar::Header::from_byte_slice(&found).entry_size().unwrap_or(u64::MAX);
        if size > max && found.starts_with(name.as_bytes()) {
            return Err(bad(format!("larger than {max} bytes"), name));
        }
        compare(&found, name, name, size.min(max))?;
        Ok(size)
    }

    /// Reads the header of the part that must come next.
    pub(crate) fn expect(&mut self, name: &str, label: &str, size: u64) -> Result<(), BundleError> {
        let mut found = [0; 512];
        self.exact(&mut found, label)?;
        compare(&found, name, label, size)
    }

    /// Reads a part's content in pieces, and the padding after it.
    pub(crate) fn body(
        &mut self,
        size: u64,
        label: &str,
        mut piece: impl FnMut(&[u8]) -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        let mut buffer = vec![0; 1 << 18];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let n = match self.zstd.read(buffer.get_mut(..want).unwrap_or_default()) {
                Ok(0) => return Err(bad(format!("the file is cut, {left} bytes are missing"), label)),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(damaged(&e, label)),
            };
            left = left.saturating_sub(n as u64);
            piece(buffer.get(..n).unwrap_or_default())?;
        }
        self.zeros(padding(size).len(), label)
    }

    /// Reads a small part whole.
    pub(crate) fn small(&mut self, size: u64, label: &str) -> Result<Vec<u8>, BundleError> {
        let mut content = Vec::new();
        self.body(size, label, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(content)
    }

    fn zeros(&mut self, len: usize, label: &str) -> Result<(), BundleError> {
        let mut zeros = vec![0; len];
        self.exact(&mut zeros, label)?;
        if zeros.iter().any(|b| *b != 0) { Err(bad("something follows it that is no part", label)) } else { Ok(()) }
    }

    /// The end of the tar, of the frame (whose checksum is checked here) and of the file.
    pub(crate) fn end(mut self) -> Result<(), BundleError> {
        let mut mark = [0; 512];
        self.exact(&mut mark, "end of the archive")?;
        if mark.iter().any(|b| *b != 0) {
            let name = name_in(&mark);
            return Err(bad("additional part", name));
        }
        self.zeros(512, "end of the archive")?;
        match self.zstd.read(&mut [0; 1]) {
            Ok(0) => {}
            Ok(_) => return Err(bad("something follows the last part", "end of the archive")),
            Err(e) => return Err(damaged(&e, "end of the archive")),
        }
        let rest = self.zstd.finish().fill_buf().map(<[u8]>::len).map_err(|e| damaged(&e, "end of the file"))?;
        if rest > 0 { Err(bad("something follows the compressed archive", "end of the file")) } else { Ok(()) }
    }
}

/// An error of the decoder, in words.
fn damaged(error: &io::Error, part: &str) -> BundleError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return bad("the file is cut", part);
    }
    bad(format!("the file is damaged ({error})"), part)
}

/// The name in a header, as text for people.
fn name_in(found: &[u8; 512]) -> String {
    let header = tar::Header::from_byte_slice(found);
    String::from_utf8_lossy(&header.path_bytes()).escape_debug().to_string()
}

/// Compares a header with the only one that may stand here, and says what differs.
fn compare(found: &[u8; 512], name: &str, label: &str, size: u64) -> Result<(), BundleError> {
    let wanted = header(name, size).map_err(|e| bad(e.to_string(), label))?;
    if *found == wanted {
        return Ok(());
    }
    if found.iter().all(|b| *b == 0) {
        return Err(bad("missing part", label));
    }
    let other = tar::Header::from_byte_slice(found);
    let found_name = name_in(found);
    if !is_plain_relative(&found_name) {
        return Err(bad("its path climbs out", found_name));
    }
    let kind = match other.entry_type() {
        tar::EntryType::Regular => None,
        tar::EntryType::Link | tar::EntryType::Symlink => Some("a link"),
        tar::EntryType::Char | tar::EntryType::Block => Some("a device node"),
        tar::EntryType::Directory => Some("a directory"),
        tar::EntryType::Fifo => Some("a pipe"),
        _ => Some("no regular file"),
    };
    if let Some(kind) = kind {
        return Err(bad(format!("{kind}, where only regular files may be"), found_name));
    }
    if found_name != name {
        return Err(bad(format!("missing part (found {found_name} instead)"), label));
    }
    match other.entry_size() {
        Ok(found) if found != size => Err(bad(format!("{found} bytes, the manifest says {size}"), label)),
        _ => Err(bad("its tar header is not as kprov writes it", label)),
    }
}

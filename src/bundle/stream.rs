//! The outer archive, read strictly forwards: one zstd frame, in it a tar of which every header is known beforehand.

use std::io::{self, BufRead, BufReader, Read};
use std::thread::Scope;

use super::ahead::Ahead;
use super::error::{BundleError, bad};
use super::manifest::is_plain_relative;
use super::pack::{WINDOW_LOG, header, padding};

/// A reader of the outer archive. It accepts exactly what the writer writes.
pub(crate) struct Stream<R> {
    from: R,
}

/// What a frame holds, decompressed. Its end is also the file's.
pub(crate) struct Frame<R: Read> {
    zstd: zstd::Decoder<'static, BufReader<R>>,
}

impl<R: Read> Read for Frame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.zstd.read(buffer)? {
            // The frame's checksum was right.
            0 if buffer.is_empty() || self.zstd.get_mut().fill_buf()?.is_empty() => Ok(0),
            0 => Err(io::Error::other(Follows)),
            n => Ok(n),
        }
    }
}

/// Bytes after the frame.
#[derive(Debug, thiserror::Error)]
#[error("something follows the compressed archive")]
struct Follows;

impl<R: Read> Stream<BufReader<Frame<R>>> {
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
        // Only the manifest is read through this buffer.
        let frame = Frame { zstd: zstd.map_err(|e| bad(e.to_string(), file))? };
        Ok(Self { from: BufReader::with_capacity(1 << 16, frame) })
    }

    /// The same, decompressed by a thread of its own while what came before is looked at.
    pub(crate) fn ahead<'scope>(self, scope: &'scope Scope<'scope, '_>) -> Stream<Ahead>
    where
        R: Send + 'scope,
    {
        Stream { from: Ahead::new(self.from, scope) }
    }
}

impl<R: BufRead> Stream<R> {
    fn exact(&mut self, buffer: &mut [u8], part: &str) -> Result<(), BundleError> {
        self.from.read_exact(buffer).map_err(|e| damaged(&e, part))
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
        let mut left = size;
        while left > 0 {
            let bytes = match self.from.fill_buf() {
                Ok([]) => return Err(bad(format!("the file is cut, {left} bytes are missing"), label)),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(damaged(&e, label)),
            };
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            piece(bytes.get(..n).unwrap_or_default())?;
            self.from.consume(n);
            left = left.saturating_sub(n as u64);
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
        match self.from.read(&mut [0; 1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(bad("something follows the last part", "end of the archive")),
            Err(e) => Err(damaged(&e, "end of the archive")),
        }
    }
}

/// An error of the decoder, in words.
fn damaged(error: &io::Error, part: &str) -> BundleError {
    if error.get_ref().is_some_and(|inner| inner.is::<Follows>()) {
        return bad(Follows.to_string(), "end of the file");
    }
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

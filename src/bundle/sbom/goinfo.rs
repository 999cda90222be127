//! Which Go modules a program is made of: the Go linker writes the list, with sums, into every program.

use memchr::memmem;

/// How the list begins (`debug/buildinfo` of Go's library).
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where the strings follow, counted from the beginning.
const STRINGS: usize = 32;
/// The strings are here and not behind pointers, as since Go 1.18.
const INLINE: u8 = 2;
/// The list stands between two marks of this length.
const MARK: usize = 16;
/// No list is longer, in bytes.
const MAX: usize = 4 << 20;

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GoInfo {
    /// `go1.26.8`.
    pub(crate) go: String,
    /// Modules that are in it, the replacing one where one is replaced.
    pub(crate) modules: Vec<Module>,
}

/// A Go module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Module {
    /// `github.com/opencontainers/runc`.
    pub(crate) path: String,
    /// `v1.4.3`.
    pub(crate) version: String,
    /// Its sum as in go.sum; empty where the module was built from its own sources.
    pub(crate) sum: String,
}

/// Looks for the list in a program that streams by.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// The end of what was seen, in which the beginning may have begun.
    tail: Vec<u8>,
    /// What follows a beginning.
    reading: Option<Vec<u8>>,
    found: Option<GoInfo>,
}

enum Parsed {
    More,
    No,
    Yes(GoInfo),
}

impl Search {
    /// Takes the program's next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.found.is_some() {
            return;
        }
        let mut rest = match self.reading.take() {
            Some(mut reading) => {
                reading.extend_from_slice(bytes);
                reading
            }
            None => {
                let mut seam = std::mem::take(&mut self.tail);
                // Only the seam is copied, not all that streams by.
                if memmem::find(bytes, MAGIC).is_none() {
                    seam.extend_from_slice(bytes.get(..MAGIC.len().min(bytes.len())).unwrap_or_default());
                    if memmem::find(&seam, MAGIC).is_none() {
                        self.keep_tail(if bytes.len() < MAGIC.len() { &seam } else { bytes });
                        return;
                    }
                    seam.extend_from_slice(bytes.get(MAGIC.len()..).unwrap_or_default());
                } else {
                    seam.extend_from_slice(bytes);
                }
                seam
            }
        };
        while let Some(at) = memmem::find(&rest, MAGIC) {
            rest.drain(..at);
            match parse(&rest) {
                Parsed::Yes(info) => {
                    self.found = Some(info);
                    return;
                }
                Parsed::More => {
                    self.reading = Some(rest);
                    return;
                }
                // The same words stand in programs that read such lists.
                Parsed::No => drop(rest.drain(..1)),
            }
        }
        self.keep_tail(&rest);
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(MAGIC.len());
        self.tail = bytes.get(from..).unwrap_or_default().to_vec();
    }

    /// The list, if the program had one.
    pub(crate) fn found(self) -> Option<GoInfo> {
        self.found
    }
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(flags) = bytes.get(MAGIC.len().saturating_add(1)) else { return Parsed::More };
    if flags & INLINE == 0 {
        return Parsed::No;
    }
    let mut at = STRINGS;
    let go = match string(bytes, &mut at, 256) {
        Ok(Some(go)) => go,
        Ok(None) => return Parsed::More,
        Err(()) => return Parsed::No,
    };
    let Some(go) = std::str::from_utf8(go).ok().filter(|go| go.starts_with("go") || go.starts_with("devel")) else {
        return Parsed::No;
    };
    let list = match string(bytes, &mut at, MAX) {
        Ok(Some(list)) => list,
        Ok(None) => return Parsed::More,
        Err(()) => return Parsed::No,
    };
    let inner = list.get(MARK..list.len().saturating_sub(MARK)).unwrap_or_default();
    let Ok(text) = std::str::from_utf8(inner) else { return Parsed::No };
    Parsed::Yes(GoInfo { go: go.to_owned(), modules: modules(text) })
}

/// A length as Go's varint, then so many bytes. None: not all of it is there yet.
fn string<'a>(bytes: &'a [u8], at: &mut usize, max: usize) -> Result<Option<&'a [u8]>, ()> {
    let (mut length, mut shift) = (0_usize, 0_u32);
    loop {
        let Some(byte) = bytes.get(*at) else { return Ok(None) };
        *at = at.saturating_add(1);
        length |= usize::from(byte & 0x7f).checked_shl(shift).ok_or(())?;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        if shift > 28 {
            return Err(());
        }
    }
    if length > max {
        return Err(());
    }
    let end = at.saturating_add(length);
    let found = bytes.get(*at..end);
    *at = end;
    Ok(found)
}

/// Lines `mod`, `dep` and, after a line that it replaces, `=>`, each with path, version and sum between tabs.
fn modules(text: &str) -> Vec<Module> {
    let mut found: Vec<Module> = Vec::new();
    for line in text.lines() {
        let mut words = line.split('\t');
        let kind = words.next().unwrap_or_default();
        let (Some(path), version, sum) = (words.next(), words.next(), words.next()) else { continue };
        let module = Module {
            path: path.to_owned(),
            version: version.unwrap_or_default().to_owned(),
            sum: sum.unwrap_or_default().to_owned(),
        };
        match kind {
            "mod" | "dep" => found.push(module),
            "=>" => {
                found.pop();
                found.push(module);
            }
            _ => {}
        }
    }
    // A program's own module that was not fetched has no version.
    found.retain(|module| module.version.starts_with('v'));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    fn program() -> Vec<u8> {
        let text = "path\tcommand-line-arguments\nmod\tkprov.io/etcd\t(devel)\t\ndep\tgo.etcd.io/bbolt\tv1.4.3\th1:abc=\n\
                    dep\tk8s.io/api\tv0.0.0\n=>\tk8s.io/api\tv0.36.3\th1:def=\nbuild\tCGO_ENABLED=0\n";
        let mut list = vec![7; MARK];
        list.extend_from_slice(text.as_bytes());
        list.extend_from_slice(&[8; MARK]);
        // A program that reads such lists has the words as well.
        let mut bytes = b"\x7fELF....\xff Go buildinf:\0 not yet \xff Go \xff".to_vec();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[8, INLINE]);
        bytes.extend_from_slice(&[0; 16]);
        for part in [b"go1.26.8".as_slice(), &list] {
            bytes.extend_from_slice(&varint(part.len()));
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&[9; 100]);
        bytes
    }

    fn search(bytes: &[u8], step: usize) -> Option<GoInfo> {
        let mut search = Search::default();
        for piece in bytes.chunks(step) {
            search.feed(piece);
        }
        search.found()
    }

    #[test]
    fn the_list_is_found_however_it_is_cut() {
        let want = search(&program(), 1 << 20).unwrap();
        assert_eq!(want.go, "go1.26.8");
        let module = |path: &str, version: &str, sum: &str| Module {
            path: path.into(),
            version: version.into(),
            sum: sum.into(),
        };
        assert_eq!(
            want.modules,
            [module("go.etcd.io/bbolt", "v1.4.3", "h1:abc="), module("k8s.io/api", "v0.36.3", "h1:def=")]
        );
        for step in 1..program().len() {
            assert_eq!(search(&program(), step).as_ref(), Some(&want), "{step}");
        }
    }

    #[test]
    fn a_program_without_a_list_has_none() {
        assert_eq!(search(b"\x7fELF and nothing of Go", 3), None);
        let whole = program();
        assert_eq!(search(&whole[..whole.len() - 120], 7), None);
    }
}

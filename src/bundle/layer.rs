//! A look into a layer as it streams by: nothing in it may climb out or be a device, and host files that are members
//! of it are handed out.

use std::collections::BTreeMap;

use super::manifest::is_plain_relative;

/// Long names (GNU and PAX) are no longer, in bytes.
const MAX_EXTENSION: u64 = 64 << 10;

/// What is to be done with the members that were asked for.
pub(crate) trait Members {
    /// Begins one.
    fn begin(&mut self, name: &str, size: u64) -> Result<(), String>;
    /// Takes its next bytes.
    fn piece(&mut self, bytes: &[u8]) -> Result<(), String>;
    /// Ends it.
    fn end(&mut self) -> Result<(), String>;
}

enum State {
    /// Collecting a header.
    Header(Vec<u8>),
    /// In an entry's content: bytes left of it, then of its padding, and what to do with them.
    Body { left: u64, padding: u64, what: What },
    /// After the zero block: only zeros may follow.
    End,
}

enum What {
    Skip,
    Member,
    GnuName(Vec<u8>),
    GnuLink(Vec<u8>),
    Pax(Vec<u8>),
}

/// A parser that is fed a layer piece by piece and holds no more than one header and one long name.
pub(crate) struct Scan {
    state: State,
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    /// Names that are wanted, and whether they were found.
    wanted: BTreeMap<String, bool>,
    /// Every file is handed out.
    every: bool,
}

impl Scan {
    /// A parser that hands out these members.
    pub(crate) fn new(wanted: impl IntoIterator<Item = String>) -> Self {
        let wanted = wanted.into_iter().map(|name| (name, false)).collect();
        Self { state: State::Header(Vec::with_capacity(512)), name: None, link: None, size: None, wanted, every: false }
    }

    /// A parser that hands out every file.
    pub(crate) fn every() -> Self {
        Self { every: true, ..Self::new([]) }
    }

    /// Takes the next bytes of the layer.
    ///
    /// # Errors
    /// What is wrong, with the entry's name.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], members: &mut dyn Members) -> Result<(), String> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header(buffer) => {
                    let (head, rest) = split(bytes, 512_u64.saturating_sub(buffer.len() as u64));
                    buffer.extend_from_slice(head);
                    bytes = rest;
                    if buffer.len() == 512 {
                        let block = std::mem::take(buffer);
                        self.state = self.entry(&block, members)?;
                        self.settle(members)?;
                    }
                }
                State::Body { left, padding, what } => {
                    let (content, rest) = split(bytes, *left);
                    match what {
                        What::Skip => {}
                        What::Member => members.piece(content)?,
                        What::GnuName(text) | What::GnuLink(text) | What::Pax(text) => text.extend_from_slice(content),
                    }
                    *left = left.saturating_sub(content.len() as u64);
                    let (skipped, rest) = split(rest, if *left == 0 { *padding } else { 0 });
                    *padding = padding.saturating_sub(skipped.len() as u64);
                    bytes = rest;
                    self.settle(members)?;
                }
                State::End => {
                    if bytes.iter().any(|b| *b != 0) {
                        return Err("something follows the layer's end".into());
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The layer is over: it must be whole, and everything wanted must have been in it.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self.state {
            State::End => {}
            State::Header(buffer) if buffer.is_empty() => {}
            _ => return Err("the layer is cut".into()),
        }
        let missing = self.wanted.iter().find(|(_, found)| !**found);
        missing.map_or(Ok(()), |(name, _)| Err(format!("the layer does not have {name}")))
    }

    /// Closes an entry whose content is over.
    fn settle(&mut self, members: &mut dyn Members) -> Result<(), String> {
        let State::Body { left: 0, padding: 0, what } = &mut self.state else { return Ok(()) };
        let what = std::mem::replace(what, What::Skip);
        self.state = State::Header(Vec::with_capacity(512));
        match what {
            What::Skip => {}
            What::Member => members.end()?,
            What::GnuName(text) => self.name = Some(text_of(&text)?),
            What::GnuLink(text) => self.link = Some(text_of(&text)?),
            What::Pax(text) => self.pax(&text)?,
        }
        Ok(())
    }

    /// `LENGTH KEY=VALUE\n`, repeated; the length counts itself and the line feed.
    fn pax(&mut self, mut records: &[u8]) -> Result<(), String> {
        let broken = || "a broken PAX header".to_owned();
        while !records.is_empty() {
            let space = records.iter().position(|b| *b == b' ').ok_or_else(broken)?;
            let length = records.get(..space).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
            let length: usize = length.ok_or_else(broken)?;
            let record = records.get(space.saturating_add(1)..length).ok_or_else(broken)?;
            let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
            let record = std::str::from_utf8(record).map_err(|_| broken())?;
            let (key, value) = record.split_once('=').ok_or_else(broken)?;
            match key {
                "path" => self.name = Some(value.to_owned()),
                "linkpath" => self.link = Some(value.to_owned()),
                "size" => self.size = Some(value.parse().map_err(|_| broken())?),
                _ => {}
            }
            records = records.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn entry(&mut self, block: &[u8], members: &mut dyn Members) -> Result<State, String> {
        if block.iter().all(|b| *b == 0) {
            return Ok(State::End);
        }
        let header = tar::Header::from_byte_slice(block);
        check_sum(block, header)?;
        let own = header.entry_size().map_err(|_| "a header without a size".to_owned())?;
        let kind = header.entry_type();
        if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
            if own > MAX_EXTENSION {
                return Err(format!("a name of {own} bytes"));
            }
            let what = match kind {
                tar::EntryType::GNULongName => What::GnuName(Vec::new()),
                tar::EntryType::GNULongLink => What::GnuLink(Vec::new()),
                _ => What::Pax(Vec::new()),
            };
            return Ok(body(own, what));
        }
        let name = match self.name.take() {
            Some(name) => name,
            None => text_of(&header.path_bytes())?,
        };
        let link = match self.link.take() {
            Some(link) => Some(link),
            None => header.link_name_bytes().map(|l| text_of(&l)).transpose()?,
        };
        let size = self.size.take().unwrap_or(own);
        let plain = plain_name(&name);
        let shown = name.escape_debug();
        let inside = plain.is_some_and(|p| p.is_empty() || is_plain_relative(p));
        if !inside {
            return Err(format!("its path climbs out of the layer, {shown}"));
        }
        match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous => {}
            tar::EntryType::Directory => return Ok(body(size, What::Skip)),
            tar::EntryType::Symlink => {
                // Absolute targets are resolved within the container's own root.
                if climbs(plain.unwrap_or_default(), link.as_deref().unwrap_or_default()) {
                    return Err(format!("link climbs out of the layer, {shown}"));
                }
                return Ok(body(0, What::Skip));
            }
            tar::EntryType::Link => {
                let target = link.as_deref().and_then(plain_name).unwrap_or_default();
                if !is_plain_relative(target) {
                    return Err(format!("link climbs out of the layer, {shown}"));
                }
                return Ok(body(0, What::Skip));
            }
            tar::EntryType::Char | tar::EntryType::Block => return Err(format!("a device node in the layer, {shown}")),
            _ => return Err(format!("neither file, directory nor link in the layer, {shown}")),
        }
        if self.every {
            members.begin(plain.unwrap_or_default(), size)?;
            return Ok(body(size, What::Member));
        }
        match self.wanted.get_mut(plain.unwrap_or_default()) {
            Some(true) => Err(format!("twice in the layer, {shown}")),
            Some(found) => {
                *found = true;
                members.begin(plain.unwrap_or_default(), size)?;
                Ok(body(size, What::Member))
            }
            None => Ok(body(size, What::Skip)),
        }
    }
}

fn body(size: u64, what: What) -> State {
    State::Body { left: size, padding: (512 - size % 512) % 512, what }
}

fn split(bytes: &[u8], at: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len()))
}

fn text_of(bytes: &[u8]) -> Result<String, String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| "a name that is not UTF-8".to_owned())
}

/// `./a/b/` → `a/b`; `./` → empty; none for an absolute path.
fn plain_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let name = name.strip_suffix('/').unwrap_or(name);
    if name.starts_with('/') { None } else { Some(if name == "." { "" } else { name }) }
}

/// True when a relative link's target leaves the root on its way.
fn climbs(name: &str, target: &str) -> bool {
    if target.starts_with('/') {
        return target.split('/').any(|part| part == "..");
    }
    let mut depth = name.split('/').count().saturating_sub(1);
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
            _ => depth = depth.saturating_add(1),
        }
    }
    false
}

fn check_sum(block: &[u8], header: &tar::Header) -> Result<(), String> {
    let sum = |skip: std::ops::Range<usize>| {
        block.iter().enumerate().map(|(i, b)| if skip.contains(&i) { 32 } else { u32::from(*b) }).sum::<u32>()
    };
    match header.cksum() {
        Ok(found) if found == sum(148..156) => Ok(()),
        _ => Err("not a tar: a header's checksum is wrong".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Kept(Vec<(String, Vec<u8>)>);

    impl Members for Kept {
        fn begin(&mut self, name: &str, _: u64) -> Result<(), String> {
            self.0.push((name.to_owned(), Vec::new()));
            Ok(())
        }
        fn piece(&mut self, bytes: &[u8]) -> Result<(), String> {
            self.0.last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    fn scan(layer: &[u8], wanted: &[&str], step: usize) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut scan = Scan::new(wanted.iter().map(|w| (*w).to_owned()));
        let mut kept = Kept::default();
        for piece in layer.chunks(step.max(1)) {
            scan.feed(piece, &mut kept)?;
        }
        scan.finish()?;
        Ok(kept.0)
    }

    fn one(kind: tar::EntryType, name: &[u8], link: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(0);
        header.set_link_name_literal(link).unwrap();
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn hands_out_members_also_with_long_names() {
        let long = format!("{}/kube", vec!["directory"; 30].join("/"));
        let layer = synthetic::layer(&[("a", b"1"), (&long, &[7; 5000]), ("empty", b""), ("z", b"2")]);
        let found = scan(&layer, &[&long, "empty"], 100).unwrap();
        assert_eq!(found, vec![(long, vec![7; 5000]), ("empty".into(), vec![])]);
    }

    #[test]
    fn says_what_is_missing_or_cut() {
        let layer = synthetic::layer(&[("a", b"1")]);
        assert_eq!(scan(&layer, &["b"], 512).unwrap_err(), "the layer does not have b");
        assert_eq!(scan(&layer[..700], &[], 512).unwrap_err(), "the layer is cut");
    }

    #[test]
    fn refuses_what_climbs_out_and_devices() {
        use tar::EntryType as T;
        for (kind, name, link, why) in [
            (T::Regular, &b"../x"[..], "", "its path climbs out of the layer, ../x"),
            (T::Regular, b"/etc/x", "", "its path climbs out of the layer, /etc/x"),
            (T::Directory, b"a/../../b/", "", "its path climbs out"),
            (T::Symlink, b"usr/x", "../../etc", "link climbs out of the layer, usr/x"),
            (T::Link, b"usr/x", "../etc/passwd", "link climbs out of the layer, usr/x"),
            (T::Link, b"usr/x", "/etc/passwd", "link climbs out of the layer, usr/x"),
            (T::Char, b"dev/null", "", "a device node in the layer, dev/null"),
            (T::Block, b"dev/sda", "", "a device node in the layer, dev/sda"),
            (T::Fifo, b"pipe", "", "neither file, directory nor link in the layer, pipe"),
        ] {
            let error = scan(&one(kind, name, link), &[], 512).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
        for (kind, name, link) in [
            (T::Symlink, &b"usr/sbin/iptables"[..], "/etc/alternatives/iptables"),
            (T::Symlink, b"usr/lib/a", "../lib64/b"),
            (T::Link, b"usr/x", "./usr/y"),
            (T::Directory, b"./", ""),
        ] {
            scan(&one(kind, name, link), &[], 512).unwrap();
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000), step in 1_usize..700) {
            let _ = scan(&bytes, &["a"], step);
        }

        #[test]
        fn pieces_do_not_matter(step in 1_usize..3000, flip in 0_usize..4096, with in any::<u8>()) {
            let mut layer = synthetic::layer(&[("a", b"one"), ("dir/b", &[3; 900])]);
            let at = flip % layer.len();
            layer[at] = with;
            prop_assert_eq!(scan(&layer, &["a", "dir/b"], step), scan(&layer, &["a", "dir/b"], 1 << 20));
        }
    }
}

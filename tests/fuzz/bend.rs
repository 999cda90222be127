//! Bending an input: small damage, and what attackers of parsers try first.

/// Numbers that follow from a seed: xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of one case.
    pub(crate) fn of(seed: u64, case: u64) -> Self {
        let mut dice = Self((seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
        // The first throws of seeds that are near each other are near each other too.
        for _ in 0..4 {
            dice.throw();
        }
        dice
    }

    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `limit`; 0 where that is 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.throw() >> 16) as usize % limit }
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Pieces that mean something to one parser or another.
const WORDS: [&[u8]; 40] = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b":",
    b": ",
    b"- ",
    b"---\n",
    b"...\n",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!binary ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"'",
    b"\\",
    b"|\n",
    b">-\n",
    b"#",
    b"%",
    b"null",
    b"~",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"9223372036854775808",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\xa6\x80",
    b"../../",
    b"/etc/shadow",
    b"0.0.0.0/0",
    b"::/0",
];

/// The largest input that is handed out.
const LARGEST: usize = 1 << 16;

/// One of the seeds, bent in one to eight places, mostly few.
pub(crate) fn bend(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = dice.pick(seeds).clone();
    let most = 1 + dice.below(8);
    for _ in 0..=dice.below(most) {
        once(&mut bytes, seeds, dice);
    }
    bytes.truncate(LARGEST.max(seeds.iter().map(Vec::len).max().unwrap_or_default()));
    bytes
}

fn once(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let most = 1 << dice.below(10);
    let len = dice.below((bytes.len() - at).min(most) + 1);
    match dice.below(10) {
        0 => flip(bytes, at, dice),
        1 => drop(bytes.splice(at..at + len, [])),
        2 => drop(bytes.splice(at..at, dice.pick(&WORDS).iter().copied())),
        3 => drop(bytes.splice(at..at + len, dice.pick(&WORDS).iter().copied())),
        4 => {
            // The same again, many times.
            let piece = bytes[at..at + len].to_vec().repeat(1 << dice.below(6));
            drop(bytes.splice(at..at, piece));
        }
        5 => {
            let other = dice.pick(seeds);
            let from = dice.below(other.len() + 1);
            let until = from + dice.below(other.len() - from + 1);
            drop(bytes.splice(at..at + len, other[from..until].iter().copied()));
        }
        6 => bytes.truncate(at),
        7 => digits(bytes, dice),
        8 => {
            // In place, so that what is counted in front of it still fits.
            let word = dice.pick(&WORDS);
            let end = bytes.len().min(at + word.len());
            bytes[at..end].copy_from_slice(&word[..end - at]);
        }
        _ => {
            let deep = dice.pick(&[b"[", b"{", b"- ".as_slice()]).repeat(1 << dice.below(12));
            drop(bytes.splice(at..at, deep));
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    let mask = *dice.pick(&[1, 2, 4, 8, 16, 32, 64, 128, 255]);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= mask;
    }
}

/// Another number in place of one.
fn digits(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
    if places.is_empty() {
        return;
    }
    let at = *dice.pick(&places);
    let end = (at..bytes.len()).find(|at| !bytes[*at].is_ascii_digit()).unwrap_or(bytes.len());
    let numbers: [&[u8]; 9] =
        [b"0", b"-1", b"65536", b"2147483648", b"4294967296", b"18446744073709551616", b"77777777777", b"0x7f", b"1e9"];
    drop(bytes.splice(at..end, dice.pick(&numbers).iter().copied()));
}

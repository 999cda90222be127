//! Inputs that are small and unfold: refused, or taken without holding them.

use std::fmt::Write as _;
use std::io::{Cursor, Read, Write};

use kprov::bundle::manifest::{Blob, sha256_hex};
use kprov::bundle::pack;
use kprov::bundle::verify::{Nowhere, Opened};
use sha2::{Digest, Sha256};

use crate::lib::synthetic::Synthetic;

pub(crate) const NAMES: [&str; 4] = ["bomb-yaml-aliases", "bomb-yaml-depth", "bomb-zstd", "bomb-layer-of-a-million"];

/// Sets it off; says what became of it. What it takes is limited by the process that runs it.
pub(crate) fn run(name: &str) -> &'static str {
    match name {
        "bomb-yaml-aliases" => aliases(),
        "bomb-yaml-depth" => depth(),
        "bomb-zstd" => zstd_bomb(),
        "bomb-layer-of-a-million" => million(),
        _ => panic!("no such bomb: {name}"),
    }
}

/// Nine lists of nine aliases each: a billion values.
fn aliases() -> &'static str {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..10 {
        let list = vec![format!("*a{}", n - 1); 9].join(", ");
        writeln!(text, "a{n}: &a{n} [{list}]").unwrap();
    }
    assert!(kprov::yaml::values(&text).is_err());
    "refused"
}

fn depth() -> &'static str {
    for open in ["[", "{a: ", "- "] {
        assert!(kprov::yaml::values(&open.repeat(1 << 20)).is_err());
    }
    "refused"
}

/// A gigabyte of zeros in a few kilobytes, where a manifest should be.
fn zstd_bomb() -> &'static str {
    const SIZE: u64 = 1 << 30;
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.set_pledged_src_size(Some(SIZE + 1536)).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("kprov-manifest.json").unwrap();
    header.set_mode(0o644);
    header.set_size(SIZE);
    header.set_cksum();
    zstd.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..SIZE >> 20).for_each(|_| zstd.write_all(&zeros).unwrap());
    zstd.write_all(&[0; 1024]).unwrap();
    let bomb = zstd.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    assert!(Opened::new(bomb.as_slice()).and_then(|opened| opened.read(&mut Nowhere)).is_err());
    "refused"
}

/// A layer of 10^6 empty files, one header at a time.
struct Million {
    left: u32,
    /// The checksum of the header whose name is all zeros.
    zeros: u32,
    header: [u8; 512],
    ready: Vec<u8>,
}

impl Million {
    fn new() -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_path("files/0000000").unwrap();
        header.set_mode(0o644);
        header.set_size(0);
        header.set_cksum();
        let zeros = header.cksum().unwrap();
        Self { left: 1_000_000, zeros, header: *header.as_bytes(), ready: Vec::new() }
    }

    /// The next name, and its checksum.
    fn next(&mut self) -> Vec<u8> {
        let name = format!("{:07}", self.left);
        self.header[6..13].copy_from_slice(name.as_bytes());
        let digits: u32 = name.bytes().map(|digit| u32::from(digit - b'0')).sum();
        self.header[148..155].copy_from_slice(format!("{:07o}", self.zeros + digits).as_bytes());
        self.header.to_vec()
    }
}

impl Read for Million {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.is_empty() && self.left > 0 {
            for _ in 0..1000 {
                let block = self.next();
                self.ready.extend(block);
                self.left -= 1;
            }
            if self.left == 0 {
                self.ready.extend([0; 1024]);
            }
        }
        let n = buffer.len().min(self.ready.len());
        buffer[..n].copy_from_slice(&self.ready[..n]);
        self.ready.drain(..n);
        Ok(n)
    }
}

fn million() -> &'static str {
    let layer = Million::new;
    let (mut hash, mut size, mut all, mut piece) = (Sha256::new(), 0, layer(), vec![0; 1 << 19]);
    while let n @ 1.. = all.read(&mut piece).unwrap() {
        hash.update(&piece[..n]);
        size += n as u64;
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    // An image of one small layer, in whose place the large one then stands.
    let placeholder = vec![0; 1024];
    let mut bundle = Synthetic::new("amd64");
    bundle.image("registry.k8s.io/pause:3.10.2", std::slice::from_ref(&placeholder));
    let (old, image) = (sha256_hex(&placeholder), bundle.manifest.images.remove(0));
    let swap = |text: &[u8]| {
        String::from_utf8_lossy(text).replace(&old, &hex).replace("\"size\":1024", &format!("\"size\":{size}"))
    };
    let config = swap(&bundle.blobs[image.config.trim_start_matches("sha256:")]).into_bytes();
    let document = swap(&bundle.blobs[image.digest.trim_start_matches("sha256:")]);
    let document = document.replace(image.config.as_str(), &format!("sha256:{}", sha256_hex(&config))).into_bytes();
    let mut bundle = Synthetic::new("amd64");
    let mut image = image;
    image.config = format!("sha256:{}", bundle.blob(config));
    image.digest = format!("sha256:{}", bundle.blob(document));
    image.layers = vec![format!("sha256:{hex}")];
    bundle.manifest.images.push(image);
    bundle.manifest.blobs.push(Blob { sha256: hex.clone(), size });
    bundle.manifest.arrange();
    let mut packed = Vec::new();
    let source = |blob: &Blob| -> std::io::Result<Box<dyn Read>> {
        Ok(if blob.sha256 == hex {
            Box::new(layer())
        } else {
            Box::new(Cursor::new(bundle.blobs[&blob.sha256].clone()))
        })
    };
    pack::write_to(&bundle.manifest, source, &mut packed, 1).unwrap();
    // Reading is what is measured: the highest mark is put back to what is there now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    Opened::new(packed.as_slice()).and_then(|opened| opened.read(&mut Nowhere)).unwrap();
    "taken"
}

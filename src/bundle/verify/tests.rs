use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::bundle::pack;
use crate::bundle::synthetic::{self, Synthetic, elf, layer};

fn read(bytes: &[u8]) -> Result<Manifest, BundleError> {
    Opened::new(bytes)?.for_arch(Some("amd64"))?.read(&mut Nowhere)
}

fn refusal(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

fn compress(tar: &[u8]) -> Vec<u8> {
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(tar).unwrap();
    zstd.finish().unwrap()
}

/// The bundle's entries, changed, as a file again.
fn changed(bundle: &Synthetic, change: impl FnOnce(&mut Vec<(tar::Header, Vec<u8>)>)) -> Vec<u8> {
    let plain = zstd::decode_all(bundle.bytes().as_slice()).unwrap();
    let mut archive = tar::Archive::new(plain.as_slice());
    let mut entries: Vec<(tar::Header, Vec<u8>)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.header().clone(), content)
        })
        .collect();
    change(&mut entries);
    let mut tar = Vec::new();
    for (header, content) in entries {
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&content);
        tar.extend_from_slice(pack::padding(content.len() as u64));
    }
    tar.extend_from_slice(&[0; 1024]);
    compress(&tar)
}

fn entry(name: &str, kind: tar::EntryType, content: &[u8]) -> (tar::Header, Vec<u8>) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_entry_type(kind);
    header.set_cksum();
    (header, content.to_vec())
}

#[test]
fn takes_a_good_one() {
    let bundle = synthetic::small("amd64");
    assert_eq!(read(&bundle.bytes()).unwrap(), bundle.manifest);
    assert_eq!(read(&changed(&bundle, |_| ())).unwrap(), bundle.manifest);
}

#[test]
fn refuses_another_architecture() {
    let text = refusal(&synthetic::small("arm64").bytes());
    assert_eq!(text, "the bundle is for arm64, this machine is amd64");
    let mut lying = Synthetic::new("amd64");
    lying.file("/usr/bin/kubelet", elf("arm64", b""));
    let text = refusal(&lying.bytes());
    assert!(text.contains("a program for arm64 in a bundle for amd64") && text.contains("/usr/bin/kubelet"), "{text}");
    let mut lying = Synthetic::new("arm64");
    lying.image("registry.k8s.io/pause:3.10", &[layer(&[("pause", b"")])]);
    lying.manifest.arch = "amd64".into();
    let text = refusal(&lying.bytes());
    assert!(text.contains("an image for \"arm64\" in a bundle for amd64") && text.contains("pause:3.10"), "{text}");
}

#[test]
fn refuses_a_changed_part_by_its_name() {
    let bundle = synthetic::small("amd64");
    for index in 0..bundle.manifest.blobs.len() + 4 {
        let mut name = String::new();
        let bytes = changed(&bundle, |entries| {
            let (header, content) = &mut entries[index];
            name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            *content.last_mut().unwrap() ^= 0x10;
        });
        let text = refusal(&bytes);
        assert!(text.contains(&name), "{name}: {text}");
    }
}

#[test]
fn refuses_missing_additional_and_swapped_parts() {
    let bundle = synthetic::small("amd64");
    let count = bundle.manifest.blobs.len() + 4;
    for index in 1..count {
        let mut name = String::new();
        let bytes = changed(&bundle, |entries| {
            name = String::from_utf8_lossy(&entries.remove(index).0.path_bytes()).into_owned();
        });
        let text = refusal(&bytes);
        assert!(text.contains("missing part") && text.contains(&name), "{text}");
    }
    let extra = changed(&bundle, |entries| entries.push(entry("more", tar::EntryType::Regular, b"x")));
    assert_eq!(refusal(&extra), "bad bundle: additional part: more");
    let extra = changed(&bundle, |entries| entries.insert(4, entry("more", tar::EntryType::Regular, b"x")));
    assert!(refusal(&extra).contains("found more instead"));
    let swapped = changed(&bundle, |entries| entries.swap(3, 4));
    assert!(refusal(&swapped).contains("missing part"));
}

#[test]
fn refuses_entries_that_are_no_plain_files() {
    use tar::EntryType as T;
    let bundle = synthetic::small("amd64");
    for (kind, name, why) in [
        (T::Char, "dev/null", "a device node, where only regular files may be: dev/null"),
        (T::Block, "dev/sda", "a device node, where only regular files may be: dev/sda"),
        (T::Symlink, "blobs/x", "a link, where only regular files may be: blobs/x"),
        (T::Link, "blobs/x", "a link, where only regular files may be: blobs/x"),
        (T::Directory, "blobs", "a directory, where only regular files may be: blobs"),
        (T::Regular, "../../etc/cron.d/x", "its path climbs out: ../../etc/cron.d/x"),
        (T::Regular, "/etc/cron.d/x", "its path climbs out: /etc/cron.d/x"),
    ] {
        let bytes = changed(&bundle, |entries| entries.insert(4, entry(name, kind, b"")));
        assert_eq!(refusal(&bytes), format!("bad bundle: {why}"));
    }
}

#[test]
fn refuses_bad_layers_with_the_image_s_name() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_path("dev/mem").unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut bundle = Synthetic::new("amd64");
    bundle.image("registry.k8s.io/pause:3.10", &[header.as_bytes().to_vec()]);
    let text = refusal(&bundle.bytes());
    assert!(text.contains("a device node in the layer, dev/mem") && text.contains("pause:3.10"), "{text}");
}

#[test]
fn refuses_members_that_are_missing_or_other() {
    let kube = elf("amd64", b"kube");
    let with = |name: &str, size: u64, hash: &[u8]| {
        let mut bundle = Synthetic::new("amd64");
        let layer = bundle.image("registry.k8s.io/x:1", &[layer(&[("kube", &kube)])]).remove(0);
        let sha256 = sha256_hex(hash);
        bundle.host("/usr/bin/kubelet", Content::Member { layer, name: name.into(), sha256, size });
        read(&bundle.bytes()).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(with("kube", kube.len() as u64, &kube), Ok(()));
    assert!(with("kubelet", kube.len() as u64, &kube).unwrap_err().contains("does not have kubelet"));
    assert!(with("kube", 5, &kube).unwrap_err().contains("the manifest says 5"));
    assert!(with("kube", kube.len() as u64, b"other").unwrap_err().contains("kube is not what its hash says"));
}

#[test]
fn refuses_an_image_that_is_not_what_the_manifest_says() {
    let mut bundle = Synthetic::new("amd64");
    bundle.image("registry.k8s.io/a:1", &[layer(&[("a", b"a")])]);
    bundle.image("registry.k8s.io/b:1", &[layer(&[("b", b"b")])]);
    let other = bundle.manifest.images[1].layers.clone();
    bundle.manifest.images[0].layers.extend(other);
    let text = refusal(&bundle.bytes());
    assert!(text.contains("a:1 has other layers") || text.contains("a:1 names other layers"), "{text}");
}

#[test]
fn refuses_a_cut_file_everywhere() {
    let bytes = synthetic::small("amd64").bytes();
    for end in 0..bytes.len() {
        let text = refusal(&bytes[..end]);
        assert!(text.starts_with("bad bundle: "), "{end}: {text}");
    }
    assert!(refusal(&bytes[..bytes.len() - 1]).contains("the file is cut"));
}

#[test]
fn refuses_what_comes_after_the_end() {
    let bundle = synthetic::small("amd64");
    let mut longer = bundle.bytes();
    longer.extend_from_slice(b"x");
    assert!(refusal(&longer).contains("something follows the compressed archive"));
    let mut tar = zstd::decode_all(bundle.bytes().as_slice()).unwrap();
    tar.extend_from_slice(&[0; 512]);
    assert!(refusal(&compress(&tar)).contains("something follows the last part"));
}

#[test]
fn refuses_bombs_at_once() {
    // A manifest that goes on for ever, and a blob that does: both end where the size says, without being unpacked.
    let bomb = changed(&synthetic::small("amd64"), |entries| {
        let mut big = entry("kprov-manifest.json", tar::EntryType::Regular, &[]);
        big.0.set_size(6 << 30);
        big.0.set_cksum();
        entries[0] = big;
    });
    assert_eq!(refusal(&bomb), "bad bundle: larger than 1048576 bytes: kprov-manifest.json");
    let bundle = synthetic::small("amd64");
    let hex = bundle.manifest.blobs[3].sha256.clone();
    let bomb = changed(&bundle, |entries| {
        let mut content = entries[6].1.clone();
        content.resize(64 << 20, 0);
        entries[6] = entry(&format!("blobs/sha256/{hex}"), tar::EntryType::Regular, &content);
    });
    let text = refusal(&bomb);
    assert!(text.contains("67108864 bytes, the manifest says") && text.contains(&hex), "{text}");
    // A window larger than ours would need more memory than reading may take.
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).unwrap();
    zstd.write_all(&zstd::decode_all(bundle.bytes().as_slice()).unwrap()).unwrap();
    let text = refusal(&zstd.finish().unwrap());
    assert!(text.contains("the file is damaged"), "{text}");
}

#[test]
fn refuses_a_frame_without_a_checksum() {
    let tar = zstd::decode_all(synthetic::small("amd64").bytes().as_slice()).unwrap();
    let bytes = zstd::encode_all(tar.as_slice(), 1).unwrap();
    assert!(refusal(&bytes).contains("no checksum"));
    assert!(refusal(b"not a bundle").contains("not a zstd file"));
}

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = synthetic::small("amd64").bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A few bits of the compression itself mean nothing (padding of its tables): then every byte is the same.
        if zstd::decode_all(bytes.as_slice()).ok() != zstd::decode_all(synthetic::small("amd64").bytes().as_slice()).ok() {
            prop_assert!(read(&bytes).is_err(), "byte {} is not checked", at);
        }
    }

    #[test]
    fn any_changed_byte_of_the_tar_is_refused(at in any::<prop::sample::Index>(), with in 1_u8..=255) {
        let mut tar = zstd::decode_all(synthetic::small("amd64").bytes().as_slice()).unwrap();
        let at = at.index(tar.len());
        tar[at] ^= with;
        prop_assert!(read(&compress(&tar)).is_err(), "byte {} is not checked", at);
    }

    #[test]
    fn rubbish_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), whole in any::<bool>()) {
        let bytes = if whole { compress(&bytes) } else { bytes };
        prop_assert!(read(&bytes).is_err());
    }
}

use std::fs;

use super::*;
use crate::bundle::synthetic;

struct Scene {
    dir: tempfile::TempDir,
    bundle: PathBuf,
    key: Key,
    secret: Secret,
}

fn keys(dir: &Path, name: &str) -> (Key, Secret) {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let (public, secret) = (dir.join(format!("{name}.pub")), dir.join(format!("{name}.key")));
    fs::write(&public, pair.pk.to_box().unwrap().to_string()).unwrap();
    fs::write(&secret, pair.sk.to_box(None).unwrap().to_string()).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    (Key::read(&public).unwrap(), Secret::read(&secret).unwrap())
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("b.tar.zst");
    fs::write(&bundle, synthetic::small("amd64").bytes()).unwrap();
    let (key, secret) = keys(dir.path(), "one");
    Scene { dir, bundle, key, secret }
}

#[test]
fn a_signed_bundle_is_believed_and_says_what_it_is() {
    let scene = scene();
    let id = synthetic::small("amd64").manifest.id().unwrap();
    let (path, comment) = sign(&scene.bundle, &scene.secret, None).unwrap();
    assert_eq!(path, scene.dir.path().join("b.tar.zst.minisig"));
    assert!(comment.ends_with(&format!("file:b.tar.zst\thashed\tkprov-bundle:{id}")), "{comment}");
    let (manifest, found) = look(&scene.bundle, Some(&scene.key)).unwrap();
    assert_eq!((manifest, found.as_str()), (synthetic::small("amd64").manifest, id.as_str()));
    let (_, told) = verify_signed(&scene.bundle, Some("amd64"), Some(&scene.key)).unwrap();
    assert_eq!(told, Some(comment));
    assert!(open_again(&scene.bundle, &id).is_ok());
    assert!(open_again(&scene.bundle, &"0".repeat(64)).is_err());
}

#[test]
fn an_unsigned_bundle_is_refused_where_there_is_a_key() {
    let scene = scene();
    assert!(look(&scene.bundle, None).is_ok());
    let error = look(&scene.bundle, Some(&scene.key)).unwrap_err();
    assert!(matches!(error, BundleError::Unsigned { .. }));
    let text = error.to_string();
    assert!(text.contains("one.pub") && text.ends_with("b.tar.zst"), "{text}");
}

#[test]
fn another_key_another_file_and_a_longer_file_are_refused() {
    let scene = scene();
    let (other, _) = keys(scene.dir.path(), "two");
    sign(&scene.bundle, &scene.secret, None).unwrap();
    let why = |key: &Key| look(&scene.bundle, Some(key)).unwrap_err().to_string();
    assert!(why(&other).contains("by another key than"), "{}", why(&other));
    // A whole bundle, but not the one that was signed.
    let mut another = synthetic::small("amd64");
    another.manifest.parts.insert("runc".into(), "1.4.3".into());
    fs::write(&scene.bundle, another.bytes()).unwrap();
    assert!(look(&scene.bundle, None).is_ok());
    assert!(why(&scene.key).contains("not what was signed"), "{}", why(&scene.key));
    // The signed one and a byte more.
    let mut bytes = synthetic::small("amd64").bytes();
    fs::write(&scene.bundle, &bytes).unwrap();
    assert!(look(&scene.bundle, Some(&scene.key)).is_ok());
    bytes.push(0);
    fs::write(&scene.bundle, &bytes).unwrap();
    assert!(why(&scene.key).contains("not what was signed"), "{}", why(&scene.key));
    // Any byte of the signature itself.
    fs::write(&scene.bundle, synthetic::small("amd64").bytes()).unwrap();
    let path = signature_of(&scene.bundle);
    let good = fs::read_to_string(&path).unwrap();
    let first = good.lines().next().unwrap().len() + 1;
    for at in (first..good.len()).step_by(7) {
        let mut bad = good.clone().into_bytes();
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        fs::write(&path, &bad).unwrap();
        assert!(look(&scene.bundle, Some(&scene.key)).is_err(), "{at}");
    }
}

#[test]
fn a_configured_key_that_is_none_is_an_error_and_an_absent_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle.pub");
    assert!(Key::configured(&path).unwrap().is_none());
    fs::write(&path, "no key\n").unwrap();
    let text = Key::configured(&path).unwrap_err().to_string();
    assert!(text.contains("bundle.pub"), "{text}");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert!(Key::configured(&path).is_err());
}

#[test]
fn a_secret_key_that_others_can_read_is_refused() {
    let scene = scene();
    let path = scene.dir.path().join("one.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let text = Secret::read(&path).err().unwrap().to_string();
    assert!(text.contains("0640") && text.contains("chmod 600"), "{text}");
    assert!(Secret::read(scene.key.path()).is_err());
}

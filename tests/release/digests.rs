//! Content that is not what it must be.

use std::fs;

use serde_json::Value;

use crate::LeftOut;
use crate::content::{self, KUBERNETES, noise, official};
use crate::lib::manifest::sha256_hex;
use crate::proxy::{Fault, Proxy};
use crate::scene::{SIZE, Scene};
use crate::tools::{good, refused};

/// What is not as published, as pinned or as its digest says is refused, and no bundle is made.
pub fn wrong() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let lock = scene.path("bundle.lock");
    let with_lock = |mirror: &str, registry: &str, cache: &str| {
        let mut command = scene.build(mirror, registry, cache);
        command.arg("--lock").arg(&lock);
        command
    };
    good(with_lock(&scene.mirror(), &scene.images(), "cache").output().unwrap());
    let pinned: Value = serde_json::from_slice(&fs::read(&lock).unwrap()).unwrap();
    assert_eq!(pinned["files"].as_object().unwrap().len(), 6);
    assert_eq!(pinned["images"].as_object().unwrap().len(), 7);
    let locked = fs::read(&lock).unwrap();
    fs::remove_file(scene.path("b.tar.zst")).unwrap();

    // A mirror that gives other content and the sum that fits it: only the lock notices.
    let kubelet = format!("release/{KUBERNETES}/bin/linux/amd64/kubelet");
    let evil = noise("evil", SIZE);
    fs::write(scene.path("files").join(&kubelet), &evil).unwrap();
    let said = refused(scene.build(&scene.mirror(), &scene.images(), "new").output().unwrap(), 1);
    assert!(said.contains("kubelet: its SHA-256 is") && said.contains("kubelet.sha256 says"), "{said}");
    fs::write(scene.path("files").join(format!("{kubelet}.sha256")), sha256_hex(&evil)).unwrap();
    let said = refused(with_lock(&scene.mirror(), &scene.images(), "new").output().unwrap(), 1);
    assert!(said.contains("bundle.lock says") && said.contains("hint: "), "{said}");
    assert!(!scene.path("b.tar.zst").exists());
    assert!(!scene.path("new/downloads").join(sha256_hex(&evil)).exists());
    assert_eq!(fs::read(&lock).unwrap(), locked, "the lock was changed");
    content::write(&official(|name| noise(name, SIZE)), &scene.path("files"));

    // A registry that gives other bytes for a digest, in a layer and in a manifest.
    for (what, at) in [("blobs/", 1000), ("manifests/", 20)] {
        let images = Proxy::before(scene.registry.address, move |request| {
            if request.path.contains(what) && request.path.contains("/etcd/") { Fault::Flip(at) } else { Fault::Pass }
        });
        let said = refused(with_lock(&scene.mirror(), &images.url(), &what[..4]).output().unwrap(), 1);
        assert!(said.contains("/etcd/") && said.contains("its SHA-256 is"), "{said}");
        assert!(!scene.path("b.tar.zst").exists());
    }
    // A damaged file of the cache is fetched again.
    let layer = pinned["files"][&kubelet].as_str().unwrap();
    fs::write(scene.path("cache/downloads").join(layer), "damaged").unwrap();
    good(with_lock(&scene.mirror(), &scene.images(), "cache").output().unwrap());
    scene.is_right();
    Ok(())
}

//! `kprov bundle build --from release` on bad days: what passes is outlived, what stays is given up on, and what had
//! come is not fetched again.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::LeftOut;
use crate::proxy::{Fault, Proxy};
use crate::scene::Scene;
use crate::tools::{good, kprov, refused};

/// Cuts, silence, slow bytes, 429, 500 and 503, each once on the way to files, manifests or blobs: it comes out right
/// all the same, and what had come is not fetched again.
pub fn bad_days() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let whole = |cache: &str| {
        let (files, images) = (
            Proxy::before(scene.files.address, |_| Fault::Pass),
            Proxy::before(scene.registry.address, |_| Fault::Pass),
        );
        good(scene.build(&files.url(), &images.url(), cache).output().unwrap());
        [files, images].iter().map(|p| p.seen.bytes.load(Ordering::Relaxed)).sum::<u64>()
    };
    let needed = whole("cache");
    scene.is_right();
    let first = fs::read(scene.path("b.tar.zst")).unwrap();
    fs::remove_file(scene.path("b.tar.zst")).unwrap();
    fs::remove_dir_all(scene.path("cache")).unwrap();

    let files = Proxy::before(scene.files.address, |request| {
        match (request.before, request.path.rsplit('/').next().unwrap()) {
            (0, "kubelet") => Fault::Cut(100_000),
            (1, "kubelet") => Fault::Cut(100_000),
            (0, "kubectl") => Fault::Stall(50_000),
            (0, "runc.amd64") => Fault::Say("429 Too Many Requests", vec!["Retry-After: 1".into()], String::new()),
            (0, "kubelet.sha256") => Fault::status("500 Internal Server Error"),
            (0, "kubectl.sha256") => Fault::Cut(10),
            (_, name) if name.ends_with(".tgz") => Fault::Slow(20_000),
            _ => Fault::Pass,
        }
    });
    let images = Proxy::before(scene.registry.address, |request| match request.before {
        0 if request.path.contains("/etcd/blobs/") => Fault::Cut(1000),
        0 if request.path.contains("/pause/manifests/") => Fault::status("503 Service Unavailable"),
        0 if request.path.contains("/kube-proxy/blobs/") => Fault::Stall(200_000),
        0 if request.path.contains("/kube-apiserver/manifests/") => {
            Fault::Say("429 Too Many Requests", vec!["Retry-After: 1".into()], String::new())
        }
        0 if request.path.contains("/kube-apiserver/blobs/") => Fault::status("500 Internal Server Error"),
        0 if request.path.contains("/kube-scheduler/manifests/") => Fault::status("500 Internal Server Error"),
        0 if request.path.contains("/kube-scheduler/blobs/") => Fault::status("429 Too Many Requests"),
        _ => Fault::Pass,
    });
    let output = scene.build(&files.url(), &images.url(), "cache").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    good(output);
    scene.is_right();
    assert_eq!(fs::read(scene.path("b.tar.zst")).unwrap(), first, "other bytes than on a good day");
    // One of the file server; of the registry an image's index and manifest, and its layer and configuration.
    for (word, times) in [
        ("resumed after 0.1 MB", 1),
        ("429 Too Many Requests; again in 1.0 s", 1 + 2),
        ("429 Too Many Requests; again in 0.2 s", 2),
        ("500 Internal Server Error; again in 0.2 s", 1 + 2 + 2),
        ("503 Service Unavailable; again in 0.2 s", 2),
        ("silence for too long", 1),
    ] {
        assert!(told.matches(word).count() >= times, "{times} times {word}: {told}");
    }
    let ranges = files.seen.ranges.load(Ordering::Relaxed) + images.seen.ranges.load(Ordering::Relaxed);
    assert!(ranges >= 4, "{ranges} requests for the rest of something");
    let bytes = files.seen.bytes.load(Ordering::Relaxed) + images.seen.bytes.load(Ordering::Relaxed);
    assert!(bytes < needed + 100_000, "{bytes} bytes came, {needed} are needed");
    // And again: nothing is to be done.
    let said = good(scene.build(&files.url(), &images.url(), "cache").output().unwrap());
    assert!(said.contains("nothing to do"), "{said}");
    Ok(())
}

/// A server that stays broken is given up on, in time and in words; what was fetched from others is kept.
pub fn given_up() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let broken = Proxy::before(scene.files.address, |request| match request.path.rsplit('/').next().unwrap() {
        "kubelet" => Fault::status("500 Internal Server Error"),
        "kubectl" => Fault::Say("429 Too Many Requests", vec!["Retry-After: 86400".into()], String::new()),
        "runc.amd64" => Fault::status("404 Not Found"),
        _ => Fault::Pass,
    });
    let begun = Instant::now();
    let said = refused(scene.build(&broken.url(), &scene.images(), "cache").output().unwrap(), 3);
    assert!(begun.elapsed() < Duration::from_secs(60));
    for word in [
        "500 Internal Server Error, 6 times in a row",
        "429 Too Many Requests, and the server asks to wait 86400 s",
        "runc.amd64: not found there (404 Not Found)",
        "run the same command again",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!scene.path("b.tar.zst").exists());
    // Three programs and archives, seven configurations, eight layers.
    assert_eq!(scene.cached("cache").0, 3 + 7 + 8);
    good(scene.build(&scene.mirror(), &scene.images(), "cache").output().unwrap());
    scene.is_right();
    // Nobody there at all.
    let said = refused(
        scene.build("http://127.0.0.1:1", &scene.images(), "new").args(["--parallel", "16"]).output().unwrap(),
        3,
    );
    assert!(said.contains("Connection refused"), "{said}");
    Ok(())
}

/// Killed at any moment, and two at a time: the same command again comes to the same end.
pub fn killed() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let slow = Proxy::before(scene.files.address, |_| Fault::Slow(6000));
    let images = Proxy::before(scene.registry.address, |_| Fault::Slow(6000));
    let mut resumable = 0;
    for round in 1_u64..=4 {
        let mut build = scene.build(&slow.url(), &images.url(), "cache");
        let mut child = build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Somewhat later each time, in the middle of some file.
        let (begun, mut pause) = (Instant::now(), Duration::from_millis(5));
        loop {
            let (_, parts) = scene.cached("cache");
            if parts.iter().any(|bytes| *bytes > 10_000 * round) {
                break;
            }
            assert!(child.try_wait().unwrap().is_none(), "it came to its end before it was killed");
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing comes");
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(40));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        resumable += scene.cached("cache").1.iter().filter(|bytes| **bytes > 0).count();
    }
    assert!(resumable > 0, "nothing was ever half fetched: the test kills at the wrong moments");
    let most = slow.seen.most.load(Ordering::Relaxed).max(images.seen.most.load(Ordering::Relaxed));
    assert!(most > 1, "one after the other");
    let pair = [0, 1].map(|_| {
        let mut build = scene.build(&slow.url(), &images.url(), "cache");
        build.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in pair {
        good(child.wait_with_output().unwrap());
    }
    let ranges = slow.seen.ranges.load(Ordering::Relaxed) + images.seen.ranges.load(Ordering::Relaxed);
    assert!(ranges > 0, "nothing was resumed");
    scene.is_right();
    // Flags that belong together.
    let mut source = kprov();
    source.args(["bundle", "build", "--from", "source", "--out", "x", "--mirror", "http://a"]);
    assert!(refused(source.output().unwrap(), 2).contains("--mirror goes with --from release"));
    Ok(())
}

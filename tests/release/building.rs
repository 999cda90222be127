//! `kprov bundle build --from release` against real servers on good and on bad days.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::LeftOut;
use crate::content::{self, KUBERNETES, images, noise, official, push};
use crate::lib::manifest::sha256_hex;
use crate::proxy::{Fault, Proxy};
use crate::servers::{PASSWORD, Server, Tls, USER, nginx, registry};
use crate::tools::{good, kprov, refused, text};

/// Bytes of each made-up program.
pub const SIZE: usize = 300_000;

/// Both servers with made-up content.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub files: Server,
    pub registry: Server,
}

impl Scene {
    pub fn new() -> Result<Self, LeftOut> {
        let dir = tempfile::tempdir().unwrap();
        content::write(&official(|name| noise(name, SIZE)), &dir.path().join("files"));
        let files = nginx(&dir.path().join("files"), None)?;
        let registry = registry(&dir.path().join("registry"), None)?;
        push(registry.address, &images(SIZE));
        Ok(Self { dir, files, registry })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A build from these servers, with an empty cache where `cache` is new.
    fn build(&self, mirror: &str, registry: &str, cache: &str) -> Command {
        let mut command = self.with_flannel(mirror, registry, cache);
        command.arg("--no-flannel");
        command
    }

    /// The same, with flannel as it is without a flag.
    pub fn with_flannel(&self, mirror: &str, registry: &str, cache: &str) -> Command {
        let mut command = kprov();
        command.args(["bundle", "build", "--from", "release", "--arch", "amd64", "--level", "1", "--stall", "2"]);
        command.args(["--mirror", mirror, "--registry", registry, "--out", text(&self.path("b.tar.zst"))]);
        command.arg("--cache").arg(self.path(cache));
        self.alone(&mut command);
        command
    }

    /// What the user of this host has set is of no matter.
    pub fn alone(&self, command: &mut Command) {
        command.env("HOME", self.dir.path());
        for name in
            ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "DOCKER_CONFIG"]
        {
            command.env_remove(name);
        }
    }

    pub fn mirror(&self) -> String {
        format!("http://{}", self.files.address)
    }

    pub fn images(&self) -> String {
        format!("http://{}", self.registry.address)
    }

    /// Whole files of a cache, and parts of files.
    fn cached(&self, cache: &str) -> (usize, Vec<u64>) {
        let dir = self.path(cache).join("downloads");
        let entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
        let is_part = |name: &std::ffi::OsStr| Path::new(name).extension().is_some_and(|e| e == "part");
        let parts = entries.iter().filter(|e| is_part(&e.file_name())).map(|e| e.metadata().unwrap().len()).collect();
        (entries.iter().filter(|e| e.file_name().len() == 64).count(), parts)
    }

    /// What the bundle holds, verified.
    fn bundle(&self) -> Value {
        let file = self.path("b.tar.zst");
        good(kprov().args(["bundle", "verify", text(&file)]).output().unwrap());
        let seen = good(kprov().args(["bundle", "inspect", text(&file), "-o", "json"]).output().unwrap());
        serde_json::from_str::<Value>(&seen).unwrap()["manifest"].clone()
    }

    /// The bundle is what the servers have.
    fn is_right(&self) {
        let manifest = self.bundle();
        let blobs: BTreeMap<String, String> = manifest["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (f["path"].as_str().unwrap().to_owned(), f["blob"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(blobs.len(), 13);
        for (path, hex) in &blobs {
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(*hex, sha256_hex(&noise(name, SIZE)), "{path}");
        }
        let found: BTreeSet<(String, String)> = manifest["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| (i["name"].as_str().unwrap().to_owned(), i["config"].as_str().unwrap().to_owned()))
            .collect();
        let wanted = images(SIZE)
            .iter()
            .map(|image| {
                (
                    format!("registry.k8s.io/{}:{}", image.repository, image.tag),
                    format!("sha256:{}", sha256_hex(&image.config)),
                )
            })
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(manifest["parts"]["kubernetes"], KUBERNETES.trim_start_matches('v'));
        assert_eq!(self.cached("cache").1, Vec::<u64>::new());
    }
}

/// Cuts, silence, slow bytes, 429, 500 and 503, each once on the way to everything: it comes out right all the same, and
/// what had come is not fetched again.
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
            (0, "kubelet.sha256") => Fault::Say("500 Internal Server Error", Vec::new(), String::new()),
            (0, "kubectl.sha256") => Fault::Cut(10),
            (_, name) if name.ends_with(".tgz") => Fault::Slow(20_000),
            _ => Fault::Pass,
        }
    });
    let images = Proxy::before(scene.registry.address, |request| match request.before {
        0 if request.path.contains("/etcd/blobs/") => Fault::Cut(1000),
        0 if request.path.contains("/pause/manifests/") => {
            Fault::Say("503 Service Unavailable", Vec::new(), String::new())
        }
        0 if request.path.contains("/kube-proxy/blobs/") => Fault::Stall(200_000),
        _ => Fault::Pass,
    });
    let output = scene.build(&files.url(), &images.url(), "cache").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    good(output);
    scene.is_right();
    assert_eq!(fs::read(scene.path("b.tar.zst")).unwrap(), first, "other bytes than on a good day");
    for word in [
        "resumed after 0.1 MB",
        "429 Too Many Requests; again in 1.0 s",
        "500 Internal Server Error",
        "silence for too long",
    ] {
        assert!(told.contains(word), "{word}: {told}");
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

/// What is not as published, as pinned or as its digest says is refused, and no bundle is made.
pub fn wrong_digests() -> Result<(), LeftOut> {
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

/// TLS with an own CA, a mirror and a registry that want a password: each way to be kept out says what mends it.
pub fn doors() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let tls = Tls::make(scene.dir.path())?;
    let files = nginx(&scene.path("files"), Some(&tls))?;
    let images = registry(&scene.path("registry"), Some(&tls))?;
    let (mirror, host) = (format!("https://{}", files.address), images.address.to_string());
    let refuse =
        |arguments: &[&str]| refused(scene.build(&mirror, &host, "cache").args(arguments).output().unwrap(), 1);
    let said = refuse(&[]);
    assert!(said.contains("its certificate is not trusted") && said.contains("--ca FILE"), "{said}");
    let ca = tls.ca();
    let ca = text(&ca);
    let said = refuse(&["--ca", ca]);
    assert!(said.contains("401 Unauthorized") && said.contains("--registry-credentials FILE"), "{said}");
    assert!(said.contains(&format!("no user and password for {host} are known")), "{said}");

    let path = scene.path("credentials.json");
    let write = |password: &str, mode: u32| {
        let login = json!({"username": USER, "password": password});
        let auth = data_encoding::BASE64.encode(format!("{USER}:{password}").as_bytes());
        let auths = json!({"auths": {(files.address.to_string()): login, (host.clone()): {"auth": auth}}});
        fs::write(&path, auths.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let with = ["--ca", ca, "--registry-credentials", text(&path)];
    write("wrong", 0o600);
    let said = refuse(&with);
    assert!(said.contains("were not accepted"), "{said}");
    write(PASSWORD, 0o644);
    let said = refuse(&with);
    assert!(said.contains("0644") && said.contains("chmod 600"), "{said}");
    write(PASSWORD, 0o600);
    let output = scene
        .build(&mirror, &host, "cache")
        .args(with)
        .args(["-o", "json"])
        .env("RUST_LOG", "trace")
        .arg("-vvv")
        .output()
        .unwrap();
    for told in [&output.stdout, &output.stderr] {
        let told = String::from_utf8_lossy(told);
        let secret = data_encoding::BASE64.encode(format!("{USER}:{PASSWORD}").as_bytes());
        assert!(!told.contains(PASSWORD) && !told.contains(&secret), "a password in what it says");
    }
    good(output);
    scene.is_right();

    // 403, and passwords that would be seen: on the command line, and on the wire.
    let closed = Proxy::before(scene.files.address, |_| Fault::Say("403 Forbidden", Vec::new(), String::new()));
    let said = refused(scene.build(&closed.url(), &scene.images(), "new").output().unwrap(), 1);
    assert!(said.contains("403 Forbidden") && said.contains("--registry-credentials"), "{said}");
    let said = refused(scene.build("https://me:hidden@127.0.0.1", &host, "new").output().unwrap(), 2);
    assert!(said.contains("seen by all users") && !said.contains("hidden"), "{said}");
    Ok(())
}

/// A registry that gives tokens, as the official ones do: asked for at the place that it names, with our password.
pub fn tokens() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let realm = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let known = realm.clone();
    let images = Proxy::before(scene.registry.address, move |request| {
        let who = request.headers.get("authorization").map(String::as_str);
        if request.path.starts_with("/token?") {
            let basic = format!("Basic {}", data_encoding::BASE64.encode(format!("{USER}:{PASSWORD}").as_bytes()));
            if who != Some(&basic) {
                return Fault::Say("401 Unauthorized", Vec::new(), String::new());
            }
            let scope = request.path.split("repository%3A").nth(1).unwrap_or_default();
            let repository = scope.split("%3Apull").next().unwrap_or_default().replace("%2F", "/");
            return Fault::Say("200 OK", Vec::new(), json!({"access_token": format!("for-{repository}")}).to_string());
        }
        let repository = request.path.trim_start_matches("/v2/").split("/manifests").next().unwrap();
        let repository = repository.split("/blobs").next().unwrap();
        // Tokens run out: the first blob of each needs a new one.
        let expired = request.before == 0 && request.path.contains("/blobs/");
        if who != Some(&format!("Bearer for-{repository}")) || expired {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"{}/token\",service=\"own, registry\",scope=\"repository:{repository}:pull\"",
                known.get().unwrap()
            );
            return Fault::Say("401 Unauthorized", vec![challenge], String::new());
        }
        Fault::Pass
    });
    realm.set(images.url()).unwrap();
    let said = refused(scene.build(&scene.mirror(), &images.url(), "cache").output().unwrap(), 1);
    assert!(said.contains("401 Unauthorized") && said.contains("no user and password"), "{said}");
    // Docker's own file is found by itself.
    let docker = scene.path(".docker");
    fs::create_dir(&docker).unwrap();
    let login = json!({"auths": {(images.address.to_string()): {"username": USER, "password": PASSWORD}}});
    fs::write(docker.join("config.json"), login.to_string()).unwrap();
    fs::set_permissions(docker.join("config.json"), fs::Permissions::from_mode(0o600)).unwrap();
    good(scene.build(&scene.mirror(), &images.url(), "cache").output().unwrap());
    scene.is_right();
    Ok(())
}

/// A server that stays broken is given up on, in time and in words; what was fetched from others is kept.
pub fn given_up() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let broken = Proxy::before(scene.files.address, |request| match request.path.rsplit('/').next().unwrap() {
        "kubelet" => Fault::Say("500 Internal Server Error", Vec::new(), String::new()),
        "kubectl" => Fault::Say("429 Too Many Requests", vec!["Retry-After: 86400".into()], String::new()),
        "runc.amd64" => Fault::Say("404 Not Found", Vec::new(), String::new()),
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

//! Servers that want to know who asks, and those that say no: each says what opens it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::LeftOut;
use crate::content::KUBERNETES;
use crate::proxy::{Fault, Proxy};
use crate::scene::Scene;
use crate::servers::{PASSWORD, Tls, USER, nginx, registry};
use crate::tools::{good, refused, text};

/// Writes a file of users and passwords by host.
fn credentials(path: &Path, auths: &Value, mode: u32) {
    fs::write(path, json!({"auths": auths}).to_string()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// TLS with an own CA, a mirror and a registry that want a password: each way to be kept out says what mends it.
pub fn closed() -> Result<(), LeftOut> {
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
        credentials(&path, &json!({(files.address.to_string()): login, (host.clone()): {"auth": auth}}), mode);
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

    // A password that all users of this host would see.
    let said = refused(scene.build("https://me:hidden@127.0.0.1", &host, "new").output().unwrap(), 2);
    assert!(said.contains("seen by all users") && !said.contains("hidden"), "{said}");
    Ok(())
}

/// 403 of the file server, and of the registry for a manifest and for blobs: one error, which names the address and, by
/// whether we have a name there, what mends it.
pub fn forbidden() -> Result<(), LeftOut> {
    let scene = Scene::new()?;
    let (files, registry) = (scene.files.address, scene.registry.address);
    let path = scene.path("credentials.json");
    let kubelet = format!("/release/{KUBERNETES}/bin/linux/amd64/kubelet");
    for (real, at) in [(files, kubelet.as_str()), (registry, "/v2/etcd/manifests/"), (registry, "/v2/etcd/blobs/")] {
        let shut = at.to_owned();
        let door = Proxy::before(real, move |request| {
            if request.path.starts_with(&shut) { Fault::status("403 Forbidden") } else { Fault::Pass }
        });
        let host = door.address.to_string();
        let url = |server: SocketAddr| if server == real { door.url() } else { format!("http://{server}") };
        // A cache of its own: what another round has fetched is not asked for again.
        let build = || scene.build(&url(files), &url(registry), &host);
        let unnamed = refused(build().output().unwrap(), 1);
        let nobody = format!("no user and password for {host} are known; write them into a file");
        credentials(&path, &json!({(host.clone()): {"username": USER, "password": PASSWORD}}), 0o600);
        let named = refused(build().args(["--registry-credentials", text(&path)]).output().unwrap(), 1);
        let no_right = format!("the user for {host} may not read this; ask the server's keeper for the right to");
        for (said, why, mends) in [(unnamed, nobody, "--registry-credentials FILE"), (named, no_right, "keeper")] {
            // The error is the last line, and a second one would come after it.
            let error = said.lines().last().unwrap_or_default();
            assert!(error.starts_with(&format!("error: {}{at}", door.url())), "{said}");
            assert!(error.contains(&format!(": 403 Forbidden: {why}")) && error.contains(mends), "{why}: {said}");
        }
        assert!(!scene.path("b.tar.zst").exists());
    }
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
                return Fault::status("401 Unauthorized");
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
    let login = json!({"username": USER, "password": PASSWORD});
    credentials(&docker.join("config.json"), &json!({(images.address.to_string()): login}), 0o600);
    good(scene.build(&scene.mirror(), &images.url(), "cache").output().unwrap());
    scene.is_right();
    Ok(())
}

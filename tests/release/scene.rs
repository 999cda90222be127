//! Both servers with made-up content, builds from them, and what a bundle of theirs must be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::LeftOut;
use crate::content::{self, KUBERNETES, images, noise, official, push};
use crate::lib::manifest::sha256_hex;
use crate::servers::{Server, nginx, registry};
use crate::tools::{good, kprov, text};

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
    pub fn build(&self, mirror: &str, registry: &str, cache: &str) -> Command {
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
    pub fn cached(&self, cache: &str) -> (usize, Vec<u64>) {
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
    pub fn is_right(&self) {
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

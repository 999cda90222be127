//! etcd and kube-apiserver out of the bundle, unpacked once for each bundle.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kprov::bundle::Manifest;
use kprov::bundle::locate::{Found, Search, cache_dir, locate};
use kprov::bundle::sets::Set;
use kprov::bundle::unpack::{FILES, unpack};
use kprov::bundle::verify::open;

const NAMES: [&str; 2] = ["etcd", "kube-apiserver"];

/// A directory that holds both.
pub(crate) struct Binaries {
    dir: PathBuf,
    /// Of the bundle that they come from.
    #[allow(dead_code)]
    pub(crate) manifest: Option<Manifest>,
}

impl Binaries {
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }
}

/// From `KPROV_TEST_PARTS` (a directory that holds both), else from the bundle `KPROV_BUNDLE`, else from the newest in
/// the cache.
pub(crate) fn find() -> Result<Binaries, String> {
    if let Some(dir) = std::env::var_os("KPROV_TEST_PARTS").map(PathBuf::from) {
        return match NAMES.iter().find(|name| !dir.join(name).exists()) {
            Some(name) => Err(format!("KPROV_TEST_PARTS has no {name}, {}", dir.display())),
            None => Ok(Binaries { dir, manifest: None }),
        };
    }
    let variable = |name: &str| std::env::var_os(name);
    let found = locate(&Search {
        file: variable("KPROV_BUNDLE").map(PathBuf::from),
        beside: None,
        cache: cache_dir(variable("XDG_CACHE_HOME").as_deref(), variable("HOME").as_deref()),
        arch: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
        version: None,
        key: None,
    })
    .map_err(|e| e.to_string())?;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("programs-{}", found.id));
    if NAMES.iter().any(|name| !dir.join(name).exists()) {
        extract(&found, &dir).map_err(|e| format!("unpacking {}: {e}", found.path.display()))?;
    }
    Ok(Binaries { dir, manifest: Some(found.manifest) })
}

fn extract(found: &Found, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(dir)?;
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let unpacked = place.path().join("bundle");
    unpack(open(&found.path)?, &unpacked, &mut |_, _| true)?;
    // The control plane and kubectl are one program, which looks at the name by which it is called.
    let kubectl = found.manifest.files.iter().find(|file| file.path.ends_with("/kubectl")).and_then(|f| f.sha256());
    let kube = unpacked.join(FILES).join(kubectl.ok_or("it has no kubectl")?);
    put(&mut File::open(kube)?, &dir.join("kube-apiserver"))?;
    let image = found.manifest.images.iter().find(|image| image.name.contains("/etcd:")).ok_or("it has no etcd")?;
    let mut archive = tar::Archive::new(File::open(unpacked.join(Set::of(&image.name).archive()))?);
    for entry in archive.entries()? {
        let entry = entry?;
        let name = entry.path()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !image.layers.contains(&format!("sha256:{name}")) {
            continue;
        }
        for member in tar::Archive::new(entry).entries()? {
            let mut member = member?;
            if member.header().entry_type().is_file() && member.path()?.ends_with("bin/etcd") {
                put(&mut member, &dir.join("etcd"))?;
            }
        }
    }
    if dir.join("etcd").exists() { Ok(()) } else { Err("its etcd image has no bin/etcd".into()) }
}

/// Whole or not at all: two runs may do this at once.
fn put(from: &mut impl io::Read, to: &Path) -> io::Result<()> {
    let mut beside = tempfile::NamedTempFile::new_in(to.parent().unwrap())?;
    io::copy(from, &mut beside)?;
    beside.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    beside.persist(to).map(drop).map_err(|e| e.error)
}

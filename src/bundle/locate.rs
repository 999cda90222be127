//! Finding the bundle for a command: named, else beside the binary, else in the cache.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::BundleError;
use super::sign::{Key, look};

/// Where to look and what for. The command line fills it in from its flags and environment.
#[derive(Debug, Clone)]
pub struct Search {
    /// `--bundle FILE`.
    pub file: Option<PathBuf>,
    /// The directory of the running binary.
    pub beside: Option<PathBuf>,
    /// `${XDG_CACHE_HOME:-~/.cache}/kprov`.
    pub cache: Option<PathBuf>,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// The exact version wanted (`v1.36.3`); none: the newest.
    pub version: Option<String>,
    /// The key by which it must be signed.
    pub key: Option<Key>,
}

/// A bundle that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its manifest.
    pub id: String,
    /// Its manifest; the rest of the file is checked against it when it is unpacked.
    pub manifest: super::Manifest,
}

/// The cache directory: `${XDG_CACHE_HOME:-~/.cache}/kprov`, from the two variables' values.
pub fn cache_dir(xdg_cache_home: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    // A relative value is to be ignored, says the XDG base directory specification.
    let xdg = xdg_cache_home.map(Path::new).filter(|p| p.is_absolute()).map(Path::to_owned);
    xdg.or_else(|| home.filter(|h| !h.is_empty()).map(|h| Path::new(h).join(".cache"))).map(|dir| dir.join("kprov"))
}

/// A bundle's file name: `kprov-bundle-v1.36.3-amd64.tar.zst`.
pub fn file_name(version: &str, arch: &str) -> String {
    format!("kprov-bundle-{version}-{arch}.tar.zst")
}

/// `v1.36.3`, `v1.37.0-rc.1` → what sorts as versions do.
fn version_of(name: &str, arch: &str) -> Option<(u32, u32, u32, bool, String)> {
    let version = name.strip_prefix("kprov-bundle-v")?.strip_suffix(&format!("-{arch}.tar.zst"))?;
    let (numbers, pre) = version.split_once('-').map_or((version, ""), |(n, p)| (n, p));
    let mut parts = numbers.split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some((major, minor, patch, pre.is_empty(), pre.to_owned()))
}

/// Bundle files of a directory that fit, the newest first.
fn candidates(dir: &Path, search: &Search) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let wanted = search.version.as_ref().map(|v| file_name(v, &search.arch));
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            if wanted.as_ref().is_some_and(|w| *w != name) {
                return None;
            }
            Some((version_of(&name, &search.arch)?, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// Finds the bundle and reads its manifest; with a key, the whole file. What fits by its name and is not signed by the key
/// is refused: no other is taken in its place.
///
/// # Errors
/// The named file is no bundle, not signed or not for this machine, or there is none anywhere: then the message says how to get
/// one.
pub fn locate(search: &Search) -> Result<Found, BundleError> {
    let path = match &search.file {
        Some(file) => file.clone(),
        None => {
            let dirs = [&search.beside, &search.cache];
            let first = dirs.into_iter().flatten().find_map(|dir| candidates(dir, search).into_iter().next());
            first.ok_or_else(|| BundleError::None(nothing(search)))?
        }
    };
    let (manifest, id) = look(&path, search.key.as_ref())?;
    if manifest.arch != search.arch {
        return Err(BundleError::Arch { found: manifest.arch, wanted: search.arch.clone() });
    }
    let found = Found { path, id, manifest };
    match &search.version {
        Some(wanted) if *wanted != found.manifest.kubernetes => Err(BundleError::None(format!(
            "the bundle has Kubernetes {}, not {wanted}: {}",
            found.manifest.kubernetes,
            found.path.display()
        ))),
        _ => Ok(found),
    }
}

/// What to say when there is none, with commands to paste.
fn nothing(search: &Search) -> String {
    let version = search.version.as_deref();
    let what = version.map_or_else(|| "no bundle".to_owned(), |v| format!("no bundle with Kubernetes {v}"));
    let dirs: Vec<String> =
        [&search.beside, &search.cache].into_iter().flatten().map(|d| d.display().to_string()).collect();
    let choose = version.map(|v| format!(" --kubernetes {v}")).unwrap_or_default();
    let out = match &search.cache {
        Some(cache) => cache.join(file_name(version.unwrap_or("v1.36.3"), &search.arch)),
        None => PathBuf::from(file_name(version.unwrap_or("v1.36.3"), &search.arch)),
    };
    let out = out.display();
    format!(
        "{what} for {} was found (looked in {})\nbuild one:   kprov bundle build --from source --arch {}{choose} --out {out}\nor name one: --bundle FILE",
        search.arch,
        if dirs.is_empty() { "no directory".to_owned() } else { dirs.join(" and ") },
        search.arch,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::synthetic;

    fn put(dir: &Path, version: &str, arch: &str) -> PathBuf {
        let mut bundle = synthetic::small(arch);
        bundle.manifest.kubernetes = version.into();
        let path = dir.join(file_name(version, arch));
        fs::create_dir_all(dir).unwrap();
        fs::write(&path, bundle.bytes()).unwrap();
        path
    }

    #[test]
    fn takes_the_named_one_then_beside_then_the_newest_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (beside, cache) = (dir.path().join("bin"), dir.path().join("cache"));
        let mut search = Search {
            file: None,
            beside: Some(beside.clone()),
            cache: Some(cache.clone()),
            arch: "amd64".into(),
            version: None,
            key: None,
        };
        let text = locate(&search).unwrap_err().to_string();
        let build = format!(
            "kprov bundle build --from source --arch amd64 --out {}/kprov-bundle-v1.36.3-amd64.tar.zst",
            cache.display()
        );
        assert!(text.contains(&build), "{text}");

        put(&cache, "v1.35.4", "amd64");
        put(&cache, "v1.36.3", "arm64");
        put(&cache, "v1.36.10", "amd64");
        put(&cache, "v1.36.9", "amd64");
        fs::write(cache.join("kprov-bundle-vx-amd64.tar.zst"), "").unwrap();
        assert_eq!(locate(&search).unwrap().manifest.kubernetes, "v1.36.10");
        search.version = Some("v1.35.4".into());
        assert_eq!(locate(&search).unwrap().manifest.kubernetes, "v1.35.4");
        search.version = Some("v1.34.1".into());
        let text = locate(&search).unwrap_err().to_string();
        assert!(text.starts_with("no bundle with Kubernetes v1.34.1 for amd64"), "{text}");
        assert!(text.contains("--kubernetes v1.34.1"), "{text}");

        search.version = None;
        put(&beside, "v1.36.1", "amd64");
        assert_eq!(locate(&search).unwrap().manifest.kubernetes, "v1.36.1");
        search.file = Some(put(&dir.path().join("own"), "v1.36.2", "amd64"));
        assert_eq!(locate(&search).unwrap().manifest.kubernetes, "v1.36.2");
        search.version = Some("v1.36.3".into());
        let text = locate(&search).unwrap_err().to_string();
        assert!(text.starts_with("the bundle has Kubernetes v1.36.2, not v1.36.3: "), "{text}");
        search.arch = "arm64".into();
        assert!(matches!(locate(&search), Err(BundleError::Arch { .. })));
    }

    #[test]
    fn a_pre_release_is_older_than_its_release() {
        let sorts = |name: &str| version_of(&file_name(name, "amd64"), "amd64").unwrap();
        assert!(sorts("v1.37.0-rc.1") < sorts("v1.37.0"));
        assert!(sorts("v1.36.9") < sorts("v1.36.10"));
    }

    #[test]
    fn the_cache_is_where_xdg_says() {
        let dir = |x: Option<&str>, h: Option<&str>| cache_dir(x.map(OsStr::new), h.map(OsStr::new));
        assert_eq!(dir(Some("/x"), Some("/root")), Some("/x/kprov".into()));
        assert_eq!(dir(Some("x"), Some("/root")), Some("/root/.cache/kprov".into()));
        assert_eq!(dir(None, None), None);
    }
}

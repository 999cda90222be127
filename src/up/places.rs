//! Where the operator's side keeps what it knows of clusters, and finds what it brings onto machines.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use kprov_providers::local::{Dirs, machines::Record};
use serde::{Deserialize, Serialize};

/// The two directories of the operator's side. The command line fills it in from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `$XDG_STATE_HOME/kprov`: one directory a cluster.
    pub state: PathBuf,
    /// `$XDG_CACHE_HOME/kprov`.
    pub cache: PathBuf,
}

/// What is known of a cluster beside its machines (`cluster.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRecord {
    /// Version of this format.
    pub format: u32,
    /// Where its machines come from: `local`.
    pub provider: String,
    /// Kubernetes version: `v1.36.3`.
    pub kubernetes: String,
    /// The bundle that its machines are made with.
    pub bundle: PathBuf,
    /// SHA-256 of that bundle's manifest.
    pub bundle_id: String,
    /// How many workers it was last asked to have.
    pub workers: u32,
    /// Template that its machines are copied from.
    pub template: String,
}

/// Format of [`ClusterRecord`].
pub const FORMAT: u32 = 1;

impl Places {
    /// From the values of the variables that name them; relative values are to be ignored, says the XDG base directory
    /// specification.
    ///
    /// # Errors
    /// When none of them says where.
    pub fn from_env(
        state_home: Option<&OsStr>,
        cache_home: Option<&OsStr>,
        home: Option<&OsStr>,
    ) -> anyhow::Result<Self> {
        let place = |xdg: Option<&OsStr>, below: &str| {
            let xdg = xdg.map(Path::new).filter(|path| path.is_absolute()).map(Path::to_owned);
            xdg.or_else(|| home.filter(|home| !home.is_empty()).map(|home| Path::new(home).join(below)))
                .map(|dir| dir.join("kprov"))
        };
        let state = place(state_home, ".local/state").context("neither XDG_STATE_HOME nor HOME is set")?;
        let cache = place(cache_home, ".cache").context("neither XDG_CACHE_HOME nor HOME is set")?;
        Ok(Self { state, cache })
    }

    /// A cluster's directory.
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// A cluster's kubeconfig.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.cluster(name).join("kubeconfig")
    }

    /// Where the `local` provider keeps disks, and a cluster's machines.
    pub fn dirs(&self, name: &str) -> Dirs {
        Dirs { cache: self.cache.join("local"), state: self.cluster(name).join("machines") }
    }

    /// Names of all clusters, sorted.
    pub fn clusters(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.state)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.dirs(name).state.join("machines.json").is_file())
            .collect();
        names.sort();
        names
    }

    /// Subnets of all clusters but one: a stopped cluster has no route, but it will come back.
    pub fn subnets_of_others(&self, name: &str) -> Vec<Ipv4Net> {
        let others = self.clusters().into_iter().filter(|other| other != name);
        others.filter_map(|other| Some(self.machines(&other)?.network.subnet)).collect()
    }

    /// What is remembered of a cluster's machines, without opening their disks.
    pub fn machines(&self, name: &str) -> Option<Record> {
        let text = std::fs::read(self.dirs(name).state.join("machines.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What is known of a cluster; none where it was never made.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(&self, name: &str) -> anyhow::Result<Option<ClusterRecord>> {
        let path = self.cluster(name).join("cluster.json");
        match std::fs::read(&path) {
            Ok(text) => {
                let record: ClusterRecord =
                    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
                if record.format != FORMAT {
                    bail!("made by another release of kprov (format {}): {}", record.format, path.display());
                }
                Ok(Some(record))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Remembers what is known of a cluster.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, name: &str, record: &ClusterRecord) -> anyhow::Result<()> {
        let dir = self.cluster(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        write(&dir.join("cluster.json"), &serde_json::to_vec_pretty(record)?, 0o644)
    }
}

/// Writes a file whole.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    kprov_providers::whole::write(path, content, mode).with_context(|| format!("writing {}", path.display()))
}

/// A name for a cluster: it starts host names and is a label of Kubernetes.
///
/// # Errors
/// Says what a name may be.
pub fn valid_name(name: &str) -> Result<String, String> {
    let fits = name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        return Ok(name.to_owned());
    }
    Err("a name is 40 lower-case letters, digits and hyphens at most, and starts with a letter".to_owned())
}

/// The static kprov of this architecture: what runs, if it is static, else the one beside it, else what cargo built.
///
/// # Errors
/// When there is none; says how to make one.
pub fn static_kprov(exe: &Path, arch: &str) -> anyhow::Result<PathBuf> {
    let dir = exe.parent().context("a path without a directory")?;
    let target = match arch {
        "arm64" => "aarch64-unknown-linux-musl",
        _ => "x86_64-unknown-linux-musl",
    };
    // target/debug/kprov → target/TARGET/release/kprov
    let built = dir.parent().map(|target_dir| target_dir.join(target).join("release/kprov"));
    let places = [Some(exe.to_owned()), Some(dir.join(format!("kprov-{arch}"))), built];
    for path in places.into_iter().flatten() {
        if is_static(&path).unwrap_or(false) {
            return Ok(path);
        }
    }
    bail!(
        "this kprov is not a static build, and machines need one; no kprov-{arch} is beside it either: {}",
        exe.display()
    )
}

/// True for an ELF file that names no interpreter (ld.so): it runs on any Linux of its architecture.
fn is_static(path: &Path) -> std::io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    let mut header = [0u8; 64];
    file.read_exact(&mut header)?;
    // 64-bit, little-endian: all that kprov is built for.
    if header.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let number = |from: usize, size: usize| {
        header
            .get(from..from + size)
            .unwrap_or_default()
            .iter()
            .rev()
            .fold(0u64, |all, byte| all << 8 | u64::from(*byte))
    };
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    for index in 0..count {
        file.seek(SeekFrom::Start(offset + index * size))?;
        let mut kind = [0u8; 4];
        file.read_exact(&mut kind)?;
        // PT_INTERP
        if u32::from_le_bytes(kind) == 3 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_xdg() {
        let os = |text: &'static str| Some(OsStr::new(text));
        let places = Places::from_env(os("/s"), None, os("/root")).unwrap();
        assert_eq!(places, Places { state: "/s/kprov".into(), cache: "/root/.cache/kprov".into() });
        let places = Places::from_env(os("relative"), None, os("/root")).unwrap();
        assert_eq!(places.state, Path::new("/root/.local/state/kprov"));
        assert!(Places::from_env(None, None, None).is_err());
    }

    #[test]
    fn names_fit_host_names() {
        for good in ["kprov", "a", "my-cluster-2"] {
            assert_eq!(valid_name(good).unwrap(), good);
        }
        for bad in ["", "2x", "a-", "A", "a_b", "a/b", "..", &"x".repeat(41)] {
            assert!(valid_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_dynamic_program_is_not_brought_onto_machines() {
        let exe = std::env::current_exe().unwrap();
        let dynamic = cfg!(not(target_feature = "crt-static"));
        assert_eq!(is_static(&exe).unwrap(), !dynamic);
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("kprov");
        std::fs::write(&fake, "#!/bin/sh\n").unwrap();
        let error = static_kprov(&fake, "amd64").unwrap_err().to_string();
        assert!(error.contains("no kprov-amd64 is beside it"), "{error}");
    }

    #[test]
    fn what_is_known_of_a_cluster_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { state: dir.path().join("s"), cache: dir.path().join("c") };
        assert_eq!(places.load("x").unwrap(), None);
        let mut record = ClusterRecord {
            format: FORMAT,
            provider: "local".into(),
            kubernetes: "v1.36.3".into(),
            bundle: "/b".into(),
            bundle_id: "ab".into(),
            workers: 1,
            template: "t".into(),
        };
        places.save("x", &record).unwrap();
        assert_eq!(places.load("x").unwrap().as_ref(), Some(&record));
        record.format = 9;
        places.save("x", &record).unwrap();
        assert!(places.load("x").unwrap_err().to_string().contains("another release"));
    }
}

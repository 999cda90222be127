//! Settings of the host that machines need, changed with the first network and put back with the last one.
//! What they were before is remembered in /run: like the settings themselves, it does not outlive a reboot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::store::lock;

/// Where it is remembered.
const DIR: &str = "/run/kprov";

/// Settings and the least that machines need. Each machine's systemd, kubelet and containerd take inotify instances
/// of root's, which is one and the same user in all of them.
const WANTED: [(&str, u64); 3] =
    [("net/ipv4/ip_forward", 1), ("fs/inotify/max_user_instances", 8192), ("fs/inotify/max_user_watches", 524_288)];

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Networks that need the settings.
    users: BTreeSet<String>,
    /// What was there before; only what we changed.
    before: BTreeMap<String, u64>,
}

/// Sees to the settings for a network.
///
/// # Errors
/// When one cannot be written.
pub(crate) async fn acquire(network: &str) -> anyhow::Result<()> {
    let dir = Path::new(DIR);
    std::fs::create_dir_all(dir).with_context(|| format!("making {DIR}"))?;
    let _lock = lock(&dir.join("lock")).await?;
    let mut record = load();
    for (name, least) in WANTED {
        let value = read(name)?;
        if value < least {
            record.before.entry(name.to_owned()).or_insert(value);
        }
    }
    record.users.insert(network.to_owned());
    // Remembered before anything is changed.
    save(&record)?;
    for (name, least) in WANTED {
        if read(name)? < least {
            write(name, least)?;
        }
    }
    Ok(())
}

/// A network needs the settings no longer; the last one puts them back.
pub(crate) async fn release(network: &str) {
    let dir = Path::new(DIR);
    if !dir.is_dir() {
        return;
    }
    let Ok(lock) = lock(&dir.join("lock")).await else { return };
    let mut record = load();
    record.users.remove(network);
    if !record.users.is_empty() {
        let _ = save(&record);
        return;
    }
    for (name, value) in &record.before {
        let _ = write(name, *value);
    }
    let _ = std::fs::remove_file(dir.join("settings.json"));
    let _ = std::fs::remove_file(dir.join("lock"));
    let _ = std::fs::remove_dir(dir);
    drop(lock);
}

fn load() -> Record {
    std::fs::read(Path::new(DIR).join("settings.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn save(record: &Record) -> anyhow::Result<()> {
    let path = Path::new(DIR).join("settings.json");
    let new = Path::new(DIR).join("settings.json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(record)?)?;
    std::fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))
}

fn read(name: &str) -> anyhow::Result<u64> {
    let path = Path::new("/proc/sys").join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("reading {}", path.display()))
}

fn write(name: &str, value: u64) -> anyhow::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value.to_string()).with_context(|| format!("writing {}", path.display()))
}

//! File systems that are read-only where kprov writes.

use std::collections::BTreeMap;

use super::{Finding, Look, path_name};
use crate::facts::net::text;

/// Directories that every node is written into.
const WRITTEN: [&str; 8] = [
    "/etc/cni",
    "/etc/kubernetes",
    "/etc/systemd/system",
    "/opt/cni/bin",
    "/usr/bin",
    "/usr/libexec/kubernetes",
    "/usr/local/bin",
    "/var/lib",
];

/// One finding for each file system, whatever is written into it.
pub(super) fn all(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let mounts = text(look.machine, "/proc/self/mounts")?;
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for dir in WRITTEN {
        if let Some((at, read_only)) = mount_of(&mounts, dir)
            && read_only
        {
            found.entry(at).or_default().push(dir);
        }
    }
    Ok(found
        .into_iter()
        .map(|(at, dirs)| {
            let message = format!("the file system at {at} is read-only, and kprov writes into {}", dirs.join(", "));
            Finding::error(path_name("ReadOnly", &at), message).hint(format!("mount -o remount,rw {at}"))
        })
        .collect())
}

/// The mount point that holds a path, and whether it is read-only.
fn mount_of(mounts: &str, path: &str) -> Option<(String, bool)> {
    let covers = |at: &str| at == "/" || path == at || path.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'));
    mounts
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            Some((*words.get(1)?, *words.get(3)?))
        })
        .filter(|(at, _)| covers(at))
        // Later mounts hide earlier ones of the same place.
        .max_by_key(|(at, _)| at.len())
        .map(|(at, options)| (at.to_owned(), options.split(',').any(|option| option == "ro")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_holds_a_path() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\n/dev/sda2 /usr ext4 ro,relatime 0 0\n/dev/sda3 /usr/local ext4 rw,errors=remount-ro 0 0\n";
        assert_eq!(mount_of(mounts, "/usr/bin"), Some(("/usr".to_owned(), true)));
        assert_eq!(mount_of(mounts, "/usr/local/bin"), Some(("/usr/local".to_owned(), false)));
        assert_eq!(mount_of(mounts, "/usrlocal"), Some(("/".to_owned(), false)));
        assert_eq!(mount_of(&format!("{mounts}x /usr ext4 rw 0 0\n"), "/usr/bin"), Some(("/usr".to_owned(), false)));
    }
}

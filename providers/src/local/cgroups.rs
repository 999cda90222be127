//! cgroups of a machine's own in every hierarchy that the host has mounted, where no systemd does that for us.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Deepest level below a hierarchy's root at which a machine's cgroup is looked for.
const DEPTH: usize = 6;

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Where it is mounted.
    at: PathBuf,
    /// Its controllers or name, as in /proc/self/cgroup; empty for cgroup v2.
    label: String,
}

/// Makes a machine's cgroups, below the caller's in each hierarchy: beside it would escape the limits of whoever
/// started us, and may be forbidden. Returns their directories.
///
/// # Errors
/// When one cannot be made: without it the guest's systemd would take over the host's.
pub(crate) fn create(id: &str) -> anyhow::Result<Vec<PathBuf>> {
    let own = std::fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
    let mut made = Vec::new();
    for hierarchy in hierarchies()? {
        let below = caller(&own, &hierarchy.label).unwrap_or_default();
        // cgroup v2 allows no processes beside child groups with controllers, but in the root.
        let below = if hierarchy.label.is_empty() { "" } else { below.trim_start_matches('/') };
        let parent = hierarchy.at.join(below);
        let parent = if parent.is_dir() { parent } else { hierarchy.at.clone() };
        let dir = parent.join(id);
        std::fs::create_dir_all(&dir).with_context(|| format!("making cgroup {}", dir.display()))?;
        if hierarchy.label.split(',').any(|controller| controller == "cpuset") {
            std::fs::write(dir.join("cgroup.clone_children"), "1")?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = std::fs::read(parent.join(file))?;
                std::fs::write(dir.join(file), value)?;
            }
        }
        if hierarchy.label.is_empty() {
            delegate(&parent);
        }
        made.push(dir);
    }
    Ok(made)
}

/// Removes a machine's cgroups with all that is below them. Everything in them must have ended; what is left is waited
/// for a moment by the caller, who tries again.
///
/// Returns false while something is still in the way.
pub(crate) fn remove(dirs: &[PathBuf]) -> bool {
    dirs.iter().all(|dir| remove_tree(dir))
}

/// Processes in these cgroups and below.
pub(crate) fn processes(dirs: &[PathBuf]) -> Vec<u32> {
    let mut found = Vec::new();
    for dir in dirs {
        let listed = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
        let below: Vec<PathBuf> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(processes(&below));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// A machine's cgroups wherever they are, for what a dead run left.
pub(crate) fn find(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        search(&hierarchy.at, DEPTH, id, &mut found);
    }
    found
}

fn search(dir: &Path, depth: usize, wanted: &str, found: &mut Vec<PathBuf>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name() == wanted {
            found.push(entry.path());
        } else {
            search(&entry.path(), depth, wanted, found);
        }
    }
}

fn remove_tree(dir: &Path) -> bool {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_tree(&entry.path()) {
            return false;
        }
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Lets children of the root use every controller there is; what cannot be had is missing in the machine too.
fn delegate(root: &Path) {
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Labels of all mounted hierarchies: controllers with commas between them; empty for cgroup v2.
pub(crate) fn controllers() -> Vec<String> {
    hierarchies().unwrap_or_default().into_iter().map(|hierarchy| hierarchy.label).collect()
}

fn hierarchies() -> anyhow::Result<Vec<Hierarchy>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(parse(&mounts))
}

/// cgroup mounts below /sys/fs/cgroup, each hierarchy once.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let Some(at) = front.split(' ').nth(4) else { continue };
        let mut back = back.split(' ');
        let (kind, options) = (back.next().unwrap_or_default(), back.nth(1).unwrap_or_default());
        let label = match kind {
            "cgroup2" => String::new(),
            "cgroup" => options
                .split(',')
                .filter(|option| {
                    !matches!(*option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix" | "cpuset_v2_mode")
                        && !option.starts_with("release_agent=")
                })
                .collect::<Vec<_>>()
                .join(","),
            _ => continue,
        };
        if at.starts_with("/sys/fs/cgroup") && !found.iter().any(|h| h.label == label) {
            found.push(Hierarchy { at: PathBuf::from(at), label });
        }
    }
    found
}

/// The caller's group in a hierarchy, from /proc/self/cgroup.
fn caller<'a>(own: &'a str, label: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        (controllers == label).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        31 25 0:27 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children\n\
        32 25 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
        33 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
        34 25 0:29 / /run/other/unified rw,relatime - cgroup2 cgroup2 rw\n\
        35 25 0:30 / /tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn every_mounted_hierarchy_is_found_once() {
        let labels: Vec<_> = parse(V1).into_iter().map(|h| h.label).collect();
        assert_eq!(labels, ["cpu", "cpuset", "name=systemd", ""]);
    }

    #[test]
    fn the_callers_group_is_found_by_hierarchy() {
        let own = "4:memory:/process/abc\n3:cpu,cpuacct:/\n1:name=systemd:/x:y\n0::/unified\n";
        assert_eq!(caller(own, "memory"), Some("/process/abc"));
        assert_eq!(caller(own, "name=systemd"), Some("/x:y"));
        assert_eq!(caller(own, ""), Some("/unified"));
        assert_eq!(caller(own, "cpuset"), None);
    }
}

//! Container runtimes that run on the machine and are not ours.

use std::time::Duration;

use kprov_providers::Machine;
use kprov_providers::machine::{Command, Kind};

use super::Runtime;
use super::net::text;

/// CRI sockets that kubeadm knows (contract A.8), with the runtime's and its program's names.
const KNOWN: [(&str, &str, &str); 3] = [
    ("containerd", "containerd", "/run/containerd/containerd.sock"),
    ("cri-o", "crio", "/run/crio/crio.sock"),
    ("cri-dockerd", "cri-dockerd", "/run/cri-dockerd.sock"),
];

/// Every runtime whose socket is listened on, but for the one whose unit is ours.
///
/// # Errors
/// When /proc cannot be read.
pub(crate) async fn foreign(machine: &dyn Machine, ours: &dyn Fn(&str) -> bool) -> anyhow::Result<Vec<Runtime>> {
    let table = text(machine, "/proc/net/unix")?;
    let listening = listening(&table);
    let mut found = Vec::new();
    for (name, program, socket) in KNOWN {
        let open = listening.iter().any(|path| path.strip_prefix("/var").unwrap_or(path) == socket);
        if !open || (name == "containerd" && ours("/etc/systemd/system/containerd.service")) {
            continue;
        }
        let version = version(machine, program).await?;
        found.push(Runtime { name: name.to_owned(), version, socket: format!("unix://{socket}") });
    }
    Ok(found)
}

/// Paths of sockets that accept connections: `__SO_ACCEPTCON` in the flags of /proc/net/unix.
fn listening(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
            let path = *words.get(7)?;
            (flags & 0x1_0000 != 0 && path.starts_with('/')).then_some(path)
        })
        .collect()
}

/// Version of a running program, asked of the very file that runs, so that an upgrade on disk does not deceive.
async fn version(machine: &dyn Machine, program: &str) -> anyhow::Result<String> {
    let file = match running(machine, program)? {
        Some(pid) => format!("/proc/{pid}/exe"),
        None => program.to_owned(),
    };
    let mut command = Command::new(file, ["--version"]);
    command.timeout = Some(Duration::from_secs(5));
    // A version that cannot be had is an empty one: preflight says so.
    let Ok(exit) = machine.run(command).await else { return Ok(String::new()) };
    Ok(first_version(&exit.text()))
}

/// Process whose program file has this name.
fn running(machine: &dyn Machine, program: &str) -> anyhow::Result<Option<u32>> {
    for name in machine.list("/proc")?.unwrap_or_default() {
        let Ok(pid) = name.parse::<u32>() else { continue };
        // Processes end while they are looked at: what cannot be read is not it.
        if let Ok(Some(meta)) = machine.meta(&format!("/proc/{pid}/exe"))
            && let Kind::Link(target) = meta.kind
            && target.rsplit('/').next() == Some(program)
        {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// The first word that looks like a version, without its `v`: `containerd github.com/… v2.3.7 0123abc` → `2.3.7`.
fn first_version(said: &str) -> String {
    said.split_whitespace()
        .map(|word| word.strip_prefix('v').unwrap_or(word).trim_end_matches(','))
        .find(|word| {
            word.split('.').count() >= 2
                && word.split('.').take(2).all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
        })
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_versions_in_what_programs_say() {
        assert_eq!(first_version("containerd github.com/containerd/containerd/v2 v2.3.7 1a2b"), "2.3.7");
        assert_eq!(first_version("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da"), "1.7.27");
        assert_eq!(first_version("crio version 1.34.0-rc.1\nVersion: 1.34.0"), "1.34.0-rc.1");
        assert_eq!(first_version("what?"), "");
    }

    #[test]
    fn only_listening_sockets_with_a_path_count() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/containerd/containerd.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 1235 /run/crio/crio.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 1236 @abstract\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 1237\n";
        assert_eq!(listening(table), ["/run/containerd/containerd.sock"]);
    }
}

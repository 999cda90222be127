//! Taking back what was made. Gone already is success, so all of it may be run again after a kill.

use anyhow::{Context, bail};

use super::{Made, pods};
use crate::Machine;
use crate::machine::{Command, Kind, UnitVerb, links, swaps};
use crate::steps::make_parents;

/// Takes one thing back.
///
/// # Errors
/// When it is still there afterwards for another reason than being in use by what is not ours.
pub async fn undo(machine: &dyn Machine, made: &Made) -> anyhow::Result<()> {
    match made {
        Made::File { path } => file(machine, path).await,
        Made::Dir { path } => dir(machine, path),
        Made::Tree { path } => machine.remove_tree(path),
        Made::Filled { path, mode } => filled(machine, path, *mode),
        Made::Unit { name } => unit(machine, name).await,
        Made::Sysctl { name, before } => sysctl(machine, name, before),
        Made::Pods => pods::remove_all(machine).await,
        Made::Link { name } => link(machine, name).await,
        Made::Image { name, ctr, address } => image(machine, name, ctr, address).await,
        Made::Moved { from, to } => moved(machine, from, to),
        Made::Swap { device, priority } => swap(machine, device, *priority).await,
        Made::Nothing => Ok(()),
    }
}

fn filled(machine: &dyn Machine, path: &str, mode: Option<u32>) -> anyhow::Result<()> {
    inside(machine, path)?.iter().try_for_each(|path| machine.remove_tree(path))?;
    match (machine.meta(path)?, mode) {
        (Some(meta), Some(mode)) if meta.mode != mode => machine.chmod(path, mode),
        _ => Ok(()),
    }
}

async fn file(machine: &dyn Machine, path: &str) -> anyhow::Result<()> {
    let was_there = match machine.meta(path)? {
        Some(meta) if meta.kind == Kind::Dir => bail!("a directory is in the place of the file {path}"),
        other => other.is_some(),
    };
    machine.remove(path)?;
    if was_there && is_unit_file(path) {
        machine.units_reload().await?;
    }
    Ok(())
}

/// True for files that systemd has to read again after a change.
pub(crate) fn is_unit_file(path: &str) -> bool {
    path.starts_with("/etc/systemd/system/")
}

/// A directory that something else lives in by now stays: it is not ours alone any more.
fn dir(machine: &dyn Machine, path: &str) -> anyhow::Result<()> {
    match machine.meta(path)? {
        Some(meta) if meta.kind == Kind::Dir => machine.remove_dir(path).map(drop),
        _ => Ok(()),
    }
}

/// Paths of all that is in a directory, but for what a file system of its own has from the start (`lost+found`).
///
/// # Errors
/// When it cannot be read.
pub fn inside(machine: &dyn Machine, dir: &str) -> anyhow::Result<Vec<String>> {
    let names = machine.list(dir)?.unwrap_or_default();
    Ok(names.into_iter().filter(|name| name != "lost+found").map(|name| format!("{dir}/{name}")).collect())
}

async fn unit(machine: &dyn Machine, name: &str) -> anyhow::Result<()> {
    let state = machine.unit(name).await?;
    if state.runs() {
        machine.unit_do(name, UnitVerb::Stop).await?;
    }
    if state.enabled.starts_with("enabled") {
        machine.unit_do(name, UnitVerb::Disable).await?;
    }
    // A process that was killed on stopping leaves the unit failed, which outlives its file.
    if machine.unit(name).await?.active == "failed" {
        machine.unit_do(name, UnitVerb::ResetFailed).await?;
    }
    Ok(())
}

fn sysctl(machine: &dyn Machine, name: &str, before: &str) -> anyhow::Result<()> {
    let path = sysctl_path(name);
    match machine.read(&path)? {
        Some(now) if String::from_utf8_lossy(&now).trim() != before => {
            machine.write_in_place(&path, before.as_bytes()).with_context(|| format!("setting {name} back to {before}"))
        }
        _ => Ok(()),
    }
}

/// Where a sysctl is: dots become slashes, and a slash (in a link's name with a dot) becomes a dot, as `sysctl` has it.
pub(crate) fn sysctl_path(name: &str) -> String {
    let swapped: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

async fn link(machine: &dyn Machine, name: &str) -> anyhow::Result<()> {
    let there = || -> anyhow::Result<bool> { Ok(links(machine)?.iter().any(|link| link == name)) };
    if !there()? {
        return Ok(());
    }
    let exit = machine.run(Command::new("ip", ["link", "delete", "dev", name])).await?;
    if !exit.success() && there()? {
        bail!("ip link delete: {}, {name}", String::from_utf8_lossy(&exit.stderr).trim());
    }
    Ok(())
}

/// A containerd that does not run any more, or a `ctr` that is gone, is left as it is: it is not ours.
async fn image(machine: &dyn Machine, name: &str, ctr: &str, address: &str) -> anyhow::Result<()> {
    if machine.meta(address)?.is_none() || machine.meta(ctr)?.is_none() {
        return Ok(());
    }
    // Removing an image that is not there is success for ctr.
    let command = Command::new(ctr, ["--address", address, "--namespace", "k8s.io", "images", "remove", name]);
    let exit = machine.run(command).await?;
    let text = String::from_utf8_lossy(&exit.stderr);
    if !exit.success() && !text.contains("not found") {
        bail!("ctr images remove: {}, {name}", text.trim());
    }
    Ok(())
}

/// Back to where it was; one that is not there any more was taken away by somebody else.
fn moved(machine: &dyn Machine, from: &str, to: &str) -> anyhow::Result<()> {
    if machine.meta(to)?.is_none() {
        return Ok(());
    }
    if machine.meta(from)?.is_some() {
        bail!("another file has come into its place since: remove one of them, {from} or {to}");
    }
    make_parents(machine, from)?;
    machine.rename(to, from)
}

/// A device that is gone has no swap to bring back.
async fn swap(machine: &dyn Machine, device: &str, priority: i32) -> anyhow::Result<()> {
    if machine.meta(device)?.is_none() || swaps(machine)?.iter().any(|swap| swap.device == device) {
        return Ok(());
    }
    let mut command = Command::new("swapon", Vec::<String>::new());
    if priority >= 0 {
        command.args = vec!["-p".to_owned(), priority.to_string()];
    }
    command.args.push(device.to_owned());
    let exit = machine.run(command).await?;
    if !exit.success() {
        bail!("swapon: {}", String::from_utf8_lossy(&exit.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::UnitState;
    use crate::machine::fake::FakeMachine;

    #[tokio::test]
    async fn everything_is_taken_back_and_again_is_success() {
        let machine = FakeMachine::new();
        let before = machine.dump();
        machine.make_dir("/etc/kubernetes", 0o755).unwrap();
        machine.write("/etc/kubernetes/x", b"x", 0o644).unwrap();
        machine.make_dir("/var/lib/kubelet", 0o755).unwrap();
        machine.write("/var/lib/kubelet/grown", b"x", 0o644).unwrap();
        machine.write("/etc/systemd/system/kubelet.service", b"[Unit]", 0o644).unwrap();
        machine.unit_do("kubelet.service", UnitVerb::Enable).await.unwrap();
        machine.unit_do("kubelet.service", UnitVerb::Start).await.unwrap();
        machine.write_in_place("/proc/sys/net/ipv4/ip_forward", b"1").unwrap();
        let made = [
            Made::Dir { path: "/etc/kubernetes".to_owned() },
            Made::File { path: "/etc/kubernetes/x".to_owned() },
            Made::Tree { path: "/var/lib/kubelet".to_owned() },
            Made::File { path: "/etc/systemd/system/kubelet.service".to_owned() },
            Made::Pods,
            Made::Unit { name: "kubelet.service".to_owned() },
            Made::Sysctl { name: "net.ipv4.ip_forward".to_owned(), before: "0".to_owned() },
            Made::Link { name: "cni0".to_owned() },
            Made::Image {
                name: "pause:3".to_owned(),
                ctr: "/usr/bin/ctr".to_owned(),
                address: "/run/c.sock".to_owned(),
            },
            Made::Nothing,
        ];
        for _ in 0..2 {
            for made in made.iter().rev() {
                undo(&machine, made).await.unwrap();
            }
            assert_eq!(machine.dump(), before);
        }
        assert_eq!(
            machine.unit("kubelet.service").await.unwrap(),
            UnitState { load: "not-found".to_owned(), active: "inactive".to_owned(), ..UnitState::default() }
        );
    }

    #[tokio::test]
    async fn a_disk_of_its_own_is_emptied() {
        let machine = FakeMachine::new();
        machine.put("/var/lib/containerd/lost+found/.keep", "");
        let before = machine.dump();
        machine.put("/var/lib/containerd/blobs/x", "x");
        let mode = machine.meta("/var/lib/containerd").unwrap().unwrap().mode;
        machine.chmod("/var/lib/containerd", 0o700).unwrap();
        for _ in 0..2 {
            undo(&machine, &Made::Filled { path: "/var/lib/containerd".to_owned(), mode: Some(mode) }).await.unwrap();
            assert_eq!(machine.dump(), before);
        }
    }

    #[tokio::test]
    async fn a_directory_with_somebody_elses_file_stays() {
        let machine = FakeMachine::new();
        machine.make_dir("/etc/kubernetes", 0o755).unwrap();
        machine.write("/etc/kubernetes/theirs", b"x", 0o644).unwrap();
        undo(&machine, &Made::Dir { path: "/etc/kubernetes".to_owned() }).await.unwrap();
        assert!(machine.meta("/etc/kubernetes/theirs").unwrap().is_some());
    }

    #[test]
    fn sysctls_of_links_with_dots() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.rp_filter"), "/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
    }
}

//! Removing all pods and containers of our containerd, whether it still answers or not.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::Machine;
use crate::machine::Command;

/// Our containerd's socket.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where a shim keeps the running containers of Kubernetes.
const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// Names of the kubelet's top cgroup with either driver.
const CGROUPS: [&str; 2] = ["kubepods", "kubepods.slice"];

/// Stops and removes everything: asks the runtime if it answers, then kills whatever is left, unmounts it, and removes
/// the kubelet's cgroups.
pub(super) async fn remove_all(machine: &dyn Machine) -> anyhow::Result<()> {
    if machine.meta(SOCKET)?.is_some() {
        // Gently first: the runtime takes network and mounts of each pod down. It may be dead or half installed, so
        // what comes after does not rely on it.
        let _ = crictl(machine, &["rmp", "--all", "--force"]).await;
        let _ = crictl(machine, &["rm", "--all", "--force"]).await;
    }
    // A killed process that was a child may be replaced by another one: until a look finds none.
    let mut pause = Duration::from_millis(50);
    loop {
        let mut left = in_cgroups(machine)?;
        left.extend(shims_and_tasks(machine)?);
        if left.is_empty() {
            break;
        }
        if pause > Duration::from_secs(4) {
            bail!("processes of pods cannot be killed: {left:?}");
        }
        kill(machine, &left).await?;
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    machine.remove_tree(TASKS)?;
    remove_cgroups(machine)
}

async fn crictl(machine: &dyn Machine, args: &[&str]) -> anyhow::Result<()> {
    let endpoint = format!("unix://{SOCKET}");
    // Ours, else the one that came with another runtime's packages.
    let own = "/usr/local/bin/crictl";
    let program = if machine.meta(own)?.is_some() { own } else { "crictl" };
    let mut command = Command::new(program, ["--runtime-endpoint", &endpoint, "--timeout", "20s"]);
    command.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    command.timeout = Some(Duration::from_secs(90));
    let exit = machine.run(command).await?;
    if !exit.success() {
        bail!("crictl {}: {}", args.join(" "), String::from_utf8_lossy(&exit.stderr).trim());
    }
    Ok(())
}

/// Processes in any cgroup of the kubelet's.
fn in_cgroups(machine: &dyn Machine) -> anyhow::Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for dir in pod_cgroups(machine)? {
        let procs = machine.read(&format!("{dir}/cgroup.procs")).ok().flatten().unwrap_or_default();
        pids.extend(String::from_utf8_lossy(&procs).lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    // 0: a process of another namespace, which is not ours to name.
    pids.remove(&0);
    Ok(pids)
}

/// All cgroups of the kubelet's in all hierarchies, parents first.
fn pod_cgroups(machine: &dyn Machine) -> anyhow::Result<Vec<String>> {
    let root = "/sys/fs/cgroup";
    let mut tops = vec![root.to_owned()];
    tops.extend(machine.list(root)?.unwrap_or_default().iter().map(|name| format!("{root}/{name}")));
    let mut found = Vec::new();
    for top in tops {
        for name in CGROUPS {
            let mut waiting = vec![format!("{top}/{name}")];
            while let Some(dir) = waiting.pop() {
                // A cgroup may go away while we look.
                let Ok(Some(names)) = machine.list(&dir) else { continue };
                for name in names {
                    let path = format!("{dir}/{name}");
                    if machine.meta(&path)?.is_some_and(|meta| meta.kind == crate::machine::Kind::Dir) {
                        waiting.push(path);
                    }
                }
                found.push(dir);
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Shims of Kubernetes' containers on our socket, and the first process of each container.
fn shims_and_tasks(machine: &dyn Machine) -> anyhow::Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for name in machine.list("/proc")?.unwrap_or_default() {
        let Ok(pid) = name.parse::<u32>() else { continue };
        let Ok(Some(line)) = machine.read(&format!("/proc/{pid}/cmdline")) else { continue };
        let words: Vec<&str> =
            line.split(|byte| *byte == 0).map(|word| std::str::from_utf8(word).unwrap_or("")).collect();
        let program = words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
        let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1).copied();
        if program == "containerd-shim-runc-v2"
            && after("-namespace") == Some("k8s.io")
            && after("-address") == Some(SOCKET)
        {
            pids.insert(pid);
        }
    }
    for task in machine.list(TASKS)?.unwrap_or_default() {
        let Some(text) = machine.read(&format!("{TASKS}/{task}/init.pid"))? else { continue };
        let Ok(pid) = String::from_utf8_lossy(&text).trim().parse::<u32>() else { continue };
        // The number may belong to another process by now: a container's own is in a cgroup named after it.
        let cgroup = machine.read(&format!("/proc/{pid}/cgroup")).ok().flatten().unwrap_or_default();
        if String::from_utf8_lossy(&cgroup).contains(&task) {
            pids.insert(pid);
        }
    }
    Ok(pids)
}

async fn kill(machine: &dyn Machine, pids: &BTreeSet<u32>) -> anyhow::Result<()> {
    // The shell's own: not every machine has the program.
    let mut command = Command::new("/bin/sh", ["-c", "kill -9 \"$@\" 2>/dev/null; true", "sh"]);
    command.args.extend(pids.iter().map(ToString::to_string));
    machine.run(command).await.context("killing processes of pods").map(drop)
}

fn remove_cgroups(machine: &dyn Machine) -> anyhow::Result<()> {
    for dir in pod_cgroups(machine)?.iter().rev() {
        machine.remove_dir(dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Exit;
    use crate::machine::fake::FakeMachine;

    #[tokio::test]
    async fn without_a_runtime_that_answers_everything_is_killed() {
        let machine = FakeMachine::new();
        for dir in ["/run/containerd", "/run/containerd/io.containerd.runtime.v2.task", TASKS, "/sys/fs/cgroup/memory"]
        {
            machine.make_dir(dir, 0o755).unwrap();
        }
        let before = machine.dump();
        for (path, text) in [
            ("/run/containerd/containerd.sock", ""),
            ("/run/containerd/io.containerd.runtime.v2.task/k8s.io/abc/init.pid", "71"),
            ("/proc/71/cgroup", "0::/kubepods/pod1/abc"),
            (
                "/proc/72/cmdline",
                "/usr/local/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-id\0abc\0-address\0/run/containerd/containerd.sock\0",
            ),
            (
                "/proc/73/cmdline",
                "/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0-id\0x\0-address\0/run/docker/containerd.sock\0",
            ),
            ("/sys/fs/cgroup/memory/kubepods/pod1/abc/cgroup.procs", "71\n74\n"),
        ] {
            machine.put(path, text);
        }
        machine.on("/bin/sh", |machine, command| {
            for pid in command.args.iter().skip(3) {
                machine.remove_tree(&format!("/proc/{pid}"))?;
            }
            machine.remove("/sys/fs/cgroup/memory/kubepods/pod1/abc/cgroup.procs")?;
            Ok(Exit::default())
        });
        remove_all(&machine).await.unwrap();
        machine.remove("/run/containerd/containerd.sock").unwrap();
        let asked: Vec<String> = machine.commands().iter().map(|command| command.program.clone()).collect();
        assert!(asked.contains(&"crictl".to_owned()), "{asked:?}");
        assert!(machine.meta("/proc/71").unwrap().is_none() && machine.meta("/proc/72").unwrap().is_none());
        assert!(machine.meta("/proc/73/cmdline").unwrap().is_some(), "somebody else's containers stay");
        machine.remove_tree("/proc/73").unwrap();
        machine.make_dir(TASKS, 0o755).unwrap();
        assert_eq!(machine.dump(), before);
    }
}

//! `kprov up` on the host that most users have: cgroup v2, systemd as PID 1, a kernel with modules, a firewall that drops
//! what is forwarded. A Debian of its own in qemu is that host, and its machines are made in it.
//!
//! It has no way to a Debian mirror, and debootstrap would take half an hour on its processors: the bare base that
//! this host made goes into its cache as it is. All else is done there: the template, the machine, the cluster.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kprov_providers::local::network::PREFIX;

use crate::bare::bring;
use crate::debian;
use crate::host::{Clock, Host};
use crate::image;
use crate::kubectl::{self, wait};
use crate::qemu::Guest;
use crate::remote::Remote;
use crate::tree::Tree;

/// How long anything may take there: emulated processors are about ten times slower.
const SLOW: Duration = Duration::from_secs(900);

/// How often `kprov up` may be typed.
const TRIES: u32 = 4;

/// MiB of memory: the host itself, and a control plane in it.
const MEMORY: u32 = 6144;

/// Docker, ufw and firewalld leave a host like this.
const FIREWALL: &str =
    "nft 'table inet firewall { chain forward { type filter hook forward priority 0; policy drop; }; }'";

/// kprov loads these for machines, and leaves them, with their settings.
const MODULES: &str =
    "modprobe -a br_netfilter nf_conntrack overlay vxlan loop btrfs nft_compat nft_masq nft_chain_nat";

/// A pod with an address of its own that asks a server which is not in the cluster.
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: out}\nspec:\n  containers:\n  - name: probe\n    image: IMAGE\n    \
                   imagePullPolicy: Never\n    command: [/probe, sleep]\n";

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    // A machine of this host is the world outside: it knows no way back to what is in the guest.
    let machines = host.bare("guest-up", &["out"])?;
    let outside = machines.remote("out")?;
    outside.upload(&host.probe, "/root/probe", "755")?;
    outside.run("systemd-run --quiet --setenv=NODE=outside /root/probe serve 80")?;
    let guest = Guest::start(host, &machines, "guest-host-1", &debian::HOST, MEMORY)?;
    let there = guest.remote();
    clock.lap("the guest boots");
    bring(host, there)?;
    bring_base(host, there)?;
    image::write(&host.probe, &host.state("probe.tar"))?;
    there.upload(&host.state("probe.tar"), "/root/probe.tar", "644")?;
    there.run(FIREWALL)?;
    there.run(MODULES)?;
    let before = Tree::there(there, "nft")?;
    clock.lap("kprov, the bundle and the base are there, the guest is looked at");

    up(there)?;
    clock.lap("up");
    let id = there.run("ip -brief link | grep -o 'kpb-[0-9a-f]*' | cut -c5-")?.trim().to_owned();
    machine_of_systemd(there, &id)?;
    clock.lap("its machine is a unit of systemd with a cgroup tree of its own, and so are the pods in it");
    out(there, &machines.address("out")?)?;
    clock.lap("a pod reaches the outside, though FORWARD drops");

    // As the kernel does where memory is short. A newer nspawn leaves a mount then that it refuses to start with.
    there.run(&format!("kill -KILL $(systemctl show -P MainPID {PREFIX}{id}-cp-1.service)"))?;
    there.run("/root/kprov start 2>&1")?;
    there.run("/root/kprov status")?;
    clock.lap("its nspawn is killed; start, all Ready");
    there.run("/root/kprov stop 2>&1")?;
    let units = there.run(&format!("systemctl list-units --all --no-legend '{PREFIX}*'"))?;
    ensure!(units.trim().is_empty(), "stop leaves units:\n{units}");
    ensure!(!there.output("/root/kprov status")?.status.success(), "status of a stopped cluster exits with 0");
    clock.lap("stop");
    there.run("/root/kprov down 2>&1")?;
    clock.lap("down");
    let left =
        there.run("cat /proc/mounts; find /sys/fs/cgroup -type d; ip link; nft list ruleset; ls /run /run/netns")?;
    let left: Vec<&str> = left.lines().filter(|line| line.contains(&id) || line.contains("kprov")).collect();
    ensure!(left.is_empty(), "down leaves:\n{}", left.join("\n"));
    Tree::there(there, "nft")?.same_as(&before).context("the guest after down")?;
    clock.lap("as before");
    Ok(())
}

/// As a person would on a host too slow for Kubernetes' own time limits (an API server has four minutes): the same
/// command again goes on where the last one ended.
fn up(there: &Remote) -> anyhow::Result<()> {
    let mut said = String::new();
    for _ in 0..TRIES {
        let output = there.output("/root/kprov up --workers 0 2>&1")?;
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}");
        if output.status.success() {
            return Ok(());
        }
    }
    bail!("up does not come to an end in {TRIES} tries; the last one said:\n{said}")
}

/// This host's bare base into the guest's cache, in the form that the guest's own store has: a subvolume in a btrfs
/// file. kprov there takes it as one that it made itself.
fn bring_base(host: &Host, there: &Remote) -> anyhow::Result<()> {
    let (name, tree) = host.base()?;
    let archive = host.state("base.tar.gz");
    let output = Command::new("tar").arg("-C").arg(&tree).arg("-czf").arg(&archive).arg(".").output()?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    there.upload(&archive, "/root/base.tar.gz", "600")?;
    there.run(&format!(
        "set -e; mkdir -p /root/.cache/kprov/local/store; cd /root/.cache/kprov/local; echo loop >store.kind\n\
         truncate -s 12G store.btrfs; mkfs.btrfs --quiet store.btrfs; mount -o loop store.btrfs store\n\
         mkdir store/templates store/machines; btrfs -q subvolume create store/templates/{name}\n\
         tar -C store/templates/{name} -xzf /root/base.tar.gz; umount store; rm /root/base.tar.gz"
    ))?;
    Ok(())
}

/// The machine runs as a transient service to which systemd has handed its part of the cgroup tree; the systemd in it
/// manages that as its own, down to the pods' scopes.
fn machine_of_systemd(there: &Remote, id: &str) -> anyhow::Result<()> {
    let unit = format!("{PREFIX}{id}-cp-1.service");
    let shown = there.run(&format!("systemctl show -P Transient -P Delegate -P ActiveState -P ControlGroup {unit}"))?;
    let group = format!("/system.slice/{unit}");
    for wanted in ["yes\nyes", "active", group.as_str()] {
        ensure!(shown.contains(wanted), "no {wanted:?} in what systemd says of {unit}:\n{shown}");
    }
    let inside = |command: &str| there.run(&format!("/root/kprov ssh cp-1 -- {command}"));
    let kind = inside("stat -fc %T /sys/fs/cgroup")?;
    ensure!(kind.trim() == "cgroup2fs", "the machine has {kind}");
    let init = inside("cat /proc/1/cgroup")?;
    ensure!(init.trim() == "0::/init.scope", "the machine's tree is not its own: {init}");
    let controllers = inside("cat /sys/fs/cgroup/cgroup.controllers")?;
    for wanted in ["cpuset", "cpu", "memory", "pids"] {
        ensure!(controllers.split_whitespace().any(|name| name == wanted), "no controller {wanted}: {controllers}");
    }
    for (file, wanted) in [
        ("/var/lib/kubelet/config.yaml", "cgroupDriver: systemd"),
        ("/etc/containerd/config.toml", "SystemdCgroup = true"),
    ] {
        ensure!(inside(&format!("cat {file}"))?.contains(wanted), "no {wanted} in {file}");
    }
    let active = inside("systemctl is-active kubepods.slice")?;
    ensure!(active.trim() == "active", "kubepods.slice is {active}");
    let pods = there.run(&format!("find /sys/fs/cgroup{group} -name '*.scope' -path '*/payload/kubepods.slice/*'"))?;
    ensure!(pods.lines().count() > 5, "pods' cgroups below the machine's:\n{pods}");
    println!("  {} scopes of pods below {group}/payload/kubepods.slice", pods.lines().count());
    Ok(())
}

/// From a pod to a server outside, which answers only because the guest puts its own address on the packets.
fn out(there: &Remote, address: &str) -> anyhow::Result<()> {
    there.run("/root/kprov image load /root/probe.tar 2>&1")?;
    let pod = POD.replace("IMAGE", image::NAME);
    there.run(&format!("cat >/root/pod.yaml <<'EOF'\n{pod}EOF\n/root/kprov kubectl -- apply -f /root/pod.yaml"))?;
    wait(SLOW, || {
        let pod = there.run("/root/kprov kubectl -- get pod out -o json")?;
        let pod = serde_json::from_str(&pod)?;
        ensure!(kubectl::ready(&pod), "not Ready: {}", pod["status"]);
        Ok(())
    })?;
    wait(Duration::from_secs(120), || {
        let said = there.run(&format!("/root/kprov kubectl -- exec out -- /probe get {address}:80"))?;
        ensure!(said.trim() == "from outside", "answered: {said}");
        Ok(())
    })
}

//! A Debian of its own in qemu: cgroup v2, systemd as PID 1, a kernel with modules, swap of its own, systemd-networkd. It
//! joins the cluster of a machine of this host with `--fix`, runs pods, is restarted, and is reset.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::bare::{LOAD, bring, network, workload};
use crate::debian;
use crate::host::{Clock, Host};
use crate::kubectl::{Kubectl, ready, wait};
use crate::qemu::Guest;
use crate::remote::Remote;
use crate::tree::Tree;

/// How long anything may take there: emulated processors are about ten times slower.
const SLOW: Duration = Duration::from_secs(900);

/// MiB of memory: what a small worker has.
const MEMORY: u32 = 3072;

/// nft with its libraries, brought there to look at the packet filter: a bare Debian has none.
const NFT: &str = "/root/nft/loader --library-path /root/nft /root/nft/nft";

/// What another tool left, which containerd would take for the pods' network before flannel's.
const STALE: &str = "/etc/cni/net.d/05-old.conflist";

/// The scenario.
pub fn joins(host: &Host) -> anyhow::Result<()> {
    let mut clock = Clock::new();
    let machines = host.bare("guest", &["cp-1"])?;
    let cp = machines.remote("cp-1")?;
    let mut guest = Guest::start(host, &machines, "guest-worker-1", &debian::BARE, MEMORY)?;
    let worker = guest.remote().clone();
    clock.lap("the guest boots");
    for machine in [&cp, &worker] {
        bring(host, machine)?;
    }
    bring_nft(host, &worker)?;
    // Modules stay loaded after a reset, and with them their settings: those are to be the kernel's own again.
    worker.run("modprobe -a br_netfilter nf_conntrack")?;
    worker.run(&format!(
        "fallocate -l 64M /swapfile && chmod 600 /swapfile && mkswap /swapfile >/dev/null && swapon /swapfile && \
         mkdir -p /etc/cni/net.d && echo '{{}}' > {STALE}"
    ))?;
    let before = Tree::there(&worker, NFT)?;
    worker.run("modprobe -r br_netfilter nf_conntrack")?;
    clock.lap("kprov and the bundle are there, the guest is looked at");

    let joining = cp.run("/root/kprov init 2>&1")?;
    let line = joining.lines().find_map(|line| line.trim().strip_prefix("kprov join ")).context("no join line")?;
    clock.lap("init");
    fixed_join(&worker, line)?;
    clock.lap("join --fix");
    let kubectl = Kubectl(cp.clone());
    kubectl.wait_all_ready(2, SLOW)?;
    clock.lap("all nodes and system pods Ready");

    let nodes = (machines.hostname("cp-1"), guest.hostname().to_owned());
    let addresses = (machines.address("cp-1")?, guest.address());
    workload(host, &kubectl, &[(&cp, LOAD), (&worker, LOAD)], &nodes, SLOW, true)?;
    clock.lap("pods run");
    network(&kubectl, &nodes, &addresses, SLOW, true)?;
    from_the_host(host, &kubectl, &nodes.1)?;
    clock.lap("DNS, ClusterIP, NodePort and hostPort across nodes");
    systemd_driver(&kubectl, &worker, &nodes.1)?;
    clock.lap("cgroup v2, managed by systemd");

    guest.reboot()?;
    clock.lap("the guest restarts");
    wait(SLOW, || {
        let pod = kubectl.get("pod web-worker")?;
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        ensure!(ready(&pod) && restarts >= Some(1), "web-worker is not Ready again: {}", pod["status"]);
        Ok(())
    })?;
    kubectl.wait_all_ready(2, SLOW)?;
    network(&kubectl, &nodes, &addresses, SLOW, true)?;
    clock.lap("its pods are back");

    println!("{}", worker.run("/root/kprov reset --force 2>&1")?);
    ensure!(swap_is_on(&worker)?, "reset has not turned swap on again");
    clock.lap("reset");
    let swaps = [("hash /swapfile*", "the kernel swaps into it")];
    Tree::there(&worker, NFT)?.same_but(&before, &swaps).context("the guest after its reset")?;
    clock.lap("as before");
    Ok(())
}

/// Joins with `--fix`: without consent it lists what it would mend and changes nothing.
fn fixed_join(worker: &Remote, line: &str) -> anyhow::Result<()> {
    let asked = worker.output(&format!("/root/kprov join {line} --fix 2>&1 </dev/null"))?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    ensure!(asked.status.code() == Some(2), "join --fix without consent: {}\n{said}", asked.status);
    ensure!(said.contains("/swapfile") && said.contains(STALE), "join --fix does not list what it mends:\n{said}");
    ensure!(swap_is_on(worker)? && worker.run(&format!("cat {STALE}"))?.trim() == "{}", "changed without consent");

    println!("{}", worker.run(&format!("/root/kprov join {line} --fix --yes 2>&1"))?);
    ensure!(!swap_is_on(worker)?, "join --fix has not turned swap off");
    worker.run(&format!("test ! -e {STALE}")).context("join --fix has not moved the stale CNI configuration away")?;
    Ok(())
}

/// The kernel itself says whether it swaps.
fn swap_is_on(worker: &Remote) -> anyhow::Result<bool> {
    Ok(worker.run("cat /proc/swaps")?.contains("/swapfile"))
}

/// The Service of the guest's pod answers on the control plane's own host, not only in pods.
fn from_the_host(host: &Host, kubectl: &Kubectl, node: &str) -> anyhow::Result<()> {
    kubectl.0.upload(&host.probe, "/root/probe", "755")?;
    let service = kubectl.get("service web-worker")?;
    let address = service["spec"]["clusterIP"].as_str().context("no ClusterIP")?;
    wait(Duration::from_secs(60), || {
        let page = kubectl.0.run(&format!("/root/probe get {address}:80"))?;
        ensure!(page.trim() == format!("from {node}"), "answered: {page}");
        Ok(())
    })
}

/// What the cluster was told by a host with cgroup v1 is corrected on a node with cgroup v2, and in effect there.
fn systemd_driver(kubectl: &Kubectl, worker: &Remote, node: &str) -> anyhow::Result<()> {
    let kind = worker.run("stat -fc %T /sys/fs/cgroup")?;
    ensure!(kind.trim() == "cgroup2fs", "the guest has {kind}");
    let cluster = kubectl.run("-n kube-system get configmap kubelet-config -o jsonpath={.data.kubelet}")?;
    let driver = |text: &str| text.lines().find_map(|line| Some(line.strip_prefix("cgroupDriver:")?.trim().to_owned()));
    println!("  the cluster's kubelet-config: cgroupDriver {:?}", driver(&cluster));
    let own = worker.run("cat /var/lib/kubelet/config.yaml")?;
    ensure!(driver(&own).as_deref() == Some("systemd"), "the kubelet's own configuration:\n{own}");
    let containerd = worker.run("cat /etc/containerd/config.toml")?;
    ensure!(containerd.contains("SystemdCgroup = true"), "containerd's configuration:\n{containerd}");

    let group = worker.run("cat $(dirname $(grep -lzx 'serv[e]' /proc/[0-9]*/cmdline))/cgroup")?;
    let inside = group.trim().strip_prefix("0::/kubepods.slice/").is_some_and(|rest| rest.ends_with(".scope"));
    ensure!(inside, "the pod's cgroup is {group:?}");
    let scope = group.trim().rsplit('/').next().unwrap_or_default();
    let state = worker.run(&format!("systemctl is-active kubepods.slice {scope}"))?;
    ensure!(state.lines().all(|line| line == "active"), "systemd says of kubepods.slice and {scope}: {state}");

    let info = &kubectl.get(&format!("node {node}"))?["status"]["nodeInfo"];
    println!(
        "  {}, Linux {}, {}, {}",
        info["osImage"], info["kernelVersion"], info["containerRuntimeVersion"], info["kubeletVersion"]
    );
    Ok(())
}

/// This host's nft with all that it is linked to.
fn bring_nft(host: &Host, worker: &Remote) -> anyhow::Result<()> {
    let nft = Command::new("sh").args(["-c", "command -v nft"]).output()?;
    let nft = PathBuf::from(String::from_utf8_lossy(&nft.stdout).trim());
    let linked = Command::new("ldd").arg(&nft).output().context("running ldd")?;
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    let archive = host.state("nft.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive)?);
    tar.append_path_with_name(&nft, "nft/nft")?;
    for path in linked.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let name = if name.starts_with("ld-") { "loader" } else { name };
        tar.append_path_with_name(std::fs::canonicalize(path)?, format!("nft/{name}"))?;
    }
    tar.into_inner()?.sync_all()?;
    worker.upload(&archive, "/root/nft.tar", "644")?;
    worker.run(&format!("tar -C /root -xf /root/nft.tar && {NFT} list ruleset"))?;
    Ok(())
}

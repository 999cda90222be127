//! Odd hosts: one bare machine that is made odd in one way after the other. `kprov init --dry-run` must say it in one
//! message, and the command that this message names must mend it: it is run as printed, where it is one that a test can run.
//! docs/hosts.md is the table.

use anyhow::{Context, ensure};

use crate::bare::bring;
use crate::host::{Clock, Host};
use crate::remote::Remote;
use crate::tree::Tree;

/// A way to be odd.
struct Odd {
    /// What it is.
    name: &'static str,
    /// Makes the machine so.
    make: &'static str,
    /// Flags of the `init --dry-run` that finds it.
    flags: &'static str,
    /// Part of what it says.
    says: &'static str,
    /// Part of the command that it says mends it; empty where that cannot be run as printed.
    mend: &'static str,
    /// True where it stops init.
    stops: bool,
    /// Makes the machine ordinary again, whatever has been mended of it.
    undo: &'static str,
}

const ODD: &[Odd] = &[
    Odd {
        name: "a host name of 64 characters",
        make: "hostname >/root/name; hostname $(printf 'n%.0s' $(seq 64))",
        flags: "",
        says: "it has 64 characters, and its label kubernetes.io/hostname takes 63",
        mend: "",
        stops: true,
        undo: "hostname $(cat /root/name)",
    },
    Odd {
        name: "no default route",
        make: "ip route show default >/root/route; ip route del default",
        flags: "--apiserver-advertise-address ADDRESS",
        says: "[DefaultRoute] this machine has no default route, by which the kubelet and flannel find its address",
        mend: "ip route add default dev eth0",
        stops: true,
        undo: "ip route del default; ip route add $(cat /root/route)",
    },
    Odd {
        name: "several default routes",
        make: "ip link add odd0 type veth peer name odd1; ip link set odd0 up; ip link set odd1 up
            ip address add 198.51.100.2/24 dev odd0; ip route add default via 198.51.100.1 dev odd0 metric 500",
        flags: "",
        says: "[DefaultRoute] this machine has default routes by several links (eth0, odd0): others reach it at ADDRESS",
        mend: "ip route del default dev eth0",
        stops: false,
        undo: "ip link delete odd0; ip route add $(cat /root/route)",
    },
    Odd {
        name: "a resolver on loopback beside a real one",
        make: "mv /etc/resolv.conf /root/ 2>/dev/null
            printf 'nameserver 127.0.0.1\\nnameserver 192.0.2.53\\n' >/etc/resolv.conf",
        flags: "",
        says: "[Resolvers] /etc/resolv.conf names loopback beside real resolvers",
        mend: "sed -i",
        stops: true,
        undo: "rm /etc/resolv.conf; mv /root/resolv.conf /etc/ 2>/dev/null; true",
    },
    Odd {
        name: "read-only /usr",
        make: "mount --bind /usr /usr; mount -o remount,bind,ro /usr",
        flags: "",
        says: "[ReadOnly--usr] the file system at /usr is read-only",
        mend: "mount -o remount,rw /usr",
        stops: true,
        // Programs that were started meanwhile hold it.
        undo: "umount -l /usr",
    },
    Odd {
        name: "a port that is taken",
        make: "printf '[Service]\\nExecStart=/usr/bin/systemd-socket-activate -l 6443 /bin/cat\\n' \
                >/etc/systemd/system/squatter.service
            systemctl daemon-reload; systemctl start squatter; until ss -ltn | grep -q :6443; do sleep 0.05; done",
        flags: "",
        says: "[Port-6443] port 6443 is held by systemd-socket-activate (process ",
        mend: "systemctl disable --now squatter.service",
        stops: true,
        undo: "rm /etc/systemd/system/squatter.service; systemctl daemon-reload",
    },
    Odd {
        name: "two runtimes",
        make: "mkdir -p /run/crio /run/containerd
            for at in crio/crio containerd/containerd; do
                setsid systemd-socket-activate -l /run/$at.sock /bin/cat >/dev/null 2>&1 </dev/null &
                echo $! >>/root/pids; until [ -S /run/$at.sock ]; do sleep 0.05; done
            done",
        flags: "",
        says: "[CRI] container runtimes run already, choose one of them: unix:///run/containerd/containerd.sock, \
            unix:///run/crio/crio.sock",
        mend: "",
        stops: true,
        undo: "kill $(cat /root/pids); rm -r /run/crio /run/containerd /root/pids",
    },
    Odd {
        name: "k3s",
        make: "mkdir -p /var/lib/rancher/k3s/agent; cd /usr/local/bin; touch k3s
            for name in kubectl crictl ctr; do ln -s k3s $name; done
            printf '#!/bin/sh\\ncd /usr/local/bin && rm -rf k3s kubectl crictl ctr k3s-uninstall.sh /var/lib/rancher\\n' \
                >k3s-uninstall.sh; chmod +x k3s-uninstall.sh",
        flags: "",
        says: "[OtherKubernetes] k3s is installed here",
        mend: "/usr/local/bin/k3s-uninstall.sh",
        stops: true,
        undo: "true",
    },
    Odd {
        name: "what an older kubeadm left",
        make: "mkdir -p /etc/kubernetes/manifests /var/lib/etcd/member /var/lib/kubelet
            touch /etc/kubernetes/manifests/etcd.yaml /etc/kubernetes/kubelet.conf /var/lib/kubelet/config.yaml
            touch /var/lib/etcd/member/x; ip link add cni0 type bridge",
        flags: "",
        says: "[FileAvailable--etc-kubernetes-manifests-etcd.yaml] there is one already, from another cluster or tool",
        mend: "kprov reset --force",
        stops: true,
        undo: "rm -rf /etc/kubernetes /var/lib/etcd /var/lib/kubelet",
    },
    Odd {
        name: "keys of an older cluster",
        make: "mkdir -p /etc/kubernetes/pki; echo '-----BEGIN' >/etc/kubernetes/pki/ca.crt",
        flags: "",
        says: "write /etc/kubernetes/pki/ca.crt and its key: ",
        mend: "mv /etc/kubernetes /etc/kubernetes.old",
        stops: true,
        undo: "rm -r /etc/kubernetes.old",
    },
    Odd {
        name: "swap of the host",
        make: "printf 'Filename Type Size Used Priority\\n/dev/none partition 1 0 -2\\n' >/root/swaps
            mount --bind /root/swaps /proc/swaps",
        flags: "",
        says: "[Swap] swap is on (/dev/none)",
        mend: "",
        stops: false,
        undo: "umount /proc/swaps",
    },
];

/// The scenario.
pub fn run(host: &Host) -> anyhow::Result<()> {
    let machines = host.bare("odd", &["cp-1"])?;
    let (machine, address) = (machines.remote("cp-1")?, machines.address("cp-1")?);
    bring(host, &machine)?;
    // Typed as it is printed.
    machine.run("ln -s /root/kprov /usr/local/sbin/kprov")?;
    let before = Tree::of(&machine, &address)?;
    let mut clock = Clock::new();
    said(&machine, "", 0).context("an ordinary machine")?;
    for odd in ODD {
        trial(&machine, odd, &address).with_context(|| odd.name)?;
    }
    Tree::of(&machine, &address)?.same_as(&before).context("after all of these")?;
    clock.lap(&format!("{} odd hosts, told and mended", ODD.len()));
    mended(&machine, &address)?;
    clock.lap("--fix on a host whose name has capitals: asked for, killed, run again, taken back");
    machines.destroy()
}

/// What `init --dry-run` says, when it ends with this code.
fn said(machine: &Remote, flags: &str, code: i32) -> anyhow::Result<String> {
    let output = machine.output(&format!("kprov init --dry-run {flags} 2>&1"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(code), "init --dry-run {flags}: {}, not {code}\n{said}", output.status);
    Ok(said)
}

fn trial(machine: &Remote, odd: &Odd, address: &str) -> anyhow::Result<()> {
    let own = |text: &str| text.replace("ADDRESS", address);
    let (flags, says) = (own(odd.flags), own(odd.says));
    machine.run(odd.make)?;
    let found = said(machine, &flags, i32::from(odd.stops))?;
    ensure!(found.matches(&says).count() == 1, "{says:?} is not said once:\n{found}");
    let mut after = found.split(&says).nth(1).unwrap_or_default().lines().map(str::trim);
    let mend =
        after.find_map(|line| ["mend with: ", "= hint: ", "hint: "].iter().find_map(|word| line.strip_prefix(word)));
    let mend = mend.with_context(|| format!("nothing mends it:\n{found}"))?;
    if !odd.mend.is_empty() {
        ensure!(mend.contains(odd.mend), "it says that {mend:?} mends it, and not {:?}", odd.mend);
        // Words before a command say when it is the right one.
        let command = mend.strip_prefix("if ").and_then(|words| Some(words.split_once(": ")?.1)).unwrap_or(mend);
        machine.run(command)?;
        let again = said(machine, &flags, 0)?;
        ensure!(!again.contains(&says), "{mend:?} mends nothing:\n{again}");
    }
    machine.run(odd.undo).map(drop)
}

/// A stale CNI configuration is moved away when that is agreed to, and comes back with a reset. Capitals in the host's
/// name are no fault: the node's name has none.
fn mended(machine: &Remote, address: &str) -> anyhow::Result<()> {
    const STALE: &str = "/etc/cni/net.d/05-stale.conflist";
    machine.run(&format!("mkdir -p /etc/cni/net.d; echo '{{}}' >{STALE}; hostname Odd-1"))?;
    let before = Tree::of(machine, address)?;
    let refused = said(machine, "", 1)?;
    ensure!(refused.contains("[CNIConfig]") && refused.contains("or let kprov do it: --fix"), "{refused}");
    let asked = machine.output("kprov init --fix 2>&1 </dev/null")?;
    let text = String::from_utf8_lossy(&asked.stdout);
    let listed = text.contains(&format!("move {STALE} to /etc/cni/net.d.before-kprov/05-stale.conflist"))
        && text.contains("write /etc/sysctl.d/99-kprov.conf");
    ensure!(asked.status.code() == Some(2) && listed && text.contains("--yes"), "{}\n{text}", asked.status);
    // On a terminal it asks; the answer is no.
    let asked = machine.output("echo n | script -qec 'kprov init --fix' /dev/null")?;
    let text = String::from_utf8_lossy(&asked.stdout);
    let listed = text.contains(&format!("move {STALE} to ")) && text.contains("not confirmed, nothing was changed");
    ensure!(asked.status.code() == Some(1) && listed, "{}\n{text}", asked.status);
    let shown = said(machine, "--fix", 0)?;
    ensure!(shown.contains(&format!("[preflight] move {STALE}")), "{shown}");
    Tree::of(machine, address)?.same_as(&before).context("nothing was agreed to")?;

    // The answer is yes; killed once it has mended. What is left of the terminal's input ends with it.
    machine.run(
        "( { echo y; sleep 30; } | script -qec 'kprov init --fix' /dev/null ) >/dev/null 2>&1 </dev/null &
        for n in $(seq 400); do test -e /etc/cni/net.d.before-kprov/05-stale.conflist && break; sleep 0.05; done
        pkill -9 -x kprov; pkill -x sleep; test -e /etc/cni/net.d.before-kprov/05-stale.conflist",
    )?;
    machine.run("kprov init --fix --yes 2>&1")?;
    machine.run(&format!("! test -e {STALE}"))?;
    let nodes = machine.run("kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes -o name")?;
    ensure!(nodes.trim() == "node/odd-1", "{nodes}");
    let again = machine.run("kprov init --fix 2>&1 </dev/null")?;
    ensure!(again.contains("nothing to do"), "{again}");
    machine.run("kprov reset --force 2>&1")?;
    Tree::of(machine, address)?.same_as(&before).context("after its reset")
}

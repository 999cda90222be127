//! Routes, addresses, resolvers, ports.

use super::*;
use crate::cluster::flags::CommonFlags;

#[tokio::test]
async fn several_default_routes() {
    let other = "wlan0\t00000000\t010A000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
    let wanted = "warning [DefaultRoute] this machine has default routes by several links (eth0, wlan0): others reach it at \
        192.0.2.10 => if that is the wrong one: ip route del default dev eth0";
    assert_eq!(said(|m| m.put("/proc/net/route", format!("{ROUTES}{DEFAULT}{other}"))).await, [wanted]);
    // Two routers of one link are no question.
    assert_eq!(said(|m| m.put("/proc/net/route", format!("{ROUTES}{DEFAULT}{DEFAULT}"))).await, NOTHING);
}

#[tokio::test]
async fn no_default_route() {
    let machine = ordinary();
    machine.put("/proc/net/route", ROUTES);
    assert_eq!(
        init_on(&machine, InitFlags::default(), None, now()).await,
        ["this machine has no default route, so it is not known at which address others reach it => \
          ip route add default dev LINK, which flannel needs too; or --apiserver-advertise-address 192.0.2.10"]
    );
    let address = || InitFlags { apiserver_advertise_address: Some("192.0.2.10".to_owned()), ..InitFlags::default() };
    assert_eq!(
        init_on(&machine, address(), None, now()).await,
        [
            "error [DefaultRoute] this machine has no default route, by which the kubelet and flannel find its address => \
          ip route add default dev eth0"
        ]
    );
    assert_eq!(
        join_on(&machine, "192.0.2.1:6443").await,
        ["error [DefaultRoute] this machine has no default route, by which the kubelet and the pod network find its \
          address => ip route add default dev eth0"]
    );
}

/// fd00::10 on eth0, with a default route, and no IPv4.
fn v6_alone(machine: &FakeMachine) {
    let zero = "0".repeat(32);
    let rest = format!("{zero} 00 {zero} 00000100 00000001 00000000");
    machine.put("/proc/net/fib_trie", "");
    machine.put("/proc/net/route", "Iface\n");
    machine.put("/proc/net/if_inet6", "fd000000000000000000000000000010 02 40 00 80     eth0\n");
    machine.put(
        "/proc/net/ipv6_route",
        format!("fd{} 40 {rest} 00000001     eth0\n{zero} 00 {rest} 00000003     eth0\n", "0".repeat(30)),
    );
}

#[tokio::test]
async fn a_host_with_ipv6_alone() {
    let machine = ordinary();
    v6_alone(&machine);
    assert_eq!(
        init_on(&machine, InitFlags::default(), None, now()).await,
        [
            "fd00::10 is of another family than the first service subnet 10.96.0.0/12; the API server does not start so => \
          on a machine with IPv6 alone: --service-cidr fd00:10:96::/112"
        ]
    );
    let flags = InitFlags { service_cidr: Some("fd00:10:96::/112".to_owned()), ..InitFlags::default() };
    assert_eq!(init_on(&machine, flags, None, now()).await, NOTHING);
    assert_eq!(join_on(&machine, "[fd00::1]:6443").await, NOTHING);
    assert_eq!(
        join_on(&machine, "192.0.2.1:6443").await,
        ["error [Network] the control plane is at 192.0.2.1, and this machine has no IPv4 address => \
          ip address add ADDRESS/24 dev LINK"]
    );
}

#[tokio::test]
async fn an_endpoint_with_ipv6_alone() {
    assert_eq!(
        join_on(&ordinary(), "[fd00::1]:6443").await,
        ["error [Network] the control plane is at fd00::1, and this machine has no IPv6 address => \
          ip -6 address add ADDRESS/64 dev LINK"]
    );
}

#[tokio::test]
async fn a_resolver_on_loopback() {
    let only = |m: &FakeMachine| m.put("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    let wanted = "error [Resolvers] /etc/resolv.conf names only loopback, where CoreDNS would ask itself: pods need the real \
        resolvers => echo 'nameserver ADDRESS' > /etc/kubelet-resolv.conf, and --config FILE with a KubeletConfiguration \
        that has resolvConf: /etc/kubelet-resolv.conf";
    assert_eq!(said(only).await, [wanted]);
    let machine = ordinary();
    only(&machine);
    assert_eq!(join_on(&machine, "192.0.2.1:6443").await, [wanted]);
    // What it says mends it.
    let config = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n---\n\
        apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nresolvConf: /etc/kubelet-resolv.conf\n";
    let flags = || InitFlags {
        common: CommonFlags { config: Some("c.yaml".into()), ..CommonFlags::default() },
        ..InitFlags::default()
    };
    assert_eq!(init_on(&machine, flags(), Some(config), now()).await, NOTHING);

    let wanted = r"error [Resolvers] /etc/resolv.conf names loopback beside real resolvers: CoreDNS would ask itself now and then => sed -i '/^nameserver *\(127\.\|::1\)/d' /etc/resolv.conf";
    assert_eq!(said(|m| m.put("/etc/resolv.conf", "nameserver ::1\nnameserver 192.0.2.1\n")).await, [wanted]);
    assert_eq!(
        said(|m| m.put("/etc/resolv.conf", "")).await,
        ["warning [Resolvers] /etc/resolv.conf names no resolver: pods resolve names of the cluster only => \
          echo 'nameserver ADDRESS' >> /etc/resolv.conf"]
    );
    // NetworkManager knows the real ones.
    let network_manager = |m: &FakeMachine| {
        only(m);
        m.put("/run/NetworkManager/no-stub-resolv.conf", "nameserver 192.0.2.1\n");
    };
    assert_eq!(said(network_manager).await, NOTHING);
}

/// Port 6443 is listened on by a process.
pub(super) fn listens(machine: &FakeMachine, pid: u32, program: &str, cgroup: &str) {
    machine.put("/proc/net/tcp", format!("{TCP}0: 00000000:192B 00000000:0000 0A 0:0 0:0 0 0 0 4711 1 0 100\n"));
    machine.put(&format!("/proc/{pid}/cmdline"), format!("{program}\0-x\0"));
    machine.put(&format!("/proc/{pid}/cgroup"), cgroup);
    machine.put(&format!("/proc/{pid}/fd/.keep"), "");
    machine.link(&format!("/proc/{pid}/fd/3"), "socket:[4711]").unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken() {
    for (pid, program, cgroup, wanted) in [
        (
            77,
            "/usr/sbin/nginx",
            "0::/system.slice/nginx.service\n",
            "held by nginx (process 77 of nginx.service) => systemctl disable --now nginx.service",
        ),
        (77, "/home/me/server", "0::/user.slice/session-1.scope\n", "held by server (process 77) => kill 77"),
        (
            77,
            "kube-apiserver",
            "0::/kubepods/pod1/a\n",
            "held by kube-apiserver of another cluster (process 77) => kprov reset --force",
        ),
        (
            1,
            "/sbin/init",
            "0::/init.scope\n",
            "held by systemd, for a unit that it starts on demand => \
             systemctl list-sockets | grep ':6443 ', then systemctl disable --now UNIT",
        ),
    ] {
        let found = said(|m| listens(m, pid, program, cgroup)).await;
        assert_eq!(found, [format!("error [Port-6443] port 6443 is {wanted}")]);
    }
}

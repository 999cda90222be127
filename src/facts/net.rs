//! Addresses and routes, read from the kernel's tables below /proc/net: no tool is needed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kprov_providers::Machine;

/// Links that a pod network or a container engine makes: their addresses are never the node's.
const POD_LINKS: [&str; 9] =
    ["cni", "flannel", "docker", "br-", "virbr", "kube-ipvs", "nodelocaldns", "cali", "cilium"];

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Destination; a prefix of length 0 is a default route.
    pub(crate) to: IpNet,
    /// Interface that it leaves by.
    pub(crate) link: String,
}

impl Route {
    /// True for 0.0.0.0/0 and ::/0.
    pub(crate) fn is_default(&self) -> bool {
        self.to.prefix_len() == 0
    }
}

/// True for a link that belongs to a pod network or a container engine.
pub(crate) fn is_pod_link(name: &str) -> bool {
    POD_LINKS.iter().any(|prefix| name.starts_with(prefix)) || name.starts_with("veth")
}

/// All unicast routes of the machine, both families; none of loopback, link-local or multicast.
///
/// # Errors
/// When /proc cannot be read.
pub(crate) fn routes(machine: &dyn Machine) -> anyhow::Result<Vec<Route>> {
    let mut all = routes_v4(&text(machine, "/proc/net/route")?);
    all.extend(routes_v6(&text(machine, "/proc/net/ipv6_route")?));
    Ok(all)
}

/// The machine's addresses, those on links with a default route first; no loopback, no link-local, none of pod networks.
///
/// # Errors
/// When /proc cannot be read.
pub(crate) fn addresses(machine: &dyn Machine, routes: &[Route]) -> anyhow::Result<Vec<IpAddr>> {
    let defaults: BTreeSet<&str> = routes.iter().filter(|r| r.is_default()).map(|r| r.link.as_str()).collect();
    let v4 = locals_v4(&text(machine, "/proc/net/fib_trie")?).into_iter().map(|address| {
        let address = IpAddr::V4(address);
        // The kernel lists local IPv4 addresses without their link: the connected route tells it.
        let link = routes
            .iter()
            .filter(|r| !r.is_default() && r.to.contains(&address))
            .max_by_key(|r| r.to.prefix_len())
            .map(|r| r.link.clone());
        (address, link)
    });
    let v6 = locals_v6(&text(machine, "/proc/net/if_inet6")?)
        .into_iter()
        .map(|(address, link)| (IpAddr::V6(address), Some(link)));
    let flannel = text(machine, "/run/flannel/subnet.env")?;
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for (address, link) in v4.chain(v6) {
        match link {
            Some(link) if is_pod_link(&link) => {}
            // flannel's link has the first address of this node's pods, without a route to them: that comes with the
            // first pod's bridge.
            None if is_flannels(address, &flannel) => {}
            Some(link) if defaults.contains(link.as_str()) => first.push(address),
            _ => rest.push(address),
        }
    }
    first.extend(rest);
    Ok(first)
}

/// True for an address in the network that flannel's `subnet.env` names: `FLANNEL_NETWORK=10.244.0.0/16`.
fn is_flannels(address: IpAddr, env: &str) -> bool {
    let networks = env.lines().filter_map(|line| line.strip_prefix("FLANNEL_NETWORK="));
    let mut networks = networks.flat_map(|nets| nets.split(',')).filter_map(|net| net.trim().parse::<IpNet>().ok());
    networks.any(|net| net.contains(&address))
}

/// Name servers of a resolv.conf, in its order, without a zone.
pub(crate) fn nameservers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(|word| word.split('%').next().and_then(|word| word.parse().ok()))
        .collect()
}

/// A file below /proc as text; what is not there is empty (IPv6 may be off).
pub(crate) fn text(machine: &dyn Machine, path: &str) -> anyhow::Result<String> {
    Ok(machine.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
}

fn routes_v4(table: &str) -> Vec<Route> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (link, to, flags, mask) = (*words.first()?, *words.get(1)?, *words.get(3)?, *words.get(7)?);
            let flags = u32::from_str_radix(flags, 16).ok()?;
            // RTF_UP set, RTF_REJECT not.
            if flags & 0x1 == 0 || flags & 0x200 != 0 || link == "lo" {
                return None;
            }
            let net = Ipv4Net::with_netmask(v4(to)?, v4(mask)?).ok()?;
            let skip = net.addr().is_link_local() || net.addr().is_multicast() || net.addr().is_loopback();
            (!skip).then(|| Route { to: IpNet::V4(net.trunc()), link: link.to_owned() })
        })
        .collect()
}

fn routes_v6(table: &str) -> Vec<Route> {
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (to, prefix, flags, link) = (*words.first()?, *words.get(1)?, *words.get(8)?, *words.get(9)?);
            let flags = u32::from_str_radix(flags, 16).ok()?;
            // RTF_UP set; neither RTF_REJECT, RTF_ANYCAST nor RTF_LOCAL.
            if flags & 0x1 == 0 || flags & (0x200 | 0x10_0000 | 0x8000_0000) != 0 || link == "lo" {
                return None;
            }
            let to = Ipv6Addr::from(u128::from_str_radix(to, 16).ok()?);
            if to.is_unicast_link_local() || to.is_multicast() {
                return None;
            }
            let net = Ipv6Net::new(to, u8::from_str_radix(prefix, 16).ok()?).ok()?;
            Some(Route { to: IpNet::V6(net.trunc()), link: link.to_owned() })
        })
        .collect()
}

/// An address as /proc/net/route writes it: the 32 bits as the CPU (little-endian on all of ours) reads them.
fn v4(hex: &str) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.swap_bytes()))
}

fn locals_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            match leaf {
                Some(a) if !a.is_loopback() && !a.is_link_local() && !found.contains(&a) => found.push(a),
                _ => {}
            }
        }
    }
    found
}

fn locals_v6(table: &str) -> Vec<(Ipv6Addr, String)> {
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (address, scope, flags, link) = (*words.first()?, *words.get(3)?, *words.get(4)?, *words.get(5)?);
            let flags = u32::from_str_radix(flags, 16).ok()?;
            // Scope global; neither IFA_F_TEMPORARY, IFA_F_DADFAILED nor IFA_F_DEPRECATED.
            if scope != "00" || flags & (0x01 | 0x08 | 0x20) != 0 {
                return None;
            }
            Some((Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?), link.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        cni0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        *\t0000640A\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    #[test]
    fn the_address_of_flannels_link_is_none_of_the_machine() {
        let machine = kprov_providers::machine::fake::FakeMachine::new();
        machine.put(
            "/proc/net/fib_trie",
            "Local:\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 10.244.0.0\n        /32 host LOCAL\n     \
             |-- 198.51.100.9\n        /32 host LOCAL\n",
        );
        let all = |machine: &dyn Machine| {
            let found =
                addresses(machine, &routes_v4(&V4.replace("cni0", "none0").replace("0000F40A", "00FEF40A"))).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(all(&machine), ["192.0.2.2", "10.244.0.0", "198.51.100.9"]);
        machine.put("/run/flannel/subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\n");
        assert_eq!(all(&machine), ["192.0.2.2", "198.51.100.9"]);
    }

    #[test]
    fn reads_the_ipv4_table() {
        let routes = routes_v4(V4);
        let shown: Vec<String> = routes.iter().map(|r| format!("{} {}", r.to, r.link)).collect();
        assert_eq!(shown, ["0.0.0.0/0 eth0", "192.0.2.0/24 eth0", "10.244.0.0/24 cni0"]);
        assert!(routes[0].is_default());
    }

    #[test]
    fn reads_the_ipv6_table() {
        let zero = "00000000000000000000000000000000";
        let rest = format!("{zero} 00 {zero} 00000100 00000001 00000000");
        let table = format!(
            "fd000000000000000000000000000000 40 {rest} 00000001     eth0\n\
             fe800000000000000000000000000000 40 {rest} 00000001     eth0\n\
             {zero} 00 {rest} 00000003     eth0\n\
             fd000000000000000000000000000002 80 {rest} 80200001       lo\n\
             ff000000000000000000000000000000 08 {rest} 00000001     eth0\n\
             {zero} 00 {rest} 00200200       lo\n"
        );
        let shown: Vec<String> = routes_v6(&table).iter().map(|r| format!("{} {}", r.to, r.link)).collect();
        assert_eq!(shown, ["fd00::/64 eth0", "::/0 eth0"]);
    }

    #[test]
    fn reads_local_addresses() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.0.2.0\n        \
            /24 link UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n\
            Local:\n     |-- 192.0.2.2\n        /32 host LOCAL\n";
        assert_eq!(locals_v4(trie), ["192.0.2.2".parse::<Ipv4Addr>().unwrap()]);
        let table = "fe8000000000000000fc00fffe000001 02 40 20 80     eth0\n\
            fd000000000000000000000000000002 02 40 00 80     eth0\n\
            fd000000000000000000000000000009 02 40 00 01     eth0\n\
            00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(locals_v6(table), [("fd00::2".parse().unwrap(), "eth0".to_owned())]);
    }

    #[test]
    fn reads_resolv_conf() {
        let text =
            "# nameserver 1.2.3.4\nnameserver 127.0.0.53\nsearch x\n nameserver\tfe80::1%eth0\nnameservers 5.5.5.5\n";
        assert_eq!(nameservers(text), ["127.0.0.53".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }
}

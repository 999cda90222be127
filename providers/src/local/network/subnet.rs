//! A subnet that nothing on the host uses, and the host's real resolvers.

use std::net::IpAddr;

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;

use crate::local::tool::run;

/// Where subnets are taken from, in this order: private, away from what routers, Docker and clouds commonly hand out
/// and from the default pod and service subnets (10.244.0.0/16, 10.96.0.0/12).
const RANGES: [&str; 3] = ["10.213.0.0/16", "192.168.224.0/19", "172.29.0.0/16"];

/// A free subnet, or the wanted one if it is free. `taken` are those of clusters that are stopped just now.
///
/// # Errors
/// When the wanted one overlaps with something, or all are used.
pub async fn choose(wanted: Option<Ipv4Net>, taken: &[Ipv4Net]) -> anyhow::Result<Ipv4Net> {
    let mut used = in_use().await?;
    used.extend(taken.iter().map(|net| ("another cluster".to_owned(), *net)));
    pick(wanted, &used)
}

fn pick(wanted: Option<Ipv4Net>, used: &[(String, Ipv4Net)]) -> anyhow::Result<Ipv4Net> {
    let clash = |net: &Ipv4Net| used.iter().find(|(_, other)| overlap(net, other));
    if let Some(net) = wanted.map(|net| net.trunc()) {
        if net.prefix_len() > 29 {
            bail!("too small for machines, at least /29 is needed: subnet {net}");
        }
        if let Some((what, other)) = clash(&net) {
            bail!("in use by {what} ({other}): subnet {net}");
        }
        return Ok(net);
    }
    for range in RANGES {
        let range: Ipv4Net = range.parse()?;
        if let Some(net) = range.subnets(24)?.find(|net| clash(net).is_none()) {
            return Ok(net);
        }
    }
    bail!("every subnet in {} is in use; name one with --subnet", RANGES.join(", "))
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// Subnets of all addresses and routes of the host but the default route.
async fn in_use() -> anyhow::Result<Vec<(String, Ipv4Net)>> {
    let routes = run("ip", &["-j", "-4", "route", "show", "table", "all"]).await?;
    let addresses = run("ip", &["-j", "-4", "address", "show"]).await?;
    parse(&routes, &addresses)
}

fn parse(routes: &str, addresses: &str) -> anyhow::Result<Vec<(String, Ipv4Net)>> {
    let mut used = Vec::new();
    let json = |text: &str| -> anyhow::Result<Value> {
        if text.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(text).context("reading ip's JSON") }
    };
    for route in json(routes)?.as_array().into_iter().flatten() {
        let dst = route.get("dst").and_then(Value::as_str).unwrap_or_default();
        let dev = route.get("dev").and_then(Value::as_str).unwrap_or("a route");
        if let Some(net) = network(dst) {
            // What the host routes nowhere, or as a whole, is no use of it.
            if net.prefix_len() > 0 {
                used.push((dev.to_owned(), net));
            }
        }
    }
    for link in json(addresses)?.as_array().into_iter().flatten() {
        let name = link.get("ifname").and_then(Value::as_str).unwrap_or("a link");
        for info in link.get("addr_info").and_then(Value::as_array).into_iter().flatten() {
            let local = info.get("local").and_then(Value::as_str).unwrap_or_default();
            let prefix = info.get("prefixlen").and_then(Value::as_u64).unwrap_or(32);
            if let Some(net) = network(&format!("{local}/{prefix}")) {
                used.push((name.to_owned(), net.trunc()));
            }
        }
    }
    Ok(used)
}

fn network(text: &str) -> Option<Ipv4Net> {
    match text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))? {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    }
}

/// Resolvers of the host that machines can reach too: not those on a loopback address. Behind systemd-resolved or
/// NetworkManager the real ones are in their own files.
pub fn resolvers() -> Vec<IpAddr> {
    const FILES: [&str; 3] =
        ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];
    FILES
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| nameservers(&text))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// IPv4 resolvers, as machines have no other addresses; glibc reads three at most.
fn nameservers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .filter(|address| address.is_ipv4() && !address.is_loopback())
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_used_subnet_is_passed_over() {
        let used = [("eth0".to_owned(), net("10.213.0.0/24")), ("vpn".to_owned(), net("10.213.1.128/25"))];
        assert_eq!(pick(None, &used).unwrap(), net("10.213.2.0/24"));
        let all = [("vpn".to_owned(), net("10.0.0.0/8"))];
        assert_eq!(pick(None, &all).unwrap(), net("192.168.224.0/24"));
    }

    #[test]
    fn a_wanted_subnet_that_is_used_is_refused_by_name() {
        let used = [("eth0".to_owned(), net("192.168.1.0/24"))];
        let error = pick(Some(net("192.168.0.0/16")), &used).unwrap_err().to_string();
        assert_eq!(error, "in use by eth0 (192.168.1.0/24): subnet 192.168.0.0/16");
        assert_eq!(pick(Some(net("192.168.2.7/24")), &used).unwrap(), net("192.168.2.0/24"));
        assert!(pick(Some(net("192.168.2.0/30")), &used).is_err());
    }

    #[test]
    fn routes_and_addresses_are_read() {
        let routes = r#"[{"dst":"default","gateway":"10.0.0.1","dev":"eth0"},{"dst":"10.1.0.0/16","dev":"tun0"},
            {"type":"local","dst":"10.0.0.2","dev":"eth0"}]"#;
        let addresses = r#"[{"ifname":"eth0","addr_info":[{"local":"10.0.0.2","prefixlen":24}]},{"ifname":"x"}]"#;
        let used = parse(routes, addresses).unwrap();
        assert!(used.contains(&("tun0".to_owned(), net("10.1.0.0/16"))));
        assert!(used.contains(&("eth0".to_owned(), net("10.0.0.0/24"))));
        assert_eq!(parse("", "").unwrap(), []);
    }

    #[test]
    fn loopback_resolvers_are_of_no_use() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver ::1\nsearch a\nnameserver 192.0.2.1\n";
        assert_eq!(nameservers(text), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }
}

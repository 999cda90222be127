//! Addresses, subnets, resolvers, proxies, other pod networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Finding, Fix, Look, Severity, leftovers};
use crate::cluster::{Cluster, Cni, Joining};
use crate::facts::net::{self, Route};

/// A subnet of the cluster and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// `PodSubnet`, `ServiceSubnet`.
    pub name: &'static str,
    /// The subnet.
    pub net: IpNet,
}

pub(super) fn all(look: &Look<'_>) -> Option<Finding> {
    look.facts.addresses.is_empty().then(|| {
        Finding::error("Network", "this machine has no address but loopback")
            .hint("ip link set LINK up && ip address add ADDRESS/24 dev LINK")
    })
}

/// Resolvers that pods can use. `chosen` is the user's own file of them (`resolvConf` of the KubeletConfiguration).
pub(super) fn resolvers(look: &Look<'_>, chosen: Option<&str>) -> Option<Finding> {
    const FILE: &str = "/etc/resolv.conf";
    let facts = look.facts;
    if chosen.is_some_and(|path| path != FILE) || facts.resolved {
        return None;
    }
    let loopback = facts.resolvers.iter().filter(|resolver| resolver.is_loopback()).count();
    if facts.resolvers.is_empty() {
        let message = "/etc/resolv.conf names no resolver: pods resolve names of the cluster only";
        return Some(Finding::warning("Resolvers", message).hint("echo 'nameserver ADDRESS' >> /etc/resolv.conf"));
    }
    if loopback == 0 || facts.resolv_conf.is_some() {
        return None;
    }
    Some(if facts.loopback_resolver_only {
        let message =
            "/etc/resolv.conf names only loopback, where CoreDNS would ask itself: pods need the real resolvers";
        Finding::error("Resolvers", message).hint(
            "echo 'nameserver ADDRESS' > /etc/kubelet-resolv.conf, and --config FILE with a KubeletConfiguration that has \
             resolvConf: /etc/kubelet-resolv.conf",
        )
    } else {
        let message = "/etc/resolv.conf names loopback beside real resolvers: CoreDNS would ask itself now and then";
        Finding::error("Resolvers", message).hint(r"sed -i '/^nameserver *\(127\.\|::1\)/d' /etc/resolv.conf")
    })
}

pub(super) fn cluster(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let networking = cluster.config.networking.clone().unwrap_or_default();
    let wanted: Vec<Subnet> = [("PodSubnet", networking.pod_subnet), ("ServiceSubnet", networking.service_subnet)]
        .into_iter()
        .flat_map(|(name, nets)| {
            let nets = nets.unwrap_or_default();
            // What does not parse has been said by validation.
            nets.split(',')
                .filter_map(|net| net.trim().parse().ok())
                .map(|net| Subnet { name, net })
                .collect::<Vec<_>>()
        })
        .collect();
    let mut found = subnets(look, &wanted)?;
    found.extend(proxies(&look.facts.proxy, &wanted, &endpoint_hosts(cluster)));
    found.extend(advertised(look, cluster));
    found.extend(resolvers(look, cluster.kubelet.get("resolvConf").and_then(serde_json::Value::as_str)));
    if cluster.cni == Cni::Flannel {
        found.extend(other_cni(look, Severity::Error)?);
        found.extend(leftovers::links(look, Severity::Error)?);
    }
    Ok(found)
}

/// Subnets of the cluster that overlap a route or an address of the machine. Routes of a pod network that kprov's own
/// run made are passed over.
///
/// # Errors
/// When the machine's routes cannot be read.
pub fn subnets(look: &Look<'_>, wanted: &[Subnet]) -> anyhow::Result<Vec<Finding>> {
    let ours = (look.ours)("/etc/systemd/system/kubelet.service");
    let routes: Vec<Route> = net::routes(look.machine)?
        .into_iter()
        .filter(|r| !r.is_default())
        .filter(|r| !ours || !net::is_pod_link(&r.link))
        .collect();
    Ok(overlaps(wanted, &routes, &look.facts.addresses))
}

fn overlaps(wanted: &[Subnet], routes: &[Route], addresses: &[IpAddr]) -> Vec<Finding> {
    let mut found = Vec::new();
    for Subnet { name, net } in wanted {
        let flag = if *name == "PodSubnet" { "--pod-network-cidr" } else { "--service-cidr" };
        let what = if *name == "PodSubnet" { "pod subnet" } else { "service subnet" };
        if let Some(route) = routes.iter().find(|r| r.to.contains(net) || net.contains(&r.to)) {
            let hint = if net::is_pod_link(&route.link) {
                format!("if nothing needs it: ip link delete {}; else another subnet: {flag} CIDR", route.link)
            } else {
                format!("another subnet: {flag} CIDR")
            };
            found.push(
                Finding::error(
                    *name,
                    format!("the {what} {net} overlaps this machine's route to {} ({})", route.to, route.link),
                )
                .hint(hint),
            );
        } else if let Some(address) = addresses.iter().find(|a| net.contains(*a)) {
            found.push(
                Finding::error(*name, format!("the {what} {net} contains this machine's address {address}"))
                    .hint(format!("another subnet: {flag} CIDR")),
            );
        }
    }
    found
}

/// The address that the API server announces must be one of the machine's.
fn advertised(look: &Look<'_>, cluster: &Cluster) -> Option<Finding> {
    let address: IpAddr = cluster.init.local_api_endpoint.as_ref()?.advertise_address.as_deref()?.parse().ok()?;
    let addresses = &look.facts.addresses;
    (!addresses.contains(&address) && !address.is_unspecified()).then(|| {
        let known = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Finding::error("AdvertiseAddress", format!("this machine does not have the address {address}, only {known}"))
            .hint("--apiserver-advertise-address ADDRESS")
    })
}

/// Hosts that this machine itself talks to as a cluster.
fn endpoint_hosts(cluster: &Cluster) -> Vec<String> {
    let advertised = cluster.init.local_api_endpoint.as_ref().and_then(|e| e.advertise_address.clone());
    let endpoint = cluster.config.control_plane_endpoint.as_deref().map(|e| host_of(e).to_owned());
    advertised.into_iter().chain(endpoint).filter(|host| !host.is_empty()).collect()
}

/// `host`, `host:port` or `[v6]:port` without the port.
fn host_of(endpoint: &str) -> &str {
    if let Some(rest) = endpoint.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match endpoint.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host,
        _ => endpoint,
    }
}

/// The control plane's address as typed: of a family that this machine has, and not behind a proxy.
pub(super) fn endpoint(look: &Look<'_>, joining: &Joining) -> Vec<Finding> {
    let endpoint = joining
        .join
        .discovery
        .as_ref()
        .and_then(|d| d.bootstrap_token.as_ref())
        .and_then(|t| t.api_server_endpoint.as_deref())
        .map(|e| host_of(e).to_owned());
    let mut found: Vec<Finding> = endpoint.as_deref().and_then(|host| family(look, host)).into_iter().collect();
    found.extend(proxies(&look.facts.proxy, &[], &endpoint.into_iter().collect::<Vec<_>>()));
    found
}

fn family(look: &Look<'_>, host: &str) -> Option<Finding> {
    let address: IpAddr = host.parse().ok()?;
    let addresses = &look.facts.addresses;
    if address.is_loopback() || addresses.is_empty() || addresses.iter().any(|a| a.is_ipv6() == address.is_ipv6()) {
        return None;
    }
    let (family, ip, size) = if address.is_ipv6() { ("IPv6", "ip -6", 64) } else { ("IPv4", "ip", 24) };
    let message = format!("the control plane is at {address}, and this machine has no {family} address");
    Some(Finding::error("Network", message).hint(format!("{ip} address add ADDRESS/{size} dev LINK")))
}

/// Connections within the cluster that would go through a proxy.
fn proxies(proxy: &[(String, String)], wanted: &[Subnet], hosts: &[String]) -> Vec<Finding> {
    let value = |name: &str| {
        proxy.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    };
    let Some(through) = value("https_proxy") else { return Vec::new() };
    let exempt: Vec<&str> = value("no_proxy").unwrap_or_default().split(',').map(str::trim).collect();
    let mut through_it: Vec<(&str, String)> = Vec::new();
    through_it.extend(hosts.iter().filter(|host| !is_exempt(&exempt, host)).map(|host| ("HTTPProxy", host.clone())));
    for Subnet { net, .. } in wanted {
        let nets = exempt.iter().filter_map(|e| e.parse::<IpNet>().ok());
        if !exempt.contains(&"*") && !nets.into_iter().any(|e| e.contains(net)) {
            through_it.push(("HTTPProxyCIDR", net.to_string()));
        }
    }
    // One line mends all of them.
    let all: Vec<&str> = exempt
        .iter()
        .copied()
        .filter(|e| !e.is_empty())
        .chain(through_it.iter().map(|(_, what)| what.as_str()))
        .collect();
    let hint = format!("export NO_PROXY={}", all.join(","));
    through_it
        .iter()
        .map(|(name, what)| {
            Finding::warning(*name, format!("connections to {what} would go through the proxy {through}")).hint(&hint)
        })
        .collect()
}

/// NO_PROXY as Go reads it: `*`, addresses, CIDRs, domains with or without a leading dot.
fn is_exempt(exempt: &[&str], host: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    exempt.iter().filter(|e| !e.is_empty()).any(|entry| {
        if *entry == "*" || entry.eq_ignore_ascii_case(host) {
            return true;
        }
        match address {
            Some(address) => entry.parse::<IpNet>().is_ok_and(|net| net.contains(&address)),
            None => {
                let domain = entry.trim_start_matches('.').to_ascii_lowercase();
                host.to_ascii_lowercase().strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    })
}

/// A CNI configuration that the runtime would read before flannel's: it takes the first by name.
pub(super) fn other_cni(look: &Look<'_>, severity: Severity) -> anyhow::Result<Vec<Finding>> {
    const OURS: &str = "10-flannel.conflist";
    let names = look.machine.list("/etc/cni/net.d")?.unwrap_or_default();
    Ok(names
        .iter()
        .filter(|name| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)) && name.as_str() < OURS)
        .map(|name| {
            let path = format!("/etc/cni/net.d/{name}");
            let message = format!("another pod network would be used instead of flannel: {path}");
            let finding = Finding { severity, ..Finding::error("CNIConfig", message) };
            finding.hint(format!("mv {path} {path}.old")).fixed_by([Fix::MoveAway(path)])
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(name: &'static str, net: &str) -> Subnet {
        Subnet { name, net: net.parse().unwrap() }
    }

    fn route(to: &str, link: &str) -> Route {
        Route { to: to.parse().unwrap(), link: link.to_owned() }
    }

    #[test]
    fn overlapping_subnets() {
        let wanted = [subnet("PodSubnet", "10.244.0.0/16"), subnet("ServiceSubnet", "10.96.0.0/12")];
        let cases: [(&[Route], &str, &[&str]); 6] = [
            (&[route("192.0.2.0/24", "eth0")], "192.0.2.1", &[]),
            (&[route("10.244.3.0/24", "eth0")], "192.0.2.1", &["PodSubnet"]),
            (&[route("10.0.0.0/8", "tun0")], "10.9.9.9", &["PodSubnet", "ServiceSubnet"]),
            (&[], "10.100.0.1", &["ServiceSubnet"]),
            (&[route("10.97.0.1/32", "eth0")], "192.0.2.1", &["ServiceSubnet"]),
            (&[route("fd00::/8", "eth0")], "fd00::1", &[]),
        ];
        for (routes, address, names) in cases {
            let found = overlaps(&wanted, routes, &[address.parse().unwrap()]);
            assert_eq!(found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), names, "{routes:?}");
        }
        let left = overlaps(&wanted, &[route("10.244.0.0/24", "cni0")], &[]);
        assert!(left[0].hint.as_deref().unwrap().contains("ip link delete cni0"));
    }

    #[test]
    fn proxies_that_would_be_in_the_way() {
        let set = |no: &str| {
            vec![("https_proxy".to_owned(), "http://p:1".to_owned()), ("no_proxy".to_owned(), no.to_owned())]
        };
        let hosts = ["192.0.2.10".to_owned(), "api.example.org".to_owned()];
        let wanted = [subnet("ServiceSubnet", "10.96.0.0/12")];
        let names = |no: &str| proxies(&set(no), &wanted, &hosts).into_iter().map(|f| f.name).collect::<Vec<_>>();
        assert_eq!(names(""), ["HTTPProxy", "HTTPProxy", "HTTPProxyCIDR"]);
        assert_eq!(names("192.0.2.0/24,.example.org,10.0.0.0/8"), Vec::<String>::new());
        assert_eq!(names("*"), Vec::<String>::new());
        assert_eq!(names("badexample.org,192.0.2.10"), ["HTTPProxy", "HTTPProxyCIDR"]);
        assert!(proxies(&[], &wanted, &hosts).is_empty());
    }

    #[test]
    fn hosts_of_endpoints() {
        for (endpoint, host) in [("a:1", "a"), ("a", "a"), ("[fd00::1]:6443", "fd00::1"), ("fd00::1", "fd00::1")] {
            assert_eq!(host_of(endpoint), host);
        }
    }
}

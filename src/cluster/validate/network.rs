//! Networks: subnets, their sizes and families, and what must not overlap.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::input::{Doc, Input};
use super::super::kubeadm::{Arg, ClusterConfiguration, InitConfiguration};
use super::super::subnets::overlap;
use super::names;

const SERVICES: &str = "networking.serviceSubnet";
const PODS: &str = "networking.podSubnet";

/// Service and pod subnets, the DNS domain, and the advertised address against them.
pub(super) fn check(init: &InitConfiguration, config: &ClusterConfiguration, input: &mut Input) {
    let Some(networking) = &config.networking else { return };
    if let Some(domain) = &networking.dns_domain
        && let Err(why) = names::subdomain(domain)
    {
        input.bad(Doc::Cluster, "networking.dnsDomain", format!("{domain:?} is no DNS domain: it {why}"), "");
    }
    let services = read(networking.service_subnet.as_deref(), SERVICES, input);
    let pods = read(networking.pod_subnet.as_deref(), PODS, input);
    for net in &services {
        let bits = host_bits(net);
        if addresses(bits) < 10 {
            let message =
                format!("{net} has {} addresses, services need at least 10 (DNS is the tenth)", addresses(bits));
            input.bad(Doc::Cluster, SERVICES, message, shorter(net, 4));
        } else if bits > 20 {
            let message = format!("{net} is too large: the API server takes at most 20 bits of service addresses");
            input.bad(Doc::Cluster, SERVICES, message, shorter(net, 20));
        }
    }
    let extra = config.controller_manager.as_ref().and_then(|c| c.extra_args.as_deref()).unwrap_or_default();
    for net in &pods {
        pod_subnet(net, extra, input);
    }
    for net in &pods {
        if let Some(other) = services.iter().find(|other| overlap(net, other)) {
            let message = format!("pod subnet {net} and service subnet {other} overlap");
            input.bad(Doc::Cluster, PODS, message, "give one of them addresses of its own");
        }
    }
    families(&services, &pods, input);
    advertised(init, &services, &pods, input);
}

/// One subnet, or one of each family.
fn read(text: Option<&str>, path: &str, input: &mut Input) -> Vec<IpNet> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Vec::new() };
    let mut nets: Vec<IpNet> = Vec::new();
    let parts: Vec<&str> = text.split(',').collect();
    for part in &parts {
        match part.parse::<IpNet>() {
            Ok(net) => {
                if net.addr() != net.network() {
                    let message = format!("{net} has bits behind its mask; it means {}", net.trunc());
                    input.warn(Doc::Cluster, path, message, "");
                }
                nets.push(net.trunc());
            }
            Err(_) => {
                let hint = part
                    .parse::<IpAddr>()
                    .ok()
                    .map(|ip| format!("with its size: {ip}/{}", if ip.is_ipv6() { 64 } else { 16 }));
                input.bad(Doc::Cluster, path, format!("{part:?} is no subnet"), hint);
            }
        }
    }
    if parts.len() > 2 || matches!(nets.as_slice(), [a, b] if a.addr().is_ipv6() == b.addr().is_ipv6()) {
        input.bad(Doc::Cluster, path, "dual stack takes one IPv4 and one IPv6 subnet", "as 10.96.0.0/16,fd00:96::/112");
    }
    nets
}

fn host_bits(net: &IpNet) -> u32 {
    u32::from(net.max_prefix_len() - net.prefix_len())
}

fn addresses(host_bits: u32) -> u128 {
    1_u128.checked_shl(host_bits).unwrap_or(u128::MAX)
}

/// The same network with another number of host bits.
fn shorter(net: &IpNet, host_bits: u8) -> Option<String> {
    let net = IpNet::new(net.network(), net.max_prefix_len() - host_bits).ok()?;
    Some(format!("for example {}", net.trunc()))
}

/// The controller manager cuts a piece for each node out of it.
fn pod_subnet(net: &IpNet, extra: &[Arg], input: &mut Input) {
    if addresses(host_bits(net)) < 14 {
        input.bad(Doc::Cluster, PODS, format!("{net} has too few addresses, pods need at least 14"), "");
        return;
    }
    let value = |name: &str| extra.iter().rev().find(|arg| arg.name == name).map(|arg| arg.value.as_str());
    if value("allocate-node-cidrs") == Some("false") {
        return;
    }
    let (flag, usual) =
        if net.addr().is_ipv6() { ("node-cidr-mask-size-ipv6", 64) } else { ("node-cidr-mask-size-ipv4", 24) };
    let node = match value(flag).map(str::parse::<u8>) {
        None => usual,
        Some(Ok(mask)) if mask <= net.max_prefix_len() => mask,
        Some(_) => {
            let message = format!("{flag} must be a number up to {}", net.max_prefix_len());
            input.bad(Doc::Cluster, "controllerManager.extraArgs", message, format!("{flag}: \"{usual}\""));
            return;
        }
    };
    if net.prefix_len() > node {
        let message = format!("{net} is smaller than one node's part of it, /{node}");
        let hint = IpNet::new(net.network(), node.saturating_sub(8)).ok().map(|net| {
            format!("for example {}, or controller manager argument {flag} with a larger number", net.trunc())
        });
        input.bad(Doc::Cluster, PODS, message, hint);
    } else if node - net.prefix_len() > 16 {
        let message = format!("{net} is too large: it holds more than 65536 parts of /{node}, one for each node");
        input.bad(Doc::Cluster, PODS, message, shorter(net, net.max_prefix_len() - node + 8));
    }
}

fn families(services: &[IpNet], pods: &[IpNet], input: &mut Input) {
    if services.is_empty() || pods.is_empty() {
        return;
    }
    let has = |nets: &[IpNet], v6: bool| nets.iter().any(|net| net.addr().is_ipv6() == v6);
    for (v6, name) in [(false, "IPv4"), (true, "IPv6")] {
        if has(services, v6) && !has(pods, v6) {
            let message = format!("services have {name} addresses, and pods have none");
            if services.len() == 1 {
                input.bad(Doc::Cluster, PODS, message, format!("give an {name} pod subnet too"));
            } else {
                input.warn(Doc::Cluster, PODS, message, format!("give an {name} pod subnet too"));
            }
        }
    }
}

fn advertised(init: &InitConfiguration, services: &[IpNet], pods: &[IpNet], input: &mut Input) {
    let path = "localAPIEndpoint.advertiseAddress";
    let Some(text) = init.local_api_endpoint.as_ref().and_then(|e| e.advertise_address.as_deref()) else { return };
    let Ok(ip) = text.parse::<IpAddr>() else {
        input.bad(Doc::Init, path, format!("{text:?} is no IP address"), "");
        return;
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local {
        input.bad(
            Doc::Init,
            path,
            format!("other machines cannot reach {ip}"),
            "an address of this machine that they can reach",
        );
        return;
    }
    for (net, what) in services.iter().map(|net| (net, "service")).chain(pods.iter().map(|net| (net, "pod"))) {
        if net.contains(&ip) {
            let message = format!("this machine's address {ip} is within the {what} subnet {net}");
            let flag = if what == "pod" { "--pod-network-cidr" } else { "--service-cidr" };
            input.bad(Doc::Init, path, message, format!("another subnet: {flag}"));
        }
    }
    if let Some(first) = services.first()
        && first.addr().is_ipv6() != ip.is_ipv6()
    {
        let message = format!(
            "{ip} is of another family than the first service subnet {first}; the API server does not start so"
        );
        let hint = match (services, ip.is_ipv6()) {
            ([_], true) => "on a machine with IPv6 alone: --service-cidr fd00:10:96::/112",
            _ => "an address of that family, or the service subnets the other way round",
        };
        input.bad(Doc::Init, path, message, hint);
    }
}

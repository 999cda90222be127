//! Default routes: by them API server, kubelet and flannel find the address at which others reach this machine.

use std::net::IpAddr;

use super::{Finding, Look};
use crate::cluster::{Cluster, Cni};
use crate::facts::net::{self, Route};

const NAME: &str = "DefaultRoute";

pub(super) fn control_plane(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Option<Finding>> {
    let advertised = cluster.init.local_api_endpoint.as_ref().and_then(|e| e.advertise_address.as_deref());
    let v6 = advertised.and_then(|text| text.parse::<IpAddr>().ok()).map(|address| address.is_ipv6());
    let flannel = cluster.cni == Cni::Flannel;
    check(look, v6, if flannel { "the kubelet and flannel find" } else { "the kubelet finds" })
}

pub(super) fn worker(look: &Look<'_>) -> anyhow::Result<Option<Finding>> {
    check(look, None, "the kubelet and the pod network find")
}

fn check(look: &Look<'_>, v6: Option<bool>, who: &str) -> anyhow::Result<Option<Finding>> {
    // Without an address that is what is said.
    let Some(any) = look.facts.addresses.first() else { return Ok(None) };
    let all = net::routes(look.machine)?;
    let v6 = v6.unwrap_or_else(|| look.facts.default_addresses.first().unwrap_or(any).is_ipv6());
    let (family, ip) = if v6 { ("IPv6 ", "ip -6") } else { ("", "ip") };
    let links = default_links(&all, v6);
    let source = look.facts.default_addresses.iter().find(|address| address.is_ipv6() == v6);
    Ok(match (links.as_slice(), source) {
        ([], _) => {
            let link = link_of(&all, any).unwrap_or("LINK");
            let message = format!("this machine has no {family}default route, by which {who} its address");
            Some(Finding::error(NAME, message).hint(format!("{ip} route add default dev {link}")))
        }
        ([_, _, ..], Some(source)) => {
            let message = format!(
                "this machine has {family}default routes by several links ({}): others reach it at {source}",
                links.join(", ")
            );
            let link = link_of(&all, source).unwrap_or("LINK");
            Some(
                Finding::warning(NAME, message)
                    .hint(format!("if that is the wrong one: {ip} route del default dev {link}")),
            )
        }
        _ => None,
    })
}

/// Links with a default route of a family, each once.
fn default_links(routes: &[Route], v6: bool) -> Vec<&str> {
    let mut links: Vec<&str> = Vec::new();
    for route in routes.iter().filter(|route| route.is_default() && route.to.addr().is_ipv6() == v6) {
        if !links.contains(&route.link.as_str()) {
            links.push(&route.link);
        }
    }
    links
}

/// The link that an address of the machine is on.
fn link_of<'a>(routes: &'a [Route], address: &IpAddr) -> Option<&'a str> {
    let near = routes.iter().filter(|route| !route.is_default() && route.to.contains(address));
    near.max_by_key(|route| route.to.prefix_len()).map(|route| route.link.as_str())
}

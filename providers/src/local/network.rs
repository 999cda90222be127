//! The network of a set of machines: a bridge with a subnet that nothing on the host uses, and for each machine a
//! namespace with one end of a veth pair in it. How packets get out of it: [`forward`].

mod forward;
mod subnet;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::tool::{run, try_run};

pub use subnet::{choose, resolvers};

/// Starts the name of everything on the host that belongs to machines.
pub const PREFIX: &str = "kprov-";

/// A bridge and its subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Eight hex digits, unique on this host.
    pub id: String,
    /// Its machines' addresses; the host has the first one.
    pub subnet: Ipv4Net,
}

/// A prepared place in a network, which a machine is started in. Made anew at each start: a namespace that outlived
/// its machine would keep rules, links and routes that a real power cut takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The namespace.
    pub netns: PathBuf,
    /// The machine's address, already on `eth0` in it.
    pub address: Ipv4Addr,
}

impl Network {
    /// The bridge's name (15 bytes at most, IFNAMSIZ).
    pub fn bridge(&self) -> String {
        format!("kpb-{}", self.id)
    }

    /// The host's own address in it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address of a number within the subnet.
    pub fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()).wrapping_add(number))
    }

    /// A machine's namespace.
    fn netns(&self, machine: &str) -> String {
        format!("{PREFIX}{}-{machine}", self.id)
    }

    /// The host's end of a machine's link: by its address' number, which is unique in the subnet.
    fn link(&self, address: Ipv4Addr) -> String {
        let number = u32::from(address).wrapping_sub(u32::from(self.subnet.network()));
        format!("kpv-{}{number:x}", self.id)
    }

    /// Makes the bridge and lets its packets out, or mends what is missing of it (after a reboot: all).
    ///
    /// # Errors
    /// When a link or rule cannot be made.
    pub async fn create(&self, label: &str) -> anyhow::Result<()> {
        let bridge = self.bridge();
        if !exists(&bridge).await {
            run("ip", &["link", "add", &bridge, "type", "bridge"]).await.context("making a bridge")?;
            run("ip", &["link", "set", &bridge, "alias", label]).await?;
        }
        let address = format!("{}/{}", self.gateway(), self.subnet.prefix_len());
        run("ip", &["address", "replace", &address, "dev", &bridge]).await?;
        run("ip", &["link", "set", &bridge, "up"]).await?;
        forward::open(self).await.context("letting packets of machines out")
    }

    /// Takes everything back. Machines must not run. What is gone already is success.
    pub async fn destroy(&self) {
        forward::close(self).await;
        for netns in namespaces(&format!("{PREFIX}{}-", self.id)) {
            try_run("ip", &["netns", "delete", &netns]).await;
        }
        for link in links(&format!("kpv-{}", self.id)).await {
            try_run("ip", &["link", "delete", &link]).await;
        }
        try_run("ip", &["link", "delete", &self.bridge()]).await;
    }

    /// Makes a machine's place, new.
    ///
    /// # Errors
    /// When a namespace, link or address cannot be made.
    pub async fn prepare(&self, machine: &str, address: Ipv4Addr) -> anyhow::Result<Place> {
        self.clear(machine, address).await;
        let (netns, link, bridge) = (self.netns(machine), self.link(address), self.bridge());
        let prefixed = format!("{address}/{}", self.subnet.prefix_len());
        let gateway = self.gateway().to_string();
        run("ip", &["netns", "add", &netns]).await.context("making a network namespace")?;
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &netns]).await?;
        run("ip", &["link", "set", &link, "alias", machine]).await?;
        run("ip", &["link", "set", &link, "master", &bridge, "up"]).await?;
        run("ip", &["-n", &netns, "link", "set", "lo", "up"]).await?;
        run("ip", &["-n", &netns, "address", "add", &prefixed, "dev", "eth0"]).await?;
        run("ip", &["-n", &netns, "link", "set", "eth0", "up"]).await?;
        run("ip", &["-n", &netns, "route", "add", "default", "via", &gateway]).await?;
        Ok(Place { netns: PathBuf::from("/run/netns").join(netns), address })
    }

    /// Takes a machine's place back.
    pub async fn clear(&self, machine: &str, address: Ipv4Addr) {
        let (netns, link) = (self.netns(machine), self.link(address));
        if exists(&link).await {
            try_run("ip", &["link", "delete", &link]).await;
        }
        if PathBuf::from("/run/netns").join(&netns).exists() {
            try_run("ip", &["netns", "delete", &netns]).await;
        }
    }

    /// Cuts a machine off from the bridge, or connects it again.
    ///
    /// # Errors
    /// When it has no link.
    pub async fn set_link(&self, address: Ipv4Addr, up: bool) -> anyhow::Result<()> {
        run("ip", &["link", "set", &self.link(address), if up { "up" } else { "down" }]).await?;
        Ok(())
    }
}

/// Asked of the kernel and not of /sys, which may show another namespace's links.
async fn exists(link: &str) -> bool {
    try_run("ip", &["link", "show", "dev", link]).await.is_some()
}

async fn links(prefix: &str) -> Vec<String> {
    let listed = try_run("ip", &["-brief", "link", "show"]).await.unwrap_or_default();
    // `kpv-1234abcd2@if3  UP …`
    let names = listed.lines().filter_map(|line| line.split([' ', '@']).next());
    names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}

fn namespaces(prefix: &str) -> Vec<String> {
    std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_fit_the_kernel() {
        let network = Network { id: "0123abcd".into(), subnet: "10.213.0.0/24".parse().unwrap() };
        assert!(network.bridge().len() <= 15);
        assert!(network.link(network.address(254)).len() <= 15);
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 213, 0, 1));
        assert_ne!(network.link(network.address(2)), network.link(network.address(3)));
    }
}

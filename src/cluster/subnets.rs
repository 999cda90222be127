//! Subnets as kubeadm writes them: one, or a comma pair for dual stack.

use std::net::IpAddr;

use ipnet::IpNet;

/// Reads one subnet or a comma pair; `None` when a part is none.
pub fn subnets(text: &str) -> Option<Vec<IpNet>> {
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

/// The nth address of a subnet, counted from its network address. `None` when the subnet is smaller.
pub fn nth(subnet: &IpNet, n: u32) -> Option<IpAddr> {
    let address = match subnet.network() {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().checked_add(n)?.into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().checked_add(u128::from(n))?.into()),
    };
    subnet.contains(&address).then_some(address)
}

/// The cluster's DNS address: the tenth of the (first) service subnet.
pub fn dns_address(service_subnet: &str) -> Option<IpAddr> {
    nth(subnets(service_subnet)?.first()?, 10)
}

/// The `kubernetes` Service's address: the first of the (first) service subnet.
pub fn api_service_address(service_subnet: &str) -> Option<IpAddr> {
    nth(subnets(service_subnet)?.first()?, 1)
}

/// True when one holds an address of the other.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_service_subnet() {
        assert_eq!(dns_address("10.96.0.0/12").unwrap().to_string(), "10.96.0.10");
        assert_eq!(dns_address("fd00:1::/112,10.96.0.0/16").unwrap().to_string(), "fd00:1::a");
        assert_eq!(api_service_address("10.96.0.7/12").unwrap().to_string(), "10.96.0.1");
        assert_eq!(dns_address("10.0.0.0/29"), None);
        assert_eq!(dns_address("255.255.255.255/32"), None);
        assert_eq!(subnets("10.0.0.0/8,x"), None);
    }

    #[test]
    fn overlaps() {
        let net = |s: &str| s.parse::<IpNet>().unwrap();
        assert!(overlap(&net("10.0.0.0/8"), &net("10.96.0.0/12")));
        assert!(overlap(&net("10.96.0.0/12"), &net("10.0.0.0/8")));
        assert!(!overlap(&net("10.96.0.0/12"), &net("10.244.0.0/16")));
        assert!(!overlap(&net("::/0"), &net("10.0.0.0/8")));
    }
}

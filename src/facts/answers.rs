//! What only a call of the running process can tell, asked apart so that the rest can be tested on a fake machine.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// Answers of the kernel and of the process's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Effective user is 0.
    pub root: bool,
    /// The kernel answers the netlink calls of `nft`.
    pub nftables: bool,
    /// Time of one synced 4 KiB write below /var/lib, in microseconds; 0 where it was not measured.
    pub sync_micros: u64,
    /// Free space of the file system of /var/lib, in MB.
    pub var_free_mb: Option<u64>,
    /// Its size, in MB.
    pub var_total_mb: Option<u64>,
    /// Source addresses that the kernel chooses for far destinations, IPv4 first; none without a route.
    pub sources: Vec<IpAddr>,
    /// The proxy variables that are set.
    pub proxy: Vec<(String, String)>,
}

impl Answers {
    /// Asks. With `measure` it also times a synced write (into a file without a name: nothing is left, even by a kill).
    pub fn ask(measure: bool) -> Self {
        let disk = rustix::fs::statvfs("/var/lib").or_else(|_| rustix::fs::statvfs("/")).ok();
        let mb = |blocks: u64, size: u64| blocks.saturating_mul(size) / 1_000_000;
        Self {
            root: rustix::process::geteuid().is_root(),
            nftables: nftables().unwrap_or(false),
            sync_micros: if measure { sync_micros("/var/lib").unwrap_or(0) } else { 0 },
            var_free_mb: disk.as_ref().map(|d| mb(d.f_bavail, d.f_frsize)),
            var_total_mb: disk.as_ref().map(|d| mb(d.f_blocks, d.f_frsize)),
            sources: sources(),
            proxy: proxy(std::env::vars()),
        }
    }
}

/// Proxy variables in a fixed order, empty ones left out; by the end of their names, as kubeadm takes them.
fn proxy(vars: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
    let mut found: Vec<_> = vars.filter(|(name, value)| is_proxy(name) && !value.is_empty()).collect();
    found.sort();
    found
}

/// Connecting a UDP socket sends nothing: the kernel only looks up the route and its source address.
fn sources() -> Vec<IpAddr> {
    // Addresses far away in unicast space that no private network uses; nothing is ever sent there.
    let far = [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9))),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe))),
    ];
    far.into_iter()
        .filter_map(|(any, far)| {
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect((far, 9)).ok()?;
            let source = socket.local_addr().ok()?.ip();
            let usable = !source.is_unspecified()
                && !source.is_loopback()
                && !matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local());
            usable.then_some(source)
        })
        .collect()
}

/// Asks the kernel for the generation of its nftables ruleset: it answers only where nf_tables is there or can be loaded.
fn nftables() -> std::io::Result<bool> {
    const GETGEN: u16 = (10 << 8) | 16; // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
    const NEWGEN: u16 = (10 << 8) | 15;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(500)))?;
    let mut message = Vec::with_capacity(20);
    message.extend(20u32.to_ne_bytes()); // length
    message.extend(GETGEN.to_ne_bytes());
    message.extend(1u16.to_ne_bytes()); // NLM_F_REQUEST
    message.extend(1u32.to_ne_bytes()); // sequence
    message.extend([0; 4]); // port: the kernel fills it in
    message.extend([0; 4]); // struct nfgenmsg: AF_UNSPEC, version 0, resource 0
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0u8; 256];
    let (_, length) = rustix::net::recv(&socket, &mut reply[..], RecvFlags::empty())?;
    let kind = reply.get(..length).and_then(|r| r.get(4..6)).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    Ok(kind == Some(NEWGEN))
}

/// Times a synced write into a file that never has a name.
fn sync_micros(dir: &str) -> std::io::Result<u64> {
    let file = rustix::fs::open(dir, OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
    let mut file = std::fs::File::from(file);
    let mut worst = Duration::ZERO;
    // The first one also pays for what others left unwritten: the better of two says what the disk does.
    let mut best = Duration::MAX;
    for _ in 0..2 {
        let start = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        best = best.min(start.elapsed());
        worst = worst.max(start.elapsed());
        if worst > Duration::from_secs(1) {
            break;
        }
    }
    u64::try_from(best.as_micros()).map_err(|_| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_proxy_variables_that_are_set() {
        let vars = [("no_proxy", "a"), ("PATH", "/bin"), ("HTTPS_PROXY", "http://p:3128"), ("HTTP_PROXY", "")];
        let found = proxy(vars.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(
            found,
            [("HTTPS_PROXY".to_owned(), "http://p:3128".to_owned()), ("no_proxy".to_owned(), "a".to_owned())]
        );
    }

    #[test]
    fn the_timed_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        match sync_micros(dir.path().to_str().unwrap()) {
            Ok(micros) => assert!(micros > 0),
            // Overlay file systems of older kernels have no nameless files: then it is not measured.
            Err(error) => assert_eq!(error.raw_os_error(), Some(95)),
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn sources_are_usable_addresses() {
        assert!(sources().iter().all(|s| !s.is_loopback() && !s.is_unspecified()));
    }
}

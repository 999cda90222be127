//! The certificates and kubeconfigs of a cluster as one table: names, signers, usages (contract A.5, A.6).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// Who signs. Each is a root of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// Clients and servers of the API.
    Cluster,
    /// The API server towards extension API servers.
    FrontProxy,
    /// etcd.
    Etcd,
}

impl Authority {
    /// Path below the certificates directory, without suffix.
    pub fn path(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd/ca",
        }
    }

    /// Common name; also its only DNS name.
    pub fn common_name(self) -> &'static str {
        match self {
            Self::Cluster => "kubernetes",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd-ca",
        }
    }
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS client.
    Client,
    /// TLS server.
    Server,
    /// Both.
    Both,
}

/// One name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum San {
    /// DNS name, lower-case; may begin with `*.`.
    Dns(String),
    /// Address.
    Ip(IpAddr),
}

impl San {
    /// An address where the text is one, else a DNS name in lower case.
    pub fn new(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Dns(text.to_ascii_lowercase()), Self::Ip)
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// DNS names sorted, then addresses in their order, each once: as kubeadm writes them.
pub fn tidy(names: impl IntoIterator<Item = San>) -> Vec<San> {
    let mut dns = BTreeSet::new();
    let mut ips = Vec::new();
    for name in names {
        match name {
            San::Dns(_) => drop(dns.insert(name)),
            San::Ip(_) if ips.contains(&name) => {}
            San::Ip(_) => ips.push(name),
        }
    }
    dns.into_iter().chain(ips).collect()
}

/// A certificate to be signed by one of the authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Path below the certificates directory without suffix; empty where it goes into a kubeconfig.
    pub path: &'static str,
    /// Its signer.
    pub signer: Authority,
    /// Common name.
    pub common_name: String,
    /// Organization: the group of a client.
    pub organization: Option<String>,
    /// What it is for.
    pub usage: Usage,
    /// Names of a server, tidy.
    pub sans: Vec<San>,
}

/// What the names in certificates are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Node name.
    pub node: String,
    /// Address at which this node's API server is reached.
    pub advertise: IpAddr,
    /// First address of the (first) service subnet.
    pub service: IpAddr,
    /// `cluster.local`.
    pub dns_domain: String,
    /// Host part of controlPlaneEndpoint.
    pub endpoint: Option<String>,
    /// `apiServer.certSANs`.
    pub api_sans: Vec<String>,
    /// `etcd.local.serverCertSANs`.
    pub etcd_server_sans: Vec<String>,
    /// `etcd.local.peerCertSANs`.
    pub etcd_peer_sans: Vec<String>,
}

impl Names {
    fn api(&self) -> Vec<San> {
        let dns = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(|n| San::Dns(n.into()));
        let own = [
            San::Dns(self.node.to_ascii_lowercase()),
            San::Dns(format!("kubernetes.default.svc.{}", self.dns_domain).to_ascii_lowercase()),
            San::Ip(self.service),
            San::Ip(self.advertise),
        ];
        let given = self.endpoint.iter().chain(&self.api_sans).map(|name| San::new(name));
        tidy(dns.into_iter().chain(own).chain(given))
    }

    fn etcd(&self, more: &[String]) -> Vec<San> {
        let own = [
            San::Dns(self.node.to_ascii_lowercase()),
            San::Dns("localhost".into()),
            San::Ip(self.advertise),
            San::Ip([127, 0, 0, 1].into()),
            San::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
        ];
        tidy(own.into_iter().chain(more.iter().map(|name| San::new(name))))
    }
}

/// The authorities of a cluster. Those of etcd belong to whoever runs an external one.
pub fn authorities(external_etcd: bool) -> Vec<Authority> {
    let all = [Authority::Cluster, Authority::FrontProxy, Authority::Etcd];
    all.into_iter().filter(|a| !(external_etcd && *a == Authority::Etcd)).collect()
}

/// All certificates of a control-plane node, in kubeadm's order.
pub fn leaves(names: &Names, external_etcd: bool) -> Vec<Leaf> {
    use Authority::{Cluster, Etcd, FrontProxy};
    let leaf = |path, signer, common_name: &str, usage, sans| Leaf {
        path,
        signer,
        common_name: common_name.to_owned(),
        organization: None,
        usage,
        sans,
    };
    let client = |path, signer, common_name| leaf(path, signer, common_name, Usage::Client, Vec::new());
    let mut all = vec![
        leaf("apiserver", Cluster, "kube-apiserver", Usage::Server, names.api()),
        // Without a group since 1.36.1: a binding of its own to system:kubelet-api-admin gives it its rights.
        client("apiserver-kubelet-client", Cluster, "kube-apiserver-kubelet-client"),
        client("front-proxy-client", FrontProxy, "front-proxy-client"),
    ];
    if !external_etcd {
        all.extend([
            leaf("etcd/server", Etcd, &names.node, Usage::Both, names.etcd(&names.etcd_server_sans)),
            leaf("etcd/peer", Etcd, &names.node, Usage::Both, names.etcd(&names.etcd_peer_sans)),
            client("etcd/healthcheck-client", Etcd, "kube-etcd-healthcheck-client"),
            client("apiserver-etcd-client", Etcd, "kube-apiserver-etcd-client"),
        ]);
    }
    all
}

/// Which address a kubeconfig names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// controlPlaneEndpoint; the local API server where there is none.
    Cluster,
    /// This node's own API server.
    Local,
}

/// A kubeconfig of the init node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// File name: `admin.conf`.
    pub file: &'static str,
    /// User: the certificate's common name.
    pub user: String,
    /// Group: the certificate's organization.
    pub group: Option<&'static str>,
    /// Where it goes.
    pub server: Server,
}

impl Client {
    /// Its client certificate.
    pub fn leaf(&self) -> Leaf {
        Leaf {
            path: "",
            signer: Authority::Cluster,
            common_name: self.user.clone(),
            organization: self.group.map(str::to_owned),
            usage: Usage::Client,
            sans: Vec::new(),
        }
    }
}

/// All kubeconfigs of the init node, in kubeadm's order.
pub fn clients(node: &str) -> Vec<Client> {
    let client = |file, user: &str, group, server| Client { file, user: user.to_owned(), group, server };
    vec![
        client("admin.conf", "kubernetes-admin", Some("kubeadm:cluster-admins"), Server::Cluster),
        client("super-admin.conf", "kubernetes-super-admin", Some("system:masters"), Server::Cluster),
        client("kubelet.conf", &format!("system:node:{node}"), Some("system:nodes"), Server::Local),
        client("controller-manager.conf", "system:kube-controller-manager", None, Server::Local),
        client("scheduler.conf", "system:kube-scheduler", None, Server::Local),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn names() -> Names {
        Names {
            node: "Node-1".into(),
            advertise: [10, 1, 2, 3].into(),
            service: [10, 96, 0, 1].into(),
            dns_domain: "cluster.local".into(),
            endpoint: Some("API.example.org".into()),
            api_sans: vec!["10.1.2.3".into(), "extra.example.org".into(), "fd00::1".into(), "kubernetes".into()],
            etcd_server_sans: vec!["etcd.example.org".into()],
            etcd_peer_sans: vec![],
        }
    }

    fn text(sans: &[San]) -> String {
        sans.iter().map(San::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_api_servers_names_are_lower_case_sorted_and_single() {
        let all = leaves(&names(), false);
        assert_eq!(
            text(&all[0].sans),
            "api.example.org extra.example.org kubernetes kubernetes.default kubernetes.default.svc \
             kubernetes.default.svc.cluster.local node-1 10.96.0.1 10.1.2.3 fd00::1"
        );
    }

    #[test]
    fn etcds_names() {
        let all = leaves(&names(), false);
        let of = |path| text(&all.iter().find(|l| l.path == path).unwrap().sans);
        assert_eq!(of("etcd/server"), "etcd.example.org localhost node-1 10.1.2.3 127.0.0.1 ::1");
        assert_eq!(of("etcd/peer"), "localhost node-1 10.1.2.3 127.0.0.1 ::1");
    }

    #[test]
    fn external_etcd_leaves_the_five_files_out() {
        assert_eq!(authorities(false).len() + leaves(&names(), false).len(), 10);
        assert_eq!(authorities(true).len() + leaves(&names(), true).len(), 5);
        assert!(leaves(&names(), true).iter().all(|l| l.signer != Authority::Etcd));
    }
}

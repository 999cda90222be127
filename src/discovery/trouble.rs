//! Why a cluster was not found or not trusted, in words, and whose it is to mend.

use kprov_pki::pin::Pin;

/// Why discovery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody answers, or not as an API server.
    #[error("cannot reach the API server at {endpoint}: {why}")]
    Unreachable {
        /// As typed.
        endpoint: String,
        /// In words.
        why: String,
    },
    /// It answers, but does not say what is needed.
    #[error("the API server at {endpoint} answers, but {why}")]
    NotReady {
        /// As typed.
        endpoint: String,
        /// In words.
        why: String,
    },
    /// No signature for our token among those there are.
    #[error("bootstrap token {id} is unknown to the cluster or has expired")]
    UnknownToken {
        /// Public half.
        id: String,
    },
    /// A signature that our token did not make.
    #[error(
        "the cluster's signature for bootstrap token {id} was not made with the secret half that was given: the token is wrong, or what answers at {endpoint} is not the cluster"
    )]
    BadSignature {
        /// Public half.
        id: String,
        /// As typed.
        endpoint: String,
    },
    /// The token does not authenticate.
    #[error("the API server does not accept bootstrap token {id}: it has expired or is not for authentication")]
    TokenRefused {
        /// Public half.
        id: String,
    },
    /// Another CA than the pinned one.
    #[error(
        "the CA hash does not match: the cluster at {endpoint} has {found}: the hash is that of another cluster, or what answers there is not the cluster"
    )]
    WrongPin {
        /// As typed.
        endpoint: String,
        /// What its CAs would have been pinned as.
        found: String,
    },
    /// Clocks differ too much.
    #[error("{why}, because {clock}")]
    Clock {
        /// What failed.
        why: String,
        /// Which clock is how far off.
        clock: String,
    },
    /// Certificates that cannot be trusted, with clocks that agree.
    #[error("{0}")]
    Certificate(String),
    /// What was read without and with verification differs.
    #[error(
        "cluster-info read over the verified connection differs from what was read before: what answers at {endpoint} is not one cluster"
    )]
    Changed {
        /// As typed.
        endpoint: String,
    },
    /// cluster-info is signed, but of no use.
    #[error("cluster-info of the cluster at {endpoint} {why}")]
    BadClusterInfo {
        /// As typed.
        endpoint: String,
        /// In words.
        why: String,
    },
    /// Somebody else has the name.
    #[error("a Ready Node of this name is in the cluster already, and it is not this machine, {node}")]
    NodeExists {
        /// Node name.
        node: String,
    },
    /// kubelet.conf is of another cluster.
    #[error("this machine belongs to another cluster already, {server}")]
    OtherCluster {
        /// URL of that cluster.
        server: String,
    },
    /// kubelet.conf is of another node.
    #[error("this machine is in the cluster already as node {is}, not as {wanted}")]
    OtherName {
        /// Its name now.
        is: String,
        /// What was asked for.
        wanted: String,
    },
    /// It is no bare machine.
    #[error("this machine is a control plane already")]
    ControlPlane,
    /// Versions too far apart.
    #[error("{why}")]
    Skew {
        /// In words.
        why: String,
    },
}

impl Trouble {
    /// True where the far side is to be mended, not what was typed here.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NotReady { .. } | Self::BadClusterInfo { .. })
    }

    /// Commands that mend it or tell more.
    pub fn hints(&self) -> Vec<String> {
        let on = |command: &str| vec![format!("on a control-plane machine: {command}")];
        match self {
            Self::UnknownToken { .. }
            | Self::BadSignature { .. }
            | Self::TokenRefused { .. }
            | Self::WrongPin { .. } => on("kprov token create --print-join-command"),
            Self::Clock { .. } => vec!["set the clock, for instance: timedatectl set-ntp true".into()],
            Self::NotReady { .. } => on("kubectl -n kube-public get configmap cluster-info -o yaml"),
            Self::Unreachable { endpoint, why } => {
                let endpoint = endpoint.trim_start_matches("https://");
                let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                vec![match why.as_str() {
                    "the name cannot be resolved" => format!("getent hosts {host}"),
                    "no route to that host" => format!("ip route get {bare}"),
                    _ => format!("curl -k https://{endpoint}/livez"),
                }]
            }
            Self::NodeExists { node } => {
                vec![
                    "give it another name: --node-name NAME".into(),
                    format!("or, if that machine is gone: kubectl delete node {node}"),
                ]
            }
            Self::OtherCluster { .. } | Self::OtherName { .. } | Self::ControlPlane => vec!["kprov reset".into()],
            Self::Skew { .. } => vec!["use a bundle of the cluster's version: --bundle FILE".into()],
            Self::Certificate(why) if why.contains("expired") || why.contains("not valid before") => {
                let renew =
                    "on a control-plane machine: kubeadm certs renew apiserver, then restart its kube-apiserver";
                vec!["look at both clocks: date -u".into(), renew.into()]
            }
            Self::Certificate(why) if why.contains("does not cover") => {
                vec!["type one of the names that it covers".into()]
            }
            Self::Certificate(_) | Self::Changed { .. } => on("kprov token create --print-join-command"),
            Self::BadClusterInfo { .. } => on("kubectl -n kube-public get configmap cluster-info -o yaml"),
        }
    }
}

/// Pins as a list.
pub(super) fn pins(found: &[Pin]) -> String {
    found.iter().map(Pin::to_string).collect::<Vec<_>>().join(", ")
}

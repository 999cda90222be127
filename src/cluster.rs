//! What the user wants: kubeadm's documents with defaults filled in.

pub mod duration;
pub mod kubeadm;
pub mod version;

use serde_json::Value;

pub use self::duration::{duration, duration_text};
use self::kubeadm::{ClusterConfiguration, InitConfiguration, JoinConfiguration};

/// Input of `init` with all defaults filled in: every `Option` that has a default is `Some`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// This node's part.
    pub init: InitConfiguration,
    /// The cluster's part, as it is stored in ConfigMap kubeadm-config.
    pub config: ClusterConfiguration,
    /// KubeletConfiguration as stored in ConfigMap kubelet-config (user's document over our defaults, fitted to the host).
    pub kubelet: Value,
    /// KubeProxyConfiguration as stored in ConfigMap kube-proxy.
    pub proxy: Value,
    /// True where the user gave a KubeletConfiguration (no component-config hash then; contract A.8).
    pub kubelet_from_user: bool,
    /// True where the user gave a KubeProxyConfiguration.
    pub proxy_from_user: bool,
    /// The pod network.
    pub cni: Cni,
    /// No control-plane taint.
    pub single_node: bool,
}

/// The pod network that `init` brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cni {
    /// The bundle's flannel.
    Flannel,
    /// None: the user brings one.
    None,
    /// A manifest, already read: its file name (for messages) and its text.
    Manifest {
        /// Where it came from.
        name: String,
        /// YAML documents.
        text: String,
    },
}

/// Input of `join` with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Joining {
    /// The document.
    pub join: JoinConfiguration,
}

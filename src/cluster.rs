//! What the user wants: kubeadm's documents with defaults filled in.

mod components;
pub mod defaults;
pub mod duration;
pub mod flags;
mod input;
pub mod kubeadm;
mod load;
mod merge;
pub mod problems;
mod schema;
pub mod subnets;
mod tables;
mod validate;
pub mod version;

use serde_json::Value;

pub use self::duration::{duration, duration_text};
use self::kubeadm::{ClusterConfiguration, InitConfiguration, JoinConfiguration, ResetConfiguration};
pub use self::load::{load_init, load_join, load_reset, wanted_socket, wanted_version};
pub use self::problems::Problems;

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
    /// True where the user gave a KubeletConfiguration or it was fitted to the host (no component-config hash then;
    /// contract A.8).
    pub kubelet_from_user: bool,
    /// The same for KubeProxyConfiguration.
    pub proxy_from_user: bool,
    /// The pod network.
    pub cni: Cni,
    /// No control-plane taint.
    pub single_node: bool,
    /// One line for each value of the component documents that was fitted to the host.
    pub notes: Vec<String>,
    /// What is odd about the input without being wrong.
    pub warnings: Problems,
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
    /// What is odd about the input without being wrong.
    pub warnings: Problems,
}

/// Input of `reset` with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Resetting {
    /// The document. `criSocket` is absent unless the user named one.
    pub reset: ResetConfiguration,
    /// What is odd about the input without being wrong.
    pub warnings: Problems,
}

impl Cluster {
    /// ClusterConfiguration as it is stored in ConfigMap kubeadm-config: with its defaults, without component documents.
    ///
    /// # Errors
    /// A value that YAML cannot hold (extraEnvs are passed through as they came).
    pub fn config_yaml(&self) -> Result<String, crate::yaml::WriteError> {
        crate::yaml::to_string(&kubeadm::document("ClusterConfiguration", &self.config))
    }
}

#[cfg(test)]
mod tests;

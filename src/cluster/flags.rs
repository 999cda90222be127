//! The flags of `init`, `join` and `reset`: kubeadm's, in kubeadm's words, and ours.
//!
//! Each that belongs to a document has an `Option` or a list here, so that "given" and "left out" differ.

use std::path::PathBuf;

use clap::Args;

/// When a command is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WaitFor {
    /// The API server answers and the add-ons are applied.
    Api,
    /// This Node is Ready.
    Node,
    /// All system pods are Ready.
    Pods,
}

/// `--cni`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CniChoice {
    /// The bundle's flannel.
    Flannel,
    /// None: the user brings one.
    None,
    /// A manifest file of the user's.
    File(PathBuf),
}

impl std::str::FromStr for CniChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "flannel" => Self::Flannel,
            "none" => Self::None,
            file => Self::File(file.into()),
        })
    }
}

/// Flags of all three.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonFlags {
    /// Words that are no flags: kubeadm's `phase` subcommands stand there
    #[arg(hide = true)]
    pub words: Vec<String>,

    /// Path to a kubeadm configuration file (v1beta4 documents); - is stdin
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Path to the CRI socket to connect; if empty, the one that this node was set up with, else a runtime that runs, else the bundle's containerd
    #[arg(long, value_name = "SOCKET")]
    pub cri_socket: Option<String>,

    /// Don't apply any changes; just output what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// A list of checks whose errors will be shown as warnings, as 'IsPrivilegedUser,Swap'; 'all' ignores errors from all checks
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    pub ignore_preflight_errors: Vec<String>,

    /// List of phases to be skipped (not supported yet)
    #[arg(long, value_name = "PHASE", value_delimiter = ',')]
    pub skip_phases: Vec<String>,
}

/// Flags of what makes this machine a node: `init` and `join`.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeFlags {
    /// Specify the node name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// Path to a directory that contains patches of manifests (not supported yet)
    #[arg(long, value_name = "DIR")]
    pub patches: Option<String>,

    /// The bundle to install from [default: beside the binary, then in the cache]
    #[arg(long, value_name = "FILE", help_heading = "kprov's own")]
    pub bundle: Option<PathBuf>,

    /// The public key (minisign) by which the bundle must be signed [default: /etc/kprov/bundle.pub where it exists]
    #[arg(long, value_name = "FILE", help_heading = "kprov's own")]
    pub bundle_key: Option<PathBuf>,

    /// The id that the bundle must have: `kprov up` has checked it where it runs, and names it to its machines
    #[arg(long, value_name = "SHA256", hide = true)]
    pub bundle_id: Option<String>,

    /// Mend first what is safe to mend of what preflight finds: turn swap off, move stale CNI configurations away. It is
    /// listed and asked for; kprov reset takes it back
    #[arg(long, help_heading = "kprov's own")]
    pub fix: bool,

    /// With --fix: mend without asking
    #[arg(short, long, requires = "fix", help_heading = "kprov's own")]
    pub yes: bool,

    /// When to return [default: api; for join, the Node is registered and its kubelet has its certificate]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "kprov's own")]
    pub wait: Option<WaitFor>,
}

/// Flags of `kprov init`.
#[derive(Debug, Clone, Default, Args)]
pub struct InitFlags {
    /// What `init`, `join` and `reset` share.
    #[command(flatten)]
    pub common: CommonFlags,

    /// What `init` and `join` share.
    #[command(flatten)]
    pub node: NodeFlags,

    /// The IP address the API Server will advertise it's listening on; if not set the default network interface will be used
    #[arg(long, value_name = "IP")]
    pub apiserver_advertise_address: Option<String>,

    /// Port for the API Server to bind to [default: 6443]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub apiserver_bind_port: Option<u16>,

    /// Optional extra Subject Alternative Names (SANs) to use for the API Server serving certificate; can be both IP addresses and DNS names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub apiserver_cert_extra_sans: Vec<String>,

    /// The path where to save and store the certificates [default: /etc/kubernetes/pki]
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<String>,

    /// Key used to encrypt the control-plane certificates in the kubeadm-certs Secret (not supported yet)
    #[arg(long, value_name = "HEX")]
    pub certificate_key: Option<String>,

    /// Specify a stable IP address or DNS name for the control plane
    #[arg(long, value_name = "HOST[:PORT]")]
    pub control_plane_endpoint: Option<String>,

    /// A set of key=value pairs that describe feature gates for various features
    #[arg(long, value_name = "GATE=BOOL", value_delimiter = ',')]
    pub feature_gates: Vec<String>,

    /// Choose a container registry to pull control plane images from [default: registry.k8s.io]
    #[arg(long, value_name = "REGISTRY")]
    pub image_repository: Option<String>,

    /// Choose a specific Kubernetes version for the control plane [default: the bundle's]
    #[arg(long, value_name = "VERSION")]
    pub kubernetes_version: Option<String>,

    /// Specify range of IP addresses for the pod network [default with flannel: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub pod_network_cidr: Option<String>,

    /// Use alternative range of IP address for service VIPs [default: 10.96.0.0/12]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<String>,

    /// Use alternative domain for services, e.g. "myorg.internal" [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub service_dns_domain: Option<String>,

    /// Don't print the key used to encrypt the control-plane certificates (not supported yet)
    #[arg(long)]
    pub skip_certificate_key_print: bool,

    /// Skip printing of the default bootstrap token
    #[arg(long)]
    pub skip_token_print: bool,

    /// The token to use for establishing bidirectional trust between nodes and control-plane nodes, [a-z0-9]{6}.[a-z0-9]{16}
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,

    /// The duration before the token is automatically deleted (e.g. 1s, 2m, 3h); 0 means never [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub token_ttl: Option<String>,

    /// Upload control-plane certificates to the kubeadm-certs Secret (not supported yet)
    #[arg(long)]
    pub upload_certs: bool,

    /// The pod network: flannel, none, or a manifest file, which is applied server-side
    #[arg(long, value_name = "flannel|none|FILE", help_heading = "kprov's own")]
    pub cni: Option<CniChoice>,

    /// Leave this node without the control-plane taint, so that it runs pods itself
    #[arg(long, help_heading = "kprov's own")]
    pub single_node: bool,
}

/// Flags of `kprov join`.
#[derive(Debug, Clone, Default, Args)]
pub struct JoinFlags {
    /// The control plane's address
    #[arg(value_name = "HOST:PORT")]
    pub endpoint: Option<String>,

    /// What `init`, `join` and `reset` share.
    #[command(flatten)]
    pub common: CommonFlags,

    /// What `init` and `join` share.
    #[command(flatten)]
    pub node: NodeFlags,

    /// The IP address the API Server will advertise it's listening on, with --control-plane (not supported yet)
    #[arg(long, value_name = "IP")]
    pub apiserver_advertise_address: Option<String>,

    /// Port for the API Server to bind to, with --control-plane (not supported yet)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub apiserver_bind_port: Option<u16>,

    /// Key to decrypt the uploaded certificates, with --control-plane (not supported yet)
    #[arg(long, value_name = "HEX")]
    pub certificate_key: Option<String>,

    /// Create a new control plane instance on this node (not supported yet)
    #[arg(long)]
    pub control_plane: bool,

    /// For file-based discovery, a file or URL from which to load cluster information (not supported yet)
    #[arg(long, value_name = "FILE")]
    pub discovery_file: Option<String>,

    /// For token-based discovery, the token used to validate cluster information fetched from the API server
    #[arg(long, value_name = "TOKEN")]
    pub discovery_token: Option<String>,

    /// For token-based discovery, validate that the root CA public key matches this hash (format: "<type>:<value>")
    #[arg(long, value_name = "sha256:HEX", value_delimiter = ',')]
    pub discovery_token_ca_cert_hash: Vec<String>,

    /// For token-based discovery, allow joining without --discovery-token-ca-cert-hash pinning
    #[arg(long)]
    pub discovery_token_unsafe_skip_ca_verification: bool,

    /// Specify the token used to temporarily authenticate with the Kubernetes Control Plane while joining the node
    #[arg(long, value_name = "TOKEN")]
    pub tls_bootstrap_token: Option<String>,

    /// Use this token for both discovery-token and tls-bootstrap-token when those values are not provided
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

/// Flags of `kprov reset`.
#[derive(Debug, Clone, Default, Args)]
pub struct ResetFlags {
    /// What `init`, `join` and `reset` share.
    #[command(flatten)]
    pub common: CommonFlags,

    /// The path to the directory where the certificates are stored; if specified, clean this directory [default: /etc/kubernetes/pki]
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<String>,

    /// Cleanup the "/etc/kubernetes/tmp" directory
    #[arg(long)]
    pub cleanup_tmp_dir: bool,

    /// Reset the node without prompting for confirmation
    #[arg(short, long)]
    pub force: bool,

    /// The kubeconfig file to use when talking to the cluster [default: the kubelet's own, /etc/kubernetes/kubelet.conf]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

//! `kubeadm.k8s.io/v1beta4` as Rust types: field names, shapes and nothing else (contract A.3).
//!
//! Absent and empty differ for some fields (`taints`), so everything is optional and left out when absent.

use serde::{Deserialize, Serialize};

/// The API group and version.
pub const API_VERSION: &str = "kubeadm.k8s.io/v1beta4";

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, often empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// One command-line argument: a list, so that a flag may come several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arg {
    /// Flag without dashes.
    pub name: String,
    /// Value.
    #[serde(default)]
    pub value: String,
}

/// One environment variable; as a core/v1 EnvVar, `valueFrom` passed through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Source of the value, as core/v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<serde_json::Value>,
}

/// A host path mounted into a control-plane pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPathMount {
    /// Volume name.
    pub name: String,
    /// Path on the host.
    pub host_path: String,
    /// Path in the container.
    pub mount_path: String,
    /// Read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// core/v1 HostPathType.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_type: Option<String>,
}

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    )*};
}

documents! {
    /// A bootstrap token.
    BootstrapToken {
        /// `id.secret`.
        token: String,
        /// For people.
        description: String,
        /// Go duration; `0s` never expires.
        ttl: String,
        /// RFC 3339; excludes `ttl`.
        expires: String,
        /// `signing`, `authentication`.
        usages: Vec<String>,
        /// `system:bootstrappers:…`.
        groups: Vec<String>,
    }
    /// How the node registers.
    NodeRegistration {
        /// Node name.
        name: String,
        /// CRI socket URL.
        cri_socket: String,
        /// Absent: the default control-plane taint. Empty: none.
        taints: Vec<Taint>,
        /// Additional kubelet flags.
        kubelet_extra_args: Vec<Arg>,
        /// Names of preflight checks.
        ignore_preflight_errors: Vec<String>,
        /// `IfNotPresent` …
        image_pull_policy: String,
        /// One after the other.
        image_pull_serial: bool,
    }
    /// Where this node's API server listens.
    LocalApiEndpoint {
        /// Address.
        advertise_address: String,
        /// Port.
        bind_port: u16,
    }
    /// Patches.
    Patches {
        /// Directory.
        directory: String,
    }
    /// Go durations.
    Timeouts {
        /// 4m.
        control_plane_component_health_check: String,
        /// 4m.
        kubelet_health_check: String,
        /// 1m.
        #[serde(rename = "kubernetesAPICall")]
        kubernetes_api_call: String,
        /// 2m.
        #[serde(rename = "etcdAPICall")]
        etcd_api_call: String,
        /// 5m.
        tls_bootstrap: String,
        /// 5m.
        discovery: String,
        /// 5m.
        upgrade_manifests: String,
    }
    /// `kind: InitConfiguration`.
    InitConfiguration {
        /// Tokens to make.
        bootstrap_tokens: Vec<BootstrapToken>,
        /// Plan only.
        dry_run: bool,
        /// This node.
        node_registration: NodeRegistration,
        /// This API server.
        #[serde(rename = "localAPIEndpoint")]
        local_api_endpoint: LocalApiEndpoint,
        /// Not supported yet.
        certificate_key: String,
        /// Not supported yet.
        skip_phases: Vec<String>,
        /// Not supported yet.
        patches: Patches,
        /// How long to wait.
        timeouts: Timeouts,
    }
    /// Shared by API server, controller manager and scheduler.
    Component {
        /// Flags.
        extra_args: Vec<Arg>,
        /// Mounts.
        extra_volumes: Vec<HostPathMount>,
        /// Environment.
        extra_envs: Vec<EnvVar>,
        /// Additional names in the serving certificate (API server only).
        #[serde(rename = "certSANs")]
        cert_sans: Vec<String>,
    }
    /// etcd as static pods.
    LocalEtcd {
        /// Registry.
        image_repository: String,
        /// Tag.
        image_tag: String,
        /// /var/lib/etcd.
        data_dir: String,
        /// Flags.
        extra_args: Vec<Arg>,
        /// Environment.
        extra_envs: Vec<EnvVar>,
        /// Names in the serving certificate.
        #[serde(rename = "serverCertSANs")]
        server_cert_sans: Vec<String>,
        /// Names in the peer certificate.
        #[serde(rename = "peerCertSANs")]
        peer_cert_sans: Vec<String>,
    }
    /// etcd that somebody else runs.
    ExternalEtcd {
        /// Client URLs.
        endpoints: Vec<String>,
        /// URLs of its plain HTTP API (1.35+).
        http_endpoints: Vec<String>,
        /// CA path.
        ca_file: String,
        /// Client certificate path.
        cert_file: String,
        /// Client key path.
        key_file: String,
    }
    /// One of the two.
    Etcd {
        /// Static pods.
        local: LocalEtcd,
        /// Elsewhere.
        external: ExternalEtcd,
    }
    /// Networks.
    Networking {
        /// Comma pair for dual stack.
        service_subnet: String,
        /// Comma pair for dual stack.
        pod_subnet: String,
        /// cluster.local.
        dns_domain: String,
    }
    /// CoreDNS.
    Dns {
        /// Registry.
        image_repository: String,
        /// Tag.
        image_tag: String,
        /// Leave it out.
        disabled: bool,
    }
    /// kube-proxy.
    Proxy {
        /// Leave it out.
        disabled: bool,
    }
    /// `kind: ClusterConfiguration`.
    ClusterConfiguration {
        /// etcd.
        etcd: Etcd,
        /// Networks.
        networking: Networking,
        /// `v1.36.3`.
        kubernetes_version: String,
        /// `host:port` for all.
        control_plane_endpoint: String,
        /// API server.
        api_server: Component,
        /// Controller manager.
        controller_manager: Component,
        /// Scheduler.
        scheduler: Component,
        /// CoreDNS.
        dns: Dns,
        /// kube-proxy.
        proxy: Proxy,
        /// /etc/kubernetes/pki.
        certificates_dir: String,
        /// registry.k8s.io.
        image_repository: String,
        /// Feature gates.
        feature_gates: std::collections::BTreeMap<String, bool>,
        /// kubernetes.
        cluster_name: String,
        /// `ECDSA-P256` …
        encryption_algorithm: String,
        /// Go duration.
        certificate_validity_period: String,
        /// Go duration.
        #[serde(rename = "caCertificateValidityPeriod")]
        ca_certificate_validity_period: String,
    }
    /// Discovery by token.
    BootstrapTokenDiscovery {
        /// Token.
        token: String,
        /// `host:port`.
        #[serde(rename = "apiServerEndpoint")]
        api_server_endpoint: String,
        /// `sha256:HEX`.
        ca_cert_hashes: Vec<String>,
        /// No pin.
        #[serde(rename = "unsafeSkipCAVerification")]
        unsafe_skip_ca_verification: bool,
    }
    /// Discovery by file (not supported yet).
    FileDiscovery {
        /// Path or URL.
        kube_config_path: String,
    }
    /// How to find and trust the cluster.
    Discovery {
        /// By token.
        bootstrap_token: BootstrapTokenDiscovery,
        /// By file.
        file: FileDiscovery,
        /// Token for the TLS bootstrap.
        tls_bootstrap_token: String,
    }
    /// A further control plane (not supported yet).
    JoinControlPlane {
        /// Its API server.
        #[serde(rename = "localAPIEndpoint")]
        local_api_endpoint: LocalApiEndpoint,
        /// Key of the uploaded certificates.
        certificate_key: String,
    }
    /// `kind: JoinConfiguration`.
    JoinConfiguration {
        /// Plan only.
        dry_run: bool,
        /// This node.
        node_registration: NodeRegistration,
        /// /etc/kubernetes/pki/ca.crt.
        ca_cert_path: String,
        /// Finding the cluster.
        discovery: Discovery,
        /// Not supported yet.
        control_plane: JoinControlPlane,
        /// Not supported yet.
        skip_phases: Vec<String>,
        /// Not supported yet.
        patches: Patches,
        /// How long to wait.
        timeouts: Timeouts,
    }
    /// `kind: ResetConfiguration`.
    ResetConfiguration {
        /// Also /etc/kubernetes/tmp.
        cleanup_tmp_dir: bool,
        /// /etc/kubernetes/pki.
        certificates_dir: String,
        /// CRI socket URL.
        cri_socket: String,
        /// Plan only.
        dry_run: bool,
        /// Do not ask.
        force: bool,
        /// Names of preflight checks.
        ignore_preflight_errors: Vec<String>,
        /// Not supported yet.
        skip_phases: Vec<String>,
        /// `MNT_FORCE`, `MNT_DETACH`, `MNT_EXPIRE`, `UMOUNT_NOFOLLOW`.
        unmount_flags: Vec<String>,
        /// How long to wait.
        timeouts: Timeouts,
    }
}

/// A value of this module with its `apiVersion` and `kind`.
pub fn document<T: Serialize>(kind: &str, fields: &T) -> serde_json::Value {
    // These types hold nothing that JSON cannot: no maps with other keys than text, no code of their own.
    let mut document = serde_json::to_value(fields).unwrap_or_default();
    if let Some(object) = document.as_object_mut() {
        object.insert("apiVersion".to_owned(), API_VERSION.into());
        object.insert("kind".to_owned(), kind.into());
    }
    document
}

use std::collections::BTreeMap;

use clap::Parser;

use super::flags::{InitFlags, JoinFlags, ResetFlags};
use super::*;
use crate::bundle::Manifest;
use crate::facts::{Cgroups, Facts, tests::facts};

pub(super) fn bundle() -> Manifest {
    Manifest {
        format: 1,
        kubernetes: "v1.36.3".to_owned(),
        arch: "amd64".to_owned(),
        parts: BTreeMap::new(),
        files: Vec::new(),
        images: Vec::new(),
        blobs: Vec::new(),
    }
}

#[derive(Parser)]
struct Line<T: clap::Args> {
    #[command(flatten)]
    flags: T,
}

fn flags<T: clap::Args>(line: &str) -> T {
    Line::<T>::parse_from(["x"].into_iter().chain(line.split_whitespace())).flags
}

pub(super) fn init_with(line: &str, text: Option<&str>, facts: &Facts) -> Result<Cluster, Problems> {
    let mut flags: InitFlags = flags(line);
    if text.is_some() {
        flags.config = Some("cluster.yaml".into());
    }
    load_init(&flags, text.map(|text| ("cluster.yaml", text)), None, facts, &bundle())
}

fn init(line: &str) -> Cluster {
    init_with(line, None, &facts()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn init_file(text: &str) -> Cluster {
    init_with("", Some(text), &facts()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn join(line: &str) -> Result<Joining, Problems> {
    load_join(&flags::<JoinFlags>(line), None, &facts())
}

fn joined(text: &str, problems: impl std::fmt::Display) {
    assert!(problems.to_string().contains(text), "{problems}");
}

#[test]
fn nothing_given_is_kubeadms_cluster_with_flannel_and_ecdsa() {
    let cluster = init("");
    let config = cluster.config_yaml().unwrap();
    let init = serde_json::to_value(&cluster.init).unwrap();
    let documents = crate::yaml::to_documents(&[init, cluster.kubelet, cluster.proxy]).unwrap();
    insta::assert_snapshot!("defaults", config + "---\n" + &documents);
    assert!(!cluster.kubelet_from_user && !cluster.proxy_from_user);
    assert!(cluster.warnings.is_empty());
}

#[test]
fn what_is_stored_reads_back_as_the_same() {
    let cluster = init(
        "--apiserver-cert-extra-sans no,1e3,CP.example.org --pod-network-cidr 10.7.0.0/16 --feature-gates PublicKeysECDSA=true",
    );
    let text = cluster.config_yaml().unwrap();
    let read: kubeadm::ClusterConfiguration = crate::yaml::from_str(&text).unwrap();
    assert_eq!(read, cluster.config);
    assert_eq!(init_file(&text).config, cluster.config);
}

#[test]
fn dual_stack_services_bring_dual_stack_pods() {
    let pods = |line: &str| init(line).config.networking.unwrap().pod_subnet;
    assert_eq!(pods("--service-cidr 10.96.0.0/16,fd00:96::/112").unwrap(), "10.244.0.0/16,fd00:10:244::/56");
    assert_eq!(pods("--service-cidr 10.96.0.0/16 --cni none"), None);
    assert_eq!(pods("--cni none --pod-network-cidr 10.1.0.0/16").unwrap(), "10.1.0.0/16");
}

#[test]
fn the_address_is_of_the_services_family() {
    let both =
        Facts { default_addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()], ..facts() };
    let address = |line: &str| {
        let cluster = init_with(line, None, &both).unwrap();
        (cluster.init.local_api_endpoint.unwrap().advertise_address.unwrap(), cluster.proxy["bindAddress"].clone())
    };
    assert_eq!(address(""), ("192.0.2.10".to_owned(), "0.0.0.0".into()));
    assert_eq!(address("--service-cidr fd00:96::/112"), ("2001:db8::10".to_owned(), "::".into()));
    assert_eq!(address("--apiserver-advertise-address ::"), ("2001:db8::10".to_owned(), "::".into()));
    assert_eq!(address("--apiserver-advertise-address 10.0.0.1").0, "10.0.0.1");
    let island = Facts { default_addresses: Vec::new(), ..facts() };
    joined("--apiserver-advertise-address 192.0.2.10", init_with("", None, &island).unwrap_err());
}

#[test]
fn versions_that_the_bundle_lacks_are_refused_with_both_named() {
    for fine in ["1.36.3", "v1.36.3", "stable", "stable-1", "stable-1.36"] {
        assert_eq!(init(&format!("--kubernetes-version {fine}")).config.kubernetes_version.unwrap(), "v1.36.3");
    }
    for other in ["v1.35.4", "stable-1.35", "latest", "ci/latest"] {
        let problems = init_with(&format!("--kubernetes-version {other}"), None, &facts()).unwrap_err();
        joined(other, &problems);
        joined("the bundle has v1.36.3", &problems);
    }
}

#[test]
fn a_cgroup_v1_host_shapes_the_documents_as_if_the_user_had() {
    let host = Facts { cgroups: Cgroups::V1, conntrack_writable: false, ..facts() };
    let cluster = init_with("", None, &host).unwrap();
    assert_eq!(cluster.kubelet["cgroupDriver"], "cgroupfs");
    assert_eq!(cluster.kubelet["failCgroupV1"], false);
    assert_eq!(cluster.proxy["conntrack"]["maxPerCore"], 0);
    assert!(cluster.kubelet_from_user && cluster.proxy_from_user);
    assert_eq!(cluster.notes.len(), 3);
}

#[test]
fn the_users_component_documents_win_and_what_is_odd_is_told() {
    let cluster = init_file(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n---\napiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 50\nrotateCertificates: false\nhealthzPort: 1\nclusterDomain: null\n---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n",
    );
    assert_eq!(cluster.kubelet["maxPods"], 50);
    assert_eq!(cluster.kubelet["rotateCertificates"], true);
    assert_eq!(cluster.kubelet["clusterDomain"], "cluster.local");
    assert_eq!(cluster.proxy["mode"], "nftables");
    assert_eq!(cluster.proxy["clusterCIDR"], "10.244.0.0/16");
    joined("healthzPort", &cluster.warnings);
    assert_eq!(cluster.warnings.0.len(), 1);
}

#[test]
fn taints_and_single_node() {
    let taints = |cluster: Cluster| cluster.init.node_registration.unwrap().taints.unwrap().len();
    assert_eq!(taints(init("")), 1);
    assert_eq!(taints(init("--single-node")), 0);
    let head = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nnodeRegistration: {taints: ";
    assert_eq!(taints(init_file(&format!("{head}[]}}"))), 0);
    assert_eq!(taints(init_file(&format!("{head}[{{key: a, effect: NoExecute}}]}}"))), 1);
    let text = format!("{head}[{{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}}]}}");
    assert!(init_with("--single-node", Some(&text), &facts()).unwrap_err().is_usage());
}

#[test]
fn what_is_not_there_yet_is_refused_and_not_ignored() {
    for line in [
        "--upload-certs",
        "--certificate-key aa",
        "--skip-phases preflight",
        "--patches /p",
        "--skip-certificate-key-print",
    ] {
        let problems = init_with(line, None, &facts()).unwrap_err();
        joined("not supported yet", &problems);
        assert!(problems.is_usage());
    }
    for line in ["--control-plane", "--discovery-file f", "--patches p", "--skip-phases x"] {
        let good = "192.0.2.1:6443 --token abcdef.0123456789abcdef --discovery-token-unsafe-skip-ca-verification";
        joined("not supported yet", join(&format!("{good} {line}")).unwrap_err());
    }
}

#[test]
fn flags_and_a_file_mix_as_in_kubeadm() {
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nnodeRegistration: {name: a, ignorePreflightErrors: [Swap]}\n";
    let cluster = init_with(
        "--node-name B --dry-run --ignore-preflight-errors=MEM,swap --skip-token-print --cni none",
        Some(text),
        &facts(),
    )
    .unwrap();
    let node = cluster.init.node_registration.unwrap();
    assert_eq!(node.name.unwrap(), "b");
    assert_eq!(node.ignore_preflight_errors.unwrap(), ["mem", "swap"]);
    assert_eq!(cluster.init.dry_run, Some(true));
    let problems = init_with("--token-ttl 1h --pod-network-cidr 10.0.0.0/16", Some(text), &facts()).unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(problems.is_usage());
}

#[test]
fn a_join_line_becomes_a_document() {
    let hash = format!("sha256:{}", "0".repeat(64));
    let joining =
        join(&format!("192.0.2.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash {hash}")).unwrap();
    let discovery = joining.join.discovery.unwrap();
    assert_eq!(discovery.tls_bootstrap_token.unwrap(), "abcdef.0123456789abcdef");
    let by_token = discovery.bootstrap_token.unwrap();
    assert_eq!(by_token.api_server_endpoint.unwrap(), "192.0.2.1:6443");
    assert_eq!(by_token.ca_cert_hashes.unwrap(), [hash]);
    assert_eq!(joining.join.node_registration.unwrap().taints, None);
}

#[test]
fn reset_takes_its_flags() {
    let reset = load_reset(&flags::<ResetFlags>("-f --dry-run --cri-socket /run/x.sock --cleanup-tmp-dir"), None)
        .unwrap()
        .reset;
    assert_eq!(reset.cri_socket.unwrap(), "unix:///run/x.sock");
    assert_eq!((reset.force, reset.dry_run, reset.cleanup_tmp_dir), (Some(true), Some(true), Some(true)));
    assert_eq!(reset.certificates_dir.unwrap(), "/etc/kubernetes/pki");
}

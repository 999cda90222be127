use std::collections::BTreeMap;

use clap::Parser;

use super::flags::{CommonFlags, InitFlags, JoinFlags, ResetFlags};
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
        flags.common.config = Some("cluster.yaml".into());
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
    assert_eq!(address("--apiserver-advertise-address 0.0.0.0").0, "192.0.2.10");
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
        "phase certs all --cert-dir /etc/kubernetes/pki",
    ] {
        let problems = init_with(line, None, &facts()).unwrap_err();
        joined("not supported yet", &problems);
        assert!(problems.is_usage());
    }
    for problems in [join("phase preflight").unwrap_err(), load_reset(&flags("phase cleanup-node"), None).unwrap_err()]
    {
        assert!(problems.is_usage());
        joined("phase: not supported yet", problems);
    }
    assert!(init_with("certs", None, &facts()).unwrap_err().is_usage());
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

/// What `kprov` says about a file, whole.
fn complaints(text: &str) -> String {
    init_with("", Some(text), &facts()).unwrap_err().to_string()
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once() {
    insta::assert_snapshot!("everything_wrong", complaints(include_str!("tests/wrong.yaml")));
}

#[test]
fn a_nodes_part_of_the_pod_subnet_has_as_many_bits_as_addresses_have() {
    for (mask, fits) in [("25", true), ("32", true), ("33", false), ("65", false), ("256", false), ("x", false)] {
        let text = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {{podSubnet: 10.244.0.0/17}}\n\
             controllerManager: {{extraArgs: [{{name: node-cidr-mask-size-ipv4, value: \"{mask}\"}}]}}\n"
        );
        let told = init_with("", Some(&text), &facts()).map_err(|problems| problems.to_string());
        match told {
            Ok(_) => assert!(fits, "{mask}"),
            Err(told) => {
                assert!(!fits && told.contains("node-cidr-mask-size-ipv4 must be a number up to 32"), "{told}")
            }
        }
    }
}

#[test]
fn everything_wrong_with_documents_is_told_at_once() {
    insta::assert_snapshot!("wrong_documents", complaints(include_str!("tests/wrong-documents.yaml")));
}

#[test]
fn everything_wrong_with_flags_is_told_at_once() {
    let line = "--pod-network-cidr 10.96.0.0/16 --service-cidr 10.96.0.0/12 --apiserver-advertise-address 10.244.0.300 --node-name a_b --token abc \
                --token-ttl 5 --cri-socket tcp://x --apiserver-cert-extra-sans good,https://bad --feature-gates PublicKeysEcdsa=true,x \
                --control-plane-endpoint a:b --cert-dir pki --image-repository http://r --kubernetes-version 1.36 --upload-certs --ignore-preflight-errors all,swap";
    insta::assert_snapshot!("wrong_flags", init_with(line, None, &facts()).unwrap_err());
}

#[test]
fn everything_wrong_with_a_join_is_told_at_once() {
    let mut told = join("").unwrap_err().to_string();
    for line in [
        "https://cp:6443 --token abcdef.0123456789ABCDEF --discovery-token-ca-cert-hash sha1:00 --node-name X!",
        "fd00::1 --discovery-token abcdef.0123456789abcdef --tls-bootstrap-token x --discovery-token-unsafe-skip-ca-verification",
    ] {
        told += &format!("\n\n======== {line}\n\n{}", join(line).unwrap_err());
    }
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ncaCertPath: ca.pem\ncontrolPlane: {}\ndiscovery:\n  tlsBootstrapToken: abcdef.0123456789abcde\n  file:\n    kubeConfigPath: /x\n";
    let mut flags: JoinFlags = flags("192.0.2.1:6443 --token x");
    flags.common.config = Some("join.yaml".into());
    told += &format!("\n\n======== {text}\n{}", load_join(&flags, Some(("join.yaml", text)), &facts()).unwrap_err());
    insta::assert_snapshot!("wrong_join", told);
}

#[test]
fn everything_wrong_with_a_reset_is_told_at_once() {
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ResetConfiguration\ncertificatesDir: /\ncriSocket: x\nunmountFlags: [MNT_FORCE, MNT_NONE]\nskipPhases: [preflight]\ntimeouts: {discovery: 5}\n";
    let mut flags: ResetFlags = flags("--force");
    flags.common.config = Some("reset.yaml".into());
    insta::assert_snapshot!("wrong_reset", load_reset(&flags, Some(("reset.yaml", text))).unwrap_err());
}

#[test]
fn unknown_fields_become_warnings_where_they_are_ignored() {
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nnodeRegistration: {nam: x}\n";
    let problems = init_with("", Some(text), &facts()).unwrap_err();
    assert!(!problems.is_usage());
    joined("did you mean name?", problems);
    for ignored in ["ConfigUnknownField", "configunknownfield,swap", "all"] {
        let cluster = init_with(&format!("--ignore-preflight-errors {ignored}"), Some(text), &facts()).unwrap();
        joined("unknown field nam", cluster.warnings);
    }
    let text = text.replace("{nam: x}", "{nam: x, ignorePreflightErrors: [ConfigUnknownField]}");
    joined("unknown field nam", init_file(&text).warnings);
}

#[test]
fn what_decides_early_is_found_in_the_file() {
    let full = Some(("f", include_str!("tests/full.yaml")));
    assert_eq!(wanted_version(None, full).as_deref(), Some("v1.36.3"));
    assert_eq!(wanted_version(Some("1.35.4"), full).as_deref(), Some("v1.35.4"));
    assert_eq!(wanted_version(Some("stable"), full), None);
    assert_eq!(wanted_socket(None, full).as_deref(), Some("/run/containerd/containerd.sock"));
    assert_eq!(wanted_socket(Some("/x"), full).as_deref(), Some("/x"));
    for text in ["", "a: [", "- 1", "kind: InitConfiguration\nnodeRegistration: 1"] {
        assert_eq!((wanted_version(None, Some(("f", text))), wanted_socket(None, Some(("f", text)))), (None, None));
    }
}

#[test]
fn an_item_that_is_left_out_does_not_shift_the_places_of_the_others() {
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\napiServer:\n  certSANs:\n  - 1\n  - bad name\n";
    let problems = init_with("", Some(text), &facts()).unwrap_err();
    let lines: Vec<_> = problems.0.iter().map(|p| (p.message.clone(), p.place.clone())).collect();
    assert_eq!(lines.len(), 2, "{problems}");
    assert!(matches!(&lines[1].1, problems::Place::File { span, .. } if span.line == 6), "{problems}");
}

#[test]
fn a_control_plane_endpoint_gets_the_port() {
    let endpoint = |line: &str| init(line).config.control_plane_endpoint.unwrap();
    assert_eq!(endpoint("--control-plane-endpoint cp.example.org"), "cp.example.org:6443");
    assert_eq!(endpoint("--control-plane-endpoint cp.example.org --apiserver-bind-port 8443"), "cp.example.org:8443");
    assert_eq!(endpoint("--control-plane-endpoint fd00::1"), "[fd00::1]:6443");
    assert_eq!(endpoint("--control-plane-endpoint [fd00::1]:1"), "[fd00::1]:1");
}

#[test]
fn a_file_with_every_field_is_taken() {
    let cluster = init_file(include_str!("tests/full.yaml"));
    assert_eq!(cluster.warnings.0.len(), 0, "{}", cluster.warnings);
    insta::assert_snapshot!("full", cluster.config_yaml().unwrap());
}

#[test]
fn a_token_with_an_end_gets_no_ttl() {
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nbootstrapTokens: [{token: bcdefg.0123456789abcdef, expires: \"2030-01-31T12:00:00Z\"}]\n";
    let token = init_file(text).init.bootstrap_tokens.unwrap().remove(0);
    assert_eq!((token.ttl, token.expires.as_deref()), (None, Some("2030-01-31T12:00:00Z")));
}

/// The oracle: what kubeadm prints as its defaults must be what we fill in, and must come through unchanged.
#[test]
fn the_defaults_are_kubeadms() {
    let kubeadms = crate::yaml::values(include_str!("tests/init-defaults.yaml")).unwrap();
    let [kubeadms_init, kubeadms_config, kubelet, proxy] = kubeadms.as_slice() else { panic!("four documents") };
    let ours = init_with(
        "--cni none --apiserver-advertise-address 1.2.3.4 --node-name node --token abcdef.0123456789abcdef",
        None,
        &facts(),
    )
    .unwrap();
    let through = init_with("--cni none", Some(include_str!("tests/init-defaults.yaml")), &facts()).unwrap();
    for mut cluster in [ours, through] {
        assert_eq!(cluster.kubelet, *kubelet);
        assert_eq!(cluster.proxy, *proxy);
        cluster.init.node_registration.as_mut().unwrap().taints = None;
        let mut kubeadms_init = kubeadms_init.clone();
        kubeadms_init["nodeRegistration"].as_object_mut().unwrap().remove("taints");
        assert_eq!(kubeadm::document("InitConfiguration", &cluster.init), kubeadms_init);
        // The two that differ on purpose, or by how they are written.
        cluster.config.encryption_algorithm = Some("RSA-2048".to_owned());
        cluster.config.kubernetes_version = Some("1.36.3".to_owned());
        assert_eq!(kubeadm::document("ClusterConfiguration", &cluster.config), *kubeadms_config);
    }
}

mod never_panics;

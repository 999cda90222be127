//! Flags into documents.

use super::flags::{InitFlags, JoinFlags, ResetFlags};
use super::input::{Doc, Input};
use super::kubeadm::{
    BootstrapToken, BootstrapTokenDiscovery, ClusterConfiguration, InitConfiguration, JoinConfiguration,
    ResetConfiguration,
};

/// A flag, and whether it was given.
type Given = (&'static str, bool);

/// Writes the flags of `init` into its documents.
pub(crate) fn init(
    flags: &InitFlags,
    init: &mut InitConfiguration,
    config: &mut ClusterConfiguration,
    input: &mut Input,
) {
    words(input, flags.common.words.iter());
    refuse(
        input,
        &[
            ("--certificate-key", flags.certificate_key.is_some()),
            ("--patches", flags.node.patches.is_some()),
            ("--skip-certificate-key-print", flags.skip_certificate_key_print),
            ("--skip-phases", !flags.common.skip_phases.is_empty()),
            ("--upload-certs", flags.upload_certs),
        ],
    );
    exclude_config(
        flags.common.config.is_some(),
        input,
        &[
            ("--apiserver-advertise-address", flags.apiserver_advertise_address.is_some()),
            ("--apiserver-bind-port", flags.apiserver_bind_port.is_some()),
            ("--apiserver-cert-extra-sans", !flags.apiserver_cert_extra_sans.is_empty()),
            ("--cert-dir", flags.cert_dir.is_some()),
            ("--control-plane-endpoint", flags.control_plane_endpoint.is_some()),
            ("--cri-socket", flags.common.cri_socket.is_some()),
            ("--feature-gates", !flags.feature_gates.is_empty()),
            ("--image-repository", flags.image_repository.is_some()),
            ("--kubernetes-version", flags.kubernetes_version.is_some()),
            ("--pod-network-cidr", flags.pod_network_cidr.is_some()),
            ("--service-cidr", flags.service_cidr.is_some()),
            ("--service-dns-domain", flags.service_dns_domain.is_some()),
            ("--token", flags.token.is_some()),
            ("--token-ttl", flags.token_ttl.is_some()),
        ],
    );

    let endpoint = init.local_api_endpoint.get_or_insert_default();
    set(
        input,
        &mut endpoint.advertise_address,
        &flags.apiserver_advertise_address,
        Doc::Init,
        "localAPIEndpoint.advertiseAddress",
        "--apiserver-advertise-address",
    );
    set(
        input,
        &mut endpoint.bind_port,
        &flags.apiserver_bind_port,
        Doc::Init,
        "localAPIEndpoint.bindPort",
        "--apiserver-bind-port",
    );
    let node = init.node_registration.get_or_insert_default();
    set(input, &mut node.name, &flags.node.node_name, Doc::Init, "nodeRegistration.name", "--node-name");
    set(input, &mut node.cri_socket, &flags.common.cri_socket, Doc::Init, "nodeRegistration.criSocket", "--cri-socket");
    ignore(
        input,
        &mut node.ignore_preflight_errors,
        &flags.common.ignore_preflight_errors,
        Doc::Init,
        "nodeRegistration.ignorePreflightErrors",
    );
    if flags.common.dry_run {
        init.dry_run = Some(true);
    }
    if flags.token.is_some() || flags.token_ttl.is_some() {
        let mut token = BootstrapToken::default();
        set(input, &mut token.token, &flags.token, Doc::Init, "bootstrapTokens[0].token", "--token");
        set(input, &mut token.ttl, &flags.token_ttl, Doc::Init, "bootstrapTokens[0].ttl", "--token-ttl");
        init.bootstrap_tokens = Some(vec![token]);
    }

    let networking = config.networking.get_or_insert_default();
    set(
        input,
        &mut networking.pod_subnet,
        &flags.pod_network_cidr,
        Doc::Cluster,
        "networking.podSubnet",
        "--pod-network-cidr",
    );
    set(
        input,
        &mut networking.service_subnet,
        &flags.service_cidr,
        Doc::Cluster,
        "networking.serviceSubnet",
        "--service-cidr",
    );
    set(
        input,
        &mut networking.dns_domain,
        &flags.service_dns_domain,
        Doc::Cluster,
        "networking.dnsDomain",
        "--service-dns-domain",
    );
    set(input, &mut config.certificates_dir, &flags.cert_dir, Doc::Cluster, "certificatesDir", "--cert-dir");
    set(
        input,
        &mut config.control_plane_endpoint,
        &flags.control_plane_endpoint,
        Doc::Cluster,
        "controlPlaneEndpoint",
        "--control-plane-endpoint",
    );
    set(
        input,
        &mut config.image_repository,
        &flags.image_repository,
        Doc::Cluster,
        "imageRepository",
        "--image-repository",
    );
    set(
        input,
        &mut config.kubernetes_version,
        &flags.kubernetes_version,
        Doc::Cluster,
        "kubernetesVersion",
        "--kubernetes-version",
    );
    if !flags.apiserver_cert_extra_sans.is_empty() {
        config.api_server.get_or_insert_default().cert_sans = Some(flags.apiserver_cert_extra_sans.clone());
        input.came_from(Doc::Cluster, "apiServer.certSANs", "--apiserver-cert-extra-sans");
    }
    if !flags.feature_gates.is_empty() {
        input.came_from(Doc::Cluster, "featureGates", "--feature-gates");
        let gates = config.feature_gates.get_or_insert_default();
        for gate in &flags.feature_gates {
            match gate.split_once('=').map(|(name, value)| (name, value.to_lowercase().parse::<bool>())) {
                Some((name, Ok(on))) => {
                    gates.insert(name.trim().to_owned(), on);
                }
                _ => input.usage("--feature-gates", format!("{gate} is not of the form NAME=true"), ""),
            }
        }
    }
}

/// Writes the flags of `join` into its document.
pub(crate) fn join(flags: &JoinFlags, join: &mut JoinConfiguration, input: &mut Input) {
    // The endpoint stands where kubeadm's `phase` does.
    let phase = flags.endpoint.iter().filter(|endpoint| *endpoint == "phase");
    words(input, phase.chain(&flags.common.words));
    refuse(
        input,
        &[
            ("--apiserver-advertise-address", flags.apiserver_advertise_address.is_some()),
            ("--apiserver-bind-port", flags.apiserver_bind_port.is_some()),
            ("--certificate-key", flags.certificate_key.is_some()),
            ("--control-plane", flags.control_plane),
            ("--discovery-file", flags.discovery_file.is_some()),
            ("--patches", flags.node.patches.is_some()),
            ("--skip-phases", !flags.common.skip_phases.is_empty()),
        ],
    );
    exclude_config(
        flags.common.config.is_some(),
        input,
        &[
            ("HOST:PORT", flags.endpoint.is_some()),
            ("--cri-socket", flags.common.cri_socket.is_some()),
            ("--discovery-token", flags.discovery_token.is_some()),
            ("--discovery-token-ca-cert-hash", !flags.discovery_token_ca_cert_hash.is_empty()),
            ("--discovery-token-unsafe-skip-ca-verification", flags.discovery_token_unsafe_skip_ca_verification),
            ("--tls-bootstrap-token", flags.tls_bootstrap_token.is_some()),
            ("--token", flags.token.is_some()),
        ],
    );

    let node = join.node_registration.get_or_insert_default();
    set(input, &mut node.name, &flags.node.node_name, Doc::Join, "nodeRegistration.name", "--node-name");
    set(input, &mut node.cri_socket, &flags.common.cri_socket, Doc::Join, "nodeRegistration.criSocket", "--cri-socket");
    ignore(
        input,
        &mut node.ignore_preflight_errors,
        &flags.common.ignore_preflight_errors,
        Doc::Join,
        "nodeRegistration.ignorePreflightErrors",
    );
    if flags.common.dry_run {
        join.dry_run = Some(true);
    }
    if flags.common.config.is_some() || flags.discovery_file.is_some() {
        return;
    }
    let discovery = join.discovery.get_or_insert_default();
    let by_token = discovery.bootstrap_token.get_or_insert_with(BootstrapTokenDiscovery::default);
    let path = "discovery.bootstrapToken.apiServerEndpoint";
    set(input, &mut by_token.api_server_endpoint, &flags.endpoint, Doc::Join, path, "HOST:PORT");
    let path = "discovery.bootstrapToken.token";
    set(input, &mut by_token.token, &flags.token, Doc::Join, path, "--token");
    set(input, &mut by_token.token, &flags.discovery_token, Doc::Join, path, "--discovery-token");
    let path = "discovery.tlsBootstrapToken";
    set(input, &mut discovery.tls_bootstrap_token, &flags.token, Doc::Join, path, "--token");
    set(
        input,
        &mut discovery.tls_bootstrap_token,
        &flags.tls_bootstrap_token,
        Doc::Join,
        path,
        "--tls-bootstrap-token",
    );
    if !flags.discovery_token_ca_cert_hash.is_empty() {
        by_token.ca_cert_hashes = Some(flags.discovery_token_ca_cert_hash.clone());
        input.came_from(Doc::Join, "discovery.bootstrapToken.caCertHashes", "--discovery-token-ca-cert-hash");
    }
    if flags.discovery_token_unsafe_skip_ca_verification {
        by_token.unsafe_skip_ca_verification = Some(true);
    }
}

/// Writes the flags of `reset` into its document.
pub(crate) fn reset(flags: &ResetFlags, reset: &mut ResetConfiguration, input: &mut Input) {
    words(input, flags.common.words.iter());
    refuse(input, &[("--skip-phases", !flags.common.skip_phases.is_empty())]);
    exclude_config(
        flags.common.config.is_some(),
        input,
        &[
            ("--cert-dir", flags.cert_dir.is_some()),
            ("--cleanup-tmp-dir", flags.cleanup_tmp_dir),
            ("--cri-socket", flags.common.cri_socket.is_some()),
            ("--force", flags.force),
        ],
    );
    set(input, &mut reset.certificates_dir, &flags.cert_dir, Doc::Reset, "certificatesDir", "--cert-dir");
    set(input, &mut reset.cri_socket, &flags.common.cri_socket, Doc::Reset, "criSocket", "--cri-socket");
    ignore(
        input,
        &mut reset.ignore_preflight_errors,
        &flags.common.ignore_preflight_errors,
        Doc::Reset,
        "ignorePreflightErrors",
    );
    for (field, given) in [
        (&mut reset.cleanup_tmp_dir, flags.cleanup_tmp_dir),
        (&mut reset.dry_run, flags.common.dry_run),
        (&mut reset.force, flags.force),
    ] {
        if given {
            *field = Some(true);
        }
    }
}

/// The commands take no words of their own; `phase` starts a subcommand of kubeadm's.
fn words<'a>(input: &mut Input, mut words: impl Iterator<Item = &'a String>) {
    match words.next().map(String::as_str) {
        None => {}
        Some("phase") => input.flag_not_yet("phase"),
        Some(word) => input.usage(word, format!("{word} is not expected here"), ""),
    }
}

fn refuse(input: &mut Input, given: &[Given]) {
    for (flag, _) in given.iter().filter(|(_, given)| *given) {
        input.flag_not_yet(flag);
    }
}

/// kubeadm's rule: what a document can say is said there when there is one.
fn exclude_config(config: bool, input: &mut Input, given: &[Given]) {
    if !config {
        return;
    }
    for (flag, _) in given.iter().filter(|(_, given)| *given) {
        input.usage(flag, format!("{flag} cannot be mixed with --config"), "write it into the file instead");
    }
}

fn set<T: Clone>(
    input: &mut Input,
    field: &mut Option<T>,
    value: &Option<T>,
    doc: Doc,
    path: &'static str,
    flag: &'static str,
) {
    if let Some(value) = value {
        *field = Some(value.clone());
        input.came_from(doc, path, flag);
    }
}

/// Checks to ignore add up; upper and lower case are the same to kubeadm.
fn ignore(input: &mut Input, field: &mut Option<Vec<String>>, more: &[String], doc: Doc, path: &'static str) {
    let mut all: Vec<String> = field.iter().flatten().chain(more).map(|check| check.trim().to_lowercase()).collect();
    all.sort();
    all.dedup();
    if all.len() > 1 && all.iter().any(|check| check == "all") {
        let flag = "--ignore-preflight-errors";
        if more.is_empty() {
            input.bad(doc, path, "'all' already ignores every check", "leave the others out");
        } else {
            input.usage(flag, "'all' already ignores every check", "leave the others out");
        }
    }
    if !more.is_empty() {
        input.came_from(doc, path, "--ignore-preflight-errors");
    }
    *field = if all.is_empty() { None } else { Some(all) };
}

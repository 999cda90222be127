//! JoinConfiguration and ResetConfiguration.

use super::super::input::{Doc, Input};
use super::super::kubeadm::{BootstrapTokenDiscovery, JoinConfiguration, ResetConfiguration};
use super::{names, node_registration, not_yet, path, socket, timeouts};

const LINE: &str = "on the control plane: kprov token create --print-join-command";

/// The input of a worker's join.
pub(crate) fn join(join: &JoinConfiguration, input: &mut Input) {
    let doc = Doc::Join;
    not_yet(doc, join.skip_phases.as_deref(), join.patches.as_ref(), input);
    if join.control_plane.is_some() {
        input.not_yet(doc, "controlPlane", "joining as a control plane");
    }
    if let Some(node) = &join.node_registration {
        node_registration(doc, node, input);
    }
    if let Some(timeouts) = &join.timeouts {
        self::timeouts(doc, timeouts, input);
    }
    if let Some(file) = &join.ca_cert_path {
        path(doc, "caCertPath", file, input);
        if !file.ends_with(".crt") {
            input.bad(doc, "caCertPath", format!("{file:?} does not end in .crt"), "");
        }
    }
    let discovery = join.discovery.clone().unwrap_or_default();
    if discovery.file.is_some() {
        input.not_yet(doc, "discovery.file", "discovery by file");
        return;
    }
    let Some(by_token) = &discovery.bootstrap_token else {
        input.bad(doc, "discovery", "nothing says how to find the cluster: bootstrapToken is missing", LINE);
        return;
    };
    token_discovery(by_token, input);
    let bootstrap = discovery.tls_bootstrap_token.as_deref().unwrap_or_default();
    // The same token twice is told once.
    if discovery.tls_bootstrap_token != by_token.token && names::token_id(bootstrap).is_none() {
        let path = "discovery.tlsBootstrapToken";
        input.bad(doc, path, "this is no bootstrap token: 6 characters of a-z and 0-9, a dot, 16 characters", LINE);
    }
}

fn token_discovery(by_token: &BootstrapTokenDiscovery, input: &mut Input) {
    let doc = Doc::Join;
    let field = |name: &str| format!("discovery.bootstrapToken.{name}");
    match by_token.api_server_endpoint.as_deref().unwrap_or_default() {
        "" => input.bad(doc, &field("apiServerEndpoint"), "the control plane's address is missing", LINE),
        endpoint => match names::host_port(endpoint) {
            Some((_, Some(_))) => {}
            Some((_, None)) => {
                let host = if endpoint.contains(':') && !endpoint.starts_with('[') {
                    format!("[{endpoint}]")
                } else {
                    endpoint.to_owned()
                };
                let message = format!("{endpoint} has no port");
                input.bad(doc, &field("apiServerEndpoint"), message, format!("{host}:6443"));
            }
            None => {
                let hint = if endpoint.contains("://") { "without the scheme" } else { "as cp.example.org:6443" };
                input.bad(doc, &field("apiServerEndpoint"), format!("{endpoint:?} is not HOST:PORT"), hint);
            }
        },
    }
    match by_token.token.as_deref().unwrap_or_default() {
        "" => input.bad(doc, &field("token"), "the token is missing", LINE),
        token if names::token_id(token).is_none() => {
            let message = "this is no bootstrap token: 6 characters of a-z and 0-9, a dot, 16 characters";
            input.bad(doc, &field("token"), message, LINE);
        }
        _ => {}
    }
    let hashes = by_token.ca_cert_hashes.as_deref().unwrap_or_default();
    if hashes.is_empty() && by_token.unsafe_skip_ca_verification != Some(true) {
        let message = "without the hash of the cluster's CA anybody could answer in its place";
        let hint = format!("{LINE}; or, trusting the network, --discovery-token-unsafe-skip-ca-verification");
        input.bad(doc, &field("caCertHashes"), message, hint);
    }
    for (index, hash) in hashes.iter().enumerate() {
        let hex = hash.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = format!("{hash:?} is not sha256: and 64 hexadecimal digits");
            input.bad(doc, &format!("{}[{index}]", field("caCertHashes")), message, LINE);
        }
    }
}

/// The input of reset.
pub(crate) fn reset(reset: &ResetConfiguration, input: &mut Input) {
    let doc = Doc::Reset;
    not_yet(doc, reset.skip_phases.as_deref(), None, input);
    if let Some(dir) = &reset.certificates_dir {
        path(doc, "certificatesDir", dir, input);
    }
    if let Some(socket) = &reset.cri_socket {
        self::socket(doc, "criSocket", socket, input);
    }
    if let Some(timeouts) = &reset.timeouts {
        self::timeouts(doc, timeouts, input);
    }
    let known = ["MNT_FORCE", "MNT_DETACH", "MNT_EXPIRE", "UMOUNT_NOFOLLOW"];
    for (index, flag) in reset.unmount_flags.iter().flatten().enumerate() {
        if !known.contains(&flag.as_str()) {
            let message = format!("{flag:?} is none of {}", known.join(", "));
            input.bad(doc, &format!("unmountFlags[{index}]"), message, "");
        }
    }
}

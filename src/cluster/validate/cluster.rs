//! ClusterConfiguration without its networks.

use super::super::duration::duration;
use super::super::input::{Doc, Input};
use super::super::kubeadm::{ClusterConfiguration, Component, EnvVar, ExternalEtcd, HostPathMount, LocalEtcd};
use super::super::schema::nearest;
use super::super::version::Version;
use super::{arguments, names, path as check_path};

const ALGORITHMS: [&str; 5] = ["ECDSA-P256", "ECDSA-P384", "RSA-2048", "RSA-3072", "RSA-4096"];
const PATH_TYPES: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

pub(super) fn check(config: &ClusterConfiguration, input: &mut Input) {
    let doc = Doc::Cluster;
    if let Some(dir) = &config.certificates_dir {
        check_path(doc, "certificatesDir", dir, input);
    }
    one_of(config.encryption_algorithm.as_deref(), &ALGORITHMS, "encryptionAlgorithm", input);
    if let Some(endpoint) = config.control_plane_endpoint.as_deref().filter(|e| !e.is_empty())
        && names::host_port(endpoint).is_none()
    {
        let message = format!("{endpoint:?} is neither HOST nor HOST:PORT");
        input.bad(doc, "controlPlaneEndpoint", message, "as cp.example.org:6443");
    }
    repository(config.image_repository.as_deref(), "imageRepository", input);
    let dns = config.dns.clone().unwrap_or_default();
    repository(dns.image_repository.as_deref(), "dns.imageRepository", input);
    tag(dns.image_tag.as_deref(), "dns.imageTag", input);
    validity(config, input);
    gates(config, input);

    alternatives(config.api_server.as_ref().and_then(|a| a.cert_sans.as_deref()), "apiServer.certSANs", input);
    for (component, path) in [
        (&config.api_server, "apiServer"),
        (&config.controller_manager, "controllerManager"),
        (&config.scheduler, "scheduler"),
    ] {
        self::component(component.as_ref(), path, input);
    }
    etcd(config, input);
}

fn one_of(value: Option<&str>, known: &[&str], path: &str, input: &mut Input) {
    let Some(value) = value.filter(|value| !known.contains(value)) else { return };
    let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    let hint = nearest(value, names.iter()).map(|near| format!("did you mean {near}?"));
    let known: Vec<&str> = known.iter().copied().filter(|name| !name.is_empty()).collect();
    input.bad(Doc::Cluster, path, format!("{value:?} is none of {}", known.join(", ")), hint);
}

fn repository(value: Option<&str>, path: &str, input: &mut Input) {
    if let Some(value) = value.filter(|value| !value.is_empty() && !names::repository(value)) {
        let hint = value.contains("://").then(|| "without the scheme".to_owned());
        input.bad(Doc::Cluster, path, format!("{value:?} is no image repository"), hint);
    }
}

fn tag(value: Option<&str>, path: &str, input: &mut Input) {
    if let Some(value) = value.filter(|value| !value.is_empty() && !names::tag(value)) {
        input.bad(Doc::Cluster, path, format!("{value:?} is no image tag"), "");
    }
}

fn alternatives(values: Option<&[String]>, path: &str, input: &mut Input) {
    for (index, name) in values.unwrap_or_default().iter().enumerate() {
        if !names::alternative(name) {
            let message = format!("{name:?} is neither an IP address nor a DNS name");
            let hint = if name.contains(':') { "without scheme and port" } else { "" };
            input.bad(Doc::Cluster, &format!("{path}[{index}]"), message, hint);
        }
    }
}

fn validity(config: &ClusterConfiguration, input: &mut Input) {
    let read = |text: &Option<String>| text.as_deref().and_then(duration);
    let (leaf, ca) = (read(&config.certificate_validity_period), read(&config.ca_certificate_validity_period));
    for (value, path) in [(leaf, "certificateValidityPeriod"), (ca, "caCertificateValidityPeriod")] {
        if value.is_some_and(|value| value.is_zero()) {
            input.bad(Doc::Cluster, path, "a certificate must be valid for some time", "as 8760h");
        }
    }
    if let (Some(leaf), Some(ca)) = (leaf, ca)
        && leaf > ca
    {
        let message = "certificates would be valid for longer than the CA that signs them";
        input.warn(Doc::Cluster, "certificateValidityPeriod", message, "");
    }
}

fn gates(config: &ClusterConfiguration, input: &mut Input) {
    let minor = config.kubernetes_version.as_deref().and_then(Version::parse).map_or(u32::MAX, |v| v.minor);
    let mut known =
        vec!["NodeLocalCRISocket".to_owned(), "PublicKeysECDSA".to_owned(), "RootlessControlPlane".to_owned()];
    if minor <= 35 {
        known.push("ControlPlaneKubeletLocalMode".to_owned());
    }
    for (gate, on) in config.feature_gates.iter().flatten() {
        let path = format!("featureGates.{gate}");
        match (gate.as_str(), on) {
            (gate, _) if !known.iter().any(|name| name == gate) => {
                let hint = nearest(gate, known.iter()).map_or_else(
                    || "gates of Kubernetes' components are given as their argument feature-gates".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                input.bad(Doc::Cluster, &path, format!("kubeadm has no feature gate {gate}"), hint);
            }
            ("RootlessControlPlane", true) => input.not_yet(Doc::Cluster, &path, "RootlessControlPlane"),
            ("NodeLocalCRISocket", false) if minor >= 36 => {
                input.bad(Doc::Cluster, &path, "NodeLocalCRISocket cannot be turned off any more", "leave it out");
            }
            ("ControlPlaneKubeletLocalMode", false) => {
                input.bad(
                    Doc::Cluster,
                    &path,
                    "ControlPlaneKubeletLocalMode cannot be turned off any more",
                    "leave it out",
                );
            }
            ("NodeLocalCRISocket", false) => input.not_yet(Doc::Cluster, &path, "NodeLocalCRISocket: false"),
            ("PublicKeysECDSA", _) => {
                let hint = "encryptionAlgorithm says the same";
                input.warn(Doc::Cluster, &path, "PublicKeysECDSA is deprecated, and gone in v1.37", hint);
            }
            _ => {}
        }
    }
}

fn component(component: Option<&Component>, path: &str, input: &mut Input) {
    let Some(component) = component else { return };
    arguments(Doc::Cluster, component.extra_args.as_deref(), &format!("{path}.extraArgs"), input);
    environment(component.extra_envs.as_deref(), &format!("{path}.extraEnvs"), input);
    let path = format!("{path}.extraVolumes");
    let volumes = component.extra_volumes.as_deref().unwrap_or_default();
    for (index, volume) in volumes.iter().enumerate() {
        mount(volume, volumes.get(..index).unwrap_or_default(), &format!("{path}[{index}]"), input);
    }
}

fn mount(volume: &HostPathMount, before: &[HostPathMount], path: &str, input: &mut Input) {
    let doc = Doc::Cluster;
    if let Err(why) = names::label(&volume.name) {
        input.bad(doc, &format!("{path}.name"), format!("volume name {:?} {why}", volume.name), "");
    }
    for (field, value) in [("hostPath", &volume.host_path), ("mountPath", &volume.mount_path)] {
        if !value.starts_with('/') {
            input.bad(doc, &format!("{path}.{field}"), format!("{value:?} is no absolute path"), "");
        }
    }
    one_of(volume.path_type.as_deref(), &PATH_TYPES, &format!("{path}.pathType"), input);
    if before.iter().any(|other| other.name == volume.name) {
        input.bad(doc, &format!("{path}.name"), format!("two volumes are named {}", volume.name), "");
    }
    if before.iter().any(|other| other.mount_path == volume.mount_path) {
        input.bad(doc, &format!("{path}.mountPath"), format!("two volumes are mounted at {}", volume.mount_path), "");
    }
}

fn environment(variables: Option<&[EnvVar]>, path: &str, input: &mut Input) {
    for (index, variable) in variables.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{index}]");
        let odd = |c: char| c == '=' || !c.is_ascii_graphic();
        if variable.name.is_empty() || variable.name.contains(odd) {
            let message = format!("{:?} is no name of an environment variable", variable.name);
            input.bad(Doc::Cluster, &format!("{path}.name"), message, "");
        }
        if variable.value_from.is_some() && variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
            input.bad(Doc::Cluster, &path, "value and valueFrom exclude each other", "leave one of them out");
        }
    }
}

fn etcd(config: &ClusterConfiguration, input: &mut Input) {
    let Some(etcd) = &config.etcd else { return };
    if etcd.local.is_some() && etcd.external.is_some() {
        let hint = "local for etcd on the control planes, external for one that runs elsewhere";
        input.bad(Doc::Cluster, "etcd.external", "etcd is either local or external", hint);
    }
    if let Some(local) = &etcd.local {
        local_etcd(local, input);
    }
    if let Some(external) = &etcd.external {
        external_etcd(external, input);
    }
}

fn local_etcd(local: &LocalEtcd, input: &mut Input) {
    if let Some(dir) = &local.data_dir {
        check_path(Doc::Cluster, "etcd.local.dataDir", dir, input);
    }
    repository(local.image_repository.as_deref(), "etcd.local.imageRepository", input);
    tag(local.image_tag.as_deref(), "etcd.local.imageTag", input);
    alternatives(local.server_cert_sans.as_deref(), "etcd.local.serverCertSANs", input);
    alternatives(local.peer_cert_sans.as_deref(), "etcd.local.peerCertSANs", input);
    arguments(Doc::Cluster, local.extra_args.as_deref(), "etcd.local.extraArgs", input);
    environment(local.extra_envs.as_deref(), "etcd.local.extraEnvs", input);
}

fn external_etcd(external: &ExternalEtcd, input: &mut Input) {
    let doc = Doc::Cluster;
    let given = |field: &Option<String>| field.as_deref().is_some_and(|value| !value.is_empty());
    let (ca, cert, key) = (given(&external.ca_file), given(&external.cert_file), given(&external.key_file));
    if cert != key {
        let path = if cert { "etcd.external.certFile" } else { "etcd.external.keyFile" };
        input.bad(doc, path, "certFile and keyFile go together", "");
    }
    if cert && key && !ca {
        input.bad(doc, "etcd.external.certFile", "a client certificate for etcd needs etcd's caFile too", "");
    }
    for (field, name) in
        [(&external.ca_file, "caFile"), (&external.cert_file, "certFile"), (&external.key_file, "keyFile")]
    {
        if let Some(path) = field.as_deref().filter(|path| !path.is_empty()) {
            check_path(doc, &format!("etcd.external.{name}"), path, input);
        }
    }
    let endpoints = external.endpoints.as_deref().unwrap_or_default();
    if endpoints.is_empty() {
        input.bad(
            doc,
            "etcd.external.endpoints",
            "external etcd needs at least one endpoint",
            "as https://10.0.0.5:2379",
        );
    }
    urls(endpoints, ca || cert || key, "etcd.external.endpoints", input);
    // Those that were filled in from the endpoints have been looked at.
    if external.http_endpoints != external.endpoints {
        urls(external.http_endpoints.as_deref().unwrap_or_default(), false, "etcd.external.httpEndpoints", input);
    }
}

fn urls(urls: &[String], https: bool, path: &str, input: &mut Input) {
    for (index, url) in urls.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let host =
            url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https")).map(|(_, host)| host);
        if host.is_none_or(|host| names::host_port(host.trim_end_matches('/')).is_none()) {
            let message = format!("{url:?} is no URL of the form https://HOST:PORT");
            input.bad(Doc::Cluster, &path, message, "");
        } else if https && url.starts_with("http:") {
            input.bad(Doc::Cluster, &path, format!("{url} must be https: certificates for etcd are given"), "");
        }
    }
}

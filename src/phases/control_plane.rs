//! Phase `control-plane`: API server, controller manager and scheduler as static pods.

use std::sync::Arc;

use anyhow::Result;
use kprov_providers::steps::{Label, WriteFile};
use kprov_providers::{Key, Machine};

use super::certs::{self, Settings};
use super::static_pod::{
    self, Component, Endpoint, Replace, arguments, environment, kubernetes_image, mount, mounts, probe_host, user_arg,
};
use super::{etcd, kubeconfig};
use crate::cluster::Cluster;
use crate::cluster::kubeadm::{self, Arg, HostPathMount};
use crate::facts::Facts;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "control-plane";

/// Where other tools read this API server's address.
const ANNOTATION: &str = "kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint";
/// The host's certificate directory, mounted always.
const CA_CERTS: &str = "/etc/ssl/certs";
/// Kubeconfigs.
const KUBERNETES: &str = "/etc/kubernetes";

/// The API server's manifest; it needs `needs` (images, the kubelet's directory, etcd).
pub(crate) fn api_server_step(
    cluster: &Cluster,
    facts: &Facts,
    machine: &Arc<dyn Machine>,
    needs: &[Key],
) -> Result<Replace> {
    let mut files = vec!["apiserver", "apiserver-kubelet-client", "front-proxy-client", "sa"];
    if cluster.config.etcd.as_ref().is_none_or(|etcd| etcd.external.is_none()) {
        files.push("apiserver-etcd-client");
    }
    let component = api_server(cluster, facts)?;
    let label = Label::new(static_pod::key(component.name), PHASE).needs(files.into_iter().map(certs::key));
    let step = static_pod::write(label.needs(needs.iter().cloned()), machine, &component)?;
    Ok(Replace::new(step, machine, static_pod::path(component.name)))
}

/// The manifests of controller manager and scheduler; they need `needs` (an API server that listens: on a small machine
/// they would only take its time before).
pub(crate) fn others(cluster: &Cluster, facts: &Facts, machine: &Arc<dyn Machine>, needs: &[Key]) -> Result<Plan> {
    let label = |name: &str| {
        let conf = kubeconfig::key(name.trim_start_matches("kube-"));
        Label::new(static_pod::key(name), PHASE).needs([conf]).needs(needs.iter().cloned())
    };
    let mut plan = Plan::new();
    // Whether somebody else signs is seen on the machine, not in the configuration.
    let own = static_pod::manifest(&controller_manager(cluster, facts, false)?)?;
    let external = static_pod::manifest(&controller_manager(cluster, facts, true)?)?;
    let shown = own.clone();
    let key_file = format!("{}/ca.key", Settings::of(cluster)?.dir);
    let name = "kube-controller-manager";
    let manager = WriteFile::worked(label(name), machine.clone(), static_pod::path(name), move |machine, _| {
        let signs = machine.meta(&key_file)?.is_some();
        Ok(Some(if signs { own.clone() } else { external.clone() }.into_bytes()))
    });
    plan.add(manager.shown(shown).mode(0o600));
    plan.add(static_pod::write(label("kube-scheduler"), machine, &scheduler(cluster, facts)?)?);
    Ok(plan)
}

/// Controller manager and scheduler, to ask for their health.
pub(crate) fn others_components(cluster: &Cluster, facts: &Facts) -> Result<[Component; 2]> {
    Ok([controller_manager(cluster, facts, false)?, scheduler(cluster, facts)?])
}

/// Flags that the user sets for a component.
fn users(component: &Option<kubeadm::Component>) -> kubeadm::Component {
    component.clone().unwrap_or_default()
}

/// The host's certificate directories: the usual one, and those others that are there.
fn ca_mounts(facts: &Facts) -> Vec<HostPathMount> {
    let mut all = vec![mount("ca-certs", CA_CERTS, "DirectoryOrCreate", true)];
    for dir in facts.ca_dirs.iter().filter(|dir| *dir != CA_CERTS) {
        let name = dir.trim_start_matches('/').replace('/', "-");
        all.push(mount(&name, dir, "DirectoryOrCreate", true));
    }
    all
}

/// Directories of an external etcd's certificates that no other mount covers.
fn etcd_mounts(cluster: &Cluster, facts: &Facts, pki: &str) -> Vec<HostPathMount> {
    let Some(external) = cluster.config.etcd.as_ref().and_then(|etcd| etcd.external.as_ref()) else {
        return Vec::new();
    };
    let mut dirs: Vec<&str> = [&external.ca_file, &external.cert_file, &external.key_file]
        .into_iter()
        .filter_map(|file| file.as_deref()?.rsplit_once('/').map(|(dir, _)| dir))
        .filter(|dir| {
            let covers = |root: &str| *dir == root || dir.starts_with(&format!("{root}/"));
            !dir.is_empty() && !covers(pki) && !covers(CA_CERTS) && !facts.ca_dirs.iter().any(|root| covers(root))
        })
        .collect();
    dirs.sort_unstable();
    dirs.dedup();
    let above = dirs.clone();
    dirs.retain(|dir| !above.iter().any(|root| dir.starts_with(&format!("{root}/"))));
    let named = dirs.iter().enumerate();
    named.map(|(i, dir)| mount(&format!("etcd-certs-{i}"), dir, "DirectoryOrCreate", true)).collect()
}

/// The API server.
pub(crate) fn api_server(cluster: &Cluster, facts: &Facts) -> Result<Component> {
    let settings = Settings::of(cluster)?;
    let user = users(&cluster.config.api_server);
    let pki = &settings.dir;
    let at = |file: &str| format!("{pki}/{file}");
    let network = cluster.config.networking.clone().unwrap_or_default();
    let advertise = settings.names.advertise;
    let port = cluster.init.local_api_endpoint.as_ref().and_then(|e| e.bind_port).unwrap_or(6443);
    let external = cluster.config.etcd.as_ref().and_then(|etcd| etcd.external.clone());
    let mut own = vec![
        ("advertise-address", advertise.to_string()),
        ("secure-port", port.to_string()),
        ("allow-privileged", "true".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("enable-bootstrap-token-auth", "true".into()),
        ("client-ca-file", at("ca.crt")),
        ("tls-cert-file", at("apiserver.crt")),
        ("tls-private-key-file", at("apiserver.key")),
        ("kubelet-client-certificate", at("apiserver-kubelet-client.crt")),
        ("kubelet-client-key", at("apiserver-kubelet-client.key")),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".into()),
        ("etcd-servers", etcd::servers(cluster, advertise)),
        ("proxy-client-cert-file", at("front-proxy-client.crt")),
        ("proxy-client-key-file", at("front-proxy-client.key")),
        ("requestheader-client-ca-file", at("front-proxy-ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ("service-cluster-ip-range", network.service_subnet.unwrap_or_default()),
        ("service-account-issuer", format!("https://kubernetes.default.svc.{}", settings.names.dns_domain)),
        ("service-account-key-file", at("sa.pub")),
        ("service-account-signing-key-file", at("sa.key")),
    ];
    if user_arg(user.extra_args.as_ref(), "authorization-config").is_none() {
        own.push(("authorization-mode", "Node,RBAC".into()));
    }
    let (ca, cert, key) = match external {
        None => (Some(at("etcd/ca.crt")), Some(at("apiserver-etcd-client.crt")), Some(at("apiserver-etcd-client.key"))),
        Some(external) => (external.ca_file, external.cert_file, external.key_file),
    };
    let files = [("etcd-cafile", ca), ("etcd-certfile", cert), ("etcd-keyfile", key)];
    own.extend(files.into_iter().filter_map(|(name, file)| Some((name, file.filter(|f| !f.is_empty())?))));
    let mut mine = ca_mounts(facts);
    mine.push(mount("k8s-certs", pki, "DirectoryOrCreate", true));
    mine.extend(etcd_mounts(cluster, facts, pki));
    Ok(Component {
        name: "kube-apiserver",
        image: kubernetes_image(cluster, "kube-apiserver"),
        annotation: Some((ANNOTATION, std::net::SocketAddr::new(advertise, port).to_string())),
        args: arguments(&own, user.extra_args.as_ref()),
        envs: environment(&facts.proxy, user.extra_envs.as_ref()),
        mounts: mounts(mine, user.extra_volumes.as_ref()),
        requests: vec![("cpu", "250m")],
        probe: Endpoint { https: true, host: probe_host(&advertise.to_string()), port },
        paths: ("/livez", Some("/readyz"), "/livez"),
        startup: static_pod::health_timeout(cluster),
        first_asked: static_pod::STARTS_FIRST,
    })
}

/// At its first start the controller manager makes an account for each of its forty controllers, one after the other,
/// three requests each: with the default, thirty at once and then twenty a second, nothing in the cluster moves for five
/// seconds. How many it may make in the long run stays as it is.
const FIRST_REQUESTS: &str = "200";

/// The controller manager. With an external CA (`ca.crt` without `ca.key`) nothing is signed here.
pub(crate) fn controller_manager(cluster: &Cluster, facts: &Facts, external_ca: bool) -> Result<Component> {
    let settings = Settings::of(cluster)?;
    let user = users(&cluster.config.controller_manager);
    let pki = &settings.dir;
    let at = |file: &str| format!("{pki}/{file}");
    let signing = |file: &str| if external_ca { String::new() } else { at(file) };
    let network = cluster.config.networking.clone().unwrap_or_default();
    let kubeconfig = format!("{KUBERNETES}/controller-manager.conf");
    let mut own = vec![
        ("bind-address", "127.0.0.1".into()),
        ("leader-elect", "true".into()),
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig.clone()),
        ("client-ca-file", at("ca.crt")),
        ("requestheader-client-ca-file", at("front-proxy-ca.crt")),
        ("root-ca-file", at("ca.crt")),
        ("service-account-private-key-file", at("sa.key")),
        ("cluster-signing-cert-file", signing("ca.crt")),
        ("cluster-signing-key-file", signing("ca.key")),
        ("use-service-account-credentials", "true".into()),
        ("controllers", "*,bootstrapsigner,tokencleaner".into()),
        ("cluster-name", settings.cluster_name.clone()),
        ("kube-api-burst", FIRST_REQUESTS.into()),
    ];
    if let Some(pods) = network.pod_subnet.filter(|subnet| !subnet.is_empty()) {
        own.push(("allocate-node-cidrs", "true".into()));
        own.push(("cluster-cidr", pods));
        own.push(("service-cluster-ip-range", network.service_subnet.unwrap_or_default()));
    }
    let mut mine = ca_mounts(facts);
    mine.push(mount("k8s-certs", pki, "DirectoryOrCreate", true));
    mine.push(mount("kubeconfig", &kubeconfig, "FileOrCreate", true));
    Ok(Component {
        name: "kube-controller-manager",
        image: kubernetes_image(cluster, "kube-controller-manager"),
        annotation: None,
        args: arguments(&own, user.extra_args.as_ref()),
        envs: environment(&facts.proxy, user.extra_envs.as_ref()),
        mounts: mounts(mine, user.extra_volumes.as_ref()),
        requests: vec![("cpu", "200m")],
        probe: local_endpoint(user.extra_args.as_ref(), 10257),
        paths: ("/healthz", None, "/healthz"),
        startup: static_pod::health_timeout(cluster),
        first_asked: static_pod::STARTS_LATER,
    })
}

/// The scheduler.
pub(crate) fn scheduler(cluster: &Cluster, facts: &Facts) -> Result<Component> {
    let user = users(&cluster.config.scheduler);
    let kubeconfig = format!("{KUBERNETES}/scheduler.conf");
    let own = [
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "true".into()),
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig.clone()),
    ];
    Ok(Component {
        name: "kube-scheduler",
        image: kubernetes_image(cluster, "kube-scheduler"),
        annotation: None,
        args: arguments(&own, user.extra_args.as_ref()),
        envs: environment(&facts.proxy, user.extra_envs.as_ref()),
        mounts: mounts(vec![mount("kubeconfig", &kubeconfig, "FileOrCreate", true)], user.extra_volumes.as_ref()),
        requests: vec![("cpu", "100m")],
        probe: local_endpoint(user.extra_args.as_ref(), 10259),
        paths: ("/livez", Some("/readyz"), "/livez"),
        startup: static_pod::health_timeout(cluster),
        first_asked: static_pod::STARTS_LATER,
    })
}

fn local_endpoint(args: Option<&Vec<Arg>>, port: u16) -> Endpoint {
    Endpoint { https: true, host: probe_host(user_arg(args, "bind-address").unwrap_or("127.0.0.1")), port }
}

//! Phase `etcd`: the member on this machine as a static pod.

mod afresh;

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use kprov_providers::steps::{Grows, Label, MakeDir};
use kprov_providers::{Key, Machine};

use self::afresh::Afresh;
use super::certs::{self, Settings};
use super::static_pod::{self, Component, Endpoint, Replace, arguments, environment, mount, user_arg};
use super::wait;
use crate::bundle::Manifest;
use crate::cluster::Cluster;
use crate::cluster::kubeadm::{Arg, LocalEtcd};
use crate::facts::Facts;
use crate::journal::Record;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "etcd";

/// Client port.
const CLIENT: u16 = 2379;
/// Port among members.
const PEER: u16 = 2380;
/// Port of health and metrics.
const METRICS: u16 = 2381;
/// Where other tools read how to reach this member.
const ANNOTATION: &str = "kubeadm.kubernetes.io/etcd.advertise-client-urls";

fn local(cluster: &Cluster) -> LocalEtcd {
    cluster.config.etcd.as_ref().and_then(|etcd| etcd.local.clone()).unwrap_or_default()
}

/// Where its data is.
pub(crate) fn data_dir(cluster: &Cluster) -> String {
    local(cluster).data_dir.unwrap_or_else(|| "/var/lib/etcd".into())
}

fn url(scheme: &str, host: IpAddr, port: u16) -> String {
    match host {
        IpAddr::V4(v4) => format!("{scheme}://{v4}:{port}"),
        IpAddr::V6(v6) => format!("{scheme}://[{v6}]:{port}"),
    }
}

fn localhost(advertise: IpAddr) -> IpAddr {
    match advertise {
        IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// Where the API server of this machine reaches etcd.
pub(crate) fn servers(cluster: &Cluster, advertise: IpAddr) -> String {
    if let Some(external) = cluster.config.etcd.as_ref().and_then(|etcd| etcd.external.as_ref()) {
        return external.endpoints.clone().unwrap_or_default().join(",");
    }
    let own = url("https", localhost(advertise), CLIENT);
    user_arg(local(cluster).extra_args.as_ref(), "advertise-client-urls").map_or(own, str::to_owned)
}

/// Where its health is asked: the first of the user's listen-metrics-urls, else localhost.
fn endpoint(args: Option<&Vec<Arg>>, advertise: IpAddr) -> Endpoint {
    let own = Endpoint { https: false, host: localhost(advertise).to_string(), port: METRICS };
    let Some(first) = user_arg(args, "listen-metrics-urls").and_then(|urls| urls.split(',').next()) else {
        return own;
    };
    let Some((scheme, rest)) = first.split_once("://") else { return own };
    let (host, port) = match rest.trim_end_matches('/').rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().unwrap_or(METRICS)),
        _ => (rest.trim_end_matches('/'), METRICS),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return own;
    }
    Endpoint { https: scheme == "https", host: host.to_owned(), port }
}

/// True where no argument of the user's makes it one of several members.
fn alone(args: Option<&Vec<Arg>>) -> bool {
    ["initial-cluster", "initial-cluster-state", "discovery", "discovery-srv"]
        .iter()
        .all(|name| user_arg(args, name).is_none())
}

/// Key of the step that writes the manifest.
pub(crate) fn key() -> Key {
    static_pod::key("etcd")
}

/// The steps: data directory and manifest. The manifest needs `needs` (images, the kubelet's directory); none of both
/// where somebody else runs etcd.
pub(crate) fn etcd(
    cluster: &Cluster,
    bundle: &Manifest,
    machine: &Arc<dyn Machine>,
    first: &[Key],
    needs: &[Key],
) -> Result<Plan> {
    let mut plan = Plan::new();
    if cluster.config.etcd.as_ref().is_some_and(|etcd| etcd.external.is_some()) {
        return Ok(plan);
    }
    let dir = Label::new("etcd/dir", PHASE).needs(first.iter().cloned());
    plan.add(MakeDir::new(dir, machine.clone(), data_dir(cluster)).mode(0o700).tree());
    let certs = ["etcd/server", "etcd/peer", "etcd/healthcheck-client"].map(certs::key);
    let label = Label::new(key(), PHASE).needs(["etcd/dir"]).needs(certs).needs(needs.iter().cloned());
    let step = static_pod::write(label, machine, &component(cluster, bundle)?)?;
    let step = Replace::new(step, machine, static_pod::path("etcd"));
    plan.add(Grows::new(step, machine.clone()).filled([data_dir(cluster)]));
    Ok(plan)
}

/// What goes before an `init` that is run again: etcd's database is begun anew where etcd panics, and the journal tells that
/// kprov made or found empty its directory and that none of `plan`'s steps has ever found an API server. Not where
/// containerd is somebody else's: etcd is ended with all pods. Nor where etcd is told to be one of several members, whose
/// leader it may yet hear of.
pub(crate) fn afresh(
    cluster: &Cluster,
    facts: &Facts,
    machine: &Arc<dyn Machine>,
    plan: &Plan,
    record: &Record,
) -> Result<Plan> {
    let (mut first, data) = (Plan::new(), data_dir(cluster));
    let served =
        |step: &Arc<dyn kprov_providers::Step>| step.needs().contains(&wait::listens()) && record.started(step.key());
    let never = !record.done(&wait::listens()) && !plan.steps().iter().any(served);
    let args = local(cluster).extra_args;
    if never && alone(args.as_ref()) && facts.runtime.is_none() && record.started(&key()) && record.made_path(&data) {
        let advertise = Settings::of(cluster)?.names.advertise;
        let health = endpoint(args.as_ref(), advertise).url("/readyz");
        first.add(Afresh::new(Label::new("etcd/afresh", PHASE), machine, data, health));
    }
    Ok(first)
}

/// Name of its image.
pub(crate) fn image(cluster: &Cluster, bundle: &Manifest) -> Result<String> {
    let etcd = local(cluster);
    let repository = etcd.image_repository.as_deref().or(static_pod::own_repository(cluster));
    static_pod::image(bundle, "etcd", repository, etcd.image_tag.as_deref())
}

/// The member as a component.
pub(crate) fn component(cluster: &Cluster, bundle: &Manifest) -> Result<Component> {
    let settings = Settings::of(cluster)?;
    let etcd = local(cluster);
    let advertise = settings.names.advertise;
    let data = data_dir(cluster);
    let certs = format!("{}/etcd", settings.dir);
    let client = url("https", advertise, CLIENT);
    let peer = url("https", advertise, PEER);
    let here = localhost(advertise);
    let own = [
        ("name", settings.names.node.clone()),
        ("data-dir", data.clone()),
        ("listen-client-urls", format!("{},{client}", url("https", here, CLIENT))),
        ("advertise-client-urls", client.clone()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("{}={peer}", settings.names.node)),
        ("cert-file", format!("{certs}/server.crt")),
        ("key-file", format!("{certs}/server.key")),
        ("trusted-ca-file", format!("{certs}/ca.crt")),
        ("client-cert-auth", "true".into()),
        ("peer-cert-file", format!("{certs}/peer.crt")),
        ("peer-key-file", format!("{certs}/peer.key")),
        ("peer-trusted-ca-file", format!("{certs}/ca.crt")),
        ("peer-client-cert-auth", "true".into()),
        ("listen-metrics-urls", url("http", here, METRICS)),
        ("snapshot-count", "10000".into()),
        ("feature-gates", "InitialCorruptCheck=true".into()),
        ("watch-progress-notify-interval", "5s".into()),
    ];
    Ok(Component {
        name: "etcd",
        image: image(cluster, bundle)?,
        annotation: Some((ANNOTATION, client)),
        args: arguments(&own, etcd.extra_args.as_ref()),
        envs: environment(&[], etcd.extra_envs.as_ref()),
        // kubeadm's order, so that its upgrade finds the same manifest.
        mounts: vec![
            mount("etcd-data", &data, "DirectoryOrCreate", false),
            mount("etcd-certs", &certs, "DirectoryOrCreate", false),
        ],
        requests: vec![("cpu", "100m"), ("memory", "100Mi")],
        probe: endpoint(etcd.extra_args.as_ref(), advertise),
        paths: ("/livez", Some("/readyz"), "/readyz"),
        startup: static_pod::health_timeout(cluster),
        first_asked: static_pod::STARTS_FIRST,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(urls: &str, expected: &str) {
        let args = vec![Arg { name: "listen-metrics-urls".into(), value: urls.into() }];
        assert_eq!(endpoint(Some(&args), [10, 0, 0, 1].into()).url(""), expected);
    }

    #[test]
    fn a_member_of_several_is_not_alone() {
        let args = |name: &str| vec![Arg { name: name.into(), value: "existing".into() }];
        assert!(alone(None) && alone(Some(&args("quota-backend-bytes"))));
        assert!(!alone(Some(&args("initial-cluster-state"))) && !alone(Some(&args("initial-cluster"))));
    }

    #[test]
    fn health_is_asked_where_the_user_wants_it() {
        check("http://0.0.0.0:2381", "http://0.0.0.0:2381");
        check("https://10.1.1.1:9999,http://x:1", "https://10.1.1.1:9999");
        check("http://[::1]:2381", "http://[::1]:2381");
        check("http://10.1.1.1", "http://10.1.1.1:2381");
        check("nonsense", "http://127.0.0.1:2381");
    }
}

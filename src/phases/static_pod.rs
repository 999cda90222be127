//! What the static pods of a control plane have in common (contract A.7).

mod replace;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, HTTPGetAction, HostPathVolumeSource, Pod, PodSecurityContext, PodSpec, PodStatus,
    Probe, ResourceRequirements, SeccompProfile, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use kprov_providers::steps::{Label, WriteFile};
use kprov_providers::{Key, Machine};

pub(crate) use self::replace::Replace;
use crate::bundle::Manifest;
use crate::cluster::Cluster;
use crate::cluster::kubeadm::{self, Arg, HostPathMount};

/// Where the kubelet looks for static pods.
pub(crate) const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// One component as a static pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Component {
    pub name: &'static str,
    pub image: String,
    pub annotation: Option<(&'static str, String)>,
    pub args: Vec<String>,
    pub envs: Vec<kubeadm::EnvVar>,
    pub mounts: Vec<HostPathMount>,
    pub requests: Vec<(&'static str, &'static str)>,
    pub probe: Endpoint,
    /// Paths of liveness, readiness (not all have it) and startup probe.
    pub paths: (&'static str, Option<&'static str>, &'static str),
    /// How long the component may take to come up.
    pub startup: Duration,
    /// Seconds after its start at which it is first asked whether it has: [`STARTS_FIRST`] or [`STARTS_LATER`].
    pub first_asked: i32,
}

/// Where a component's health is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub https: bool,
    /// Empty: the kubelet asks the pod's own address.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// URL of a path, asked on the machine itself.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let host = match self.host.as_str() {
            "" => "127.0.0.1".to_owned(),
            v6 if v6.contains(':') => format!("[{v6}]"),
            host => host.to_owned(),
        };
        format!("{scheme}://{host}:{}{path}", self.port)
    }
}

/// A probe's host for an address that a component listens on: none where it listens on all.
pub(crate) fn probe_host(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => String::new(),
        _ => address.to_owned(),
    }
}

/// A flag's value among the user's; of several the last.
pub(crate) fn user_arg<'a>(args: Option<&'a Vec<Arg>>, name: &str) -> Option<&'a str> {
    args?.iter().rev().find(|arg| arg.name == name).map(|arg| arg.value.as_str())
}

/// Our flags sorted by name without those that the user sets, then the user's in their own order.
pub(crate) fn arguments(ours: &[(&str, String)], users: Option<&Vec<Arg>>) -> Vec<String> {
    let users = users.map(Vec::as_slice).unwrap_or_default();
    let mut ours: Vec<&(&str, String)> =
        ours.iter().filter(|(name, _)| users.iter().all(|u| u.name != *name)).collect();
    ours.sort_by_key(|(name, _)| *name);
    let ours = ours.into_iter().map(|(name, value)| format!("--{name}={value}"));
    ours.chain(users.iter().map(|arg| format!("--{}={}", arg.name, arg.value))).collect()
}

/// The host's proxy settings with the user's environment over them, by name (contract A.2).
pub(crate) fn environment(proxy: &[(String, String)], users: Option<&Vec<kubeadm::EnvVar>>) -> Vec<kubeadm::EnvVar> {
    let mut all: BTreeMap<String, kubeadm::EnvVar> = BTreeMap::new();
    for (name, value) in proxy {
        let variable = kubeadm::EnvVar { name: name.clone(), value: Some(value.clone()), value_from: None };
        all.insert(name.clone(), variable);
    }
    for variable in users.into_iter().flatten() {
        all.insert(variable.name.clone(), variable.clone());
    }
    all.into_values().collect()
}

/// A mount whose path is the same on both sides.
pub(crate) fn mount(name: &str, path: &str, kind: &str, read_only: bool) -> HostPathMount {
    HostPathMount {
        name: name.to_owned(),
        host_path: path.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        path_type: Some(kind.to_owned()),
    }
}

/// Mounts by name; the user's replace ours of the same name.
pub(crate) fn mounts(ours: Vec<HostPathMount>, users: Option<&Vec<HostPathMount>>) -> Vec<HostPathMount> {
    let all = ours.into_iter().chain(users.into_iter().flatten().cloned());
    all.map(|mount| (mount.name.clone(), mount)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Name of an image: repository and tag of the configuration, else what the bundle has.
pub(crate) fn image(bundle: &Manifest, name: &str, repository: Option<&str>, tag: Option<&str>) -> Result<String> {
    let bundled = bundle.images.iter().find_map(|image| {
        let (repository, tag) = image.name.rsplit_once(':')?;
        (repository.rsplit('/').next() == Some(name)).then_some((repository, tag))
    });
    let repository = match (repository, bundled) {
        (Some(repository), _) => format!("{repository}/{name}"),
        (None, Some((repository, _))) => repository.to_owned(),
        (None, None) => anyhow::bail!("the bundle has no image {name}"),
    };
    let tag = tag.or(bundled.map(|(_, tag)| tag)).with_context(|| format!("the bundle has no image {name}"))?;
    Ok(format!("{repository}:{tag}"))
}

/// An image of Kubernetes' own: of the cluster's version.
pub(crate) fn kubernetes_image(cluster: &Cluster, name: &str) -> String {
    let repository = cluster.config.image_repository.as_deref().unwrap_or("registry.k8s.io");
    let version = cluster.config.kubernetes_version.as_deref().unwrap_or_default();
    // `+` of a build is not allowed in a tag.
    format!("{repository}/{name}:{}", version.replace('+', "_"))
}

/// The user's repository, where it is not the one that all names in the bundle have.
pub(crate) fn own_repository(cluster: &Cluster) -> Option<&str> {
    cluster.config.image_repository.as_deref().filter(|repository| *repository != "registry.k8s.io")
}

/// How long a component may take (timeouts.controlPlaneComponentHealthCheck).
pub(crate) fn health_timeout(cluster: &Cluster) -> Duration {
    let timeouts = cluster.init.timeouts.as_ref();
    let text = timeouts.and_then(|t| t.control_plane_component_health_check.as_deref());
    text.and_then(crate::cluster::duration).unwrap_or(Duration::from_secs(240))
}

/// Key of the step that writes a component's manifest.
pub(crate) fn key(component: &str) -> Key {
    Key::new(format!("manifests/{component}"))
}

/// The step that writes a component's manifest.
pub(crate) fn write(label: Label, machine: &Arc<dyn Machine>, component: &Component) -> Result<WriteFile> {
    Ok(WriteFile::new(label, machine.clone(), path(component.name), manifest(component)?).mode(0o600))
}

/// Where a component's manifest is.
pub(crate) fn path(component: &str) -> String {
    format!("{MANIFESTS}/{component}.yaml")
}

/// The component's manifest as kubeadm writes it: keys sorted.
pub(crate) fn manifest(component: &Component) -> Result<String> {
    let value = serde_json::to_value(pod(component)?)?;
    crate::yaml::to_string(&value).with_context(|| format!("writing the manifest of {}", component.name))
}

/// The component as a Pod.
pub(crate) fn pod(component: &Component) -> Result<Pod> {
    let labels = [("component", component.name), ("tier", "control-plane")];
    let annotations = component.annotation.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(component.name.into()),
            namespace: Some("kube-system".into()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            annotations: Some(annotations.collect()).filter(|all: &BTreeMap<_, _>| !all.is_empty()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![container(component)?],
            host_network: Some(true),
            priority: Some(2_000_001_000),
            priority_class_name: Some("system-node-critical".into()),
            security_context: Some(PodSecurityContext {
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
                ..PodSecurityContext::default()
            }),
            volumes: Some(volumes(&component.mounts)),
            ..PodSpec::default()
        }),
        status: Some(PodStatus::default()),
    })
}

fn container(component: &Component) -> Result<Container> {
    let (liveness, readiness, startup) = component.paths;
    let requests = component.requests.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())));
    let envs: Result<Vec<EnvVar>> = component.envs.iter().map(env).collect();
    Ok(Container {
        name: component.name.into(),
        image: Some(component.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(std::iter::once(component.name.to_owned()).chain(component.args.iter().cloned()).collect()),
        env: Some(envs?).filter(|all| !all.is_empty()),
        liveness_probe: Some(probe(component, liveness, Some(10), 8, 10)),
        readiness_probe: readiness.map(|path| probe(component, path, None, 3, 1)),
        startup_probe: Some(startup_probe(component, startup)),
        ports: Some(vec![ContainerPort {
            name: Some("probe-port".into()),
            container_port: i32::from(component.probe.port),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        resources: Some(ResourceRequirements { requests: Some(requests.collect()), ..ResourceRequirements::default() }),
        volume_mounts: Some(component.mounts.iter().map(volume_mount).collect()),
        ..Container::default()
    })
}

/// Seconds after its start at which a pod is first asked whether it has started, for those that start first.
///
/// Until its startup probe succeeds a pod is not Ready: with kubeadm's, first after ten seconds and then every ten, a control
/// plane that has long been healthy counts as not Ready for up to twenty. But a pod that is Ready before its Node is, which
/// waits for the pod network, is called not Ready by the controller manager as soon as that runs
/// (`node_lifecycle_controller.go`, `processPod`), and the kubelet, which knows better, looks at what the API says of its
/// pods only every ten seconds. So static pods are Ready shortly after the Node.
pub(crate) const STARTS_FIRST: i32 = 6;
/// The same for those that start once the API server listens, about two seconds later.
pub(crate) const STARTS_LATER: i32 = 4;

/// Asked every second from then on; it may fail for the whole timeout.
fn startup_probe(component: &Component, path: &str) -> Probe {
    let failures = i32::try_from(component.startup.as_millis().div_ceil(1000).max(1)).unwrap_or(i32::MAX);
    probe(component, path, Some(component.first_asked), failures, 1)
}

fn probe(component: &Component, path: &str, delay: Option<i32>, failures: i32, period: i32) -> Probe {
    let endpoint = &component.probe;
    Probe {
        http_get: Some(HTTPGetAction {
            host: Some(endpoint.host.clone()).filter(|host| !host.is_empty()),
            path: Some(path.into()),
            port: IntOrString::String("probe-port".into()),
            scheme: Some(if endpoint.https { "HTTPS" } else { "HTTP" }.into()),
            ..HTTPGetAction::default()
        }),
        initial_delay_seconds: delay,
        timeout_seconds: Some(15),
        failure_threshold: Some(failures),
        period_seconds: Some(period),
        ..Probe::default()
    }
}

fn env(variable: &kubeadm::EnvVar) -> Result<EnvVar> {
    let mut env: EnvVar = serde_json::from_value(serde_json::to_value(variable)?)
        .with_context(|| format!("environment variable {}", variable.name))?;
    if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
        field.api_version.get_or_insert_with(|| "v1".into());
    }
    Ok(env)
}

/// Sorted by name, whatever the mounts' order.
fn volumes(mounts: &[HostPathMount]) -> Vec<Volume> {
    let mut all: Vec<Volume> = mounts.iter().map(volume).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn volume(mount: &HostPathMount) -> Volume {
    Volume {
        name: mount.name.clone(),
        host_path: Some(HostPathVolumeSource {
            path: mount.host_path.clone(),
            type_: Some(mount.path_type.clone().unwrap_or_default()),
        }),
        ..Volume::default()
    }
}

fn volume_mount(mount: &HostPathMount) -> VolumeMount {
    VolumeMount {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arg(name: &str, value: &str) -> Arg {
        Arg { name: name.into(), value: value.into() }
    }

    #[test]
    fn the_users_flags_replace_ours_and_keep_their_order() {
        let ours = [("z", "1".to_owned()), ("a", "2".to_owned()), ("m", "3".to_owned())];
        let users = vec![arg("y", "4"), arg("m", "5"), arg("m", "6"), arg("b", "7")];
        assert_eq!(arguments(&ours, Some(&users)), ["--a=2", "--z=1", "--y=4", "--m=5", "--m=6", "--b=7"]);
    }

    #[test]
    fn the_startup_probe_may_fail_for_the_whole_timeout() {
        let failures = |millis| {
            let component = Component { startup: Duration::from_millis(millis), ..Component::default() };
            startup_probe(&component, "/").failure_threshold
        };
        assert_eq!([240_000, 240_001, 0].map(failures), [Some(240), Some(241), Some(1)]);
    }

    #[test]
    fn mounts_are_sorted_and_replaced_by_name() {
        let ours = vec![mount("k8s-certs", "/a", "", true), mount("ca-certs", "/b", "", true)];
        let users = vec![mount("ca-certs", "/mine", "", true)];
        let all: Vec<_> = mounts(ours, Some(&users)).into_iter().map(|m| (m.name, m.host_path)).collect();
        assert_eq!(all, [("ca-certs".to_owned(), "/mine".to_owned()), ("k8s-certs".to_owned(), "/a".to_owned())]);
    }

    #[test]
    fn a_component_that_listens_everywhere_is_probed_without_a_host() {
        assert_eq!(probe_host("0.0.0.0"), "");
        assert_eq!(probe_host("::"), "");
        assert_eq!(probe_host("10.0.0.1"), "10.0.0.1");
        assert_eq!(Endpoint { https: true, host: "::1".into(), port: 1 }.url("/livez"), "https://[::1]:1/livez");
    }
}

//! The lists of phases: init and join. A reader starts here; it stays a page. Nothing below does I/O: it only builds steps.

pub mod addons;
pub mod bootstrap_token;
pub mod bundle;
pub mod certs;
pub mod control_plane;
pub mod etcd;
pub mod fix;
pub mod host;
pub(crate) mod images;
pub mod join;
pub mod kubeconfig;
pub mod kubelet;
pub mod mark;
mod rbac;
mod static_pod;
pub mod up;
pub mod upload_config;
pub mod wait;

use std::sync::Arc;

use anyhow::Result;
use kprov_providers::kube::Api;
use kprov_providers::{Key, Machine};

use crate::bundle::locate::Found;
use crate::bundle::sets::Set;
use crate::cluster::kubeadm::ClusterConfiguration;
use crate::cluster::{Cluster, Joining, subnets};
use crate::discovery::Met;
use crate::facts::{Facts, fit};
use crate::plan::Plan;

/// A first control plane on this machine: kubeadm's phases by their names. What a step needs, and not the phase before
/// it, decides when it runs: the machine is made ready and images are imported beside the keys, the kubelet starts as
/// soon as it has its certificate, etcd comes first, objects are made as soon as the API server listens, and controller
/// manager and scheduler start when there is work for them: before, they would only take its processor.
///
/// # Errors
/// A cluster whose values are not what validation lets through, or a bundle that lacks a part.
pub fn init(cluster: &Cluster, facts: &Facts, found: &Found, machine: &Arc<dyn Machine>) -> Result<Plan> {
    let mut plan = Plan::new();
    plan.extend(host::host(facts, has_v6(&cluster.config), machine));
    let first = [Key::new(host::FIRST)];
    let (steps, brought) = bundle::bundle(found, facts, machine, bundle::AtBoot::Enabled, &first)?;
    plan.extend(steps);
    plan.extend(certs::certs(cluster, machine, &first)?);
    plan.extend(kubeconfig::kubeconfig(cluster, machine, &first)?);

    let node = cluster.init.node_registration.clone().unwrap_or_default();
    let mut config = cluster.kubelet.clone();
    fit::fill(&mut config, &fit::first_kubelet(facts));
    let own = kubelet::Kubelet { config: &config, node: &node, register_taints: false, facts };
    let mut needs = brought.kubelet.clone();
    needs.extend([brought.runtime.clone(), brought.cni.clone(), kubeconfig::key("kubelet.conf")]);
    needs.extend(plan.keys_of(host::PHASE));
    plan.extend(kubelet::kubelet(&own, machine, &first, &needs)?);
    plan.extend(wait::kubelet(cluster, machine, &[kubelet::key()])?);

    // A static pod whose image is not there yet would be tried again only after a while.
    let mut needs = vec![kubelet::manifests()];
    needs.extend(brought.images(Set::First));
    let etcd = etcd::etcd(cluster, &found.manifest, machine, &first, &needs)?;
    needs.extend(etcd.steps().last().map(|step| step.key().clone()));
    plan.extend(etcd);
    needs.extend(brought.images(Set::Kubernetes));
    plan.add(control_plane::api_server_step(cluster, facts, machine, &needs)?);
    let api_server = control_plane::api_server(cluster, facts)?;
    let needs = [static_pod::key(api_server.name), wait::healthy("kubelet")];
    plan.extend(wait::api_listens(cluster, &api_server, machine, &needs));
    let listens = [wait::listens()];
    plan.extend(wait::component(cluster, &api_server, machine, &listens));

    let api = Arc::new(api(cluster, machine)?);
    let mut needs = listens.to_vec();
    needs.extend(["admin.conf", "super-admin.conf"].map(kubeconfig::key));
    let patience = kubelet::timeout(cluster.init.timeouts.as_ref().and_then(|t| t.kubernetes_api_call.as_ref()), 60)?;
    plan.extend(rbac::leaders(&api, wait::PHASE, &needs, &wait::healthy(api_server.name), patience)?);
    plan.extend(rbac::admins(&api, upload_config::PHASE, &needs, patience));
    plan.extend(upload_config::upload_config(cluster, &api, &needs, patience)?);
    plan.extend(mark::mark(cluster, &api, machine, &needs)?);
    plan.extend(bootstrap_token::bootstrap_token(cluster, &api, machine, &needs, patience)?);
    needs.extend(brought.images(Set::Addons));
    plan.extend(addons::addons(cluster, facts, &found.manifest, &api, &needs, patience)?);

    let mut needs = plan.keys_of(addons::PHASE);
    // What a user's own manifest has may come up only with their help.
    needs.retain(|key| *key != addons::user_manifest());
    needs.push(rbac::lent());
    plan.extend(control_plane::others(cluster, facts, machine, &needs)?);
    for component in control_plane::others_components(cluster, facts)? {
        plan.extend(wait::component(cluster, &component, machine, &[static_pod::key(component.name)]));
    }
    Ok(plan)
}

/// A worker on this machine, for the cluster that was met.
///
/// # Errors
/// As [`init`].
pub fn join(joining: &Joining, facts: &Facts, found: &Found, met: &Met, machine: &Arc<dyn Machine>) -> Result<Plan> {
    let mut plan = Plan::new();
    plan.extend(host::host(facts, has_v6(&met.config), machine));
    let first = [Key::new(host::FIRST)];
    let (steps, brought) = bundle::bundle(found, facts, machine, bundle::AtBoot::Enabled, &first)?;
    plan.extend(steps);
    // As soon as its Node is registered the kubelet is given pods, whose images must be there.
    plan.extend(join::worker(joining, facts, met, machine, &first, &brought.all())?);
    Ok(plan)
}

/// The API server of the init machine itself, so that a load balancer before it may come up later. super-admin.conf
/// first: its rights do not rest on roles, which are only there some time after the API server listens.
///
/// # Errors
/// A cluster without an address.
pub fn api(cluster: &Cluster, machine: &Arc<dyn Machine>) -> Result<Api> {
    let files = ["super-admin.conf", "admin.conf"].map(|file| format!("{}/{file}", kubeconfig::DIR));
    Ok(Api::new(machine.clone(), files, Some(certs::local_url(cluster)?)))
}

fn has_v6(config: &ClusterConfiguration) -> bool {
    let networking = config.networking.clone().unwrap_or_default();
    let both = [networking.pod_subnet, networking.service_subnet];
    let all = both.iter().flatten().filter_map(|text| subnets::subnets(text)).flatten();
    all.into_iter().any(|subnet| matches!(subnet, ipnet::IpNet::V6(_)))
}

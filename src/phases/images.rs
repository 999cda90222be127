//! Images that a cluster's own pods ask for, by the names that their manifests have.

use anyhow::Result;

use super::addons::coredns;
use super::{etcd, static_pod};
use crate::bundle::Manifest;
use crate::cluster::{Cluster, Cni};

/// Names of all of them, without the sandbox's: that one is the runtime's to name.
///
/// # Errors
/// A bundle that lacks an image whose name only it knows.
pub(crate) fn images(cluster: &Cluster, bundle: &Manifest) -> Result<Vec<String>> {
    let config = &cluster.config;
    let own = |name: &str| static_pod::kubernetes_image(cluster, name);
    let mut all: Vec<String> = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"].map(own).into();
    if config.etcd.as_ref().is_none_or(|etcd| etcd.external.is_none()) {
        all.push(etcd::image(cluster, bundle)?);
    }
    if config.proxy.as_ref().is_none_or(|proxy| proxy.disabled != Some(true)) {
        all.push(own("kube-proxy"));
    }
    if config.dns.as_ref().is_none_or(|dns| dns.disabled != Some(true)) {
        all.push(coredns::image(cluster, bundle)?);
    }
    if cluster.cni == Cni::Flannel {
        all.push(static_pod::image(bundle, "flannel", None, None)?);
    }
    Ok(all)
}

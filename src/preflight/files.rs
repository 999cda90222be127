//! Files and directories that must not be there, unless our journal made them.

use kprov_providers::machine::Kind;

use super::{Finding, Look, path_name};
use crate::bundle::manifest::Content;
use crate::cluster::{Cluster, Joining};

const MANIFESTS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"];

pub(super) fn control_plane(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for name in MANIFESTS {
        found.extend(absent(look, &format!("/etc/kubernetes/manifests/{name}.yaml"))?);
    }
    let etcd = cluster.config.etcd.clone().unwrap_or_default();
    if etcd.external.is_none() {
        let dir = etcd.local.and_then(|local| local.data_dir).unwrap_or_else(|| "/var/lib/etcd".to_owned());
        let full = look.machine.list(&dir)?.is_some_and(|names| !names.is_empty());
        if full && !(look.ours)(&dir) {
            found.push(
                Finding::error(path_name("DirAvailable", &dir), format!("there is data of another etcd in {dir}"))
                    .hint(format!("mv {dir} {dir}.old")),
            );
        }
    }
    Ok(found)
}

pub(super) fn worker(look: &Look<'_>, joining: &Joining) -> anyhow::Result<Vec<Finding>> {
    const BOOTSTRAP: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
    let ca = joining.join.ca_cert_path.as_deref().unwrap_or("/etc/kubernetes/pki/ca.crt");
    let mut found = Vec::new();
    // The kubelet writes kubelet.conf by itself after a join of ours that was killed in between.
    if !(look.ours)(BOOTSTRAP) {
        found.extend(absent(look, "/etc/kubernetes/kubelet.conf")?);
    }
    found.extend(absent(look, BOOTSTRAP)?);
    found.extend(absent(look, ca)?);
    Ok(found)
}

fn absent(look: &Look<'_>, path: &str) -> anyhow::Result<Option<Finding>> {
    if look.machine.meta(path)?.is_none() || (look.ours)(path) {
        return Ok(None);
    }
    let message = format!("there is one already, from another cluster or tool: {path}");
    Ok(Some(Finding::error(path_name("FileAvailable", path), message).hint("kprov reset --force")))
}

/// Files of the bundle never replace another's: a kubelet of the distribution, CNI plugins of a package.
pub(super) fn bundle(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let Some(bundle) = look.bundle else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for file in &bundle.files {
        // A runtime that runs already brings its own.
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let of_runtime =
            look.facts.runtime.is_some() && ["containerd", "ctr", "runc"].iter().any(|n| name.starts_with(n));
        let Some(meta) = look.machine.meta(&file.path)? else { continue };
        if of_runtime || (look.ours)(&file.path) || any_there(look, &file.unless)? {
            continue;
        }
        let same = match &file.content {
            Content::Link(target) => meta.kind == Kind::Link(target.clone()),
            // Sizes first: hashing a hundred megabytes takes a while.
            Content::Blob(hash) => {
                bundle.blobs.iter().any(|b| b.sha256 == *hash && b.size == meta.size)
                    && look.machine.sha256(&file.path)?.as_ref() == Some(hash)
            }
            Content::Member { sha256, size, .. } => {
                meta.size == *size && look.machine.sha256(&file.path)?.as_ref() == Some(sha256)
            }
        };
        if !same {
            let path = &file.path;
            let message = format!("there is another one than the bundle's, which kprov does not replace: {path}");
            found.push(Finding::error(path_name("FileAvailable", path), message).hint(format!("mv {path} {path}.old")));
        }
    }
    Ok(found)
}

fn any_there(look: &Look<'_>, paths: &[String]) -> anyhow::Result<bool> {
    for path in paths {
        if look.machine.meta(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

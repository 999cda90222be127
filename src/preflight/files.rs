//! Files and directories that must not be there, unless our journal made them.

use std::collections::BTreeMap;

use kprov_providers::machine::Kind;

use super::{Finding, Look, host, leftovers, path_name};
use crate::bundle::manifest::{Content, HostFile, Manifest};
use crate::cluster::{Cluster, Joining};
use crate::phases::bundle::ours as written_by_us;

const MANIFESTS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"];

pub(super) fn control_plane(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for name in MANIFESTS {
        found.extend(absent(look, &format!("/etc/kubernetes/manifests/{name}.yaml"))?);
    }
    let etcd = cluster.config.etcd.clone().unwrap_or_default();
    if etcd.external.is_none() {
        let dir = etcd.local.and_then(|local| local.data_dir).unwrap_or_else(|| "/var/lib/etcd".to_owned());
        let full = !kprov_providers::made::inside(look.machine, &dir)?.is_empty();
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
    let mut others: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in &bundle.files {
        if is_another(look, bundle, file)?
            && let Some((dir, name)) = file.path.rsplit_once('/')
        {
            others.entry(dir).or_default().push(name);
        }
    }
    let mut found = Vec::new();
    for (dir, names) in others {
        // One is named by itself, several of a directory by what they have in common.
        let (path, what) = match names.as_slice() {
            [name] => (format!("{dir}/{name}"), String::new()),
            many => (dir.to_owned(), format!(" ({})", many.join(", "))),
        };
        let message = format!("there is another one than the bundle's, which kprov does not replace: {path}{what}");
        let mut moves = names.iter().map(|name| format!("mv {dir}/{name} {dir}/{name}.old"));
        let hint = match package(look, dir, &names)? {
            Some(command) => command,
            None if names.len() > 1 => format!("mv {dir} {dir}.old"),
            None => moves.next().unwrap_or_default(),
        };
        found.push(Finding::error(path_name("FileAvailable", &path), message).hint(hint));
    }
    found.extend(written(look)?);
    Ok(found)
}

fn is_another(look: &Look<'_>, bundle: &Manifest, file: &HostFile) -> anyhow::Result<bool> {
    // A runtime that runs already brings its own.
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let of_runtime = look.facts.runtime.is_some() && ["containerd", "ctr", "runc"].iter().any(|n| name.starts_with(n));
    let Some(meta) = look.machine.meta(&file.path)? else { return Ok(false) };
    if of_runtime || (look.ours)(&file.path) || any_there(look, &file.unless)? {
        return Ok(false);
    }
    // k3s is told as a whole.
    if let Kind::Link(target) = &meta.kind
        && leftovers::is_k3s(look, target)?
    {
        return Ok(false);
    }
    Ok(match &file.content {
        Content::Link(target) => meta.kind != Kind::Link(target.clone()),
        // Sizes first: hashing a hundred megabytes takes a while.
        Content::Blob(hash) => {
            !bundle.blobs.iter().any(|b| b.sha256 == *hash && b.size == meta.size)
                || look.machine.sha256(&file.path)?.as_ref() != Some(hash)
        }
        Content::Member { sha256, size, .. } => {
            meta.size != *size || look.machine.sha256(&file.path)?.as_ref() != Some(sha256)
        }
    })
}

/// The command that removes the packages of kubeadm's repository, where these files are theirs.
fn package(look: &Look<'_>, dir: &str, names: &[&str]) -> anyhow::Result<Option<String>> {
    let name = match dir {
        "/opt/cni/bin" => "kubernetes-cni",
        "/usr/bin" if names.contains(&"kubelet") => "kubelet",
        _ => return Ok(None),
    };
    if look.machine.meta(&format!("/var/lib/dpkg/info/{name}.list"))?.is_some() {
        let all = "apt-get purge -y --allow-change-held-packages kubeadm kubelet kubectl kubernetes-cni";
        return Ok(Some(all.to_owned()));
    }
    let rpm = look.machine.meta("/var/lib/rpm")?.is_some() && host::install(look, name).starts_with("dnf");
    Ok(rpm.then(|| "dnf remove -y kubeadm kubelet kubectl kubernetes-cni".to_owned()))
}

/// Files of another's in the places of those that kprov writes, and replaces only where they are its own.
fn written(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    const KUBELET: [&str; 2] =
        ["/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"];
    const RUNTIME: [&str; 2] = ["/etc/systemd/system/containerd.service", "/etc/containerd/config.toml"];
    let mut paths = KUBELET.to_vec();
    if look.facts.runtime.is_none() {
        paths.extend(RUNTIME);
    }
    let mut found = Vec::new();
    for path in paths {
        let Some(text) = look.machine.read(path)? else { continue };
        if !written_by_us(&text) && !(look.ours)(path) {
            let message = format!("there is another one than kprov's, which it does not replace: {path}");
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

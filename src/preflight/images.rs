//! Images that pods will ask the runtime for. Into our own containerd the bundle's are brought; into a runtime that ran
//! already kprov brings none, so what it lacks is named.

use std::time::Duration;

use kprov_providers::machine::Command;

use super::{Finding, Look};
use crate::bundle::locate::file_name;
use crate::bundle::sets::short;
use crate::cluster::Cluster;
use crate::facts::Runtime;
use crate::phases::images::images;

const CHECK: &str = "ImagePull";

/// Before `init`: all that its cluster's pods ask for.
pub(super) async fn cluster(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let Some(bundle) = look.bundle else { return Ok(Vec::new()) };
    // What the bundle does not know has been told as a fault of the bundle.
    let wanted = images(cluster, bundle).unwrap_or_default();
    let Some(runtime) = &look.facts.runtime else {
        // Of another repository or tag than the bundle's: kubeadm would pull it now.
        let brought = |name: &String| bundle.images.iter().any(|image| image.name == *name);
        let pulled = wanted.iter().filter(|name| !brought(name));
        let message = |name| format!("the bundle does not have the image {name}: it is pulled when its pod starts");
        return Ok(pulled.map(|name| Finding::warning(CHECK, message(name))).collect());
    };
    let Some(present) = present(look, runtime).await else { return Ok(unknown(runtime)) };
    Ok(lacking(&present, wanted).map(|name| Finding::error(CHECK, lack(&name)).hint(bring(look, runtime))).collect())
}

/// Before `join`: what the bundle has for workers. The cluster may want others, so nothing is stopped by it.
pub(super) async fn worker(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let (Some(runtime), Some(bundle)) = (&look.facts.runtime, look.bundle) else { return Ok(Vec::new()) };
    let Some(present) = present(look, runtime).await else { return Ok(unknown(runtime)) };
    let names = bundle.images.iter().map(|image| image.name.clone());
    let wanted = names.filter(|name| ["kube-proxy", "coredns", "flannel"].contains(&short(name)));
    Ok(lacking(&present, wanted).map(|name| Finding::warning(CHECK, lack(&name)).hint(bring(look, runtime))).collect())
}

/// The image that every pod of the running containerd starts with, as its configuration names it.
pub(super) async fn sandbox(look: &Look<'_>, runtime: &Runtime, name: &str) -> Option<Finding> {
    let present = present(look, runtime).await?;
    if present.iter().any(|image| image == name) {
        return None;
    }
    let bundled = look.bundle.and_then(|bundle| bundle.images.iter().find(|image| short(&image.name) == "pause"));
    let message = format!("the running containerd starts pods with an image that it does not have: {name}");
    let finding = Finding::error(CHECK, message);
    Some(match bundled.filter(|image| image.name != name) {
        Some(image) => finding.hint(format!(
            "{}; in /etc/containerd/config.toml: [plugins.'io.containerd.cri.v1.images'.pinned_images] \
             sandbox = '{}'; systemctl restart containerd",
            bring(look, runtime),
            image.name
        )),
        None => finding.hint(bring(look, runtime)),
    })
}

fn lack(name: &str) -> String {
    format!("the running container runtime does not have the image {name}")
}

fn lacking(present: &[String], wanted: impl IntoIterator<Item = String>) -> impl Iterator<Item = String> {
    wanted.into_iter().filter(|name| !present.contains(name))
}

fn address(runtime: &Runtime) -> &str {
    runtime.socket.strip_prefix("unix://").unwrap_or(&runtime.socket)
}

/// How the bundle's images come into a runtime that is not ours.
fn bring(look: &Look<'_>, runtime: &Runtime) -> String {
    let file = look.bundle.map_or_else(|| "FILE".to_owned(), |bundle| file_name(&bundle.kubernetes, &bundle.arch));
    format!(
        "kprov bundle images {file} --out images.tar && ctr -a {} -n k8s.io images import images.tar",
        address(runtime)
    )
}

fn unknown(runtime: &Runtime) -> Vec<Finding> {
    match runtime.name.as_str() {
        "containerd" => {
            vec![Finding::warning(CHECK, "the images of the running containerd cannot be listed: ctr images ls")]
        }
        _ => Vec::new(),
    }
}

/// What the runtime has; `None` where it cannot be asked.
async fn present(look: &Look<'_>, runtime: &Runtime) -> Option<Vec<String>> {
    if runtime.name != "containerd" {
        return None;
    }
    let mut list = Command::new("ctr", ["--address", address(runtime), "--namespace", "k8s.io", "images", "ls", "-q"]);
    list.timeout = Some(Duration::from_secs(10));
    match look.machine.run(list).await {
        Ok(exit) if exit.success() => Some(exit.text().lines().map(str::to_owned).collect()),
        _ => None,
    }
}

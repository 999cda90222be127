//! What another Kubernetes left on the machine, beside its files (`files`) and ports (`ports`): k3s, links of a pod network.

use kprov_providers::machine::links as all_links;

use super::{Finding, Look, Severity};

/// Distributions that bring all of Kubernetes in one program, and where their installers put it.
const OTHERS: [(&str, &str, &[&str]); 2] = [
    ("k3s", "/usr/local/bin/k3s", &["/usr/local/bin/k3s-uninstall.sh", "/usr/local/bin/k3s-agent-uninstall.sh"]),
    ("rke2", "/usr/local/bin/rke2", &["/usr/local/bin/rke2-uninstall.sh"]),
];

/// Links that flannel and the bridge plugin make under these names.
const LINKS: [&str; 3] = ["cni0", "flannel.1", "flannel-v6.1"];

/// k3s or its sister, or what they left. What it holds (ports, programs that are links to it) is not told once more.
pub(super) fn k3s(look: &Look<'_>) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    for (name, program, uninstall) in OTHERS {
        let data = format!("/var/lib/rancher/{name}");
        if look.machine.meta(program)?.is_some() {
            let mut script = None;
            for path in uninstall {
                script = script.or(look.machine.meta(path)?.map(|_| (*path).to_owned()));
            }
            let hint = script.unwrap_or_else(|| format!("systemctl disable --now {name}; rm -rf {program} {data}"));
            let message = format!("{name} is installed here: its programs, ports, links and rules are in the way");
            found.push(Finding::error("OtherKubernetes", message).hint(hint));
        } else if look.machine.meta(&data)?.is_some() {
            let message = format!("{name} was here and left its data, which kprov leaves alone: {data}");
            found.push(Finding::warning("OtherKubernetes", message).hint(format!("rm -rf {data}")));
        }
    }
    Ok(found)
}

/// True where k3s is there and a program of this name is part of it.
pub(super) fn is_k3s(look: &Look<'_>, program: &str) -> anyhow::Result<bool> {
    let (name, path, _) = OTHERS[0];
    Ok(program.rsplit('/').next().unwrap_or_default().starts_with(name) && look.machine.meta(path)?.is_some())
}

/// Links of another pod network: a bridge keeps the address that it has, and pods then get none.
pub(super) fn links(look: &Look<'_>, severity: Severity) -> anyhow::Result<Option<Finding>> {
    // A kubelet of ours has made them.
    if (look.ours)("/etc/systemd/system/kubelet.service") {
        return Ok(None);
    }
    let there = all_links(look.machine)?;
    let left: Vec<&str> = LINKS.into_iter().filter(|link| there.iter().any(|name| name == link)).collect();
    if left.is_empty() {
        return Ok(None);
    }
    let message = format!("another pod network left its links, with addresses of its own: {}", left.join(", "));
    let delete: Vec<String> = left.iter().map(|link| format!("ip link delete {link}")).collect();
    Ok(Some(Finding { severity, ..Finding::error("PodLinks", message).hint(delete.join(" && ")) }))
}

//! Leaving an etcd cluster of several members before this machine's one is stopped (contract A.19).

use std::time::Duration;

use anyhow::Context;
use kprov_providers::Machine;
use kprov_providers::machine::Command;
use serde_json::Value;

/// For one call where the configuration names no time.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// Removes the member that listens where this machine's manifest says. The last one of a cluster stays in it: there is
/// nobody left who could want it gone. No call takes longer than `limit`.
pub(super) async fn leave(machine: &dyn Machine, pki: &str, limit: Duration) -> anyhow::Result<()> {
    let Some(manifest) = machine.read(MANIFEST)? else { return Ok(()) };
    let manifest = String::from_utf8_lossy(&manifest).into_owned();
    let peer = flag(&manifest, "initial-advertise-peer-urls").context("etcd's manifest names no peer URL")?;
    let Some(container) = container(machine, limit).await else { return Ok(()) };
    let list = etcdctl(machine, &container, pki, limit, &["member", "list", "--write-out=json"]).await?;
    let list: Value = serde_json::from_slice(&list).context("reading etcd's list of members")?;
    let Some(id) = own_id(&list, &peer) else { return Ok(()) };
    etcdctl(machine, &container, pki, limit, &["member", "remove", &id]).await.map(drop)
}

/// The hexadecimal ID of the member with this peer URL, if there are others.
fn own_id(list: &Value, peer: &str) -> Option<String> {
    let members = list.get("members")?.as_array()?;
    if members.len() < 2 {
        return None;
    }
    let own = members.iter().find(|member| {
        member.get("peerURLs").and_then(Value::as_array).is_some_and(|urls| urls.iter().any(|url| url == peer))
    })?;
    Some(format!("{:x}", own.get("ID")?.as_u64()?))
}

/// Value of a flag in a manifest's command: `- --name=value`.
fn flag(manifest: &str, name: &str) -> Option<String> {
    let start = format!("--{name}=");
    manifest.lines().find_map(|line| {
        let item = line.trim().trim_start_matches("- ").trim_matches(['"', '\'']);
        item.strip_prefix(&start).map(str::to_owned)
    })
}

/// The running etcd container; none where it, or the runtime, is down.
async fn container(machine: &dyn Machine, limit: Duration) -> Option<String> {
    let exit = crictl(machine, limit, &["ps", "--quiet", "--name", "^etcd$"]).await.ok()?;
    exit.lines().next().map(str::to_owned).filter(|id| !id.is_empty())
}

async fn etcdctl(
    machine: &dyn Machine,
    container: &str,
    pki: &str,
    limit: Duration,
    args: &[&str],
) -> anyhow::Result<Vec<u8>> {
    let ca = format!("--cacert={pki}/etcd/ca.crt");
    let cert = format!("--cert={pki}/etcd/healthcheck-client.crt");
    let key = format!("--key={pki}/etcd/healthcheck-client.key");
    let mut all = vec!["exec", container, "etcdctl", "--endpoints=https://127.0.0.1:2379", &ca, &cert, &key];
    all.extend(args);
    crictl(machine, limit, &all).await.map(String::into_bytes)
}

async fn crictl(machine: &dyn Machine, limit: Duration, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("crictl", ["--timeout", "5s"]);
    command.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    command.env = vec![("CONTAINER_RUNTIME_ENDPOINT".to_owned(), "unix:///run/containerd/containerd.sock".to_owned())];
    command.timeout = Some(limit);
    let exit = machine.run(command).await?;
    anyhow::ensure!(exit.success(), "crictl: {}", String::from_utf8_lossy(&exit.stderr).trim());
    Ok(exit.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_member_stays() {
        let member = |id: u64, url: &str| json!({"ID": id, "peerURLs": [url]});
        let two = json!({"members": [member(10, "https://a:2380"), member(255, "https://b:2380")]});
        assert_eq!(own_id(&two, "https://b:2380").as_deref(), Some("ff"));
        assert_eq!(own_id(&two, "https://c:2380"), None);
        let one = json!({"members": [member(10, "https://a:2380")]});
        assert_eq!(own_id(&one, "https://a:2380"), None);
    }

    #[test]
    fn the_manifest_tells_the_peer_url() {
        let manifest = "  - command:\n    - etcd\n    - --initial-advertise-peer-urls=https://192.0.2.10:2380\n";
        assert_eq!(flag(manifest, "initial-advertise-peer-urls").as_deref(), Some("https://192.0.2.10:2380"));
        assert_eq!(flag(manifest, "none"), None);
    }
}

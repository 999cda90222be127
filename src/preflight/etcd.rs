//! An etcd that somebody else runs: its files must be there, and its version be new enough.

use std::time::Duration;

use anyhow::Context;

use super::{Finding, Look};
use crate::cluster::Cluster;
use crate::cluster::kubeadm::ExternalEtcd;

/// Oldest external etcd that Kubernetes 1.36 is used with (contract A.1).
const OLDEST: (u32, u32, u32) = (3, 5, 24);

pub(super) async fn external(look: &Look<'_>, cluster: &Cluster) -> anyhow::Result<Vec<Finding>> {
    let Some(etcd) = cluster.config.etcd.as_ref().and_then(|e| e.external.clone()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut pem = Vec::new();
    for (what, path) in [("CA", &etcd.ca_file), ("client certificate", &etcd.cert_file), ("client key", &etcd.key_file)]
    {
        let Some(path) = path.as_deref().filter(|p| !p.is_empty()) else {
            pem.push(None);
            continue;
        };
        let content = look.machine.read(path)?;
        if content.is_none() {
            found.push(
                Finding::error(
                    "ExternalEtcdClientCertificates",
                    format!("the {what} of the external etcd is not there: {path}"),
                )
                .hint(format!("copy it from a machine of the etcd cluster to {path}")),
            );
        }
        pem.push(content);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let mut pem = pem.into_iter();
    let (ca, cert, key) = (pem.next().flatten(), pem.next().flatten(), pem.next().flatten());
    let client = match client(ca, cert, key) {
        Ok(client) => client,
        Err(error) => {
            let finding = Finding::error("ExternalEtcdClientCertificates", format!("{error:#}"));
            return Ok(vec![finding.hint("copy them once more from a machine of the etcd cluster")]);
        }
    };
    let endpoints = endpoints(&etcd);
    let answers = endpoints.iter().map(|endpoint| version(&client, endpoint));
    for (endpoint, answer) in endpoints.iter().zip(futures_util::future::join_all(answers).await) {
        match answer {
            Ok(version) => found.extend(too_old(endpoint, &version)),
            Err(error) => {
                let message = format!("no answer from the external etcd {endpoint}: {error:#}");
                found.push(Finding::error("ExternalEtcdVersion", message).hint(format!("curl -k {endpoint}/version")));
            }
        }
    }
    Ok(found)
}

/// Where `/version` is answered: the plain HTTP endpoints if there are any (etcd can serve gRPC alone elsewhere).
fn endpoints(etcd: &ExternalEtcd) -> Vec<String> {
    let http = etcd.http_endpoints.clone().unwrap_or_default();
    if http.is_empty() { etcd.endpoints.clone().unwrap_or_default() } else { http }
}

fn client(ca: Option<Vec<u8>>, cert: Option<Vec<u8>>, key: Option<Vec<u8>>) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5));
    if let Some(ca) = ca {
        let roots = reqwest::Certificate::from_pem_bundle(&ca).context("reading the external etcd's CA")?;
        builder = builder.tls_certs_only(roots);
    }
    if let (Some(mut cert), Some(key)) = (cert, key) {
        cert.push(b'\n');
        cert.extend(key);
        let identity = reqwest::Identity::from_pem(&cert).context("reading the external etcd's client certificate")?;
        builder = builder.identity(identity);
    }
    builder.build().context("preparing the connection to the external etcd")
}

async fn version(client: &reqwest::Client, endpoint: &str) -> anyhow::Result<String> {
    let url = format!("{}/version", endpoint.trim_end_matches('/'));
    let body: serde_json::Value = client.get(url).send().await?.error_for_status()?.json().await?;
    Ok(body.get("etcdserver").and_then(|v| v.as_str()).unwrap_or_default().to_owned())
}

fn too_old(endpoint: &str, version: &str) -> Option<Finding> {
    let mut parts = version.split(['.', '-']).map(|p| p.parse::<u32>().ok());
    let found = parts.next().flatten().zip(parts.next().flatten()).zip(parts.next().flatten());
    match found {
        Some(((major, minor), patch)) if (major, minor, patch) >= OLDEST => None,
        _ => {
            let (major, minor, patch) = OLDEST;
            let message =
                format!("the external etcd {endpoint} is {version:?}, {major}.{minor}.{patch} or newer is needed");
            Some(Finding::error("ExternalEtcdVersion", message).hint("upgrade it, one minor release after the other"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_etcd() {
        for good in ["3.5.24", "3.6.8", "3.6.0-rc.1", "4.0.0"] {
            assert_eq!(too_old("x", good), None, "{good}");
        }
        for bad in ["3.5.23", "3.4.99", "", "three"] {
            assert!(too_old("x", bad).is_some(), "{bad}");
        }
    }
}

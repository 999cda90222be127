//! What all certificates and kubeconfigs of a cluster have in common, out of kubeadm's documents.

use std::net::IpAddr;

use anyhow::{Context, Result};
use kprov_pki::Algorithm;
use kprov_pki::issue::Validity;
use kprov_pki::spec::Names;
use time::{Duration, OffsetDateTime};

use crate::cluster::Cluster;
use crate::cluster::kubeadm::Component;
use crate::cluster::subnets::api_service_address;

/// Algorithm, lengths, names and addresses.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// certificatesDir.
    pub dir: String,
    /// Of new keys.
    pub algorithm: Algorithm,
    /// Of new authorities.
    pub ca_length: Duration,
    /// Of all other new certificates.
    pub length: Duration,
    /// What goes into certificates.
    pub names: Names,
    /// Somebody else runs etcd.
    pub external_etcd: bool,
    /// clusterName.
    pub cluster_name: String,
    /// URL of controlPlaneEndpoint, else of the local API server.
    pub api_url: String,
    /// URL of the local API server.
    pub local_url: String,
}

impl Settings {
    /// Reads them out of a cluster whose defaults are filled in.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let (config, init) = (&cluster.config, &cluster.init);
        let network = config.networking.clone().unwrap_or_default();
        let local = config.etcd.as_ref().and_then(|etcd| etcd.local.clone()).unwrap_or_default();
        let endpoint = init.local_api_endpoint.clone().unwrap_or_default();
        let advertise: IpAddr =
            endpoint.advertise_address.unwrap_or_default().parse().context("localAPIEndpoint.advertiseAddress")?;
        let node = init.node_registration.as_ref().and_then(|n| n.name.clone()).context("nodeRegistration.name")?;
        let api = config.api_server.clone().unwrap_or_else(Component::default);
        Ok(Self {
            dir: config.certificates_dir.clone().context("certificatesDir")?,
            algorithm: config
                .encryption_algorithm
                .as_deref()
                .unwrap_or("ECDSA-P256")
                .parse()
                .context("encryptionAlgorithm")?,
            ca_length: length(config.ca_certificate_validity_period.as_deref(), 87600)
                .context("caCertificateValidityPeriod")?,
            length: length(config.certificate_validity_period.as_deref(), 8760).context("certificateValidityPeriod")?,
            names: Names {
                node,
                advertise,
                service: api_service_address(&network.service_subnet.unwrap_or_default())
                    .context("networking.serviceSubnet")?,
                dns_domain: network.dns_domain.unwrap_or_else(|| "cluster.local".into()),
                endpoint: config.control_plane_endpoint.as_deref().filter(|e| !e.is_empty()).map(|e| split(e).0),
                api_sans: api.cert_sans.unwrap_or_default(),
                etcd_server_sans: local.server_cert_sans.unwrap_or_default(),
                etcd_peer_sans: local.peer_cert_sans.unwrap_or_default(),
            },
            external_etcd: config.etcd.as_ref().is_some_and(|etcd| etcd.external.is_some()),
            cluster_name: config.cluster_name.clone().unwrap_or_else(|| "kubernetes".into()),
            api_url: api_url(cluster)?,
            local_url: local_url(cluster)?,
        })
    }

    /// How long a new authority is good.
    pub(crate) fn authority(&self) -> Validity {
        Validity { now: OffsetDateTime::now_utc(), length: self.ca_length }
    }

    /// How long any other new certificate is good.
    pub(crate) fn leaf(&self) -> Validity {
        Validity { now: OffsetDateTime::now_utc(), length: self.length }
    }
}

/// URL at which the cluster's API is reached: controlPlaneEndpoint, else the local API server.
pub(crate) fn api_url(cluster: &Cluster) -> Result<String> {
    let Some(endpoint) = cluster.config.control_plane_endpoint.as_deref().filter(|e| !e.is_empty()) else {
        return local_url(cluster);
    };
    let (host, port) = split(endpoint);
    Ok(url(&host, port.unwrap_or_else(|| bind_port(cluster))))
}

/// URL of this node's own API server.
pub(crate) fn local_url(cluster: &Cluster) -> Result<String> {
    let endpoint = cluster.init.local_api_endpoint.as_ref();
    let host = endpoint.and_then(|e| e.advertise_address.clone()).context("localAPIEndpoint.advertiseAddress")?;
    Ok(url(&host, bind_port(cluster)))
}

fn bind_port(cluster: &Cluster) -> u16 {
    cluster.init.local_api_endpoint.as_ref().and_then(|e| e.bind_port).unwrap_or(6443)
}

fn url(host: &str, port: u16) -> String {
    if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

/// Host and port of `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn split(endpoint: &str) -> (String, Option<u16>) {
    if endpoint.parse::<IpAddr>().is_ok() {
        return (endpoint.to_owned(), None);
    }
    match endpoint.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (bare(host), port.parse().ok()),
        _ => (bare(endpoint), None),
    }
}

fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

fn length(text: Option<&str>, hours: i64) -> Result<Duration> {
    let Some(text) = text else { return Ok(Duration::hours(hours)) };
    let length = crate::cluster::duration(text).with_context(|| format!("{text} is no duration"))?;
    Ok(Duration::try_from(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(split("api.example.org"), ("api.example.org".into(), None));
        assert_eq!(split("api.example.org:8443"), ("api.example.org".into(), Some(8443)));
        assert_eq!(split("[fd00::1]:8443"), ("fd00::1".into(), Some(8443)));
        assert_eq!(split("fd00::1"), ("fd00::1".into(), None));
        assert_eq!(split("10.0.0.1:6443"), ("10.0.0.1".into(), Some(6443)));
        assert_eq!(url("fd00::1", 6443), "https://[fd00::1]:6443");
    }
}

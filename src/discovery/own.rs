//! This machine's own kubelet.conf: whether it belongs to a cluster already, and to which.

use kprov_pki::Key;
use kprov_pki::inspect::Cert;
use kprov_pki::kubeconfig::Kubeconfig;
use kprov_pki::pin::Pin;
use kprov_providers::Machine;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{Place, Trouble, info};
use crate::phases::kubeconfig::credentials;

/// kubelet.conf
pub(crate) const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// What kubelet.conf says.
pub(crate) struct Own {
    pub(crate) place: Place,
    cas: Vec<Cert>,
    /// The node that it is for.
    pub(crate) node: String,
    /// Certificate and key, PEM.
    pub(crate) identity: Zeroizing<Vec<u8>>,
    /// The certificate is valid now and the key belongs to it.
    pub(crate) usable: bool,
}

/// Reads kubelet.conf. `None`: it is not there, or is not whole (yet).
pub(crate) fn own(machine: &dyn Machine) -> anyhow::Result<Option<Own>> {
    let Some(text) = machine.read(KUBELET_CONF)? else { return Ok(None) };
    let Some(config) = std::str::from_utf8(&text).ok().and_then(|t| crate::yaml::from_str::<Kubeconfig>(t).ok()) else {
        return Ok(None);
    };
    let Some((cluster, user)) = config.current() else { return Ok(None) };
    let ca = match (cluster.ca_pem(), &cluster.certificate_authority) {
        (Ok(Some(pem)), _) => Some(pem),
        (Ok(None), Some(path)) => machine.read(path)?,
        _ => None,
    };
    let Ok((Some(cert_pem), Some(key_pem))) = credentials(machine, user)? else { return Ok(None) };
    let (Some(ca_pem), Ok(cert), Ok(key)) = (ca, Cert::from_pem(&cert_pem), Key::from_pem(&key_pem)) else {
        return Ok(None);
    };
    let Ok(cas) = Cert::chain_from_pem(&ca_pem) else { return Ok(None) };
    let usable = cert.valid_at(OffsetDateTime::now_utc()).and_then(|()| cert.belongs_to(&key)).is_ok();
    let node = cert.common_name().strip_prefix("system:node:").unwrap_or_default().to_owned();
    let mut identity = Zeroizing::new(cert_pem);
    if user.client_certificate.is_none() || user.client_certificate != user.client_key {
        identity.extend_from_slice(&key_pem);
    }
    Ok(Some(Own { place: Place { server: cluster.server.clone(), ca_pem }, cas, node, identity, usable }))
}

impl Own {
    /// It is for this node, and of a cluster with one of these pins.
    pub(super) fn fits(&self, node: &str, pins: &[Pin]) -> Result<(), Trouble> {
        if !pins.is_empty() && !info::pinned(&self.cas, pins) {
            return Err(Trouble::OtherCluster { server: self.place.server.clone() });
        }
        if self.node == node {
            return Ok(());
        }
        Err(Trouble::OtherName { is: self.node.clone(), wanted: node.to_owned() })
    }

    /// It is of the cluster that was found.
    pub(super) fn same_cluster(&self, place: &Place) -> Result<(), Trouble> {
        let found = Cert::chain_from_pem(&place.ca_pem).unwrap_or_default();
        if found.iter().any(|ca| self.cas.contains(ca)) {
            return Ok(());
        }
        Err(Trouble::OtherCluster { server: self.place.server.clone() })
    }
}

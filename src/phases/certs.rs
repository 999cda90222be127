//! Phase `certs`: authorities, certificates and the service-account key, one step for each pair of files
//! (contract A.5). What is there and good is used; what is there and does not fit stops with the reason.
//!
//! A pair is written key first: a key without a certificate is then what a crash leaves, and the next run signs for the
//! same key. A certificate without its key is never ours: for an authority it means that somebody else signs (external
//! CA), and then all that it would sign must be there.

mod judge;
mod pair;
mod service_account;
mod settings;

use std::sync::Arc;

use anyhow::Result;
use kprov_pki::spec;
use kprov_providers::{Key, Machine};

pub(crate) use self::judge::{Signer, fits, signer};
pub(crate) use self::pair::{lay_down, made, sign};
pub(crate) use self::settings::{Settings, local_url};
use crate::cluster::Cluster;
use crate::plan::Plan;

/// Phase name.
pub const PHASE: &str = "certs";

/// Key of the step that makes a pair: `pki/etcd/server`.
pub fn key(path: &str) -> Key {
    Key::new(format!("pki/{path}"))
}

/// The steps of the phase. Each needs `needs`; what is signed needs its authority too.
///
/// # Errors
/// When the cluster's values are not what validation lets through.
pub fn certs(cluster: &Cluster, machine: &Arc<dyn Machine>, needs: &[Key]) -> Result<Plan> {
    let settings = Arc::new(Settings::of(cluster)?);
    let mut plan = Plan::new();
    for authority in spec::authorities(settings.external_etcd) {
        plan.add(pair::Pair::authority(authority, &settings, machine, needs));
    }
    for leaf in spec::leaves(&settings.names, settings.external_etcd) {
        plan.add(pair::Pair::leaf(leaf, &settings, machine, needs));
    }
    plan.add(service_account::ServiceAccount::new(&settings, machine, needs));
    Ok(plan)
}

#[cfg(test)]
pub(crate) mod tests;

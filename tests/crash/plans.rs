//! The plans that are tried: the real ones.

use std::sync::Arc;

use kprov::cluster::flags::JoinFlags;
use kprov::cluster::load_join;
use kprov::discovery::meet;
use kprov::phases;
use kprov::plan::Plan;
use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;

use crate::world::{ServedCluster, World};

pub(crate) fn init(world: &World, machine: &FakeMachine) -> Plan {
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    phases::init(&world.cluster, &world.facts, &world.bundle, &this).unwrap()
}

/// Each run meets the cluster anew, as the command does.
pub(crate) async fn join(world: &World, cluster: &ServedCluster, machine: &FakeMachine) -> Plan {
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    let flags = JoinFlags {
        endpoint: Some(format!("127.0.0.1:{}", world.api.port())),
        token: Some(cluster.token.reveal().to_string()),
        discovery_token_ca_cert_hash: vec![cluster.pin.to_string()],
        ..JoinFlags::default()
    };
    let joining = load_join(&flags, None, &cluster.facts).unwrap_or_else(|problems| panic!("{problems}"));
    let met = meet(&joining, "v1.36.3", &this, &|_| ()).await.unwrap_or_else(|e| panic!("meeting: {e:#}"));
    phases::join(&joining, &cluster.facts, &world.bundle, &met, &this).unwrap()
}

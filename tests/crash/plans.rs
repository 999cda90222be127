//! The plans that are tried: the real ones.

use std::sync::Arc;

use kprov::phases;
use kprov::plan::Plan;
use kprov_providers::Machine;
use kprov_providers::machine::fake::FakeMachine;

use crate::world::World;

pub(crate) fn init(world: &World, machine: &FakeMachine) -> Plan {
    let this: Arc<dyn Machine> = Arc::new(machine.clone());
    phases::init(&world.cluster, &world.facts, &world.bundle, &this).unwrap()
}

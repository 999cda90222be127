//! What `--fix` mends before anything else: phase `preflight`, whose findings these are. What kprov always does to a
//! machine (modules, sysctls) is in phase [`host`](super::host).

use std::sync::Arc;

use kprov_providers::Machine;
use kprov_providers::steps::{Label, MoveAway, SwapOff};

use crate::plan::Plan;
use crate::preflight::Fix;

/// Phase name.
pub const PHASE: &str = "preflight";

/// Where CNI configurations are kept until a reset.
pub const MOVED: &str = "/etc/cni/net.d.before-kprov";

/// A step for each.
pub fn fix(fixes: &[Fix], machine: &Arc<dyn Machine>) -> Plan {
    let mut plan = Plan::new();
    for fix in fixes {
        match fix {
            Fix::SwapOff { swap, .. } => {
                let label = Label::new(format!("fix/swap/{}", swap.device), PHASE);
                plan.add(SwapOff::new(label, machine.clone(), swap.clone()));
            }
            Fix::MoveAway(path) => {
                let name = path.rsplit('/').next().unwrap_or_default();
                let label = Label::new(format!("fix/cni/{name}"), PHASE);
                plan.add(MoveAway::new(label, machine.clone(), path, format!("{MOVED}/{name}")));
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests;

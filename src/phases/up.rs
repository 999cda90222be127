//! `kprov up`: machines, kprov and the bundle on them, init there, join there, until all is Ready.

use std::sync::Arc;

use crate::plan::Plan;
use crate::up::steps::{Coarse, Work};
use crate::up::{CONTROL_PLANE, Ground, Until};

/// The steps for the machines that are wanted, and for those that leave.
pub fn plan(ground: &Arc<Ground>, leaving: &[String]) -> Plan {
    let mut plan = Plan::new();
    let mut add = |work: Work, needs: &[String]| {
        let step = Coarse::new(ground.clone(), work, needs);
        let key = step.name();
        plan.add(step);
        key
    };
    let template = add(Work::Template, &[]);
    let mut last = Vec::new();
    let machine = add(Work::Machine(CONTROL_PLANE.into()), std::slice::from_ref(&template));
    let brought = add(Work::Bring(CONTROL_PLANE.into()), &[machine]);
    let init = add(Work::Init, &[brought]);
    let kubeconfig = add(Work::Kubeconfig, &[init]);
    for worker in ground.wanted.iter().filter(|name| *name != CONTROL_PLANE) {
        let machine = add(Work::Machine(worker.clone()), std::slice::from_ref(&template));
        let brought = add(Work::Bring(worker.clone()), &[machine]);
        last.push(add(Work::Join(worker.clone()), &[brought, kubeconfig.clone()]));
    }
    for worker in leaving {
        last.push(add(Work::Leave(worker.clone()), std::slice::from_ref(&kubeconfig)));
    }
    if ground.until != Until::Api {
        last.push(kubeconfig);
        add(Work::Ready, &last);
    }
    plan
}

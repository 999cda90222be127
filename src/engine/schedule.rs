//! Which step may run now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use kprov_providers::{Key, Step};

use crate::plan::Plan;

/// The steps that did not end yet. A step whose need failed is never handed out.
pub(super) struct Schedule {
    /// In the plan's order.
    steps: Vec<Arc<dyn Step>>,
    /// How many needs are open.
    open: BTreeMap<Key, usize>,
    ready: VecDeque<Arc<dyn Step>>,
    ended: BTreeSet<Key>,
    closed: bool,
}

impl Schedule {
    pub(super) fn new(plan: &Plan) -> Self {
        let steps = plan.steps().to_vec();
        let open = steps.iter().map(|step| (step.key().clone(), needs(step.as_ref()).len())).collect();
        let ready = steps.iter().filter(|step| step.needs().is_empty()).cloned().collect();
        Self { steps, open, ready, ended: BTreeSet::new(), closed: false }
    }

    /// A step whose needs are all done, each step once.
    pub(super) fn next(&mut self) -> Option<Arc<dyn Step>> {
        if self.closed { None } else { self.ready.pop_front() }
    }

    /// Hands out nothing any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// A step ended; when it ended well, those that waited for nothing else may run.
    pub(super) fn ended(&mut self, key: &Key, well: bool) {
        if !self.ended.insert(key.clone()) || !well {
            return;
        }
        for step in &self.steps {
            if !needs(step.as_ref()).contains(key) {
                continue;
            }
            if let Some(open) = self.open.get_mut(step.key()) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    self.ready.push_back(step.clone());
                }
            }
        }
    }

    /// Steps that did not end, in the plan's order.
    pub(super) fn left(&self) -> impl Iterator<Item = &Arc<dyn Step>> {
        self.steps.iter().filter(|step| !self.ended.contains(step.key()))
    }
}

/// Needs without repetitions.
fn needs(step: &dyn Step) -> BTreeSet<&Key> {
    step.needs().iter().collect()
}

//! Steps with their needs; nothing has happened yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use kprov_providers::{Key, Step};

/// Steps in the order in which people read them. What runs when is decided by needs alone.
#[derive(Clone, Default)]
pub struct Plan {
    steps: Vec<Arc<dyn Step>>,
}

/// A plan that cannot be run: a defect of ours, found before anything is touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two steps of one name.
    #[error("two steps are named {0}")]
    Twice(Key),
    /// A need that no earlier step meets (so circles cannot be written).
    #[error("step {step} needs {need}, which does not come before it")]
    Unmet {
        /// Who needs it.
        step: Key,
        /// What is needed.
        need: Key,
    },
}

impl Plan {
    /// No steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step. What it needs must have been added before.
    pub fn add(&mut self, step: impl Step + 'static) {
        self.steps.push(Arc::new(step));
    }

    /// Adds all steps of another plan.
    pub fn extend(&mut self, other: Plan) {
        self.steps.extend(other.steps);
    }

    /// The steps in reading order.
    pub fn steps(&self) -> &[Arc<dyn Step>] {
        &self.steps
    }

    /// The steps of these phases alone, which need none of the others.
    #[must_use]
    pub fn phases(&self, phases: &[&str]) -> Plan {
        Plan { steps: self.steps.iter().filter(|step| phases.contains(&step.phase())).cloned().collect() }
    }

    /// The keys of all steps of a phase.
    pub fn keys_of(&self, phase: &str) -> Vec<Key> {
        self.steps.iter().filter(|s| s.phase() == phase).map(|s| s.key().clone()).collect()
    }

    /// Checks names and needs.
    ///
    /// # Errors
    /// [`PlanError`] at the first defect.
    pub fn validate(&self) -> Result<(), PlanError> {
        let mut seen = BTreeSet::new();
        for step in &self.steps {
            if let Some(need) = step.needs().iter().find(|need| !seen.contains(*need)) {
                return Err(PlanError::Unmet { step: step.key().clone(), need: need.clone() });
            }
            if !seen.insert(step.key().clone()) {
                return Err(PlanError::Twice(step.key().clone()));
            }
        }
        Ok(())
    }
}

//! `--fix` of init and join: what preflight found and is safe to mend is listed, asked for, and mended first.

use std::collections::BTreeSet;
use std::sync::Arc;

use kprov_providers::Machine;

use super::act::Act;
use super::error::{Failure, Result};
use super::node;
use super::output;
use crate::cluster::flags::NodeFlags;
use crate::engine;
use crate::journal::{Journal, Record};
use crate::phases::{fix, host};
use crate::plan::Plan;
use crate::preflight::{self, Finding, Fix};

/// What is to be mended first.
pub(super) struct Fixes {
    plan: Plan,
    yes: bool,
    /// Commands after which swap stays off at a boot.
    keep: BTreeSet<String>,
}

impl Fixes {
    /// Parts the findings: those that are mended, where that is wanted, and those that are told.
    pub(super) fn of(
        findings: Vec<Finding>,
        ignored: &[String],
        flags: &NodeFlags,
        machine: &Arc<dyn Machine>,
    ) -> (Self, Vec<Finding>) {
        if !flags.fix {
            return (Self { plan: Plan::new(), yes: false, keep: BTreeSet::new() }, findings);
        }
        let (mended, left) = preflight::fixable(findings, ignored);
        let fixes: Vec<Fix> = mended.into_iter().flat_map(|finding| finding.fixes).collect();
        let keep = fixes.iter().filter_map(|fix| match fix {
            Fix::SwapOff { keep, .. } => keep.clone(),
            Fix::MoveAway(_) => None,
        });
        (Self { keep: keep.collect(), plan: fix::fix(&fixes, machine), yes: flags.yes }, left)
    }

    /// The steps, to be shown before those of the command itself.
    pub(super) fn before(&self, plan: &Plan) -> Plan {
        let mut all = self.plan.clone();
        all.extend(plan.clone());
        all
    }

    /// Lists what would be mended, with what is done to the machine itself anyway, and asks. Nothing to mend: nothing asked.
    ///
    /// # Errors
    /// [`Kind::Usage`](super::error::Kind::Usage) where there is nobody to ask, and where the answer is no.
    pub(super) async fn consent(&self, plan: &Plan, record: &Record, act: &Act) -> Result {
        if self.plan.steps().is_empty() {
            return Ok(());
        }
        let all = self.before(&plan.phases(&[host::PHASE]));
        let changes =
            engine::preview(&all, record.all_outputs(), &node::silent(act)).await.map_err(Failure::internal)?;
        let list: Vec<String> = changes.iter().filter(|change| change.changes()).map(|c| c.describe.clone()).collect();
        let what = node::count(list.len(), "change");
        let question = format!("--fix first makes these changes:\n  {}\nmaking {what}", list.join("\n  "));
        if self.yes {
            act.events.note(format!("--fix: {}", list.join("; ")));
            return Ok(());
        }
        if output::consent(&question, "--yes")? {
            return Ok(());
        }
        Err(Failure::user(anyhow::anyhow!("not confirmed, nothing was changed")))
    }

    /// Mends; true where there was something to mend.
    ///
    /// # Errors
    /// What could not be mended.
    pub(super) async fn run(&self, act: &Act, journal: &Arc<Journal>, again: &str) -> Result<bool> {
        if self.plan.steps().is_empty() {
            return Ok(false);
        }
        node::run(act, "fix", &self.plan, journal, again).await?;
        self.keep.iter().for_each(|keep| act.events.warn(format!("swap is on again after a boot, unless: {keep}")));
        Ok(true)
    }
}

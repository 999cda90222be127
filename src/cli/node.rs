//! What the commands that change this machine share: looking at it, its preflight, running a plan on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kprov_providers::machine::this::ThisMachine;
use kprov_providers::{Events, Key, Machine, Made, Status};
use serde_json::Value;

use super::act::{self, Act, End};
use super::bundle::search::arch;
use super::error::{Failure, Kind, Result};
use crate::bundle::Manifest;
use crate::bundle::build::DEFAULT_KUBERNETES;
use crate::bundle::locate::Found;
use crate::bundle::manifest::FORMAT;
use crate::engine::{self, Change, Engine, Outcome};
use crate::facts::{self, Facts};
use crate::journal::{self, Journal, JournalError, Record};
use crate::plan::Plan;
use crate::preflight::{self, Finding};

/// This machine, looked at.
pub(super) struct Node {
    /// The way to its files, units and processes.
    pub machine: Arc<dyn Machine>,
    /// What kprov did here before.
    pub record: Record,
    /// What the machine is.
    pub facts: Facts,
}

impl Node {
    /// Looks, touching nothing. `socket` is the CRI socket that the user chose; with `measure` a synced write is timed.
    ///
    /// # Errors
    /// When files of the machine or the journal cannot be read.
    pub(super) async fn look(socket: Option<&str>, measure: bool) -> Result<Self> {
        let machine: Arc<dyn Machine> = Arc::new(ThisMachine::new().map_err(Failure::internal)?);
        let record = Journal::read(journal::DEFAULT).map_err(Failure::user)?;
        let ours = |path: &str| record.made_path(path);
        let answers = facts::Answers::ask(measure);
        let mut facts = facts::gather(machine.as_ref(), answers, &ours, socket).await.map_err(Failure::user)?;
        // What --fix turned off comes back at a boot, and the kubelet must start then too.
        facts.swap |= record.made().any(|made| matches!(made, Made::Swap { .. }));
        Ok(Self { machine, record, facts })
    }
}

/// A bundle of this version with nothing in it, for looking at the input where there is no bundle.
pub(super) fn stand_in(version: Option<String>) -> Manifest {
    Manifest {
        format: FORMAT,
        kubernetes: version.unwrap_or_else(|| DEFAULT_KUBERNETES.to_owned()),
        arch: arch().to_owned(),
        parts: BTreeMap::new(),
        files: Vec::new(),
        images: Vec::new(),
        blobs: Vec::new(),
    }
}

/// What is in the bundle, if there is one.
pub(super) fn manifest(found: &Result<Found>) -> Option<&Manifest> {
    found.as_ref().ok().map(|found| &found.manifest)
}

/// Tells what preflight found; errors that were not ignored stop the command, all at once, with the bundle's absence.
///
/// # Errors
/// [`Kind::User`] with every error and what mends it; the bundle's own where that is all.
pub(super) fn preflight(act: &Act, findings: Vec<Finding>, ignored: &[String], found: Result<Found>) -> Result<Found> {
    let findings = preflight::ignore(findings, ignored);
    for finding in findings.iter().filter(|finding| finding.severity == preflight::Severity::Warning) {
        act.events.warn(text(finding));
    }
    let mut errors: Vec<String> = preflight::errors(&findings).into_iter().map(text).collect();
    if errors.is_empty() {
        return found;
    }
    if let Err(missing) = &found {
        errors.push(text(&Finding::error("Bundle", format!("{:#}", missing.error))));
    }
    Err(Failure::user(anyhow::anyhow!("preflight found {}:\n{}", count(errors.len(), "problem"), errors.join("\n")))
        .hint("mend them, or pass over some with --ignore-preflight-errors=NAME,NAME"))
}

fn text(finding: &Finding) -> String {
    let mend = finding.hint.as_ref().map(|hint| format!("\n      mend with: {hint}")).unwrap_or_default();
    let fix = if finding.fixes.is_empty() { "" } else { "\n      or let kprov do it: --fix" };
    format!("[{}] {}{mend}{fix}", finding.name, finding.message)
}

/// `1 problem`, `2 problems`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Shows what a plan would change: one line a step that is not as wanted, with its diff. Nothing is changed.
///
/// # Errors
/// When a step cannot be looked at, or something that is not ours is in the way.
pub(super) async fn dry_run(act: &Act, plan: &Plan, record: &Record, detailed: bool) -> Result<End> {
    let changes = engine::preview(plan, record.all_outputs(), &silent(act)).await.map_err(Failure::internal)?;
    let wanted: Vec<&Change> = changes.iter().filter(|change| change.changes()).collect();
    let mut text = String::new();
    for change in &wanted {
        text.push_str(&line(change));
    }
    let blocked: Vec<(Kind, String)> = changes.iter().filter_map(blocked).collect();
    if let Some(kind) = blocked.iter().map(|(kind, _)| *kind).max() {
        let lines: Vec<String> = blocked.into_iter().map(|(_, line)| line).collect();
        return Err(Failure { kind, error: anyhow::anyhow!("{}", lines.join("\n")), hints: Vec::new() });
    }
    text.push_str(&match wanted.len() {
        0 => "nothing to do\n".to_owned(),
        n => format!("{} to make; nothing was changed (--dry-run)\n", count(n, "change")),
    });
    let list: Vec<Value> = wanted
        .iter()
        .map(|c| serde_json::json!({"key": c.key.as_str(), "phase": c.phase, "describe": c.describe, "state": word(c)}))
        .collect();
    let code = if detailed && !wanted.is_empty() { 10 } else { 0 };
    Ok(End { code, ..End::said(text).field("changes", list) })
}

/// What is looked at is shown as one list at the end, not as events too; with `-o json` the events are the list.
pub(super) fn silent(act: &Act) -> Events {
    if act.json { act.events.clone() } else { Events::channel().0 }
}

fn word(change: &Change) -> &'static str {
    if matches!(change.status, Ok(Status::Missing)) { "missing" } else { "differs" }
}

/// A change as a line for people, with its diff.
pub(super) fn line(change: &Change) -> String {
    let sign = if matches!(change.status, Ok(Status::Missing)) { '+' } else { '~' };
    let mut text = format!("{sign} [{}] {}\n", change.phase, change.describe);
    if let Ok(Status::Differs(how)) = &change.status {
        how.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

/// What of another's is in the way of these steps, told before anything is done. Of steps that need one another the
/// first tells it for all.
///
/// # Errors
/// [`Kind::User`] with all of it.
pub(super) async fn nothing_in_the_way(plan: &Plan, record: &Record) -> Result {
    let changes = engine::preview(plan, record.all_outputs(), &Events::channel().0).await.map_err(Failure::internal)?;
    let mut stopped: Vec<&Key> = Vec::new();
    let mut told = Vec::new();
    let mut kind = Kind::User;
    for (step, change) in plan.steps().iter().zip(&changes) {
        let Some((whose, why)) = blocked(change) else { continue };
        if !step.needs().iter().any(|need| stopped.contains(&need)) {
            told.push(why);
            kind = kind.max(whose);
        }
        stopped.push(step.key());
    }
    if told.is_empty() {
        return Ok(());
    }
    Err(Failure { kind, error: anyhow::anyhow!("{}", told.join("\n")), hints: Vec::new() }
        .hint("if another cluster left it: mv /etc/kubernetes /etc/kubernetes.old"))
}

/// Why a step cannot be made, and whose that is to mend.
pub(super) fn blocked(change: &Change) -> Option<(Kind, String)> {
    match &change.status {
        Ok(Status::Foreign(what)) => Some((Kind::User, format!("{}: {what}", change.describe))),
        Err(error) => Some((act::kind_of(error), format!("{}: {error:#}", change.describe))),
        _ => None,
    }
}

/// Opens this machine's journal for writing.
///
/// # Errors
/// When another kprov works here, or the file cannot be written.
pub(super) fn journal() -> Result<Arc<Journal>> {
    let opened = Journal::open(journal::DEFAULT);
    opened.map(Arc::new).map_err(|error| match error {
        JournalError::Busy { .. } => Failure::user(error).hint("wait until it is done, then run this again"),
        error => Failure::user(error),
    })
}

/// Runs a plan on this machine and writes the command's end into the journal.
///
/// # Errors
/// All failures of steps together.
pub(super) async fn run(act: &Act, command: &str, plan: &Plan, journal: &Arc<Journal>, again: &str) -> Result<Outcome> {
    let engine = Engine::new(act.events.clone(), act.stop.clone());
    let outcome = engine.run(command, plan, journal).await.map_err(Failure::internal)?;
    journal.end(outcome.ok() && !outcome.interrupted).map_err(Failure::user)?;
    act::outcome(&outcome, again, "kprov reset")?;
    Ok(outcome)
}

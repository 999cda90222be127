//! What happened when: out of kprov's events, of kubeadm's lines and of the pods' conditions.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Something that took a while.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Whose.
    pub whose: String,
    /// kubeadm's name for the phase.
    pub phase: String,
    /// What.
    pub name: String,
    /// Seconds since the start of `init`.
    pub from: f64,
    /// Seconds since the start of `init`.
    pub to: f64,
}

impl Span {
    /// One.
    pub fn new(whose: &str, phase: &str, name: &str, from: f64, to: f64) -> Self {
        Self { whose: whose.to_owned(), phase: phase.to_owned(), name: name.to_owned(), from, to }
    }

    /// As a line of a table.
    pub fn line(&self) -> String {
        format!("{}\t{}\t{}\t{:.3}\t{:.3}", self.whose, self.phase, self.name, self.from, self.to)
    }
}

fn seconds(text: &str) -> anyhow::Result<f64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).with_context(|| format!("no time: {text}"))?;
    Ok(time.unix_timestamp_nanos() as f64 / 1e9)
}

/// The steps that were made.
///
/// # Errors
/// Lines that are no events.
pub fn kprov(events: &str, begin: f64) -> anyhow::Result<Vec<Span>> {
    let mut started = BTreeMap::new();
    let mut spans = Vec::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
        let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let at = seconds(&word("time"))? - begin;
        match (word("type").as_str(), word("state").as_str()) {
            ("step", "start") => drop(started.insert(word("key"), at)),
            ("step", "done") => {
                let from = started.remove(&word("key")).unwrap_or(at);
                spans.push(Span::new(super::figures::OURS, &word("phase"), &word("key"), from, at));
            }
            _ => {}
        }
    }
    Ok(spans)
}

/// kubeadm's phases, from their first line to the next one's.
///
/// # Errors
/// Lines without a time.
pub fn kubeadm(whose: &str, lines: &str, begin: f64, end: f64) -> anyhow::Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    for line in lines.lines() {
        let (at, text) = line.split_once(' ').unwrap_or((line, ""));
        let at = at.parse::<f64>().with_context(|| format!("no time: {line}"))? - begin;
        let Some((phase, _)) = text.strip_prefix('[').and_then(|text| text.split_once("] ")) else { continue };
        // They speak within other phases.
        let phase = match phase {
            "patches" => continue,
            "kubelet" => "upload-config",
            check if check.ends_with("-check") => "wait-control-plane",
            phase => phase,
        };
        match spans.last_mut() {
            Some(last) if last.phase == phase => {}
            Some(last) => {
                last.to = at;
                spans.push(Span::new(whose, phase, phase, at, end - begin));
            }
            None => spans.push(Span::new(whose, phase, phase, 0.0, end - begin)),
        }
    }
    Ok(spans)
}

/// From a pod's start to its readiness, as far as the API tells: whole seconds.
pub fn pods(whose: &str, list: &Value, begin: f64) -> Vec<Span> {
    let pod = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str()?;
        let ready = pod["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?;
        let to = seconds(ready["lastTransitionTime"].as_str()?).ok()? - begin;
        let from = seconds(pod["status"]["startTime"].as_str()?).ok()? - begin;
        Some(Span::new(whose, "pods", name, from.max(0.0), to.max(from)))
    };
    list["items"].as_array().into_iter().flatten().filter_map(pod).collect()
}

//! The lines of a journal.

use kprov_providers::{Key, Made, Outputs};
use serde::{Deserialize, Serialize};

/// Format of the lines that this release writes, and the newest that it understands.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// [`FORMAT`] of its writer.
    pub v: u32,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What a line tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum What {
    /// A command sets out to change something.
    Begin {
        /// `init`, `join`, `reset`, `bundle-install`, …
        command: String,
        /// Release of kprov.
        version: String,
        /// Hash of the plan ([`crate::engine::plan_hash`]); empty where there is none.
        #[serde(default)]
        plan: String,
        /// Process that writes.
        #[serde(default)]
        pid: u32,
        /// Directories made for the journal itself.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        made: Vec<Made>,
    },
    /// A step is about to be made; what it will newly leave.
    Start {
        /// The step.
        key: Key,
        /// Undone backwards by reset.
        made: Vec<Made>,
    },
    /// A step is made.
    Done {
        /// The step.
        key: Key,
        /// Values for later steps.
        #[serde(default, skip_serializing_if = "Outputs::is_empty")]
        outputs: Outputs,
        /// Hash of the step as planned ([`crate::engine::step_hash`]).
        #[serde(default)]
        hash: String,
    },
    /// All that a step made is taken back.
    Undone {
        /// The step.
        key: Key,
    },
    /// A command came to its end.
    End {
        /// The command of the last begin.
        command: String,
        /// True when nothing failed.
        ok: bool,
    },
    /// A kind of line that a later release added and that may be passed over.
    #[serde(other, skip_serializing)]
    Other,
}

impl What {
    /// Whether it must be on the disk before anything else happens.
    pub(super) fn announces(&self) -> bool {
        !matches!(self, Self::Done { .. } | Self::Undone { .. })
    }
}

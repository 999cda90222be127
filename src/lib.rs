//! kprov: one binary that takes bare machines to a real Kubernetes cluster.
//!
//! Reading order:
//! - [`phases`] is the program: the lists of steps of `init`, `join` and `reset`;
//! - [`cluster`] is what the user wants, [`facts`] what the machine is, [`bundle`] what is brought onto it;
//! - [`plan`] holds steps, [`engine`] runs them, [`journal`] remembers them;
//! - [`cli`] is the only place that prints or exits.
//!
//! Invariants: building a plan does no I/O; no secret is in a plan, an event, the journal or a process's arguments.

pub mod bundle;
pub mod cli;
pub mod cluster;
pub mod discovery;
pub mod engine;
pub mod facts;
pub mod journal;
pub mod phases;
pub mod plan;
pub mod preflight;
pub mod ready;
pub mod render;
pub mod reset;
pub mod token;
pub mod up;
pub mod yaml;

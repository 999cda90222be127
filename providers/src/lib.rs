//! Steps, machines and everything that acts on the world.
//!
//! Invariants:
//! - nothing here prints, reads `cluster.yaml`, or reads the environment;
//! - only [`Step::check`], [`Step::apply`], [`Made`]'s undoing and [`Machine`] touch the world;
//! - no secret value is ever in an [`Event`](event::Event), in [`Outputs`] or in a [`Made`].
//!
//! Reading order: [`step`] (what a step is), [`made`] (what it leaves behind), [`event`] (what is told meanwhile),
//! [`machine`] (files, units, containers of one host), [`steps`] (the general ones), then the providers.

pub mod event;
pub mod kube;
#[cfg(feature = "local")]
pub mod local;
pub mod machine;
pub mod made;
pub mod nft;
pub mod ssh;
pub mod step;
pub mod steps;
pub mod whole;

pub use event::{Event, Events, Watch};
pub use machine::Machine;
pub use made::Made;
pub use step::{Key, Outputs, Status, Step};

//! Machines on this host: systemd-nspawn booting a copy of a Debian template in a network namespace of its own,
//! reached over SSH like any other host.
//!
//! [`Machines`] is a set of them on one bridge with a state directory that remembers them; [`Store`] holds their
//! disks and the templates they are copied from; [`base`] makes the first template.

pub mod base;
mod cgroups;
pub mod host;
pub mod machines;
pub mod network;
pub mod nspawn;
mod settings;
pub mod store;
mod tool;

pub use host::Unfit;
pub use machines::{Dirs, Machines};
pub use store::Store;

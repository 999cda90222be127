//! One verified file with everything a machine needs.

pub mod manifest;

pub use manifest::Manifest;

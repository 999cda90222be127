//! One verified file with everything a machine needs: kubelet, containerd, runc, CNI, kubectl, and all images.
//!
//! Reading order: [`manifest`] (what a bundle holds), [`pack`] (writing one), [`verify`] (reading one, believing
//! nothing), [`unpack`], [`locate`], [`steps`] (bringing one onto a machine).

mod ahead;
pub mod build;
pub mod diff;
pub mod error;
pub mod fetch;
pub mod images;
pub mod inspect;
mod layer;
pub mod locate;
pub mod manifest;
pub mod pack;
pub mod sbom;
pub mod sets;
pub mod sign;
pub mod steps;
mod stream;
#[cfg(test)]
pub(crate) mod synthetic;
pub mod unpack;
pub mod verify;

pub use error::BundleError;
pub use manifest::Manifest;

//! One verified file with everything a machine needs: kubelet, containerd, runc, CNI, kubectl, and all images.
//!
//! Reading order: [`manifest`] (what a bundle holds), [`pack`] (writing one).

pub mod manifest;
pub mod pack;
#[cfg(test)]
pub(crate) mod synthetic;

pub use manifest::Manifest;

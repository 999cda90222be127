//! The steps that bring a bundle onto a machine: unpack it, put its files in their places, import its images.

mod content;
mod files;
mod images;
mod store;
mod unpack;

pub use files::InstallFiles;
pub use images::{ImportImages, PINNED};
pub use store::Store;
pub use unpack::Unpack;

/// Bundles are unpacked below this directory, each in a folder named by its id.
pub const DIR: &str = "/var/lib/kprov/bundle";

/// The folder of a bundle.
pub fn folder(id: &str) -> String {
    format!("{DIR}/{id}")
}

#[cfg(test)]
mod tests;

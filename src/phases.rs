//! The lists of phases: init and join. A reader starts here; it stays a page. Nothing below does I/O: it only builds steps.

pub mod bundle;
pub mod certs;
pub mod host;
pub mod control_plane;
pub mod etcd;
pub mod kubeconfig;
pub mod static_pod;

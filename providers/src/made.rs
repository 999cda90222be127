//! What a step leaves behind, as data: the journal holds it, `reset` undoes it.

mod pods;
mod undo;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use undo::{inside, undo};
pub(crate) use undo::{is_unit_file, sysctl_path};

/// One thing on a machine that was not there (or was otherwise) before a step. Undone in reverse order of the journal.
/// Undoing something that is gone already is success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Made {
    /// A file or symbolic link: undone by removing it.
    File {
        /// Absolute path.
        path: String,
    },
    /// A directory: removed when it is empty.
    Dir {
        /// Absolute path.
        path: String,
    },
    /// A directory that is all ours, with whatever grew in it since: unmounted below and removed whole.
    Tree {
        /// Absolute path.
        path: String,
    },
    /// A directory that was there and empty, a file system of its own perhaps: emptied.
    Filled {
        /// Absolute path.
        path: String,
        /// The permission bits that it had, which programs change; none where they are left as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// A systemd unit that was made to run and/or enabled: stopped and disabled.
    Unit {
        /// Unit name with suffix: `kubelet.service`.
        name: String,
    },
    /// A sysctl that had another value.
    Sysctl {
        /// Dotted name: `net.ipv4.ip_forward`.
        name: String,
        /// The value before.
        before: String,
    },
    /// Containers and pods that run under our containerd: stopped and removed, with the kubelet's cgroups. Listed
    /// before the kubelet's unit, so that it is undone after the kubelet has stopped.
    Pods,
    /// A network link: deleted.
    Link {
        /// Interface name.
        name: String,
    },
    /// An image in a containerd that is not ours: removed by its name.
    Image {
        /// Its full name.
        name: String,
        /// The `ctr` to remove it with.
        ctr: String,
        /// Path of containerd's socket.
        address: String,
    },
    /// A file that was moved away: moved back.
    Moved {
        /// Where it was.
        from: String,
        /// Where it is now.
        to: String,
    },
    /// A swap area that was turned off: turned on again.
    Swap {
        /// Its device or file.
        device: String,
        /// The priority it had; below 0 where the kernel chose it.
        priority: i32,
    },
    /// Something with nothing to take back on this machine (an API object, a wait).
    Nothing,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(f, "file {path}"),
            Self::Dir { path } => write!(f, "directory {path}"),
            Self::Tree { path } | Self::Filled { path, .. } => write!(f, "everything in {path}"),
            Self::Unit { name } => write!(f, "unit {name}"),
            Self::Sysctl { name, before } => write!(f, "sysctl {name} (was {before})"),
            Self::Pods => f.write_str("pods and containers"),
            Self::Link { name } => write!(f, "network link {name}"),
            Self::Image { name, .. } => write!(f, "image {name}"),
            Self::Moved { from, to } => write!(f, "move of {from} to {to}"),
            Self::Swap { device, .. } => write!(f, "end of swap on {device}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

//! What a step leaves behind, as data: the journal holds it, `reset` undoes it.

use serde::{Deserialize, Serialize};

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
    /// Containers and pods that run under our containerd: stopped and removed.
    Pods,
    /// A network link: deleted.
    Link {
        /// Interface name.
        name: String,
    },
    /// Something with nothing to take back on this machine (an API object, a wait).
    Nothing,
}

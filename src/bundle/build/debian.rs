//! What is made in the build root: the Debian files of the images, and pause.

use std::path::Path;

use super::root::{self, Inside};
use super::{Result, Shop, sources};

/// Picks the packet filter tools, their libraries and the CA certificates into `out`.
///
/// # Errors
/// With the end of the script's output.
pub(crate) fn collect(shop: &Shop<'_>, out: &Path) -> Result<()> {
    Inside {
        part: "debian",
        what: "collecting",
        binds: &[(out, "out")],
        env: &[],
        args: &[&shop.arch, root::triplet(&shop.arch), "/kprov/out"],
        script: sources::file("debian/collect.sh").unwrap_or_default(),
    }
    .run(shop, &|_| {})
}

/// Compiles pause into `out`.
///
/// # Errors
/// With the end of the compiler's output.
pub(crate) fn pause(shop: &Shop<'_>, version: &str, module: &Path, out: &Path) -> Result<()> {
    Inside {
        part: "pause",
        what: "compiling",
        binds: &[(module, "work"), (out, "out")],
        env: &[],
        args: &[&root::compiler(&shop.arch), version],
        script: "cd /kprov/work && exec \"$1\" -static -Os -s -Wall -Wextra -Wl,--build-id=none \
                 -DVERSION=\"$2\" -o /kprov/out/pause pause.c",
    }
    .run(shop, &|_| {})
}

/// Writes the versions of the packages that were linked into a C part to `out/versions`.
///
/// # Errors
/// With the end of the output.
pub(crate) fn record(shop: &Shop<'_>, part: &str, out: &Path) -> Result<()> {
    Inside {
        part,
        what: "recording versions",
        binds: &[(out, "out")],
        env: &[],
        args: &[],
        script: "dpkg-query -W --showformat='${Package} ${Version}\\n' | \
                 grep -E '^(gcc-[0-9]+(-aarch64-linux-gnu|-x86-64-linux-gnu)?|libc6-dev(-[a-z0-9]+-cross)?|\
                 libseccomp-dev) ' > /kprov/out/versions",
    }
    .run(shop, &|_| {})
}

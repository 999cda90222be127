//! Disks on overlayfs: the template below, the machine's changes above. containerd cannot keep its data on an overlay
//! (an overlay's upper directory must not lie on one), so its directory is one of the host.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::local::tool::{run, text, try_run};

/// Directories of the machine that must not lie on an overlay.
const REAL: [&str; 1] = ["containerd"];

/// Makes a machine's directories over a template.
pub(super) async fn create(template: &Path, machine: &Path) -> anyhow::Result<()> {
    for dir in ["root", "upper", "work", "data"] {
        std::fs::create_dir_all(machine.join(dir)).with_context(|| format!("making {}", machine.display()))?;
    }
    std::fs::write(machine.join("template"), text(template)?)?;
    for name in REAL {
        let from = template.join("var/lib").join(name);
        let to = machine.join("data").join(name);
        if from.is_dir() {
            run("cp", &["-a", "--reflink=auto", text(&from)?, text(&to)?]).await?;
        } else {
            std::fs::create_dir(&to)?;
        }
    }
    Ok(())
}

/// Mounts the overlay if it is not mounted, and says what is to be bound into the machine.
pub(super) async fn attach(machine: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let root = machine.join("root");
    if !mounted(&root) {
        let template = std::fs::read_to_string(machine.join("template"))?;
        let options = format!("lowerdir={template},upperdir={0}/upper,workdir={0}/work,index=off", text(machine)?);
        run("mount", &["-t", "overlay", "overlay", "-o", &options, text(&root)?]).await?;
    }
    let mut binds = Vec::new();
    for name in REAL {
        std::fs::create_dir_all(root.join("var/lib").join(name))?;
        binds.push((machine.join("data").join(name), format!("/var/lib/{name}")));
    }
    Ok(binds)
}

/// Unmounts the overlay.
pub(super) async fn detach(machine: &Path) {
    let root = machine.join("root");
    if let Ok(root) = text(&root) {
        try_run("umount", &["--lazy", root]).await;
    }
}

/// A machine's disk as one tree.
pub(super) async fn flatten(machine: &Path, to: &Path) -> anyhow::Result<()> {
    attach(machine).await?;
    run("cp", &["-a", "--reflink=auto", text(&machine.join("root"))?, text(to)?]).await?;
    for name in REAL {
        let from = machine.join("data").join(name);
        let into = to.join("var/lib").join(name);
        std::fs::create_dir_all(&into)?;
        run("cp", &["-a", "--reflink=auto", "-T", text(&from)?, text(&into)?]).await?;
    }
    Ok(())
}

fn mounted(root: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == root))
}

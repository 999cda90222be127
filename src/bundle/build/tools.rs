//! What building needs on this host: everything that is missing is named at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run::Run;
use super::{BuildError, Result, Shop, golang};

/// A missing tool and the Debian packages that bring it.
struct Lack {
    what: &'static str,
    packages: &'static [&'static str],
}

/// Names everything that is missing, or installs it.
///
/// # Errors
/// With all that is missing and the command that installs it.
pub(crate) fn check(makes_root: bool, needs_root: bool, install: bool, shop: &Shop<'_>) -> Result<()> {
    let superuser = rustix::process::geteuid().is_root();
    let lacks = lacks(makes_root, needs_root);
    if lacks.is_empty() && (superuser || !needs_root) {
        return Ok(());
    }
    let mut packages: Vec<&str> = lacks.iter().flat_map(|l| l.packages.iter().copied()).collect();
    packages.dedup();
    let apt = find("apt-get").is_some();
    if install && apt && superuser && !packages.is_empty() {
        apt_install(&packages, shop)?;
        let left = self::lacks(makes_root, needs_root);
        if left.is_empty() {
            return Ok(());
        }
    }
    let mut missing: Vec<String> = lacks.iter().map(|l| l.what.to_owned()).collect();
    if needs_root && !superuser {
        missing.push("root (the Debian build root is made by debootstrap and entered by chroot)".into());
    }
    let install = (apt && !packages.is_empty()).then(|| {
        let sudo = if superuser { "" } else { "sudo " };
        format!("{sudo}apt-get update && {sudo}apt-get install -y {}", packages.join(" "))
    });
    Err(BuildError::Tools { missing, install })
}

fn lacks(makes_root: bool, needs_root: bool) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if golang::on_host().is_none() {
        lacks.push(Lack {
            what: "go (any from 1.19: it fetches its successor)",
            packages: &["golang-go", "ca-certificates"],
        });
    }
    if needs_root {
        if find("unshare").is_none() || find("mount").is_none() {
            lacks.push(Lack { what: "unshare and mount", packages: &["util-linux", "mount"] });
        }
        if find("chroot").is_none() {
            lacks.push(Lack { what: "chroot", packages: &["coreutils"] });
        }
    }
    if makes_root {
        if find("debootstrap").is_none() {
            lacks.push(Lack { what: "debootstrap", packages: &["debootstrap"] });
        }
        if !Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
            lacks.push(Lack { what: "Debian's archive keys", packages: &["debian-archive-keyring"] });
        }
    }
    lacks
}

/// Looks a program up as the shell would, also where only root's PATH leads.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn apt_install(packages: &[&str], shop: &Shop<'_>) -> Result<()> {
    shop.timed("tools", &format!("installing {}", packages.join(", ")), || {
        let log = shop.log("tools");
        let run = |what, arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
            Run { running: shop.running, part: "tools", what, log: &log, input: None, progress: &|_| {} }.run(command)
        };
        run("apt-get update", &["-q", "update"])?;
        let mut arguments = vec!["-q", "-y", "--no-install-recommends", "install"];
        arguments.extend(packages);
        run("apt-get install", &arguments)
    })
}

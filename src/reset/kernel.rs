//! What a reset asks of the kernel beside files: packet-filter rules and mounts.

use anyhow::Context;
use kprov_providers::nft::Nft;
use rustix::mount::UnmountFlags;

use super::rules;

/// The kernel's side of a machine, so that tests can stand in for it.
pub trait Kernel: Send + Sync {
    /// Names of nftables tables and chains that Kubernetes' parts made.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn rules(&self) -> anyhow::Result<Vec<String>>;

    /// Removes them, with rules elsewhere that lead to them.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_rules(&self) -> anyhow::Result<()>;

    /// Unmounts one mount point with kubeadm's flags (`MNT_FORCE` …).
    ///
    /// # Errors
    /// When the kernel refuses or a flag is unknown.
    fn unmount(&self, path: &str, flags: &[String]) -> anyhow::Result<()>;
}

/// The kernel of the machine that kprov runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisKernel;

impl Kernel for ThisKernel {
    fn rules(&self) -> anyhow::Result<Vec<String>> {
        let Some(nft) = Nft::open()? else { return Ok(Vec::new()) };
        Ok(rules::ours(&nft.tables()?, &nft.chains()?).names())
    }

    fn remove_rules(&self) -> anyhow::Result<()> {
        let Some(nft) = Nft::open()? else { return Ok(()) };
        // Something else may change the ruleset in between: then the transaction fails as a whole and is made anew.
        let mut tries = 0;
        loop {
            tries += 1;
            let ours = rules::ours(&nft.tables()?, &nft.chains()?);
            let removals = ours.removals(&nft.rules()?);
            match nft.remove(&removals) {
                Err(_) if tries < 5 => continue,
                result => result?,
            }
            return nft.remove(&rules::emptied(&ours, &nft.chains()?, &nft.rules()?));
        }
    }

    fn unmount(&self, path: &str, flags: &[String]) -> anyhow::Result<()> {
        let mut all = UnmountFlags::empty();
        for flag in flags {
            all |= match flag.as_str() {
                "MNT_FORCE" => UnmountFlags::FORCE,
                "MNT_DETACH" => UnmountFlags::DETACH,
                "MNT_EXPIRE" => UnmountFlags::EXPIRE,
                "UMOUNT_NOFOLLOW" => UnmountFlags::NOFOLLOW,
                _ => anyhow::bail!("no such unmount flag: {flag}"),
            };
        }
        match rustix::mount::unmount(path, all) {
            // Not a mount point any more.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            // The first call only marks an expiring mount.
            Err(rustix::io::Errno::AGAIN) if all.contains(UnmountFlags::EXPIRE) => {
                rustix::mount::unmount(path, all).with_context(|| format!("unmounting {path}"))
            }
            Err(error) => Err(error).with_context(|| format!("unmounting {path}")),
        }
    }
}

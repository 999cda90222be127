//! Machines made of templates and removed, and templates made of machines.

use std::path::Path;

use anyhow::Context;

use super::{Machine, Machines};
use crate::local::{nspawn, settings};
use crate::ssh::keys;

impl Machines {
    /// Makes a machine from a template: its disk with its own host key, its address, and who may log in. Not started
    /// yet. One that is there already stays as it is.
    ///
    /// # Errors
    /// When its disk cannot be made, or the subnet is full.
    pub async fn add(&mut self, machine: &str, template: &str) -> anyhow::Result<()> {
        let id = self.id(machine);
        match self.record.machines.get(machine) {
            Some(found) if !found.host_key.is_empty() && self.store.has_machine(&id) => return Ok(()),
            Some(_) => {}
            None => {
                let address = self.free_address()?;
                let entry = Machine { address, host_key: String::new(), running: None };
                self.record.machines.insert(machine.to_owned(), entry);
                self.save()?;
            }
        }
        // A half-made one of an earlier try starts over.
        self.store.delete(&id).await?;
        let disk = self.store.copy(template, &id).await?;
        let host_key = keys::generate(&self.hostname(machine))?;
        let login = keys::ensure(&self.state.join("id_ed25519"), &format!("kprov-{}", self.record.name))?;
        personalise(&disk.root, &self.hostname(machine), &host_key, &keys::line(login.public_key())?)
            .with_context(|| format!("making the disk of {machine}"))?;
        let line = keys::line(host_key.public_key())?;
        self.entry(machine)?.host_key = line;
        self.save()
    }

    /// Ends a machine at once and removes it with its disk. None there is success.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub async fn remove(&mut self, machine: &str) -> anyhow::Result<()> {
        if !self.record.machines.contains_key(machine) {
            return Ok(());
        }
        self.end(machine, true).await?;
        let id = self.id(machine);
        nspawn::sweep_machine(&id).await?;
        self.store.delete(&id).await?;
        let _ = std::fs::remove_file(self.console(machine));
        self.record.machines.remove(machine);
        self.save()
    }

    /// Makes a template of a machine, which is stopped and gone then. What makes it a machine of its own (host key,
    /// logins, machine-id) is taken out.
    ///
    /// # Errors
    /// When it cannot be stopped or copied.
    pub async fn freeze(&mut self, machine: &str, template: &str) -> anyhow::Result<()> {
        self.stop(machine).await?;
        let id = self.id(machine);
        let disk = self.store.attach(&id).await?;
        anonymise(&disk.root).with_context(|| format!("preparing template {template}"))?;
        self.store.detach(&id).await;
        self.store.freeze(&id, template).await?;
        self.remove(machine).await
    }

    /// Removes everything: machines, disks, links, namespaces, rules, settings, and what is remembered of them.
    ///
    /// # Errors
    /// When something cannot be removed; what is left is still remembered.
    pub async fn destroy(mut self) -> anyhow::Result<()> {
        for machine in self.record.machines.keys().cloned().collect::<Vec<_>>() {
            self.remove(&machine).await?;
        }
        self.record.network.destroy().await;
        settings::release(&self.record.network.id).await;
        for name in ["id_ed25519", "machines.json"] {
            let _ = std::fs::remove_file(self.state.join(name));
        }
        let _ = std::fs::remove_dir(&self.state);
        self.store.close().await
    }
}

/// What makes a copied disk a machine of its own.
fn personalise(root: &Path, hostname: &str, key: &russh::keys::PrivateKey, login: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let host_key = root.join("etc/ssh/ssh_host_ed25519_key");
    keys::save(key, &host_key)?;
    std::fs::write(root.join("etc/ssh/ssh_host_ed25519_key.pub"), keys::line(key.public_key())? + "\n")?;
    let ssh = root.join("root/.ssh");
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&ssh)?;
    let authorized = ssh.join("authorized_keys");
    std::fs::write(&authorized, format!("{login}\n"))?;
    std::fs::set_permissions(&authorized, std::fs::Permissions::from_mode(0o600))?;
    std::fs::write(root.join("etc/hostname"), format!("{hostname}\n"))?;
    std::fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost\n"))?;
    let mut id = [0u8; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut id)?;
    std::fs::write(root.join("etc/machine-id"), data_encoding::HEXLOWER.encode(&id) + "\n")?;
    Ok(())
}

/// Takes out what [`personalise`] put in, and what running it left.
fn anonymise(root: &Path) -> anyhow::Result<()> {
    for path in [
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "root/.ssh/authorized_keys",
        "etc/hostname",
    ] {
        let _ = std::fs::remove_file(root.join(path));
    }
    std::fs::write(root.join("etc/machine-id"), "")?;
    for path in ["var/log/journal", "tmp", "var/tmp"] {
        for entry in std::fs::read_dir(root.join(path)).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
    Ok(())
}

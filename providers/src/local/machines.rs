//! A set of machines on one bridge, and the state directory that remembers them.
//!
//! Everything is remembered before it is made, so that [`Machines::destroy`] finds it whenever it is called.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::network::{self, Network, PREFIX, Place};
use super::nspawn::{self, Running};
use super::settings;
use super::store::{Disk, Store};
use crate::ssh::keys;
use crate::whole;

/// How long a machine may take until its sshd answers: a second on an idle host, a minute on a slow and busy one.
const BOOT: Duration = Duration::from_secs(180);

/// Version of the record.
const FORMAT: u32 = 1;

/// What the state directory remembers of machines (`machines.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of this format.
    pub format: u32,
    /// For people: starts the names of machines.
    pub name: String,
    /// The bridge and its subnet.
    pub network: Network,
    /// Machines by their short names: `cp-1`.
    pub machines: BTreeMap<String, Machine>,
}

/// One machine, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its address.
    pub address: Ipv4Addr,
    /// The public key of its sshd, one line; empty while it is being made.
    pub host_key: String,
    /// True where it was started and not stopped; what runs in truth is asked of the kernel.
    pub running: Option<Running>,
}

/// Machines of this host that belong together.
#[derive(Debug, Clone)]
pub struct Machines {
    state: PathBuf,
    store: Store,
    record: Record,
}

/// Where the disks are, and where the machines are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// For disks and templates, shared by all sets of machines.
    pub cache: PathBuf,
    /// For this set alone.
    pub state: PathBuf,
}

impl Machines {
    /// Opens the set in a state directory, or makes an empty one with a network. `taken` are subnets of other sets
    /// that do not run just now.
    ///
    /// # Errors
    /// When the host cannot carry machines, or no subnet is free.
    pub async fn open_or_create(
        dirs: &Dirs,
        name: &str,
        subnet: Option<Ipv4Net>,
        taken: &[Ipv4Net],
    ) -> anyhow::Result<Self> {
        super::host::check(&dirs.cache)?;
        if let Some(found) = Self::open(dirs).await? {
            if let Some(wanted) = subnet.filter(|wanted| wanted.trunc() != found.record.network.subnet) {
                bail!("{name} has subnet {} and cannot change to {wanted}", found.record.network.subnet);
            }
            return Ok(found);
        }
        super::host::load_modules().await;
        std::fs::create_dir_all(&dirs.state).with_context(|| format!("making {}", dirs.state.display()))?;
        let store = Store::open(&dirs.cache).await?;
        // Two that choose at once would choose the same subnet.
        let _lock = store.lock("network").await?;
        let subnet = network::choose(subnet, taken).await?;
        let network = Network { id: id(&dirs.state), subnet };
        let record = Record { format: FORMAT, name: name.to_owned(), network, machines: BTreeMap::new() };
        let machines = Self { state: dirs.state.clone(), store, record };
        machines.save()?;
        machines.record.network.create(name).await?;
        Ok(machines)
    }

    /// Opens the set in a state directory; none where there is none.
    ///
    /// # Errors
    /// When its record or its disks cannot be read.
    pub async fn open(dirs: &Dirs) -> anyhow::Result<Option<Self>> {
        let path = dirs.state.join("machines.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let record: Record = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        if record.format != FORMAT {
            bail!("made by another release of kprov (format {}): {}", record.format, path.display());
        }
        let store = Store::open(&dirs.cache).await?;
        Ok(Some(Self { state: dirs.state.clone(), store, record }))
    }

    /// What is remembered.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The disks.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A machine's host name, which is its node's name too: `NAME-cp-1`.
    pub fn hostname(&self, machine: &str) -> String {
        format!("{}-{machine}", self.record.name)
    }

    /// Unique on this host.
    fn id(&self, machine: &str) -> String {
        format!("{PREFIX}{}-{machine}", self.record.network.id)
    }

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

    /// Starts a machine and waits until its sshd answers. One that runs already is left alone.
    ///
    /// # Errors
    /// When it cannot be started or does not answer in time; the end of its console is in the error.
    pub async fn start(&mut self, machine: &str) -> anyhow::Result<()> {
        self.boot(machine).await?;
        self.wait_ssh(machine).await
    }

    /// As [`start`](Self::start), without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn boot(&mut self, machine: &str) -> anyhow::Result<()> {
        let entry = self.entry(machine)?.clone();
        if entry.running.as_ref().is_some_and(Running::alive) {
            return Ok(());
        }
        let id = self.id(machine);
        nspawn::sweep_machine(&id).await?;
        self.record.network.create(&self.record.name).await?;
        let place = self.record.network.prepare(machine, entry.address).await?;
        let disk = self.store.attach(&id).await?;
        write_resolvers(&disk.root)?;
        let running = self.launch(machine, &disk, &place).await?;
        self.entry(machine)?.running = Some(running);
        self.save()
    }

    async fn launch(&self, machine: &str, disk: &Disk, place: &Place) -> anyhow::Result<Running> {
        let (id, hostname, console) = (self.id(machine), self.hostname(machine), self.console(machine));
        let what = nspawn::Start { id: &id, hostname: &hostname, disk, netns: &place.netns, console: &console };
        nspawn::start(what).await.with_context(|| match self.console_tail(machine) {
            said if said.is_empty() => format!("starting {hostname}"),
            said => format!("starting {hostname} (its console: {said})"),
        })
    }

    fn console(&self, machine: &str) -> PathBuf {
        self.state.join(format!("{machine}.console"))
    }

    /// Waits until a started machine's sshd answers.
    ///
    /// # Errors
    /// When it does not in time, or the machine ends.
    pub async fn wait_ssh(&self, machine: &str) -> anyhow::Result<()> {
        let entry = self.get(machine)?;
        let Some(running) = &entry.running else { bail!("not started: {}", self.hostname(machine)) };
        let begin = std::time::Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            if banner(SocketAddr::from((entry.address, 22))).await {
                return Ok(());
            }
            if !running.alive() {
                bail!("{} ended while starting: {}", self.hostname(machine), self.console_tail(machine));
            }
            if begin.elapsed() > BOOT {
                bail!("{} does not answer on port 22: {}", self.hostname(machine), self.console_tail(machine));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(500));
        }
    }

    fn console_tail(&self, machine: &str) -> String {
        let text = std::fs::read(self.console(machine)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.trim().lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// True while a machine runs.
    pub fn alive(&self, machine: &str) -> bool {
        self.record.machines.get(machine).and_then(|m| m.running.as_ref()).is_some_and(Running::alive)
    }

    /// Shuts a machine down and waits for it. One that does not run is success.
    ///
    /// # Errors
    /// When its processes do not go away.
    pub async fn stop(&mut self, machine: &str) -> anyhow::Result<()> {
        self.end(machine, false).await
    }

    /// Cuts a machine's power: nothing more is run or written in it.
    ///
    /// # Errors
    /// When its processes do not go away.
    pub async fn power_cut(&mut self, machine: &str) -> anyhow::Result<()> {
        self.end(machine, true).await
    }

    async fn end(&mut self, machine: &str, cut: bool) -> anyhow::Result<()> {
        let hostname = self.hostname(machine);
        let entry = self.get(machine)?.clone();
        if let Some(running) = &entry.running {
            let done = if cut { running.cut().await } else { running.stop().await };
            done.with_context(|| format!("stopping {hostname}"))?;
        }
        self.record.network.clear(machine, entry.address).await;
        self.store.detach(&self.id(machine)).await;
        self.entry(machine)?.running = None;
        self.save()
    }

    /// Cuts a machine off from the network, or connects it again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn set_link(&self, machine: &str, up: bool) -> anyhow::Result<()> {
        self.record.network.set_link(self.get(machine)?.address, up).await
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

    /// A remembered machine.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, machine: &str) -> anyhow::Result<&Machine> {
        self.record.machines.get(machine).with_context(|| format!("no machine {machine} in {}", self.record.name))
    }

    /// How to reach a machine.
    ///
    /// # Errors
    /// When there is none of this name, or the key cannot be read.
    pub fn ssh(&self, machine: &str) -> anyhow::Result<crate::ssh::Host> {
        let entry = self.get(machine)?;
        let login = keys::ensure(&self.key_path(), &format!("kprov-{}", self.record.name))?;
        Ok(crate::ssh::Host {
            name: self.hostname(machine),
            address: SocketAddr::from((entry.address, 22)),
            user: "root".to_owned(),
            host_key: entry.host_key.clone(),
            login: std::sync::Arc::new(login),
        })
    }

    /// The private key that logs in to all of them.
    pub fn key_path(&self) -> PathBuf {
        self.state.join("id_ed25519")
    }

    fn entry(&mut self, machine: &str) -> anyhow::Result<&mut Machine> {
        let name = &self.record.name;
        self.record.machines.get_mut(machine).with_context(|| format!("no machine {machine} in {name}"))
    }

    fn free_address(&self) -> anyhow::Result<Ipv4Addr> {
        let network = &self.record.network;
        let used: Vec<_> = self.record.machines.values().map(|machine| machine.address).collect();
        // .0 is the subnet's own, .1 the host's, the last one the broadcast.
        let last = (1u32 << (32 - u32::from(network.subnet.prefix_len()))) - 2;
        (2..=last)
            .map(|number| network.address(number))
            .find(|address| !used.contains(address))
            .with_context(|| format!("all addresses are used: subnet {}", network.subnet))
    }

    fn save(&self) -> anyhow::Result<()> {
        let path = self.state.join("machines.json");
        let text = serde_json::to_vec_pretty(&self.record)?;
        whole::write(&path, &text, 0o600).with_context(|| format!("writing {}", path.display()))
    }
}

/// A set's id: from where it is remembered, so that two of one name do not meet.
fn id(state: &Path) -> String {
    let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(state.as_os_str().as_encoded_bytes()));
    hash.get(..8).unwrap_or(&hash).to_owned()
}

/// True when a server of SSH greets us.
async fn banner(address: SocketAddr) -> bool {
    let greet = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let mut start = [0u8; 4];
        stream.read_exact(&mut start).await.ok()?;
        Some(&start == b"SSH-")
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), greet).await, Ok(Some(true)))
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

fn write_resolvers(root: &Path) -> anyhow::Result<()> {
    let lines: String = network::resolvers().iter().map(|address| format!("nameserver {address}\n")).collect();
    let path = root.join("etc/resolv.conf");
    // It may be a link out of the machine's tree.
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, lines).context("writing resolv.conf")
}

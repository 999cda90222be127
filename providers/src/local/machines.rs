//! A set of machines on one bridge, and the state directory that remembers them.
//!
//! Everything is remembered before it is made, so that [`Machines::destroy`] finds it whenever it is called.

mod make;
mod run;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::network::{self, Network, PREFIX};
use super::nspawn::Running;
use super::store::Store;
use crate::ssh::keys;
use crate::whole;

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

//! What the scenarios need of this host, and sets of machines that go away with the test, also with a dead one's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use kprov_providers::Watch;
use kprov_providers::local::network::Network;
use kprov_providers::local::{Dirs, Machines, Store, base};
use tokio::runtime::Runtime;

use crate::remote::Remote;
use crate::{disk, qemu};

/// Where test state lives, unless KPROV_TEST_STATE says otherwise: fixed, so that the next run finds and sweeps what a
/// killed one left. Two runs at once need two places.
const STATE: &str = "/var/tmp/kprov-tests";

/// In a set's directory: where its disks are, when that is not the everyday cache.
const CACHE: &str = "cache";

/// This host, fit for the scenarios.
pub struct Host {
    /// The static kprov under test.
    pub kprov: PathBuf,
    /// The static probe, for the image of the scenarios' pods.
    pub probe: PathBuf,
    /// The bundle.
    pub bundle: PathBuf,
    /// The real kubeadm.
    pub kubeadm: PathBuf,
    /// kubeadm's own checks of a finished cluster.
    pub checks: PathBuf,
    /// Caches, shared with everyday use.
    pub cache: PathBuf,
    root: PathBuf,
    runtime: Runtime,
}

impl Host {
    /// Looks for all that is needed, and sweeps what an earlier run left.
    ///
    /// # Errors
    /// Names all that is missing.
    pub fn prepare() -> anyhow::Result<Self> {
        let file = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
        let (kprov, probe, bundle) = (file("KPROV_STATIC"), file("KPROV_PROBE"), file("KPROV_BUNDLE"));
        let (kubeadm, checks) = (file("KPROV_KUBEADM"), file("KPROV_E2E_KUBEADM"));
        let root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
        let mut missing = Vec::new();
        if !root {
            missing.push("root".to_owned());
        }
        if kprov.is_none() {
            missing.push("KPROV_STATIC: the static kprov (make static)".to_owned());
        }
        if probe.is_none() {
            missing.push("KPROV_PROBE: the static probe (make static)".to_owned());
        }
        if bundle.is_none() {
            missing.push("KPROV_BUNDLE: a bundle (make bundle)".to_owned());
        }
        if kubeadm.is_none() {
            missing.push("KPROV_KUBEADM: the real kubeadm (scripts/kubeadm)".to_owned());
        }
        if checks.is_none() {
            missing.push("KPROV_E2E_KUBEADM: kubeadm's own checks of a cluster (scripts/e2e-kubeadm)".to_owned());
        }
        let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("kprov");
        if let Err(unfit) = kprov_providers::local::host::check(&cache.join("local")) {
            missing.push(unfit.to_string());
        }
        let (Some(kprov), Some(probe), Some(bundle), Some(kubeadm), Some(checks), true) =
            (kprov, probe, bundle, kubeadm, checks, missing.is_empty())
        else {
            bail!("missing: {}", missing.join("; "));
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let root = std::env::var_os("KPROV_TEST_STATE").map_or_else(|| STATE.into(), PathBuf::from);
        let host = Self { kprov, probe, bundle, kubeadm, checks, cache, root, runtime };
        host.sweep();
        Ok(host)
    }

    /// Removes all machines of tests, those of this run and those of dead ones.
    pub fn sweep(&self) {
        self.sweep_clusters();
        for entry in std::fs::read_dir(self.state("")).into_iter().flatten().flatten() {
            if entry.path() == self.up_state() || entry.path() == self.state(disk::MOUNT) {
                continue;
            }
            if entry.path().is_file() {
                drop(std::fs::remove_file(entry.path()));
                continue;
            }
            qemu::sweep(&entry.path());
            let dirs = match std::fs::read_to_string(entry.path().join(CACHE)) {
                Ok(cache) => dirs_of(Path::new(&cache), &entry.path()),
                Err(_) => self.dirs(&entry.path()),
            };
            let swept = self.wait(async {
                match Machines::open(&dirs).await? {
                    Some(machines) => machines.destroy().await,
                    None => Ok(()),
                }
            });
            match swept {
                Ok(()) => drop(std::fs::remove_dir_all(entry.path())),
                Err(error) => println!("sweeping {}: {error:#}", entry.path().display()),
            }
        }
        disk::sweep(self);
    }

    /// Where `kprov up` of the scenarios keeps its clusters (XDG_STATE_HOME).
    pub fn up_state(&self) -> PathBuf {
        self.state("up")
    }

    /// Cuts a machine of a set off, or connects it again. `state` is the set's own directory.
    ///
    /// # Errors
    /// When there is no such set or machine.
    pub fn link(&self, state: &Path, machine: &str, up: bool) -> anyhow::Result<()> {
        let dirs = self.dirs(state);
        self.wait(async {
            let machines = Machines::open(&dirs).await?.context("no machines there")?;
            machines.set_link(machine, up).await
        })
    }

    /// Removes the clusters that `kprov up` made for scenarios.
    fn sweep_clusters(&self) {
        for entry in std::fs::read_dir(self.up_state().join("kprov")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let mut down = Command::new(&self.kprov);
            down.args(["down", "--name"]).arg(&name).env("XDG_STATE_HOME", self.up_state());
            let swept = down.stdin(Stdio::null()).output();
            if !swept.is_ok_and(|output| output.status.success()) {
                println!("sweeping cluster {}: kprov down failed", name.display());
            }
        }
    }

    /// Runs something async to its end.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn dirs(&self, state: &Path) -> Dirs {
        dirs_of(&self.cache.join("local"), state)
    }

    /// Name and tree of the template that bare machines are made from.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn base(&self) -> anyhow::Result<(String, PathBuf)> {
        self.wait(async {
            let store = Store::open(&self.cache.join("local")).await?;
            let name = base::ensure(&store, &Watch::quiet()).await?;
            Ok((name.clone(), store.template(&name)))
        })
    }

    /// A state directory of this name, for `kprov up` too; swept with everything else.
    pub fn state(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Truly bare machines, started: no more than systemd, dbus, sshd, iproute2, kmod and mount.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn bare(&self, set: &str, names: &[&str]) -> anyhow::Result<Bare<'_>> {
        self.bare_in(&self.dirs(&self.state(set)), set, names)
    }

    /// The same, with disks in another place.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn bare_in(&self, dirs: &Dirs, set: &str, names: &[&str]) -> anyhow::Result<Bare<'_>> {
        self.started(dirs, set, None, names)
    }

    /// Machines copied from a template that [`Bare::freeze`] made.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn copies(&self, set: &str, template: &str, names: &[&str]) -> anyhow::Result<Bare<'_>> {
        self.started(&self.dirs(&self.state(set)), set, Some(template), names)
    }

    /// Removes a template; none of this name is success.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, template: &str) -> anyhow::Result<()> {
        self.wait(async { Store::open(&self.cache.join("local")).await?.forget(template).await })
    }

    fn started(&self, dirs: &Dirs, set: &str, template: Option<&str>, names: &[&str]) -> anyhow::Result<Bare<'_>> {
        std::fs::create_dir_all(&dirs.state)?;
        std::fs::write(dirs.state.join(CACHE), dirs.cache.as_os_str().as_encoded_bytes())?;
        let machines = self.wait(async {
            let mut machines = Machines::open_or_create(dirs, set, None, &[]).await?;
            let template = match template {
                Some(name) => name.to_owned(),
                None => base::ensure(machines.store(), &Watch::quiet()).await?,
            };
            for name in names {
                machines.add(name, &template).await?;
                machines.start(name).await?;
            }
            anyhow::Ok(machines)
        })?;
        Ok(Bare { host: self, machines, state: dirs.state.clone() })
    }
}

/// Where disks and records of a set of machines are.
pub fn dirs_of(cache: &Path, state: &Path) -> Dirs {
    Dirs { cache: cache.to_owned(), state: state.to_owned() }
}

/// Bare machines of one network.
pub struct Bare<'a> {
    host: &'a Host,
    machines: Machines,
    state: PathBuf,
}

impl Bare<'_> {
    /// A way onto one of them.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remote(&self, machine: &str) -> anyhow::Result<Remote> {
        let found = self.machines.get(machine)?;
        Remote::new(found.address, &found.host_key, &self.machines.key_path(), self.host.state("ssh").as_path())
    }

    /// Cuts the power; what was not synced may be lost with a real disk, and all memory is.
    ///
    /// # Errors
    /// When its processes stay.
    pub fn power_cut(&mut self, machine: &str) -> anyhow::Result<()> {
        self.host.wait(self.machines.power_cut(machine))
    }

    /// Starts it and waits for its sshd.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self, machine: &str) -> anyhow::Result<()> {
        self.host.wait(self.machines.start(machine))
    }

    /// Where the set is remembered.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Makes a template of one of them; all of them are gone then.
    ///
    /// # Errors
    /// When it cannot be stopped or copied.
    pub fn freeze(mut self, machine: &str, template: &str) -> anyhow::Result<()> {
        self.host.wait(self.machines.freeze(machine, template))?;
        self.destroy()
    }

    /// Removes all of them.
    ///
    /// # Errors
    /// When something stays.
    pub fn destroy(self) -> anyhow::Result<()> {
        self.host.wait(self.machines.destroy())?;
        std::fs::remove_dir_all(&self.state).context("removing the set's record")
    }

    /// Its address.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn address(&self, machine: &str) -> anyhow::Result<String> {
        Ok(self.machines.get(machine)?.address.to_string())
    }

    /// The network that they are in.
    pub fn network(&self) -> &Network {
        &self.machines.record().network
    }

    /// The private key that logs in to all of them.
    pub fn key(&self) -> PathBuf {
        self.machines.key_path()
    }

    /// Its host name, which is its node's name.
    pub fn hostname(&self, machine: &str) -> String {
        self.machines.hostname(machine)
    }
}

/// Prints how long each part took.
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Says how long this part took; the next one starts.
    pub fn lap(&mut self, what: &str) {
        println!("  {:6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

//! One machine with a kernel of its own: Debian in qemu, on the bridge of this host's machines.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use kprov_providers::local::network::{Network, resolvers};
use kprov_providers::ssh::keys;

use crate::debian::{Debian, Recipe};
use crate::host::{Bare, Host};
use crate::kubectl::wait;
use crate::remote::Remote;

/// Without hardware help a boot takes half a minute on two idle cores.
const BOOT: Duration = Duration::from_secs(600);

/// No more than Debian needs, and without an instruction that qemu 7.2 leaves the processor's flags wrong with: the
/// allocator of newer kernels uses it, and the kernel ends in a double fault sooner or later.
const CPU: &str = "Westmere,-cx16";

/// The kernel's command line: nothing to attack there, and much time to win. Now and then a kernel that changes its own code
/// while it boots ends in a panic at qemu's emulated processors (`int3`): it boots once more.
const APPEND: &str = "root=/dev/vda rw console=ttyS0 mitigations=off panic=1 systemd.default_device_timeout_sec=600";

/// Its address' number in the network; machines are numbered from 2 on.
const NUMBER: u32 = 100;

/// A running guest. It ends with this value, or with the next run's [`sweep`].
pub struct Guest {
    process: Child,
    tap: String,
    console: PathBuf,
    address: Ipv4Addr,
    hostname: String,
    remote: Remote,
}

impl Guest {
    /// Makes its disk by a recipe, attaches it to the bridge of these machines, and waits for its sshd. `memory` in MiB.
    ///
    /// # Errors
    /// When a program that this needs is missing, or the guest does not come up; the end of its console is in the error.
    pub fn start(host: &Host, beside: &Bare<'_>, hostname: &str, recipe: &Recipe, memory: u32) -> anyhow::Result<Self> {
        let debian = Debian::ensure(host, recipe).context("making the guest's disk")?;
        let dir = vm(beside.state());
        std::fs::create_dir_all(&dir)?;
        let network = beside.network();
        let address = network.address(NUMBER);
        let host_key = dir.join("host_key");
        let line = keys::line(keys::ensure(&host_key, hostname)?.public_key())?;
        let disk = dir.join("root.ext4");
        let mut files = own(hostname, network, address, &beside.key())?;
        files.push(("etc/ssh/ssh_host_ed25519_key", 0o600, std::fs::read_to_string(&host_key)?));
        debian.copy(&disk, &files)?;

        let tap = tap(network)?;
        let console = dir.join("console");
        let process = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", &memory.to_string()])
            .args(["-nodefaults", "-display", "none", "-serial"])
            .arg(format!("file:{}", console.display()))
            .arg("-pidfile")
            .arg(dir.join("pid"))
            .arg("-kernel")
            .arg(&debian.kernel)
            .arg("-initrd")
            .arg(&debian.initrd)
            .args(["-append", APPEND])
            .arg("-drive")
            .arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()))
            .arg("-netdev")
            .arg(format!("tap,id=lan,ifname={tap},script=no,downscript=no"))
            .args(["-device", &format!("virtio-net-pci,netdev=lan,mac={}", mac(address))])
            .args(["-device", "virtio-rng-pci"])
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("stdout"))?)
            .stderr(File::create(dir.join("stderr"))?)
            .spawn()
            .context("starting qemu-system-x86_64 (apt-get install qemu-system-x86)")?;
        let remote = Remote::new(address, &line, &beside.key(), &dir)?;
        let mut guest = Self { process, tap, console, address, hostname: hostname.to_owned(), remote };
        guest.wait_boot("")?;
        Ok(guest)
    }

    /// The way onto it.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its host name, which is its node's name.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Restarts it as a person would, and waits until it is up again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        let before = self.remote.run("cat /proc/sys/kernel/random/boot_id")?;
        // The connection may break before its answer is here.
        drop(self.remote.output("systemctl reboot")?);
        self.wait_boot(&before)
    }

    /// Waits until it answers over ssh and has another boot id than this one.
    fn wait_boot(&mut self, before: &str) -> anyhow::Result<()> {
        let (begin, mut pause) = (Instant::now(), Duration::from_millis(100));
        loop {
            let asked = self.remote.run("cat /proc/sys/kernel/random/boot_id");
            if asked.as_ref().is_ok_and(|id| id != before) {
                return Ok(());
            }
            let ended = self.process.try_wait()?;
            if ended.is_some() || begin.elapsed() > BOOT {
                let console = std::fs::read(&self.console).unwrap_or_default();
                let console = String::from_utf8_lossy(&console).into_owned();
                let tail: Vec<&str> = console.lines().rev().take(20).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                bail!("the guest is not up ({ended:?}, {asked:?}); its console:\n{tail}");
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A failed scenario's machines may be wanted, see e2e.rs.
        if std::thread::panicking() || std::env::var_os("KPROV_TEST_KEEP").is_some() {
            return;
        }
        drop(self.process.kill());
        drop(self.process.wait());
        drop(Command::new("ip").args(["link", "delete", &self.tap]).output());
    }
}

/// Ends the guest that a dead run left in this set's directory. Its link goes with the set's network.
pub fn sweep(state: &Path) {
    let dir = vm(state);
    let Ok(text) = std::fs::read_to_string(dir.join("pid")) else { return };
    let pid = text.trim();
    let ours = || -> bool {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*dir.join("pid").to_string_lossy())
    };
    if !pid.bytes().all(|byte| byte.is_ascii_digit()) || !ours() {
        return;
    }
    drop(Command::new("kill").args(["-KILL", pid]).output());
    let gone = wait(Duration::from_secs(10), || {
        ensure!(!ours(), "process {pid} does not end");
        Ok(())
    });
    if let Err(error) = gone {
        println!("sweeping {}: {error:#}", dir.display());
    }
}

/// Where a set's guest is kept.
fn vm(state: &Path) -> PathBuf {
    state.join("vm")
}

/// A link for the guest on the network's bridge; named as its other links are, so that it goes with them.
fn tap(network: &Network) -> anyhow::Result<String> {
    let tap = format!("kpv-{}vm", network.id);
    for args in [
        vec!["tuntap", "add", "dev", &tap, "mode", "tap"],
        vec!["link", "set", &tap, "master", &network.bridge(), "up"],
    ] {
        let output = Command::new("ip").args(&args).output().context("running ip")?;
        ensure!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(tap)
}

fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// What makes the disk this machine's own.
fn own(
    hostname: &str,
    network: &Network,
    address: Ipv4Addr,
    login: &Path,
) -> anyhow::Result<Vec<(&'static str, u32, String)>> {
    let login = keys::ensure(login, "kprov-tests")?;
    let names: String = resolvers().iter().map(|address| format!("nameserver {address}\n")).collect();
    let network = format!(
        "[Match]\nName=en* eth*\n[Network]\nAddress={address}/{}\nGateway={}\nIPv6AcceptRA=no\n",
        network.subnet.prefix_len(),
        network.gateway()
    );
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
    Ok(vec![
        ("etc/hostname", 0o644, format!("{hostname}\n")),
        ("etc/hosts", 0o644, format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost\n")),
        ("etc/machine-id", 0o444, id),
        ("etc/resolv.conf", 0o644, names),
        ("root/.ssh/authorized_keys", 0o600, keys::line(login.public_key())? + "\n"),
        ("etc/systemd/network/10-lan.network", 0o644, network),
    ])
}

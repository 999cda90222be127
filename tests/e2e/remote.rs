//! A machine over SSH, with the system's own ssh: what a person types there, a scenario types too.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};

/// One machine.
#[derive(Clone)]
pub struct Remote {
    address: Ipv4Addr,
    key: PathBuf,
    known_hosts: PathBuf,
}

impl Remote {
    /// A machine with this host key, entered with this private key. `dir` keeps the list of known hosts.
    ///
    /// # Errors
    /// When that list cannot be written.
    pub fn new(address: Ipv4Addr, host_key: &str, key: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let known_hosts = dir.join(format!("known_hosts-{address}"));
        std::fs::write(&known_hosts, format!("{address} {host_key}\n"))?;
        Ok(Self { address, key: key.to_owned(), known_hosts })
    }

    fn ssh(&self, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        // A guest of emulated processors on a busy host may be silent for a minute.
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10"])
            .args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=24", "-o", "LogLevel=ERROR"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", self.known_hosts.display()))
            .arg("-i")
            .arg(&self.key)
            .arg(format!("root@{}", self.address))
            .arg(command)
            .stdin(Stdio::null());
        ssh
    }

    /// Runs a command line there and returns whatever came of it.
    ///
    /// # Errors
    /// When ssh cannot be run.
    pub fn output(&self, command: &str) -> anyhow::Result<Output> {
        self.ssh(command).output().context("running ssh")
    }

    /// Runs a command line there; its standard output.
    ///
    /// # Errors
    /// When it does not exit with 0; all that it printed is in the error.
    pub fn run(&self, command: &str) -> anyhow::Result<String> {
        let output = self.output(command)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{command}\non {}: {}\n{out}\n{err}", self.address, output.status);
        Ok(out.into_owned())
    }

    /// Brings a file there.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn upload(&self, from: &Path, to: &str, mode: &str) -> anyhow::Result<()> {
        let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
        let status = self.ssh(&format!("cat > {to} && chmod {mode} {to}")).stdin(file).status()?;
        ensure!(status.success(), "bringing {} to {}: {status}", from.display(), self.address);
        Ok(())
    }
}

//! The machine that kprov runs on.

mod files;
mod process;
mod several;
mod trees;
mod units;

use anyhow::Context;
use async_trait::async_trait;

use super::{Command, Exit, Machine, Meta, New, UnitState, UnitVerb};

/// The machine that kprov runs on: its real files, processes and units.
#[derive(Debug, Clone)]
pub struct ThisMachine {
    probe: reqwest::Client,
}

impl ThisMachine {
    /// This machine.
    ///
    /// # Errors
    /// When the client for health ports cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        // Health ports of this very machine: nothing secret is sent, and their certificates are often not made yet.
        let probe = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(std::time::Duration::from_secs(5))
            .build()
            .context("making the client for health ports")?;
        Ok(Self { probe })
    }
}

#[async_trait]
impl Machine for ThisMachine {
    fn meta(&self, path: &str) -> anyhow::Result<Option<Meta>> {
        files::meta(path)
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        files::read(path)
    }

    fn list(&self, dir: &str) -> anyhow::Result<Option<Vec<String>>> {
        files::list(dir)
    }

    fn sha256(&self, path: &str) -> anyhow::Result<Option<String>> {
        files::sha256(path)
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        files::write(path, content, mode)
    }

    fn make_all(&self, all: &[New<'_>]) -> anyhow::Result<()> {
        several::make(all)
    }

    fn write_in_place(&self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        std::fs::write(path, content).with_context(|| format!("writing {path}"))
    }

    fn copy(&self, from: &str, to: &str, mode: u32) -> anyhow::Result<()> {
        files::copy(from, to, mode)
    }

    fn share(&self, from: &str, to: &str, mode: u32) -> anyhow::Result<()> {
        files::share(from, to, mode)
    }

    fn real_path(&self, path: &str) -> Option<std::path::PathBuf> {
        Some(path.into())
    }

    fn make_dir(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        files::make_dir(path, mode)
    }

    fn link(&self, path: &str, target: &str) -> anyhow::Result<()> {
        files::link(path, target)
    }

    fn chmod(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        files::chmod(path, mode)
    }

    fn rename(&self, from: &str, to: &str) -> anyhow::Result<()> {
        files::rename(from, to)
    }

    fn sync(&self, path: &str) -> anyhow::Result<()> {
        files::sync(path)
    }

    fn remove(&self, path: &str) -> anyhow::Result<()> {
        files::remove(path)
    }

    fn remove_dir(&self, path: &str) -> anyhow::Result<bool> {
        files::remove_dir(path)
    }

    fn remove_tree(&self, path: &str) -> anyhow::Result<()> {
        trees::remove(path)
    }

    async fn run(&self, command: Command) -> anyhow::Result<Exit> {
        process::run(command).await
    }

    async fn unit(&self, name: &str) -> anyhow::Result<UnitState> {
        units::state(name).await
    }

    async fn unit_do(&self, name: &str, verb: UnitVerb) -> anyhow::Result<()> {
        units::act(name, verb).await
    }

    async fn units_reload(&self) -> anyhow::Result<()> {
        units::reload().await
    }

    async fn probe(&self, url: &str) -> anyhow::Result<Option<(u16, String)>> {
        let response = match self.probe.get(url).send().await {
            Ok(response) => response,
            Err(e) if e.is_builder() => return Err(e).with_context(|| format!("asking {url}")),
            // Refused, reset, timed out, no TLS yet: nothing answers there.
            Err(_) => return Ok(None),
        };
        let status = response.status().as_u16();
        Ok(response.text().await.ok().map(|body| (status, body)))
    }
}

#[cfg(test)]
mod tests;

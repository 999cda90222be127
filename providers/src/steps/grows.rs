//! What programs leave on a machine beside what steps write.

use std::sync::Arc;

use async_trait::async_trait;

use super::made_parents;
use crate::machine::missing_parents;
use crate::made::{inside, sysctl_path};
use crate::{Key, Machine, Made, Outputs, Status, Step, Watch};

/// Another step, whose journal line also names what the programs started later will leave: directories that grow,
/// files, sysctls that they set. Only what is not there yet is named, so this must run before anything that makes it.
pub struct Grows {
    inner: Box<dyn Step>,
    machine: Arc<dyn Machine>,
    trees: Vec<String>,
    filled: Vec<String>,
    dirs: Vec<String>,
    files: Vec<String>,
    sysctls: Vec<String>,
    units: Vec<String>,
}

impl Grows {
    /// The step that is made, and the machine.
    pub fn new(inner: impl Step + 'static, machine: Arc<dyn Machine>) -> Self {
        Self {
            inner: Box::new(inner),
            machine,
            trees: Vec::new(),
            filled: Vec::new(),
            dirs: Vec::new(),
            files: Vec::new(),
            sysctls: Vec::new(),
            units: Vec::new(),
        }
    }

    /// Directories that are removed with all that is in them.
    #[must_use]
    pub fn trees<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.trees.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Directories that are emptied where they are there and empty: a file system of its own is often mounted there.
    #[must_use]
    pub fn filled<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.filled.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Directories that are removed if they are empty.
    #[must_use]
    pub fn dirs<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.dirs.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Files that are removed.
    #[must_use]
    pub fn files<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.files.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Sysctls (dotted) that are set back.
    #[must_use]
    pub fn sysctls<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.sysctls.extend(names.into_iter().map(Into::into));
        self
    }

    /// Units that are stopped again, where they do not run yet.
    #[must_use]
    pub fn units<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.units.extend(names.into_iter().map(Into::into));
        self
    }

    fn absent(&self, path: &str) -> anyhow::Result<bool> {
        Ok(self.machine.meta(path)?.is_none())
    }
}

#[async_trait]
impl Step for Grows {
    fn key(&self) -> &Key {
        self.inner.key()
    }

    fn phase(&self) -> &str {
        self.inner.phase()
    }

    fn needs(&self) -> &[Key] {
        self.inner.needs()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn content(&self) -> Option<String> {
        self.inner.content()
    }

    async fn check(&self, known: &Outputs) -> anyhow::Result<Status> {
        self.inner.check(known).await
    }

    async fn made(&self, known: &Outputs) -> anyhow::Result<Vec<Made>> {
        let machine = self.machine.as_ref();
        let mut made = Vec::new();
        for path in &self.trees {
            if self.absent(path)? {
                made.extend(made_parents(machine, path)?);
                made.push(Made::Tree { path: path.clone() });
            }
        }
        for path in &self.filled {
            if let Some(meta) = machine.meta(path)?
                && inside(machine, path)?.is_empty()
            {
                made.push(Made::Filled { path: path.clone(), mode: Some(meta.mode) });
            }
        }
        for path in self.dirs.iter().chain(&self.files) {
            if self.absent(path)? {
                made.extend(missing_parents(machine, path)?.into_iter().map(|path| Made::Dir { path }));
                made.push(if self.files.contains(path) {
                    Made::File { path: path.clone() }
                } else {
                    Made::Dir { path: path.clone() }
                });
            }
        }
        for name in &self.sysctls {
            let path = sysctl_path(name);
            // One that is read-only here (a container) is nobody's to change, nor to set back.
            let writable = machine.meta(&path)?.is_some_and(|meta| meta.mode & 0o200 != 0);
            if let Some(before) = machine.read(&path)?.filter(|_| writable) {
                let before = String::from_utf8_lossy(&before).trim().to_owned();
                made.push(Made::Sysctl { name: name.clone(), before });
            }
        }
        for name in &self.units {
            if machine.unit(name).await?.active == "inactive" {
                made.push(Made::Unit { name: name.clone() });
            }
        }
        made.extend(self.inner.made(known).await?);
        Ok(made)
    }

    async fn apply(&self, known: &Outputs, watch: &Watch) -> anyhow::Result<Outputs> {
        self.inner.apply(known, watch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fake::FakeMachine;
    use crate::steps::{Label, WriteFile};

    #[tokio::test]
    async fn only_what_is_not_there_is_named() {
        let machine = FakeMachine::new();
        machine.put("/var/lib/cni/x", "before");
        machine.put("/proc/sys/kernel/panic", "0\n");
        machine.put("/var/lib/containerd/lost+found/.keep", "");
        machine.put("/var/lib/theirs/x", "before");
        let machine: Arc<dyn Machine> = Arc::new(machine);
        let file = WriteFile::new(Label::new("host/x", "host"), machine.clone(), "/etc/x", "x");
        let step = Grows::new(file, machine)
            .trees(["/var/lib/cni", "/var/log/pods", "/usr/libexec/kubernetes"])
            .filled(["/var/lib/containerd", "/var/lib/theirs", "/var/lib/absent"])
            .files(["/run/xtables.lock"])
            .sysctls(["kernel.panic", "kernel.none"]);
        let made: Vec<String> = step.made(&Outputs::none()).await.unwrap().iter().map(ToString::to_string).collect();
        assert!(!made.iter().any(|m| m.contains("/var/lib/cni")), "{made:?}");
        assert!(!made.iter().any(|m| m.contains("theirs") || m.contains("absent")), "{made:?}");
        for expected in [
            "everything in /var/lib/containerd",
            "everything in /var/log/pods",
            "everything in /usr/libexec/kubernetes",
            "file /run/xtables.lock",
            "sysctl kernel.panic (was 0)",
            "file /etc/x",
        ] {
            assert!(made.iter().any(|m| m == expected), "{expected} in {made:?}");
        }
        assert!(!made.iter().any(|m| m.contains("kernel.none")), "{made:?}");
    }
}

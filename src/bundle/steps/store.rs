//! What a containerd has, asked through `ctr`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kprov_providers::Machine;
use kprov_providers::machine::{Command, Exit};
use tokio::sync::Mutex;

use super::PINNED;

/// One image that containerd knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) digest: String,
    pub(super) pinned: bool,
}

/// A containerd on a machine. What it answered is kept until [`forget`](Self::forget): steps that look at the same time
/// need one answer, and a `ctr` costs as much as many checks.
pub struct Store {
    pub(super) machine: Arc<dyn Machine>,
    /// `ctr` on the machine.
    pub(super) ctr: String,
    /// containerd's socket on the machine.
    pub(super) address: String,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    known: Option<BTreeMap<String, Known>>,
    whole: Option<BTreeSet<String>>,
}

/// What `ctr images ls` prints: REF TYPE DIGEST SIZE PLATFORMS LABELS, the size being two words.
fn known_images(table: &str) -> BTreeMap<String, Known> {
    let rows = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, _type, digest) = (words.next()?, words.next()?, words.next()?);
        let pinned = words.last().is_some_and(|labels| labels.split(',').any(|label| label == PINNED));
        digest.starts_with("sha256:").then(|| (name.to_owned(), Known { digest: digest.to_owned(), pinned }))
    });
    rows.collect()
}

/// Names of images of which all is there, unpacked. `ctr images check` prints REF TYPE DIGEST STATUS SIZE UNPACKED.
fn unpacked_images(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, status, unpacked) = (words.next()?, words.nth(2)?, words.last()?);
        (status == "complete" && unpacked == "true").then(|| name.to_owned())
    });
    rows.collect()
}

impl Store {
    /// The containerd that listens at `address` (a path), asked with the `ctr` at that path.
    pub fn new(machine: Arc<dyn Machine>, ctr: impl Into<String>, address: impl Into<String>) -> Self {
        Self { machine, ctr: ctr.into(), address: address.into(), answers: Mutex::default() }
    }

    /// Runs `ctr` in the kubelet's namespace.
    pub(super) async fn run(&self, args: &[&str], limit: Duration) -> anyhow::Result<Exit> {
        let mut command = Command::new(&*self.ctr, ["--address", &*self.address, "--namespace", "k8s.io"]);
        command.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        command.timeout = Some(limit);
        self.machine.run(command).await
    }

    /// The images that it has; none while it does not answer.
    pub(super) async fn known(&self) -> anyhow::Result<Option<BTreeMap<String, Known>>> {
        let mut answers = self.answers.lock().await;
        if answers.known.is_none()
            && self.machine.meta(&self.address)?.is_some()
            && self.machine.meta(&self.ctr)?.is_some()
        {
            let exit = self.run(&["images", "list"], Duration::from_secs(30)).await?;
            answers.known = exit.success().then(|| known_images(&exit.text()));
        }
        Ok(answers.known.clone())
    }

    /// Those of which all is there, unpacked; none when it does not tell.
    pub(super) async fn whole(&self) -> anyhow::Result<Option<BTreeSet<String>>> {
        let mut answers = self.answers.lock().await;
        if answers.whole.is_none() {
            let exit = self.run(&["images", "check"], Duration::from_secs(60)).await?;
            answers.whole = exit.success().then(|| unpacked_images(&exit.text()));
        }
        Ok(answers.whole.clone())
    }

    /// It has changed.
    pub(super) async fn forget(&self) {
        *self.answers.lock().await = Answers::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ctr_prints() {
        let table = "\
REF                                     TYPE                                       DIGEST                                                                  SIZE      PLATFORMS   LABELS
registry.k8s.io/kube-proxy:v1.36.3      application/vnd.oci.image.manifest.v1+json sha256:8a967c9a9413beb343cf11d13b9813f2eacf165afbf43cabf7132d01f90f9b2c 132.0 MiB linux/amd64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned
registry.k8s.io/pause:3.10.1            application/vnd.oci.image.manifest.v1+json sha256:71aba80686994046aa74e1132c580c5fdf2097d1d8d4d9ca0f460475736b9075 668.0 KiB linux/amd64 io.cri-containerd.image=managed
";
        let known = known_images(table);
        assert_eq!(known.len(), 2);
        assert!(known["registry.k8s.io/kube-proxy:v1.36.3"].pinned);
        assert!(!known["registry.k8s.io/pause:3.10.1"].pinned);
        assert!(known["registry.k8s.io/pause:3.10.1"].digest.starts_with("sha256:71aba"));
        let table = "\
REF            TYPE     DIGEST     STATUS           SIZE                UNPACKED
a:1            type     sha256:d   complete (5/5)   64.8 MiB/64.8 MiB   true
b:1            type     sha256:d   complete (5/5)   64.8 MiB/64.8 MiB   false
c:1            type     sha256:d   incomplete (4/5) 64.8 MiB/64.8 MiB   true
";
        assert_eq!(unpacked_images(table), BTreeSet::from(["a:1".to_owned()]));
    }
}

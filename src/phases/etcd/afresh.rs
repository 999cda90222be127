//! A database that an etcd began and could not go on with, on a machine whose API server has never answered.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use kprov_providers::kube::diagnose::has_ended;
use kprov_providers::machine::UnitVerb;
use kprov_providers::steps::Label;
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch, made};

use crate::phases::kubelet::UNIT;

/// Empties etcd's data directory where its container has ended and etcd does not answer.
///
/// An etcd whose disk is full at its very first writes leaves half a database, and panics at every start after that:
/// `failed to find local ID in cluster members`. Only for a machine where no API server has answered yet: then nothing
/// is in it that is not made again.
pub(crate) struct Afresh {
    label: Label,
    machine: Arc<dyn Machine>,
    data: String,
    health: String,
}

impl Afresh {
    /// For this data directory of an etcd that answers at the URL `health` when it is well.
    pub(crate) fn new(label: Label, machine: &Arc<dyn Machine>, data: String, health: String) -> Self {
        Self { label, machine: machine.clone(), data, health }
    }

    fn held(&self) -> Result<Vec<String>> {
        Ok(self.machine.list(&self.data)?.unwrap_or_default())
    }
}

#[async_trait]
impl Step for Afresh {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("empty {}: etcd ended before the API server ever answered", self.data)
    }

    async fn check(&self, _known: &Outputs) -> Result<Status> {
        let vain = !self.held()?.is_empty()
            && has_ended(self.machine.as_ref(), "etcd")
            && !matches!(self.machine.probe(&self.health).await?, Some((200, _)));
        Ok(if vain { Status::Missing } else { Status::Ready(Outputs::none()) })
    }

    async fn made(&self, _known: &Outputs) -> Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    /// The kubelet would start etcd again on what is half removed; a run that is killed in between leaves a kubelet that
    /// its own step starts.
    async fn apply(&self, _known: &Outputs, watch: &Watch) -> Result<Outputs> {
        watch.say("etcd's log of its first start tells why; it begins anew".to_owned());
        let runs = self.machine.unit(UNIT).await?.active == "active";
        if runs {
            self.machine.unit_do(UNIT, UnitVerb::Stop).await?;
        }
        made::undo(self.machine.as_ref(), &Made::Pods).await?;
        for name in self.held()? {
            self.machine.remove_tree(&format!("{}/{name}", self.data))?;
        }
        if runs {
            self.machine.unit_do(UNIT, UnitVerb::Start).await?;
        }
        Ok(Outputs::none())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt as _;
    use kprov_providers::machine::fake::FakeMachine;

    use super::*;

    const DATABASE: &str = "/var/lib/etcd/member/snap/db";

    /// A machine with a database, an etcd that has ended or not, and answers or not.
    fn machine(ended: bool, answers: bool) -> (FakeMachine, Afresh) {
        let fake = FakeMachine::new();
        fake.put("/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n");
        fake.put(DATABASE, "half");
        let log = if ended { "1.log" } else { "0.log" };
        fake.put(&format!("/var/log/pods/kube-system_etcd-x_1/etcd/{log}"), "2026-01-01T00:00:00Z stderr F panic\n");
        fake.on_probe(move |_, _| async move { answers.then(|| (200, "ok".to_owned())) }.boxed());
        let machine: Arc<dyn Machine> = Arc::new(fake.clone());
        let step = Afresh::new(Label::new("etcd/afresh", "etcd"), &machine, "/var/lib/etcd".into(), "http://x/".into());
        (fake, step)
    }

    #[tokio::test]
    async fn half_a_database_goes_while_the_kubelet_stands_still() {
        let (fake, step) = machine(true, false);
        fake.unit_do(UNIT, UnitVerb::Start).await.unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = stopped.clone();
        fake.on_unit(move |machine, _, verb| {
            seen.store(verb == UnitVerb::Stop, Ordering::SeqCst);
            assert_eq!(machine.meta(DATABASE)?.is_some(), verb == UnitVerb::Stop);
            Ok(())
        });
        assert_eq!(step.check(&Outputs::none()).await.unwrap(), Status::Missing);
        step.apply(&Outputs::none(), &Watch::quiet()).await.unwrap();
        assert!(!stopped.load(Ordering::SeqCst), "the kubelet was not started again");
        assert!(fake.meta("/var/lib/etcd").unwrap().is_some(), "the directory itself stays");
        assert!(matches!(step.check(&Outputs::none()).await.unwrap(), Status::Ready(_)));
    }

    #[tokio::test]
    async fn an_etcd_that_answers_or_only_starts_keeps_it() {
        for (ended, answers) in [(true, true), (false, false), (false, true)] {
            let (_, step) = machine(ended, answers);
            assert!(matches!(step.check(&Outputs::none()).await.unwrap(), Status::Ready(_)), "{ended} {answers}");
        }
    }
}

//! A database that an etcd began and could not go on with, on a machine whose API server has never answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use kprov_providers::kube::Backoff;
use kprov_providers::kube::diagnose::{Ended, ended};
use kprov_providers::machine::UnitVerb;
use kprov_providers::steps::Label;
use kprov_providers::{Machine, Made, Outputs, Status, Step, Watch, made};
use tokio::time::Instant;

use crate::phases::kubelet::UNIT;

/// How long an etcd that starts is waited for: on a quiet host the kubelet has it running in two seconds, and it reads half a
/// database in less than one; on a busy one in some times ten.
const STARTS: Duration = Duration::from_secs(40);

/// Empties etcd's data directory where etcd does not answer and has ended in a panic, or runs without a leader to come.
///
/// An etcd whose disk is full at its very first writes leaves half a database, and panics at every start after that:
/// `failed to find local ID in cluster members`. Where no more than the head of its log was written it runs, as a
/// cluster without members: `no leader at term 0`. Only for a machine where kprov has never found an API server: then
/// nothing is in it that is not made again.
pub(crate) struct Afresh {
    label: Label,
    machine: Arc<dyn Machine>,
    data: String,
    health: String,
    /// [`STARTS`], but in tests.
    patience: Duration,
}

impl Afresh {
    /// For this data directory of an etcd that answers at the URL `health` when it is well.
    pub(crate) fn new(label: Label, machine: &Arc<dyn Machine>, data: String, health: String) -> Self {
        Self { label, machine: machine.clone(), data, health, patience: STARTS }
    }

    /// True where what etcd has begun is of no use to it. An etcd that has panicked once, or that a kubelet has started or
    /// is about to, is waited for, as init must do anyway: it answers, panics once more, or says that nobody leads it. What
    /// it said before may end in mid-sentence, where the disk was full.
    async fn in_vain(&self) -> Result<bool> {
        let machine = self.machine.as_ref();
        if made::inside(machine, &self.data)?.is_empty() {
            return Ok(false);
        }
        let starts = machine.unit(UNIT).await?.runs();
        let end = Instant::now() + self.patience;
        let mut backoff = Backoff::up_to(Duration::from_millis(500));
        loop {
            if matches!(machine.probe(&self.health).await?, Some((200, _))) {
                return Ok(false);
            }
            match ended(machine, "etcd") {
                Ended::InPanic | Ended::Leaderless => return Ok(true),
                Ended::Otherwise if !starts => return Ok(false),
                ended if Instant::now() >= end => return Ok(ended == Ended::Silently),
                _ => backoff.pause().await,
            }
        }
    }
}

#[async_trait]
impl Step for Afresh {
    kprov_providers::labelled!();

    fn describe(&self) -> String {
        format!("empty {}: etcd ended before the API server ever answered", self.data)
    }

    async fn check(&self, _known: &Outputs) -> Result<Status> {
        Ok(if self.in_vain().await? { Status::Missing } else { Status::Ready(Outputs::none()) })
    }

    async fn made(&self, _known: &Outputs) -> Result<Vec<Made>> {
        Ok(vec![Made::Nothing])
    }

    /// The kubelet would start etcd again on what is half removed; a run that is killed in between leaves a kubelet that
    /// its own step starts.
    async fn apply(&self, _known: &Outputs, watch: &Watch) -> Result<Outputs> {
        watch.say("etcd's log of its first start tells why; it begins anew".to_owned());
        let runs = self.machine.unit(UNIT).await?.runs();
        if runs {
            self.machine.unit_do(UNIT, UnitVerb::Stop).await?;
        }
        made::undo(self.machine.as_ref(), &Made::Pods).await?;
        made::undo(self.machine.as_ref(), &Made::Filled { path: self.data.clone(), mode: None }).await?;
        if runs {
            self.machine.unit_do(UNIT, UnitVerb::Start).await?;
        }
        Ok(Outputs::none())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use kprov_providers::machine::fake::FakeMachine;

    use super::*;

    const DATABASE: &str = "/var/lib/etcd/member/snap/db";

    /// A machine with a database, an etcd with this last log, that answers or not.
    fn machine(log: &str, answers: bool) -> (FakeMachine, Afresh) {
        let fake = FakeMachine::new();
        fake.put("/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n");
        fake.put(DATABASE, "half");
        fake.put("/var/log/pods/kube-system_etcd-x_1/etcd/0.log", "");
        fake.put("/var/log/pods/kube-system_etcd-x_1/etcd/1.log", log);
        fake.on_probe(move |_, _| async move { answers.then(|| (200, "ok".to_owned())) }.boxed());
        let machine: Arc<dyn Machine> = Arc::new(fake.clone());
        let step = Afresh::new(Label::new("etcd/afresh", "etcd"), &machine, "/var/lib/etcd".into(), "http://x/".into());
        (fake, step)
    }

    const ALONE: &str = "2026-01-01T00:00:00Z stderr F no leader at term 0; dropping index reading msg\n";
    const PANIC: &str = "2026-01-01T00:00:00Z stderr F panic: failed to find local ID in cluster members\n";

    #[tokio::test]
    async fn half_a_database_goes_while_the_kubelet_stands_still() {
        for runs in [true, false] {
            let (fake, step) = machine(PANIC, false);
            if runs {
                fake.unit_do(UNIT, UnitVerb::Start).await.unwrap();
            }
            let done = Arc::new(Mutex::new(Vec::new()));
            let seen = done.clone();
            fake.on_unit(move |machine, _, verb| {
                seen.lock().unwrap().push((verb, machine.meta(DATABASE)?.is_some()));
                Ok(())
            });
            assert_eq!(step.check(&Outputs::none()).await.unwrap(), Status::Missing);
            step.apply(&Outputs::none(), &Watch::quiet()).await.unwrap();
            let wanted: &[(UnitVerb, bool)] =
                if runs { &[(UnitVerb::Stop, true), (UnitVerb::Start, false)] } else { &[] };
            assert_eq!(*done.lock().unwrap(), wanted);
            assert!(fake.meta("/var/lib/etcd").unwrap().is_some(), "the directory itself stays");
            assert!(matches!(step.check(&Outputs::none()).await.unwrap(), Status::Ready(_)));
        }
    }

    #[tokio::test]
    async fn an_etcd_that_answers_or_did_not_panic_keeps_it() {
        let starts = "2026-01-01T00:00:00Z stderr F {\"level\":\"info\",\"msg\":\"opened backend db\"}\n";
        for (log, answers) in [(PANIC, true), (starts, false), (starts, true)] {
            let (fake, step) = machine(log, answers);
            fake.put("/var/log/pods/kube-system_etcd-x_1/etcd/0.log", starts);
            assert!(matches!(step.check(&Outputs::none()).await.unwrap(), Status::Ready(_)), "{log} {answers}");
        }
    }

    #[tokio::test]
    async fn an_etcd_that_was_just_started_again_is_waited_for() {
        let starts = "2026-01-01T00:00:00Z stderr F {\"level\":\"info\",\"msg\":\"opened backend db\"}\n";
        for panics in [true, false] {
            let (fake, step) = machine(PANIC, false);
            fake.put("/var/log/pods/kube-system_etcd-x_1/etcd/2.log", starts);
            let begin = Instant::now();
            // Told at the third question.
            let asked = Arc::new(Mutex::new(0));
            fake.on_probe(move |machine, _| {
                *asked.lock().unwrap() += 1;
                let third = *asked.lock().unwrap() == 3;
                if third && panics {
                    machine.put("/var/log/pods/kube-system_etcd-x_1/etcd/2.log", PANIC);
                }
                async move { (third && !panics).then(|| (200, "ok".to_owned())) }.boxed()
            });
            let wanted = if panics { Status::Missing } else { Status::Ready(Outputs::none()) };
            assert_eq!(step.check(&Outputs::none()).await.unwrap(), wanted);
            assert!(begin.elapsed() < STARTS);
        }
    }

    /// The disk was so full that the log of the one before ends before it tells of its panic.
    #[tokio::test]
    async fn an_etcd_that_the_kubelet_starts_is_waited_for_until_it_tells_that_nobody_leads_it() {
        const LAST: &str = "/var/log/pods/kube-system_etcd-x_1/etcd/1.log";
        for (says, wanted) in [(Some(ALONE), true), (Some(PANIC), true), (None, false)] {
            let (fake, step) = machine("2026-01-01T00:00:01Z stderr F became follower at term 0\n", false);
            fake.put("/var/log/pods/kube-system_etcd-x_1/etcd/0.log", "2026-01-01T00:00:00Z stderr F writeAt failed");
            fake.unit_do(UNIT, UnitVerb::Start).await.unwrap();
            let asked = Arc::new(Mutex::new(0));
            fake.on_probe(move |machine, _| {
                *asked.lock().unwrap() += 1;
                if let (3, Some(says)) = (*asked.lock().unwrap(), says) {
                    machine.put(LAST, says);
                }
                async move { None }.boxed()
            });
            let step = Afresh { patience: Duration::from_secs(if wanted { 60 } else { 1 }), ..step };
            assert_eq!(step.check(&Outputs::none()).await.unwrap() == Status::Missing, wanted, "{says:?}");
        }
    }

    #[tokio::test]
    async fn where_neither_comes_only_one_that_says_nothing_is_in_vain() {
        for (last, wanted) in [("2026-01-01T00:00:00Z stderr F starting\n", false), ("", true), (ALONE, true)] {
            let (fake, step) = machine(PANIC, false);
            fake.put("/var/log/pods/kube-system_etcd-x_1/etcd/2.log", last);
            let step = Afresh { patience: Duration::from_millis(200), ..step };
            assert_eq!(step.check(&Outputs::none()).await.unwrap() == Status::Missing, wanted, "{last:?}");
        }
    }
}

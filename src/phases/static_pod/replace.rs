//! Another manifest in the place of one that a kubelet runs already.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use kprov_providers::machine::UnitVerb;
use kprov_providers::steps::WriteFile;
use kprov_providers::{Key, Machine, Made, Outputs, Status, Step, Watch};

use crate::phases::kubelet::UNIT;

/// Writes a manifest; the kubelet is stopped meanwhile where another one is there.
///
/// A kubelet that has never reached the API does not clean up after a static pod that was changed, and then does not
/// start the new one either: a component that failed for its arguments would fail for ever. A kubelet that starts anew
/// sees the new manifest alone. It is stopped first and started after, so that a run that is killed in between leaves a
/// kubelet that its own step starts again.
pub(crate) struct Replace {
    step: WriteFile,
    machine: Arc<dyn Machine>,
    path: String,
}

impl Replace {
    /// Around the step that writes `path`.
    pub(crate) fn new(step: WriteFile, machine: &Arc<dyn Machine>, path: String) -> Self {
        Self { step, machine: machine.clone(), path }
    }
}

#[async_trait]
impl Step for Replace {
    fn key(&self) -> &Key {
        self.step.key()
    }

    fn phase(&self) -> &str {
        self.step.phase()
    }

    fn needs(&self) -> &[Key] {
        self.step.needs()
    }

    fn describe(&self) -> String {
        self.step.describe()
    }

    fn content(&self) -> Option<String> {
        self.step.content()
    }

    async fn check(&self, known: &Outputs) -> Result<Status> {
        self.step.check(known).await
    }

    async fn made(&self, known: &Outputs) -> Result<Vec<Made>> {
        self.step.made(known).await
    }

    async fn apply(&self, known: &Outputs, watch: &Watch) -> Result<Outputs> {
        let runs = self.machine.meta(&self.path)?.is_some() && self.machine.unit(UNIT).await?.runs();
        if runs {
            watch.say(format!("the kubelet is started again, to run the new {}", self.path));
            self.machine.unit_do(UNIT, UnitVerb::Stop).await?;
        }
        let done = self.step.apply(known, watch).await;
        if runs {
            self.machine.unit_do(UNIT, UnitVerb::Start).await?;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kprov_providers::machine::fake::FakeMachine;
    use kprov_providers::steps::Label;

    use super::*;

    #[tokio::test]
    async fn the_kubelet_never_sees_the_change() {
        let fake = FakeMachine::new();
        let machine: Arc<dyn Machine> = Arc::new(fake.clone());
        let path = "/etc/kubernetes/manifests/etcd.yaml";
        let step = |text: &str| {
            let file = WriteFile::new(Label::new("manifests/etcd", "etcd"), machine.clone(), path, text);
            Replace::new(file, &machine, path.to_owned())
        };
        let done = Arc::new(Mutex::new(Vec::new()));
        let seen = done.clone();
        fake.put("/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n");
        fake.unit_do(UNIT, UnitVerb::Start).await.unwrap();
        fake.on_unit(move |machine, _, verb| {
            seen.lock().unwrap().push((verb, machine.read(path)?));
            Ok(())
        });
        step("a").apply(&Outputs::none(), &Watch::quiet()).await.unwrap();
        assert!(done.lock().unwrap().is_empty(), "a first manifest needs no new kubelet");
        step("b").apply(&Outputs::none(), &Watch::quiet()).await.unwrap();
        let wanted = [(UnitVerb::Stop, Some(b"a".to_vec())), (UnitVerb::Start, Some(b"b".to_vec()))];
        assert_eq!(*done.lock().unwrap(), wanted);
    }
}

//! The template that a cluster's machines are copied from: the bare base, with the bundle's content put there by kprov
//! itself and under kprov's own record, so that `init` takes the same path as on a bare machine, only faster.

use std::sync::Arc;

use anyhow::Context;
use kprov_providers::Watch;
use kprov_providers::local::{Machines, base};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::Ground;
use super::there::{self, KPROV, Task};

/// Counted up when templates must be made anew although base and bundle are the same.
const FORMAT: u32 = 1;

/// The machine that the template is made in.
const MACHINE: &str = "template";

/// How the names of all these templates begin.
const PREFIX: &str = "kube-";

/// The name of the template for a bundle.
pub fn name(kubernetes: &str, bundle_id: &str) -> String {
    let hash = Sha256::digest(format!("{FORMAT}\n{}\n{bundle_id}\n", base::template()));
    let hash = data_encoding::HEXLOWER.encode(&hash);
    format!("{PREFIX}{kubernetes}-{}", hash.get(..12).unwrap_or(&hash))
}

/// Makes the template if it is not there. Two that want it at once: the second waits for the first.
pub(super) async fn ensure(ground: &Ground, watch: &Watch) -> anyhow::Result<()> {
    let machines: &Arc<Mutex<Machines>> = &ground.machines;
    let store = machines.lock().await.store().clone();
    let bare = base::ensure(&store, watch).await?;
    let _lock = store.lock("template").await?;
    if store.has(&ground.template) {
        return Ok(());
    }
    watch.say("making the template of machines (once a bundle)");
    let view = {
        let mut machines = machines.lock().await;
        machines.remove(MACHINE).await?;
        machines.add(MACHINE, &bare).await?;
        machines.boot(MACHINE).await?;
        machines.clone()
    };
    view.wait_ssh(MACHINE).await?;
    let host = view.ssh(MACHINE)?;
    let bundle = ground.bundle_there();
    let files = [(ground.kprov.as_path(), KPROV, 0o755), (ground.bundle.path.as_path(), bundle.as_str(), 0o644)];
    there::bring(&host, &files, |said| watch.say(said)).await?;
    let args = ["bundle", "install", "--bundle", bundle.as_str(), "--bundle-id", &ground.bundle.id, "-o", "json"];
    let task = Task {
        name: "bundle-install".into(),
        args: args.map(str::to_owned).to_vec(),
        input: Vec::new(),
        witness: None,
    };
    there::run(&host, &task, &ground.events).await.context("putting the bundle into the template")?;
    machines.lock().await.freeze(MACHINE, &ground.template).await?;
    for name in store.forget_others(&ground.held, PREFIX, &ground.template).await? {
        watch.say(format!("template {name} is of another bundle and no machine's: removed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_bundle_is_another_template() {
        assert_ne!(name("v1.36.3", "aa"), name("v1.36.3", "ab"));
        assert_eq!(name("v1.36.3", "aa"), name("v1.36.3", "aa"));
        assert!(name("v1.36.3", "aa").starts_with("kube-v1.36.3-"));
    }
}

//! Asking a cluster, and waiting until it says what a scenario waits for.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::remote::Remote;

/// kubectl on a control-plane machine.
pub struct Kubectl(pub Remote);

impl Kubectl {
    /// Runs kubectl there; its standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, args: &str) -> anyhow::Result<String> {
        self.0.run(&format!("kubectl --kubeconfig /etc/kubernetes/admin.conf {args}"))
    }

    /// One object or a list.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn get(&self, what: &str) -> anyhow::Result<Value> {
        serde_json::from_str(&self.run(&format!("get {what} -o json"))?).context("kubectl's JSON")
    }

    /// Waits until all nodes (exactly so many) and all pods of kube-system and the pod network are Ready.
    ///
    /// # Errors
    /// When they are not in time; says which.
    pub fn wait_all_ready(&self, nodes: usize, limit: Duration) -> anyhow::Result<()> {
        wait(limit, || {
            let found = self.get("nodes")?;
            let found = items(&found);
            if found.len() != nodes {
                bail!("{} nodes instead of {nodes}", found.len());
            }
            if let Some(node) = found.iter().find(|node| !ready(node)) {
                bail!("node {} is not Ready", name(node));
            }
            let pods = self.get("pods --all-namespaces")?;
            // A Job's pod that is done stays for a while.
            let done = |pod: &Value| {
                pod["status"]["phase"] == "Succeeded" && pod["metadata"]["ownerReferences"][0]["kind"] == "Job"
            };
            if let Some(pod) = items(&pods).iter().find(|pod| !ready(pod) && !done(pod)) {
                bail!("pod {} is not Ready: {}", name(pod), pod["status"]);
            }
            Ok(())
        })
    }
}

/// Tries until it works.
///
/// # Errors
/// The last error, when the time is over.
pub fn wait<T>(limit: Duration, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("not within {} s", limit.as_secs())));
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Items of a list.
pub fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// True when the Ready condition of a node or pod is True.
pub fn ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

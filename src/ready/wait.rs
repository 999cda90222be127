//! Waiting until all is Ready.

use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, SelectAll, select_all};
use futures_util::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kprov_providers::kube::diagnose::likely_cause;
use kube::Client;
use kube::api::{Api, ListParams, LogParams, WatchParams};

use super::{Booted, Health, Scope, look_since, words};

/// How long nodes and pods may take; on a slow card they do take minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// How many of the last log lines are shown of a pod that does not come up.
const LOG_LINES: i64 = 20;

/// It did not become Ready in time.
#[derive(Debug, thiserror::Error)]
#[error("not Ready after {seconds} s: {waiting}")]
pub struct NotReady {
    /// How long was waited.
    pub seconds: u64,
    /// What is not.
    pub waiting: String,
}

/// Waits until all is Ready. Says what is waited for when that changes.
///
/// # Errors
/// [`NotReady`] after ten minutes: what is not, the last log lines of a pod that is not, the kubelet's last error about it
/// and the likely cause.
pub async fn wait(client: &Client, scope: &Scope, say: &(dyn Fn(String) + Send + Sync)) -> anyhow::Result<Health> {
    wait_since(client, scope, &Booted::default(), say).await
}

/// As [`wait`], after some machines were booted.
///
/// # Errors
/// As [`wait`].
pub async fn wait_since(
    client: &Client,
    scope: &Scope,
    booted: &Booted,
    say: &(dyn Fn(String) + Send + Sync),
) -> anyhow::Result<Health> {
    let begin = Instant::now();
    let mut told = String::new();
    // Before the look: what changes while it is taken is not missed.
    let mut seen = changes(client, scope).await;
    loop {
        let looked = look_since(client, scope, booted).await;
        let waiting = match &looked {
            Ok(health) if health.waiting.is_empty() => return looked,
            Ok(health) => health.waiting.join("; "),
            Err(error) => words(error),
        };
        if begin.elapsed() > LIMIT {
            let why = match &looked {
                Ok(Health { pod: Some((namespace, name)), .. }) => why(
                    &log(client, namespace, name).await,
                    kubelet_error(client, namespace, name).await,
                    name,
                    &waiting,
                ),
                _ => String::new(),
            };
            return Err(anyhow::Error::new(NotReady { seconds: LIMIT.as_secs(), waiting: waiting + &why }));
        }
        let short = looked.as_ref().map_or_else(|_| waiting.clone(), |health| short(&health.waiting));
        if told != short {
            say(format!("waiting: {short}"));
            told = short;
        }
        // What a broken watch misses is seen after two seconds.
        let change = tokio::time::timeout(Duration::from_secs(2), seen.next()).await;
        if change.is_ok() {
            // Changes come in bursts; one look for all of them.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if change == Ok(Some(true)) {
            while let Some(Some(true)) = seen.next().now_or_never() {}
        } else {
            seen = changes(client, scope).await;
        }
    }
}

/// The first few; a person looks on.
fn short(waiting: &[String]) -> String {
    const SHOWN: usize = 3;
    let first: Vec<&str> = waiting.iter().take(SHOWN).map(String::as_str).collect();
    let more = waiting.len().saturating_sub(SHOWN);
    if more == 0 { first.join("; ") } else { format!("{}; and {more} more", first.join("; ")) }
}

/// What changes from now on of all that is looked at: nodes, pods, and what pods are made from, whose own count of Ready
/// pods comes later than theirs. False: a watch has ended. What cannot be watched is left out.
async fn changes(client: &Client, scope: &Scope) -> SelectAll<BoxStream<'static, bool>> {
    let nodes = watch(Api::<Node>::all(client.clone()), scope.nodes());
    let pods = watch(Api::<Pod>::all(client.clone()), scope.pods());
    let (nodes, pods) = futures_util::join!(nodes, pods);
    let mut all = select_all([nodes, pods]);
    // A kubelet may not see the others.
    if matches!(scope, Scope::Cluster { pods: true, .. }) {
        let sets = watch(Api::<DaemonSet>::all(client.clone()), ListParams::default());
        let deployments = watch(Api::<Deployment>::all(client.clone()), ListParams::default());
        let (sets, deployments) = futures_util::join!(sets, deployments);
        all.push(sets);
        all.push(deployments);
    }
    all
}

async fn watch<K>(api: Api<K>, of: ListParams) -> BoxStream<'static, bool>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let params = WatchParams { field_selector: of.field_selector.clone(), ..WatchParams::default() }.timeout(60);
    let open = async {
        let version = api.list_metadata(&of).await?.metadata.resource_version.unwrap_or_else(|| "0".to_owned());
        api.watch(&params, &version).await
    };
    match open.await {
        Ok(seen) => seen.map(|event| event.is_ok()).chain(futures_util::stream::once(async { false })).boxed(),
        Err(_) => futures_util::stream::pending().boxed(),
    }
}

/// The last lines of a pod's log; none where it never wrote one.
async fn log(client: &Client, namespace: &str, name: &str) -> String {
    let params = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
    Api::<Pod>::namespaced(client.clone(), namespace).logs(name, &params).await.unwrap_or_default()
}

/// What the kubelet complained of last about a pod. It tells the API, so no way onto the pod's machine is needed.
async fn kubelet_error(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let of_pod = ListParams::default().fields(&format!("involvedObject.name={name},type=Warning"));
    let found = Api::<Event>::namespaced(client.clone(), namespace).list(&of_pod).await.ok()?;
    let last = found.items.into_iter().max_by_key(|event| {
        let times = [event.last_timestamp.as_ref(), event.first_timestamp.as_ref()];
        times.into_iter().flatten().next().map(|time| time.0)
    })?;
    last.message
}

/// A pod's last lines, the kubelet's last error about it, and what usually causes them.
fn why(log: &str, error: Option<String>, name: &str, waiting: &str) -> String {
    let mut text = match log.trim_end() {
        "" => format!("\n{name} never wrote a log"),
        log => format!("\nlast lines of {name}:\n{log}"),
    };
    if let Some(error) = &error {
        text.push_str(&format!("\nthe kubelet's last error: {error}"));
    }
    let lines = log.lines().rev().chain(error.as_deref()).chain([waiting]);
    let cause = likely_cause(lines).unwrap_or("not known; see kubectl describe pods -A");
    text.push_str(&format!("\nlikely cause: {cause}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_are_told_at_once() {
        let lines: Vec<String> = (1..=5).map(|n| format!("pod {n}")).collect();
        assert_eq!(short(&lines), "pod 1; pod 2; pod 3; and 2 more");
        assert_eq!(short(lines.get(..1).unwrap()), "pod 1");
    }
    #[test]
    fn why_a_pod_is_not_ready_is_its_log_the_kubelets_error_and_the_cause() {
        let full = why("serving\nno space left on device\n", None, "web", "");
        assert_eq!(
            full,
            "\nlast lines of web:\nserving\nno space left on device\nlikely cause: the disk is full: df -h"
        );
        let error = Some("Failed to pull image: ErrImagePull".to_owned());
        let pull = why("", error, "web", "");
        assert_eq!(
            pull,
            "\nweb never wrote a log\nthe kubelet's last error: Failed to pull image: ErrImagePull\nlikely cause: an image \
             is not on this machine: crictl images"
        );
        assert!(
            why("", None, "web", "web is not Ready").ends_with("likely cause: not known; see kubectl describe pods -A")
        );
    }
}

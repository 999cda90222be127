//! What the API still says of machines that were just booted.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

/// Machines that were booted just now: what the API says of their pods is news only once it names containers that were
/// started since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Booted {
    /// Their nodes.
    pub nodes: BTreeSet<String>,
    /// When, as the API writes times: RFC 3339, UTC, seconds.
    pub since: String,
}

impl Booted {
    /// Machines that are about to be booted.
    pub fn now() -> Self {
        let now = kprov_providers::event::now();
        // The API's times have no fractions, and are rounded down as this one is.
        let seconds = now.split('.').next().unwrap_or_default();
        Self { nodes: BTreeSet::new(), since: format!("{seconds}Z") }
    }

    /// True for a pod of a booted node whose status is from before.
    pub(super) fn stale(&self, pod: &Pod) -> bool {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if !on.is_some_and(|node| self.nodes.contains(node)) {
            return false;
        }
        let containers = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        containers.iter().any(|container| {
            let running = container.state.as_ref().and_then(|state| state.running.as_ref());
            let started = running.and_then(|running| serde_json::to_value(&running.started_at).ok());
            started.as_ref().and_then(serde_json::Value::as_str).is_some_and(|at| *at < *self.since)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_from_before_the_boot_is_no_news() {
        let at = |time: &str| {
            let status = serde_json::json!({"spec": {"nodeName": "n", "containers": []}, "status": {"containerStatuses": [
                {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                 "state": {"running": {"startedAt": time}}}]}});
            serde_json::from_value::<Pod>(status).unwrap()
        };
        let booted = Booted { nodes: ["n".to_owned()].into(), since: "2026-01-01T10:00:00Z".into() };
        assert!(booted.stale(&at("2026-01-01T09:59:59Z")));
        assert!(!booted.stale(&at("2026-01-01T10:00:00Z")));
        assert!(!Booted { nodes: BTreeSet::new(), ..booted }.stale(&at("2026-01-01T09:59:59Z")));
    }
}

//! Bootstrap tokens that nobody could join with.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Finding, Look};
use crate::cluster::Cluster;

/// Tokens that are over before they are made. On a machine whose cluster is there already, time has gone by since.
pub(super) fn expired(look: &Look<'_>, cluster: &Cluster) -> Vec<Finding> {
    if (look.ours)("/etc/kubernetes/admin.conf") {
        return Vec::new();
    }
    let tokens = cluster.init.bootstrap_tokens.iter().flatten();
    tokens.filter_map(|token| over(token.expires.as_deref()?, look.now)).collect()
}

fn over(expires: &str, now: SystemTime) -> Option<Finding> {
    let end = OffsetDateTime::parse(expires, &Rfc3339).ok()?;
    let now = OffsetDateTime::from(now);
    (end <= now).then(|| {
        let clock = now.format(&Rfc3339).unwrap_or_default();
        Finding::error(
            "BootstrapToken",
            format!("a bootstrap token expires at {expires}, and by this machine's clock it is {clock}"),
        )
        .hint("write a later time into bootstrapTokens, or leave `expires` out")
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn only_what_is_over_is_spoken_of() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert!(over("2026-01-01T00:00:00Z", now).is_some());
        assert_eq!(over("2030-01-01T00:00:00Z", now), None);
    }
}

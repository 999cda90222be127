//! What a power cut may leave of containerd's content: blobs that are not what they are named after, and entries for
//! blobs that are not there. An import takes both for present, and then fails at unpacking them: again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;

use super::store::Store;

/// Where our containerd keeps blobs, each named after its own hash.
pub(super) const BLOBS: &str = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256";

/// Forgets each blob that is damaged or gone, so that the next import brings it anew. Gives how many there were. Hashes
/// all that containerd has: for after a failure only.
///
/// # Errors
/// When containerd does not tell what it has, or a blob cannot be removed.
pub(super) async fn forget_damaged(store: &Store) -> anyhow::Result<usize> {
    let machine = store.machine.as_ref();
    let listed = store.run(&["content", "ls", "--quiet"], Duration::from_secs(60)).await?;
    ensure!(listed.success(), "ctr content ls: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let listed = listed.text();
    let known = listed.lines().filter_map(|line| line.trim().strip_prefix("sha256:")).map(str::to_owned);
    let mut names: BTreeSet<String> = known.collect();
    names.extend(machine.list(BLOBS)?.unwrap_or_default());
    let mut gone = 0;
    for name in names {
        let path = format!("{BLOBS}/{name}");
        if machine.sha256(&path)?.is_some_and(|found| found == name) {
            continue;
        }
        // The file first: of a blob without an entry it is all that there is, and of one with an entry it stays until
        // the next collection of garbage, for an import to find.
        machine.remove(&path)?;
        // One that has no entry is none to be told of.
        drop(store.run(&["content", "rm", &format!("sha256:{name}")], Duration::from_secs(30)).await?);
        gone += 1;
    }
    Ok(gone)
}

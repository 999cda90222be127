//! Programs of the bundle for the operator's side: kubectl, taken from the control plane once and kept in the cache.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use kprov_providers::local::Machines;
use kprov_providers::ssh::{Chunk, upload::sha256};

use super::CONTROL_PLANE;
use super::places::{self, Places};

/// Where kubectl is on a machine (one file with the control plane's components).
const THERE: &str = "/usr/local/bin/kubectl";

/// The cluster's kubectl, on this host. The first time it comes from the control plane; `say` is told then.
///
/// # Errors
/// When the control plane cannot be reached, or what came is damaged.
pub async fn kubectl(places: &Places, machines: &Machines, say: impl Fn(String) + Send) -> anyhow::Result<PathBuf> {
    let name = &machines.record().name;
    let known = places.load(name)?.with_context(|| format!("cluster {name} never came up"))?;
    let short = known.bundle_id.get(..12).unwrap_or(&known.bundle_id);
    let dir = places.cache.join("tools").join(format!("{}-{short}", known.kubernetes));
    // Called by this name it is kubectl.
    let path = dir.join("kubectl");
    if path.is_file() {
        return Ok(path);
    }
    say(format!("fetching kubectl {} from {} (once)", known.kubernetes, machines.hostname(CONTROL_PLANE)));
    let host = machines.ssh(CONTROL_PLANE)?;
    let session = host.connect_within(Duration::from_secs(10)).await?;
    let sum = session.done("looking for kubectl", &format!("sha256sum {THERE}"), b"").await?;
    let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
    let mut content = Vec::new();
    let code = session
        .stream(&format!("cat {THERE}"), b"", |chunk| {
            if let Chunk::Out(bytes) = chunk {
                content.extend_from_slice(bytes);
            }
        })
        .await?;
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    places::write(&path, &content, 0o755)?;
    if code != 0 || sha256(&path).await? != sum {
        std::fs::remove_file(&path)?;
        bail!("kubectl arrived damaged; try again: {}", host.name);
    }
    Ok(path)
}

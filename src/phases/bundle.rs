//! Phase `bundle`: what a bare machine lacks. Files in their places, containerd configured for this machine and
//! running, images imported. A containerd that runs already and is not ours is used as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use kprov_providers::steps::{Grows, Label, UnitStep, WriteFile};
use kprov_providers::{Key, Machine};
use serde_json::json;

use crate::bundle::locate::Found;
use crate::bundle::manifest::{HostFile, Manifest};
use crate::bundle::sets::Set;
use crate::bundle::steps::{ImportImages, InstallFiles, Store, Unpack, folder};
use crate::bundle::unpack::FILES;
use crate::facts::{Facts, fit};
use crate::plan::Plan;
use crate::render;

/// Phase name.
pub const PHASE: &str = "bundle";

/// Where our containerd listens.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// Our containerd's configuration.
pub const CONFIG: &str = "/etc/containerd/config.toml";

/// What containerd and CNI plugins make and fill. The journal knows it before containerd starts.
const GROWS: [&str; 4] = ["/var/lib/containerd", "/run/containerd", "/etc/cni", "/var/lib/cni"];

const UNIT: &str = "/etc/systemd/system/containerd.service";
const RUNTIME: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "ctr", "runc"];
const CNI: &str = "/opt/cni/bin/";

/// What later phases wait for.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The CRI answers.
    pub runtime: Key,
    /// The images of each set are there.
    pub images: BTreeMap<Set, Key>,
    /// kubelet, kubectl and crictl are in their places, and the kubelet's unit and drop-in.
    pub kubelet: Vec<Key>,
    /// CNI plugins are in their places.
    pub cni: Key,
}

impl Keys {
    /// All of them.
    pub fn all(&self) -> Vec<Key> {
        let mut all = vec![self.runtime.clone(), self.cni.clone()];
        all.extend(self.kubelet.iter().cloned());
        all.extend(self.images.values().cloned());
        all
    }

    /// That the images of a set are there; none where the bundle has no such images.
    pub fn images(&self, set: Set) -> Option<Key> {
        self.images.get(&set).cloned()
    }
}

/// Whether units start at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtBoot {
    /// A node: they do.
    Enabled,
    /// A template of machines: a copy's own `init` or `join` enables them.
    NotEnabled,
}

/// Files that kprov wrote may be changed by it; others may not.
pub(crate) fn ours(there: &[u8]) -> bool {
    there.starts_with(b"# written by kprov")
}

/// The steps of the phase, the first of which need `needs`.
///
/// # Errors
/// When the bundle lacks a part that a machine cannot do without.
pub fn bundle(
    found: &Found,
    facts: &Facts,
    machine: &Arc<dyn Machine>,
    at_boot: AtBoot,
    needs: &[Key],
) -> Result<(Plan, Keys)> {
    let mut plan = Plan::new();
    let unpack = Key::new("bundle/unpack");
    plan.add(Unpack::new(label(&unpack, needs), machine.clone(), &found.path, &found.id));

    let mut install = |key: &str, what: &str, wanted: &dyn Fn(&HostFile) -> bool| {
        let key = Key::new(key);
        let files = found.manifest.files.iter().filter(|f| wanted(f)).cloned();
        plan.add(InstallFiles::new(label(&key, [&unpack]), machine.clone(), what, &found.id, files));
        key
    };
    let is_runtime = |f: &HostFile| RUNTIME.iter().any(|name| f.path.rsplit('/').next() == Some(name));
    let is_cni = |f: &HostFile| f.path.starts_with(CNI);
    let runtime_files =
        facts.runtime.is_none().then(|| install("bundle/runtime", "containerd, its shim, ctr and runc", &is_runtime));
    let kubernetes = install("bundle/kubernetes", "kubelet, kubectl and crictl", &|f| !is_runtime(f) && !is_cni(f));
    let cni = install("bundle/cni", "CNI plugins", &is_cni);

    let (address, runtime) = match (&facts.runtime, runtime_files) {
        (Some(theirs), _) => {
            (theirs.socket.strip_prefix("unix://").unwrap_or(&theirs.socket).to_owned(), unpack.clone())
        }
        (None, files) => {
            let files = files.unwrap_or_else(|| unpack.clone());
            (SOCKET.to_owned(), containerd(&mut plan, &found.manifest, facts, machine, at_boot, &files)?)
        }
    };
    let crictl = Key::new("bundle/crictl");
    let text = format!("runtime-endpoint: unix://{address}\nimage-endpoint: unix://{address}\n");
    plan.add(WriteFile::new(label(&crictl, needs), machine.clone(), "/etc/crictl.yaml", text).keep());

    let ctr = found.manifest.files.iter().find(|f| f.path.ends_with("/ctr")).and_then(HostFile::sha256);
    let ctr = format!("{}/{FILES}/{}", folder(&found.id), ctr.context("the bundle has no ctr")?);
    let store = Arc::new(Store::new(machine.clone(), ctr, address));
    let mut images = BTreeMap::new();
    for set in Set::there(&found.manifest) {
        let key = Key::new(format!("bundle/images/{}", set.name()));
        // What is needed last does not take the processor from what is needed first.
        let before = (set == Set::Addons).then(|| images.values().cloned().collect::<Vec<_>>());
        plan.add(ImportImages::new(
            label(&key, [&unpack, &runtime]).needs(before.into_iter().flatten()),
            machine.clone(),
            store.clone(),
            found,
            set,
            facts.runtime.is_none(),
        ));
        images.insert(set, key);
    }

    let mut kubelet = vec![kubernetes, crictl];
    for (key, path, text) in [
        ("bundle/kubelet-unit", "/etc/systemd/system/kubelet.service", include_str!("../../templates/kubelet.service")),
        (
            "bundle/kubelet-drop-in",
            "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
            include_str!("../../templates/10-kubeadm.conf"),
        ),
    ] {
        let key = Key::new(key);
        plan.add(WriteFile::new(label(&key, needs), machine.clone(), path, text).foreign_unless(ours));
        kubelet.push(key);
    }
    Ok((plan, Keys { runtime, images, kubelet, cni }))
}

fn label<'a>(key: &Key, needs: impl IntoIterator<Item = &'a Key>) -> Label {
    Label::new(key.clone(), PHASE).needs(needs.into_iter().cloned())
}

/// Our own containerd: configuration, unit, and its start.
fn containerd(
    plan: &mut Plan,
    manifest: &Manifest,
    facts: &Facts,
    machine: &Arc<dyn Machine>,
    at_boot: AtBoot,
    files: &Key,
) -> Result<Key> {
    let [config, unit, start] = ["containerd/config", "containerd/unit", "containerd/start"].map(Key::new);
    let text = containerd_config(manifest, facts)?;
    plan.add(WriteFile::new(label(&config, [files]), machine.clone(), CONFIG, text).foreign_unless(ours));
    let values = json!({"lower_oom_score": fit::lowers_oom_scores(facts)});
    let text = render::text("containerd.service", include_str!("../../templates/containerd.service"), &values)?;
    plan.add(WriteFile::new(label(&unit, [files]), machine.clone(), UNIT, text).foreign_unless(ours));
    let mut step = UnitStep::new(label(&start, [files, &config, &unit]), machine.clone(), "containerd.service")
        .restart_on([CONFIG, UNIT, "/usr/local/bin/containerd"]);
    if at_boot == AtBoot::NotEnabled {
        step = step.not_enabled();
    }
    plan.add(Grows::new(step, machine.clone()).trees(GROWS).filled(["/var/lib/containerd"]));
    Ok(start)
}

/// containerd's configuration for this machine.
///
/// # Errors
/// When the bundle has no pause image.
pub fn containerd_config(manifest: &Manifest, facts: &Facts) -> Result<String> {
    let pause = manifest.images.iter().find(|image| image.name.contains("/pause:"));
    let (fitted, _) = fit::containerd(facts);
    let values = json!({
        // A JSON string is a TOML string.
        "sandbox": json!(pause.context("the bundle has no pause image")?.name).to_string(),
        "restrict_oom_score_adj": fitted.restrict_oom_score_adj,
        "disable_apparmor": fitted.disable_apparmor,
        "systemd_cgroup": fitted.systemd_cgroup,
    });
    Ok(render::text("containerd.toml", include_str!("../../templates/containerd.toml"), &values)?)
}

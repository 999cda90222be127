//! Fits kubelet, kube-proxy and containerd to what the machine gives: one value and one line each.

use serde_json::{Map, Value, json};

use super::{Cgroups, Facts};

/// One value that must be so on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Field of the document, dotted: `conntrack.maxPerCore`.
    pub field: &'static str,
    /// Its value.
    pub value: Value,
    /// One line: what was found and what follows from it.
    pub note: String,
}

/// What containerd's configuration must say on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Containerd {
    /// `SystemdCgroup`: the kubelet's driver.
    pub systemd_cgroup: bool,
    /// `restrict_oom_score_adj`: lowering a score needs a capability that is missing.
    pub restrict_oom_score_adj: bool,
    /// `disable_apparmor`.
    pub disable_apparmor: bool,
}

/// The cgroup driver of kubelet and runtime: `systemd`, or `cgroupfs` on cgroup v1.
pub fn cgroup_driver(facts: &Facts) -> &'static str {
    match facts.cgroups {
        Cgroups::V1 => "cgroupfs",
        Cgroups::V2 => "systemd",
    }
}

/// Values of the KubeletConfiguration that the whole cluster gets from its first machine (ConfigMap kubelet-config).
pub fn kubelet(facts: &Facts) -> Vec<Fit> {
    let driver = cgroup_driver(facts);
    let mut fits = Vec::new();
    match facts.cgroups {
        Cgroups::V1 => {
            fits.push(Fit {
                field: "cgroupDriver",
                value: json!(driver),
                note: "cgroup v1: the kubelet manages cgroups itself (cgroupDriver: cgroupfs)".to_owned(),
            });
            fits.push(Fit {
                field: "failCgroupV1",
                value: json!(false),
                note: "cgroup v1: the kubelet is told to accept it (failCgroupV1: false)".to_owned(),
            });
        }
        Cgroups::V2 => fits.push(Fit {
            field: "cgroupDriver",
            value: json!(driver),
            note: "cgroup v2: systemd manages cgroups (cgroupDriver: systemd)".to_owned(),
        }),
    }
    if facts.swap {
        fits.push(Fit {
            field: "failSwapOn",
            value: json!(false),
            note: "swap: the kubelet is told to accept it (failSwapOn: false); pods do not use it".to_owned(),
        });
    }
    fits
}

/// [`kubelet`] and what is for this machine's own config.yaml alone.
pub fn kubelet_here(facts: &Facts) -> Vec<Fit> {
    let mut fits = kubelet(facts);
    if let Some(path) = &facts.resolv_conf {
        let why = match (facts.resolved, facts.resolvers.is_empty()) {
            (true, _) => "systemd-resolved is active",
            (false, true) => "/etc/resolv.conf names no resolver",
            (false, false) => "/etc/resolv.conf names only loopback",
        };
        fits.push(Fit {
            field: "resolvConf",
            value: json!(path),
            note: format!("{why}: pods get the resolvers of {path} (resolvConf)"),
        });
    }
    fits
}

/// What is for the config.yaml of a cluster's first kubelet alone, which has its certificate and whose pods all wait for:
/// it would try in vain for 0.2 s before it starts them. Another one gets its certificate in that time; without it, it
/// would ask for its Node too early, and again only a second later.
pub fn first_kubelet(facts: &Facts) -> Vec<Fit> {
    if lowers_oom_scores(facts) {
        return Vec::new();
    }
    vec![Fit {
        field: "oomScoreAdj",
        value: json!(0),
        note: "CAP_SYS_RESOURCE is missing: the kubelet does not lower its OOM score (oomScoreAdj: 0)".to_owned(),
    }]
}

/// Whether a process of this machine may lower its own OOM score.
pub(crate) fn lowers_oom_scores(facts: &Facts) -> bool {
    !facts.missing_capabilities.iter().any(|c| c == "CAP_SYS_RESOURCE")
}

/// Values of the KubeProxyConfiguration.
pub fn kube_proxy(facts: &Facts) -> Vec<Fit> {
    if facts.conntrack_writable {
        return Vec::new();
    }
    let note = "conntrack limits cannot be set here: kube-proxy leaves them alone (conntrack.maxPerCore, min: 0)";
    vec![
        Fit { field: "conntrack.maxPerCore", value: json!(0), note: note.to_owned() },
        Fit { field: "conntrack.min", value: json!(0), note: String::new() },
    ]
}

/// containerd's values, and a line for each that is not the usual one.
pub fn containerd(facts: &Facts) -> (Containerd, Vec<String>) {
    let fitted = Containerd {
        systemd_cgroup: cgroup_driver(facts) == "systemd",
        restrict_oom_score_adj: !lowers_oom_scores(facts),
        disable_apparmor: !facts.apparmor,
    };
    let mut notes = Vec::new();
    if fitted.restrict_oom_score_adj {
        notes.push("CAP_SYS_RESOURCE is missing: containerd lowers no OOM scores (restrict_oom_score_adj)".to_owned());
    }
    if fitted.disable_apparmor {
        notes.push("AppArmor is not enabled: containerd uses no profiles (disable_apparmor)".to_owned());
    }
    (fitted, notes)
}

/// Fills in what the document leaves open; what is written in it stays. Returns the lines of what was filled in.
pub fn fill(document: &mut Value, fits: &[Fit]) -> Vec<String> {
    apply(document, fits, |present| present.is_none())
}

/// Sets every value, also over another one: for a node that takes a cluster's values onto another kind of machine.
/// Returns the lines of what was changed.
pub fn correct(document: &mut Value, fits: &[Fit]) -> Vec<String> {
    apply(document, fits, |_| true)
}

fn apply(document: &mut Value, fits: &[Fit], wanted: impl Fn(Option<&Value>) -> bool) -> Vec<String> {
    let mut notes = Vec::new();
    for fit in fits {
        let Some((object, name)) = place(document, fit.field) else { continue };
        let present = object.get(name);
        if present == Some(&fit.value) || !wanted(present) {
            continue;
        }
        object.insert(name.to_owned(), fit.value.clone());
        if !fit.note.is_empty() {
            notes.push(fit.note.clone());
        }
    }
    notes
}

/// The object that holds a dotted field (made where absent), and the field's last name. `None` where something that is
/// no object is in the way: validation has said so.
fn place<'a>(document: &'a mut Value, field: &'static str) -> Option<(&'a mut Map<String, Value>, &'static str)> {
    let mut object = document.as_object_mut()?;
    let (parents, name) = match field.rsplit_once('.') {
        Some((parents, name)) => (parents.split('.').collect(), name),
        None => (Vec::new(), field),
    };
    for parent in parents {
        let entry = object.entry(parent).or_insert_with(|| json!({}));
        if entry.is_null() {
            *entry = json!({});
        }
        object = entry.as_object_mut()?;
    }
    Some((object, name))
}

/// One line each for what was detected, whether or not something follows from it.
pub fn detected(facts: &Facts) -> Vec<String> {
    let cgroups = match facts.cgroups {
        Cgroups::V1 => "cgroup v1",
        Cgroups::V2 => "cgroup v2",
    };
    let mut lines = vec![format!(
        "{}, Linux {}, {}, {} CPUs, {} MB, {cgroups}",
        facts.os, facts.kernel, facts.arch, facts.cpus, facts.memory_mb
    )];
    if !facts.nftables {
        lines.push("the kernel has no nf_tables".to_owned());
    }
    if facts.page_size != 4096 {
        lines.push(format!("pages of {} bytes", facts.page_size));
    }
    if facts.sync_micros >= 10_000 {
        lines.push(format!("slow disk: a synced write takes {} ms, etcd wants less than 10", facts.sync_micros / 1000));
    }
    match &facts.runtime {
        Some(runtime) => lines.push(format!(
            "{} {} runs already and is used, its configuration untouched",
            runtime.name, runtime.version
        )),
        None => lines.extend(containerd(facts).1),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::facts;

    #[test]
    fn what_the_user_wrote_stays() {
        let mut doc = json!({"cgroupDriver": "systemd"});
        let notes = fill(&mut doc, &kubelet(&Facts { cgroups: Cgroups::V1, ..facts() }));
        assert_eq!(doc, json!({"cgroupDriver": "systemd", "failCgroupV1": false}));
        assert_eq!(notes, ["cgroup v1: the kubelet is told to accept it (failCgroupV1: false)"]);
    }

    #[test]
    fn a_joining_node_overrules_the_cluster() {
        let mut doc = json!({"cgroupDriver": "cgroupfs", "failCgroupV1": false});
        let notes = correct(&mut doc, &kubelet(&facts()));
        assert_eq!(doc, json!({"cgroupDriver": "systemd", "failCgroupV1": false}));
        assert_eq!(notes.len(), 1);
        assert!(correct(&mut doc, &kubelet(&facts())).is_empty(), "the second time nothing differs");
    }

    #[test]
    fn nested_fields_are_made() {
        let mut doc = json!({"mode": "nftables", "conntrack": null});
        let notes = fill(&mut doc, &kube_proxy(&Facts { conntrack_writable: false, ..facts() }));
        assert_eq!(doc, json!({"mode": "nftables", "conntrack": {"maxPerCore": 0, "min": 0}}));
        assert_eq!(notes.len(), 1);
        assert!(kube_proxy(&facts()).is_empty());
    }

    #[test]
    fn swap_and_resolved() {
        let host = Facts { swap: true, resolved: true, resolv_conf: Some("/run/r.conf".to_owned()), ..facts() };
        let fields: Vec<_> = kubelet_here(&host).into_iter().map(|f| f.field).collect();
        assert_eq!(fields, ["cgroupDriver", "failSwapOn", "resolvConf"]);
    }

    #[test]
    fn a_first_kubelet_that_may_not_lower_its_score_does_not_try() {
        let poor = Facts { missing_capabilities: vec!["CAP_SYS_RESOURCE".to_owned()], ..facts() };
        let mut doc = json!({});
        assert_eq!(fill(&mut doc, &first_kubelet(&poor)).len(), 1);
        assert_eq!(doc, json!({"oomScoreAdj": 0}));
        let fields: Vec<_> = kubelet_here(&poor).into_iter().map(|fit| fit.field).collect();
        assert_eq!(fields, ["cgroupDriver"], "the cluster's other nodes");
        assert!(first_kubelet(&facts()).is_empty());
    }

    #[test]
    fn containerd_follows_the_host() {
        let (usual, notes) = containerd(&Facts { apparmor: true, ..facts() });
        assert_eq!(usual, Containerd { systemd_cgroup: true, restrict_oom_score_adj: false, disable_apparmor: false });
        assert!(notes.is_empty());
        let poor = Facts {
            cgroups: Cgroups::V1,
            missing_capabilities: vec!["CAP_SYS_RESOURCE".to_owned()],
            apparmor: false,
            ..facts()
        };
        let (fitted, notes) = containerd(&poor);
        assert_eq!(fitted, Containerd { systemd_cgroup: false, restrict_oom_score_adj: true, disable_apparmor: true });
        assert_eq!(notes.len(), 2);
    }

    #[test]
    fn slow_disks_are_told() {
        let host = Facts { apparmor: true, ..facts() };
        assert_eq!(detected(&host).len(), 1);
        let lines = detected(&Facts { sync_micros: 25_300, page_size: 16384, ..host });
        assert_eq!(
            lines[1..],
            ["pages of 16384 bytes", "slow disk: a synced write takes 25 ms, etcd wants less than 10"]
        );
    }

    #[test]
    fn what_follows_for_our_own_containerd_is_told() {
        let poor = Facts { missing_capabilities: vec!["CAP_SYS_RESOURCE".to_owned()], apparmor: false, ..facts() };
        let lines = detected(&poor);
        assert!(lines[1].starts_with("CAP_SYS_RESOURCE is missing") && lines[2].starts_with("AppArmor"), "{lines:?}");
        let runtime =
            crate::facts::Runtime { name: "containerd".into(), version: "2.1.0".into(), socket: String::new() };
        assert_eq!(detected(&Facts { runtime: Some(runtime), ..poor }).len(), 2, "another's is not fitted");
    }
}

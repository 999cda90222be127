//! A container runtime that runs already: used, never edited, and what it lacks is named setting by setting.

use std::time::Duration;

use kprov_providers::machine::Command;

use super::{Finding, Look, host, images};
use crate::facts::fit::Containerd;
use crate::facts::{Runtime, fit};

const CRI: &str = "CRI";
const CNI_BIN: &str = "/opt/cni/bin";
const CNI_CONF: &str = "/etc/cni/net.d";
/// containerd's table for pods.
const PLUGIN: &str = "plugins.'io.containerd.cri.v1.runtime'";

/// The socket of the containerd that kprov brings.
const OURS: &str = "unix:///run/containerd/containerd.sock";

pub(super) async fn all(look: &Look<'_>, chosen: Option<&str>) -> anyhow::Result<Vec<Finding>> {
    let facts = look.facts;
    let Some(runtime) = &facts.runtime else {
        if let Some(socket) = chosen.filter(|s| s.replace("/var/run/", "/run/") != OURS) {
            let message = format!("no container runtime answers at the chosen socket: {socket}");
            return Ok(vec![
                Finding::error(CRI, message).hint("start it, or leave --cri-socket out: kprov then brings containerd"),
            ]);
        }
        let sockets: Vec<&str> = facts.runtimes.iter().map(|r| r.socket.as_str()).collect();
        return Ok(match sockets.as_slice() {
            [] => hostport(look)?.into_iter().chain(apparmor(look)?).collect(),
            [first, ..] => vec![
                Finding::error(
                    CRI,
                    format!("container runtimes run already, choose one of them: {}", sockets.join(", ")),
                )
                .hint(format!("--cri-socket {first}")),
            ],
        });
    };
    if runtime.name != "containerd" {
        return Ok(vec![Finding::warning(
            CRI,
            format!("{} {} is used as it is: kprov knows containerd's settings only", runtime.name, runtime.version),
        )]);
    }
    let mut found = Vec::new();
    if let Some(finding) = old(runtime) {
        found.push(finding);
    }
    match dump(look).await? {
        Some(config) => {
            found.extend(settings(&config, fit::containerd(facts).0));
            if let Some(name) = sandbox(&config) {
                found.extend(images::sandbox(look, runtime, &name).await);
            }
        }
        None => found.push(Finding::warning(CRI, "containerd's configuration cannot be read: containerd config dump")),
    }
    found.extend(hostport(look)?);
    Ok(found)
}

/// Older containerds lack what kubelet 1.36 asks of a runtime.
fn old(runtime: &Runtime) -> Option<Finding> {
    let major = runtime.version.split('.').next().and_then(|n| n.parse::<u32>().ok());
    let hint = "systemctl disable --now containerd (kprov then brings its own), or install containerd 2";
    match major {
        Some(2..) => None,
        Some(_) => Some(
            Finding::error(
                "ContainerRuntimeVersion",
                format!("containerd {} runs already, 2.0 or newer is needed", runtime.version),
            )
            .hint(hint),
        ),
        None => Some(
            Finding::error("ContainerRuntimeVersion", "the running containerd does not tell its version").hint(hint),
        ),
    }
}

/// Its configuration with all defaults, as containerd itself prints it.
async fn dump(look: &Look<'_>) -> anyhow::Result<Option<String>> {
    let mut command = Command::new("containerd", ["config", "dump"]);
    command.timeout = Some(Duration::from_secs(5));
    // Not in PATH, too old to know the command: the caller says that it cannot be read.
    Ok(match look.machine.run(command).await {
        Ok(exit) if exit.success() => Some(exit.text()),
        _ => None,
    })
}

/// Settings that Kubernetes needs and this configuration does not have.
fn settings(config: &str, fitted: Containerd) -> Vec<Finding> {
    let all = entries(config);
    let value = |section: &str, name: &str| {
        all.iter().find(|(s, n, _)| s.ends_with(section) && n == name).map(|(_, _, value)| value.as_str())
    };
    let edit = |line: &str| format!("in /etc/containerd/config.toml: {line}; then: systemctl restart containerd");
    if value("", "disabled_plugins")
        .is_some_and(|list| list.contains("cri'") || list.contains("cri\"") || list.contains(".cri.v1"))
    {
        let finding = Finding::error(CRI, "containerd runs without its CRI plugin (disabled_plugins)");
        return vec![finding.hint(edit("disabled_plugins = []"))];
    }
    let mut found = Vec::new();
    let mut lacks = |what: String, line: String| {
        found.push(Finding::error(CRI, format!("the running containerd needs {what}")).hint(edit(&line)));
    };
    if !value("cni", "bin_dirs").or(value("cni", "bin_dir")).is_none_or(|dirs| dirs.contains(CNI_BIN)) {
        lacks(format!("CNI plugins in {CNI_BIN} (cni.bin_dirs)"), format!("[{PLUGIN}.cni] bin_dirs = ['{CNI_BIN}']"));
    }
    if !value("cni", "conf_dir").is_none_or(|dir| dir.contains(CNI_CONF)) {
        lacks(
            format!("CNI configuration in {CNI_CONF} (cni.conf_dir)"),
            format!("[{PLUGIN}.cni] conf_dir = '{CNI_CONF}'"),
        );
    }
    let set = value("runtimes.runc.options", "SystemdCgroup").is_some_and(|v| v == "true");
    let systemd = fitted.systemd_cgroup;
    if set != systemd {
        lacks(
            format!("SystemdCgroup = {systemd}, as this machine's cgroups are"),
            format!("[{PLUGIN}.containerd.runtimes.runc.options] SystemdCgroup = {systemd}"),
        );
    }
    if fitted.restrict_oom_score_adj && value("cri.v1.runtime", "restrict_oom_score_adj") != Some("true") {
        lacks(
            "restrict_oom_score_adj = true: this machine lacks CAP_SYS_RESOURCE, without which no pod starts"
                .to_owned(),
            format!("[{PLUGIN}] restrict_oom_score_adj = true"),
        );
    }
    found
}

/// The image of every pod's sandbox.
fn sandbox(config: &str) -> Option<String> {
    let all = entries(config);
    let is = |s: &str, n: &str| {
        (s.ends_with("pinned_images") && n == "sandbox") || (s.ends_with("cri") && n == "sandbox_image")
    };
    let (_, _, value) = all.iter().find(|(section, name, _)| is(section, name))?;
    Some(value.trim_matches(['\'', '"']).to_owned()).filter(|name| !name.is_empty())
}

/// Section, name and value of every line of a TOML file as `containerd config dump` writes it: one entry a line.
fn entries(config: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in config.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.replace(['\'', '"'], "");
        } else if let Some((name, value)) = line.split_once(" = ") {
            found.push((section.clone(), name.to_owned(), value.to_owned()));
        }
    }
    found
}

/// Where AppArmor is on, our containerd confines containers by its profile, which another program loads.
fn apparmor(look: &Look<'_>) -> anyhow::Result<Option<Finding>> {
    const PARSER: &str = "apparmor_parser";
    if !look.facts.apparmor || host::in_path(look, PARSER)? {
        return Ok(None);
    }
    let message = "AppArmor is on, and without apparmor_parser containers run without its profile";
    Ok(Some(Finding::warning(format!("FileExisting-{PARSER}"), message).hint(host::install(look, "apparmor"))))
}

/// A pod's hostPort is made by the portmap plugin, which calls `nft` or `iptables` of the machine.
fn hostport(look: &Look<'_>) -> anyhow::Result<Option<Finding>> {
    let bundled = look.bundle.is_some_and(|b| b.files.iter().any(|f| f.path.ends_with("/nft")));
    if bundled && look.facts.nftables {
        return Ok(None);
    }
    for tool in ["nft", "iptables"] {
        if host::in_path(look, tool)? {
            return Ok(None);
        }
    }
    Ok(Some(
        Finding::warning("FileExisting-nft", "without nft or iptables on the machine no pod can have a hostPort")
            .hint(host::install(look, "nftables")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "version = 3\ndisabled_plugins = []\n\n[plugins]\n  [plugins.'io.containerd.cri.v1.runtime']\n    \
        [plugins.'io.containerd.cri.v1.runtime'.cni]\n      bin_dirs = ['/opt/cni/bin']\n      conf_dir = '/etc/cni/net.d'\n    \
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n      SystemdCgroup = true\n";

    const USUAL: Containerd =
        Containerd { systemd_cgroup: true, restrict_oom_score_adj: false, disable_apparmor: false };

    fn messages(config: &str, fitted: Containerd) -> Vec<String> {
        settings(config, fitted).into_iter().map(|f| f.message).collect()
    }

    #[test]
    fn each_missing_setting_is_named() {
        assert!(messages(GOOD, USUAL).is_empty());
        let cases = [
            ("disabled_plugins = []", "disabled_plugins = ['io.containerd.grpc.v1.cri']", "without its CRI plugin"),
            ("/opt/cni/bin", "/usr/lib/cni", "cni.bin_dirs"),
            ("'/etc/cni/net.d'", "'/etc/cni'", "cni.conf_dir"),
            ("SystemdCgroup = true", "SystemdCgroup = false", "SystemdCgroup = true"),
        ];
        for (from, to, told) in cases {
            let found = messages(&GOOD.replace(from, to), USUAL);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(told), "{found:?}");
        }
        let v1 = Containerd { systemd_cgroup: false, ..USUAL };
        assert_eq!(messages(GOOD, v1).len(), 1, "cgroup v1 wants the other driver");
        let poor = Containerd { restrict_oom_score_adj: true, ..USUAL };
        assert!(messages(GOOD, poor)[0].contains("CAP_SYS_RESOURCE"));
        let set = GOOD.replace(
            "    [plugins.'io.containerd.cri.v1.runtime'.cni]",
            "    restrict_oom_score_adj = true\n    [x.cni]",
        );
        assert!(messages(&set, poor).is_empty());
    }

    #[test]
    fn the_sandbox_image_is_read() {
        let dump =
            "[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = 'registry.k8s.io/pause:3.10.1'\n";
        assert_eq!(sandbox(dump).as_deref(), Some("registry.k8s.io/pause:3.10.1"));
        assert_eq!(sandbox(GOOD), None);
    }

    #[test]
    fn versions() {
        let runtime = |version: &str| Runtime {
            name: "containerd".to_owned(),
            version: version.to_owned(),
            socket: "unix:///run/containerd/containerd.sock".to_owned(),
        };
        assert_eq!(old(&runtime("2.0.0")), None);
        assert!(old(&runtime("1.7.27")).is_some());
        assert!(old(&runtime("")).is_some());
    }
}

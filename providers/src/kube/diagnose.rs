//! Why a component does not come up: its own last lines, the kubelet's last error, and what usually causes them.

use crate::Machine;
use crate::machine::Command;

/// Lines shown of a log.
const LINES: usize = 20;

/// Who is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// `kube-apiserver`, `kubelet`.
    pub name: String,
    /// Runs as a systemd unit and not as a static pod.
    pub unit: bool,
}

impl Component {
    /// A static pod of kube-system.
    pub fn pod(name: &str) -> Self {
        Self { name: name.to_owned(), unit: false }
    }

    /// A systemd unit of this name, without suffix.
    pub fn unit(name: &str) -> Self {
        Self { name: name.to_owned(), unit: true }
    }
}

/// What can be found out; never fails, because it is said together with an error.
pub async fn diagnose(machine: &dyn Machine, component: &Component) -> String {
    let mut report = String::new();
    let kubelet = journal(machine, "kubelet").await;
    let own = if component.unit { journal(machine, &component.name).await } else { pod_log(machine, &component.name) };
    if own.is_empty() {
        let nothing = if component.unit { "its journal is empty" } else { "its container never wrote a log" };
        report.push_str(&format!("{}: {nothing}\n", component.name));
    } else {
        report.push_str(&format!("last lines of {}:\n", component.name));
        own.iter().for_each(|line| report.push_str(&format!("  {line}\n")));
    }
    let last_error = kubelet.iter().rev().find(|line| is_error(line));
    if component.name != "kubelet"
        && let Some(line) = last_error
    {
        report.push_str(&format!("the kubelet's last error:\n  {line}\n"));
    }
    let all = own.iter().chain(last_error).map(String::as_str).collect::<Vec<_>>().join("\n");
    report.push_str(&format!("likely cause: {}", cause(&all, component)));
    report
}

fn is_error(line: &str) -> bool {
    // klog: `E1121 10:14:50.123456 …`; the kubelet's refusal to start is a plain line.
    let mut chars = line.chars();
    (chars.next() == Some('E') && chars.next().is_some_and(|c| c.is_ascii_digit()))
        || line.contains("err=")
        || line.contains("command failed")
}

/// The last lines of a unit's journal; none where there is no journal.
async fn journal(machine: &dyn Machine, unit: &str) -> Vec<String> {
    let mut command = Command::new("journalctl", ["-u", unit, "-n", "60", "--no-pager", "-o", "cat", "-q"]);
    command.timeout = Some(std::time::Duration::from_secs(5));
    match machine.run(command).await {
        Ok(exit) => last_lines(&exit.text(), |line| Some(line.to_owned())),
        Err(_) => Vec::new(),
    }
}

/// The last lines of the newest container log of a static pod below /var/log/pods.
fn pod_log(machine: &dyn Machine, component: &str) -> Vec<String> {
    let root = "/var/log/pods";
    let prefix = format!("kube-system_{component}-");
    let dirs = machine.list(root).ok().flatten().unwrap_or_default();
    // A newer pod of the same name has another UID; the highest restart number of the fullest directory is the newest.
    let logs = dirs.iter().filter(|dir| dir.starts_with(&prefix)).flat_map(|dir| {
        let dir = format!("{root}/{dir}/{component}");
        let files = machine.list(&dir).ok().flatten().unwrap_or_default();
        files.into_iter().filter_map(move |file| {
            let number: u32 = file.strip_suffix(".log")?.parse().ok()?;
            Some((number, format!("{dir}/{file}")))
        })
    });
    let Some((_, path)) = logs.max() else { return Vec::new() };
    let bytes = machine.read(&path).ok().flatten().unwrap_or_default();
    last_lines(&String::from_utf8_lossy(&bytes), |line| {
        // CRI format: `TIME STREAM TAG text`.
        line.splitn(4, ' ').nth(3).map(str::to_owned)
    })
}

fn last_lines(text: &str, line: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let lines: Vec<String> = text.lines().filter_map(line).filter(|l| !l.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().to_vec()
}

/// Patterns in logs (all must be there) and what they mean.
const CAUSES: &[(&[&str], &str)] = &[
    (&["no space left on device"], "the disk is full: df -h"),
    (&["address already in use"], "another process has the port: ss -ltnp"),
    (&["failCgroupV1"], "this host has cgroup v1: set failCgroupV1: false in KubeletConfiguration"),
    (&["cgroup driver"], "kubelet and containerd use different cgroup drivers"),
    (&["failed to run Kubelet", "swap"], "swap is on: swapoff -a, or failSwapOn: false in KubeletConfiguration"),
    (&["misconfiguration", "cgroup"], "kubelet and containerd use different cgroup drivers"),
    (&["unknown flag"], "an extra argument that this version does not know"),
    (&["invalid argument"], "an extra argument with a value that this version refuses"),
    (&["strict decoding error"], "a field in the component's configuration that this version does not know"),
    (&["ImagePullBackOff"], "an image is not on this machine: crictl images"),
    (&["ErrImagePull"], "an image is not on this machine: crictl images"),
    (
        &["can't get final child's PID"],
        "runc may not set the OOM score: restrict_oom_score_adj = true in containerd's CRI configuration",
    ),
    (&["connection error", "2379"], "etcd does not answer: see its log with crictl logs"),
    (&["x509: certificate has expired or is not yet valid"], "a certificate is expired, or the clock is wrong: date"),
    (&["x509: certificate signed by unknown authority"], "files of an older cluster are in /etc/kubernetes/pki"),
    (&["member", "has already been bootstrapped"], "/var/lib/etcd holds data of an older cluster"),
    (&["permission denied"], "a file that the component may not read: ls -l /etc/kubernetes/pki"),
    (&["no such file or directory"], "a file that the component needs is not there"),
    (&["containerd.sock"], "containerd does not answer: systemctl status containerd"),
];

fn cause(text: &str, component: &Component) -> String {
    let lower = text.to_lowercase();
    let hit = CAUSES.iter().find(|(all, _)| all.iter().all(|part| lower.contains(&part.to_lowercase())));
    match hit {
        Some((_, cause)) => (*cause).to_owned(),
        None if component.unit => format!("not known; see journalctl -u {}", component.name),
        None => format!("not known; see crictl ps -a --name {} and journalctl -u kubelet", component.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_in_logs() {
        let pod = Component::pod("kube-apiserver");
        assert!(
            cause("W1 grpc: addrConn connection error: dial tcp 127.0.0.1:2379: refused", &pod).starts_with("etcd")
        );
        assert!(cause("listen tcp :6443: bind: address already in use", &pod).contains("ss -ltnp"));
        assert!(cause("", &pod).contains("crictl ps -a --name kube-apiserver"));
    }

    #[test]
    fn only_the_last_lines_are_shown_without_the_runtime_s_prefix() {
        let text: String = (0..30).map(|i| format!("2026-01-01T00:00:00Z stderr F line {i}\n")).collect();
        let lines = last_lines(&text, |line| line.splitn(4, ' ').nth(3).map(str::to_owned));
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 29"));
    }

    #[test]
    fn klog_errors_are_errors() {
        assert!(is_error("E1121 10:00:00.1 1 kubelet.go:1] boom"));
        assert!(!is_error("Ended"));
        assert!(!is_error("I1121 10:00:00.1 1 kubelet.go:1] fine"));
    }
}

//! Why a component does not come up: its own last lines, the kubelet's last error, and what usually causes them.

use crate::Machine;
use crate::machine::Command;

/// Lines shown of a log.
const LINES: usize = 20;

/// Where the kubelet keeps the logs of containers.
const LOGS: &str = "/var/log/pods";

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
    let own = match (component.unit, component.name.as_str()) {
        (true, "kubelet") => last(kubelet.clone()),
        (true, unit) => last(journal(machine, unit).await),
        (false, pod) => pod_log(machine, pod),
    };
    if own.is_empty() {
        let nothing = if component.unit { "its journal is empty" } else { "its container never wrote a log" };
        report.push_str(&format!("{}: {nothing}\n", component.name));
    } else {
        report.push_str(&format!("last lines of {}:\n", component.name));
        own.iter().for_each(|line| report.push_str(&format!("  {line}\n")));
    }
    // Of its many complaints while there is no API, the one about this component says most.
    let errors = || kubelet.iter().rev().filter(|line| is_error(line));
    let last_error = errors().find(|line| line.contains(&component.name)).or_else(|| errors().next());
    if component.name != "kubelet"
        && let Some(line) = last_error
    {
        report.push_str(&format!("the kubelet's last error:\n  {line}\n"));
    }
    // What it said last is what it died of; what it complained of before it may have got over.
    let all = own.iter().rev().chain(last_error).map(String::as_str);
    report.push_str(&format!("likely cause: {}", cause(all, component)));
    report
}

fn is_error(line: &str) -> bool {
    // klog: `E1121 10:14:50.123456 …`; the kubelet's refusal to start is a plain line.
    let mut chars = line.chars();
    (chars.next() == Some('E') && chars.next().is_some_and(|c| c.is_ascii_digit()))
        || line.contains("err=")
        || line.contains("command failed")
}

/// The last lines of a unit's journal, more than are shown: an error may be some way back. None where there is no journal.
async fn journal(machine: &dyn Machine, unit: &str) -> Vec<String> {
    let mut command = Command::new("journalctl", ["-u", unit, "-n", "300", "--no-pager", "-o", "cat", "-q"]);
    command.timeout = Some(std::time::Duration::from_secs(5));
    match machine.run(command).await {
        Ok(exit) => lines(&exit.text(), Some),
        Err(_) => Vec::new(),
    }
}

/// The last lines of the newest container log of a static pod below /var/log/pods.
fn pod_log(machine: &dyn Machine, component: &str) -> Vec<String> {
    let Some(log) = newest_log(machine, component) else { return Vec::new() };
    // CRI format: `TIME STREAM TAG text`.
    last(lines(&log.text, |line| line.splitn(4, ' ').nth(3)))
}

/// True where a static pod's container has ended again and again: the kubelet waits longer and longer before it tries it
/// once more.
pub(crate) fn crash_loops(machine: &dyn Machine, component: &str) -> bool {
    newest_log(machine, component).is_some_and(|log| log.restarts >= 2)
}

/// True where a static pod's container was started again and its last log tells of a panic or a fatal error, or could not
/// be written at all: the disk may have been too full for a line of it.
pub fn has_panicked(machine: &dyn Machine, component: &str) -> bool {
    let number = |file: &String| file.strip_suffix(".log")?.parse::<u32>().ok();
    let newest = |dir: String| {
        let files = machine.list(&dir).ok().flatten().unwrap_or_default();
        let last = files.iter().filter_map(number).max().filter(|restarts| *restarts >= 1)?;
        machine.read(&format!("{dir}/{last}.log")).ok().flatten()
    };
    log_dirs(machine, component).filter_map(newest).any(|text| {
        let text = String::from_utf8_lossy(&text);
        let words = ["panic:", "\"level\":\"panic\"", "\"level\":\"fatal\""];
        text.is_empty() || words.iter().any(|word| text.contains(word))
    })
}

/// Where the kubelet keeps the logs of a static pod's container, one directory for each pod of this name that there was.
fn log_dirs(machine: &dyn Machine, component: &str) -> impl Iterator<Item = String> {
    let prefix = format!("kube-system_{component}-");
    let dirs = machine.list(LOGS).ok().flatten().unwrap_or_default();
    dirs.into_iter().filter(move |dir| dir.starts_with(&prefix)).map({
        let component = component.to_owned();
        move |dir| format!("{LOGS}/{dir}/{component}")
    })
}

/// A container's log; ordered by when it was last written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Log {
    time: String,
    restarts: u32,
    text: String,
}

fn newest_log(machine: &dyn Machine, component: &str) -> Option<Log> {
    // A newer pod of the same name has another UID, and begins to count its restarts anew: the newest log is the one
    // whose last line is.
    let logs = log_dirs(machine, component).flat_map(|dir| {
        let files = machine.list(&dir).ok().flatten().unwrap_or_default();
        files.into_iter().filter_map(move |file| {
            let restarts = file.strip_suffix(".log")?.parse().ok()?;
            let bytes = machine.read(&format!("{dir}/{file}")).ok().flatten()?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let time = text.lines().last()?.split(' ').next()?.to_owned();
            Some(Log { time, restarts, text })
        })
    });
    logs.max()
}

fn lines<'a>(text: &'a str, line: impl Fn(&'a str) -> Option<&'a str>) -> Vec<String> {
    text.lines().filter_map(line).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// Those that are shown.
fn last(mut lines: Vec<String>) -> Vec<String> {
    lines.split_off(lines.len().saturating_sub(LINES))
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
    (
        &["no such file or directory"],
        "a file that the component needs is not there, at least not for it: see its mounts",
    ),
    (&["containerd.sock"], "containerd does not answer: systemctl status containerd"),
];

/// What usually causes the first line, of those that tell most first, whose pattern is known.
pub fn likely_cause<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    lines.find_map(|line| {
        let lower = line.to_lowercase();
        let known = CAUSES.iter().find(|(all, _)| all.iter().all(|part| lower.contains(&part.to_lowercase())));
        known.map(|(_, cause)| *cause)
    })
}

fn cause<'a>(lines: impl Iterator<Item = &'a str>, component: &Component) -> String {
    match likely_cause(lines) {
        Some(cause) => cause.to_owned(),
        None if component.unit => format!("not known; see journalctl -u {}", component.name),
        None => format!("not known; see crictl ps -a --name {} and journalctl -u kubelet", component.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Exit;
    use crate::machine::fake::FakeMachine;

    #[test]
    fn causes_are_found_in_logs() {
        let pod = Component::pod("kube-apiserver");
        let etcd = "W1 grpc: addrConn connection error: dial tcp 127.0.0.1:2379: refused";
        let cause = |lines: &[&str]| cause(lines.iter().copied(), &pod);
        assert!(cause(&[etcd]).starts_with("etcd"));
        assert!(cause(&["listen tcp :6443: bind: address already in use"]).contains("ss -ltnp"));
        assert!(cause(&[]).contains("crictl ps -a --name kube-apiserver"));
        let fatal = "E1 command failed: loading audit policy file: open /etc/x.yaml: no such file or directory";
        assert!(cause(&["bye", fatal, etcd]).starts_with("a file that"), "the last word counts");
    }

    #[test]
    fn only_the_last_lines_are_shown_without_the_runtime_s_prefix() {
        let text: String = (0..30).map(|i| format!("2026-01-01T00:00:00Z stderr F line {i}\n")).collect();
        let lines = last(lines(&text, |line| line.splitn(4, ' ').nth(3)));
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 29"));
    }

    #[tokio::test]
    async fn the_newest_pod_is_shown_and_the_kubelet_s_error_is_found_far_back() {
        let machine = FakeMachine::new();
        let log = |uid: &str, file: &str, time: &str, text: &str| {
            let dir = format!("/var/log/pods/kube-system_etcd-cp-1_{uid}/etcd");
            machine.put(&format!("{dir}/{file}"), format!("2026-01-01T{time}Z stderr F {text}\n"));
        };
        log("old", "7.log", "10:00:00", "of the pod before");
        log("new", "0.log", "10:05:00", "unknown flag: --nonsense");
        machine.on("journalctl", |_, _| {
            let text = "E0101 10:05:01.0 1 pod_workers.go:1] crash\n".to_owned() + &"I0101 fine\n".repeat(60);
            Ok(Exit { stdout: text.into_bytes(), ..Exit::default() })
        });
        let report = diagnose(&machine, &Component::pod("etcd")).await;
        assert!(report.contains("unknown flag: --nonsense") && !report.contains("of the pod before"), "{report}");
        assert!(report.contains("the kubelet's last error:\n  E0101"), "{report}");
        assert!(report.contains("likely cause: an extra argument that this version does not know"), "{report}");
    }

    #[test]
    fn klog_errors_are_errors() {
        assert!(is_error("E1121 10:00:00.1 1 kubelet.go:1] boom"));
        assert!(!is_error("Ended"));
        assert!(!is_error("I1121 10:00:00.1 1 kubelet.go:1] fine"));
    }
}

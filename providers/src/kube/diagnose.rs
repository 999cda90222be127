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
    let all = || own.iter().rev().chain(last_error).map(String::as_str);
    // An API server that does not find its etcd has nothing to tell; the etcd of this machine may have.
    let etcd = if likely_cause(all()) == Some(NO_ETCD) { pod_log(machine, "etcd") } else { Vec::new() };
    if !etcd.is_empty() {
        report.push_str("last lines of etcd:\n");
        etcd.iter().for_each(|line| report.push_str(&format!("  {line}\n")));
    }
    let of_etcd = likely_cause(etcd.iter().rev().map(String::as_str)).map(str::to_owned);
    report.push_str(&format!("likely cause: {}", of_etcd.unwrap_or_else(|| cause(all(), component))));
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

/// How a static pod's container ended, as its last two logs tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing tells of a panic.
    Otherwise,
    /// In a panic; the kubelet has started it again since or is about to, and it may panic once more.
    BeforeThis,
    /// Its log is empty: it has just been started, or the disk was too full for a line of it.
    Silently,
    /// In a panic or a fatal error.
    InPanic,
    /// Not at all: it is an etcd that runs with an empty log, of a cluster without members. Nobody leads it, ever.
    Leaderless,
}

/// The ending of the newest pod of this name that there was.
pub fn ended(machine: &dyn Machine, component: &str) -> Ended {
    let number = |file: &String| file.strip_suffix(".log")?.parse::<u32>().ok();
    // A directory without a line in it has no time: it is the newest one's.
    let time = |dir: &String| newest_of(machine, dir).map_or_else(|| "later".to_owned(), |log| log.time);
    let Some(dir) = log_dirs(machine, component).max_by_key(time) else { return Ended::Otherwise };
    let files = machine.list(&dir).ok().flatten().unwrap_or_default();
    let Some(last) = files.iter().filter_map(number).max() else { return Ended::Otherwise };
    let read = |log: u32| {
        let text = machine.read(&format!("{dir}/{log}.log")).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    // The last is the Go runtime's: half a database ends beyond what is mapped of it.
    const PANICS: [&str; 4] = ["panic:", "\"level\":\"panic\"", "\"level\":\"fatal\"", "fatal error: "];
    let panics = |text: &str| PANICS.iter().any(|words| text.contains(words));
    // A log with a member in it begins at term 1. Its handlers of requests panic too, and it runs on.
    let leaderless = |text: &str| text.contains("no leader at term 0");
    match (read(last), last.checked_sub(1).map(read)) {
        (text, _) if leaderless(&text) => Ended::Leaderless,
        (text, None) if panics(&text) => Ended::BeforeThis,
        (_, None) => Ended::Otherwise,
        (text, _) if text.is_empty() => Ended::Silently,
        (text, _) if panics(&text) => Ended::InPanic,
        (_, Some(before)) if before.is_empty() || panics(&before) || leaderless(&before) => Ended::BeforeThis,
        _ => Ended::Otherwise,
    }
}

/// Where the kubelet keeps the logs of a static pod's container, one directory for each pod of this name that there was.
pub(super) fn log_dirs(machine: &dyn Machine, component: &str) -> impl Iterator<Item = String> {
    let prefix = format!("kube-system_{component}-");
    let dirs = machine.list(LOGS).ok().flatten().unwrap_or_default();
    dirs.into_iter().filter(move |dir| dir.starts_with(&prefix)).map({
        let component = component.to_owned();
        move |dir| format!("{LOGS}/{dir}/{component}")
    })
}

/// A container's log; ordered by when it was last written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Log {
    time: String,
    pub(super) restarts: u32,
    text: String,
}

fn newest_log(machine: &dyn Machine, component: &str) -> Option<Log> {
    // A newer pod of the same name has another UID, and begins to count its restarts anew: the newest log is the one
    // whose last line is.
    log_dirs(machine, component).filter_map(|dir| newest_of(machine, &dir)).max()
}

/// The newest log of one pod's container, of those with a line.
pub(super) fn newest_of(machine: &dyn Machine, dir: &str) -> Option<Log> {
    let files = machine.list(dir).ok().flatten().unwrap_or_default();
    let logs = files.into_iter().filter_map(|file| {
        let restarts = file.strip_suffix(".log")?.parse().ok()?;
        let bytes = machine.read(&format!("{dir}/{file}")).ok().flatten()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let time = text.lines().last()?.split(' ').next()?.to_owned();
        Some(Log { time, restarts, text })
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

const NO_ETCD: &str = "etcd does not answer: see its log with crictl logs";

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
    (&["connection error", "2379"], NO_ETCD),
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

    #[tokio::test]
    async fn an_api_server_without_etcd_shows_etcd_s_own_last_lines() {
        let machine = FakeMachine::new();
        let log = |name: &str, text: &str| {
            let file = format!("/var/log/pods/kube-system_{name}-cp-1_u/{name}/0.log");
            machine.put(&file, format!("2026-01-01T00:00:00Z stderr F {text}\n"));
        };
        log("kube-apiserver", "W1 grpc: connection error: dial tcp 127.0.0.1:2379: refused");
        log("etcd", "panic: write /var/lib/etcd/x: no space left on device");
        machine.on("journalctl", |_, _| Ok(Exit::default()));
        let report = diagnose(&machine, &Component::pod("kube-apiserver")).await;
        assert!(report.contains("last lines of etcd:\n  panic:"), "{report}");
        assert!(report.ends_with("likely cause: the disk is full: df -h"), "{report}");
    }

    #[test]
    fn an_etcd_that_runs_again_after_a_panic_has_not_ended_well_yet() {
        let (panic, runs) = ("stderr F panic: failed to find local ID", "stderr F starting an etcd server");
        let alone = "stderr F 8e9e05c5 no leader at term 0; dropping index reading msg";
        let cases = [
            (vec![runs], Ended::Otherwise),
            (vec![""], Ended::Otherwise),
            (vec![panic], Ended::BeforeThis),
            (vec![runs, panic], Ended::InPanic),
            (vec![runs, "stderr F fatal error: fault"], Ended::InPanic),
            (vec![panic, ""], Ended::Silently),
            (vec!["", ""], Ended::Silently),
            (vec!["", runs], Ended::BeforeThis),
            (vec![panic, runs], Ended::BeforeThis),
            (vec![panic, runs, runs], Ended::Otherwise),
            (vec![alone], Ended::Leaderless),
            (vec![panic, alone], Ended::Leaderless),
            (vec![runs, "stderr F no leader at term 0\nstderr F http: panic serving 127.0.0.1"], Ended::Leaderless),
            (vec![panic, alone, runs], Ended::BeforeThis),
        ];
        for (logs, wanted) in cases {
            let machine = FakeMachine::new();
            for (n, text) in logs.iter().enumerate() {
                machine.put(&format!("/var/log/pods/kube-system_etcd-cp-1_u/etcd/{n}.log"), *text);
            }
            assert_eq!(ended(&machine, "etcd"), wanted, "{logs:?}");
        }
        // What a pod before it, of another manifest, has left is no longer so.
        let machine = FakeMachine::new();
        for (uid, log, text) in [("old", 5, "10:00:00Z stderr F panic: x"), ("new", 1, "10:05:00Z stderr F starting")] {
            let file = format!("/var/log/pods/kube-system_etcd-cp-1_{uid}/etcd/{log}.log");
            machine.put(&file, format!("2026-01-01T{text}\n"));
        }
        machine.put("/var/log/pods/kube-system_etcd-cp-1_new/etcd/0.log", "2026-01-01T10:04:00Z stderr F starting\n");
        assert_eq!(ended(&machine, "etcd"), Ended::Otherwise);
    }

    #[test]
    fn klog_errors_are_errors() {
        assert!(is_error("E1121 10:00:00.1 1 kubelet.go:1] boom"));
        assert!(!is_error("Ended"));
        assert!(!is_error("I1121 10:00:00.1 1 kubelet.go:1] fine"));
    }
}

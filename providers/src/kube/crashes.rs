//! Whether the kubelet lets a static pod wait because it has ended again and again.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::diagnose::{log_dirs, newest_of};
use crate::Machine;

/// The kubelet's unit.
pub(super) const KUBELET: &str = "kubelet.service";

/// True where the kubelet that runs has seen a static pod's container end, and not for the first time: it waits longer
/// and longer before it tries it once more. Logs of a time before it, of other clusters or before a boot, say nothing of
/// it. Where it is not known since when it runs: true.
///
/// # Errors
/// When systemd cannot be asked.
pub(super) async fn lets_wait(machine: &dyn Machine, component: &str) -> anyhow::Result<bool> {
    let logs = log_dirs(machine, component).filter_map(|dir| Some((newest_of(machine, &dir)?, dir)));
    let Some((last, dir)) = logs.max() else { return Ok(false) };
    if last.restarts < 2 {
        return Ok(false);
    }
    let before = text(machine, &format!("{dir}/{}.log", last.restarts - 1));
    let began = before.and_then(|text| OffsetDateTime::parse(text.split(' ').next()?, &Rfc3339).ok());
    let since = began.and(since(machine, machine.unit(KUBELET).await?.main_pid));
    Ok(began.zip(since).is_none_or(|(began, since)| began > since))
}

fn text(machine: &dyn Machine, path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&machine.read(path).ok()??).into_owned())
}

/// When a process was started, to the second (proc_pid_stat(5)).
fn since(machine: &dyn Machine, pid: u32) -> Option<OffsetDateTime> {
    // The 22nd field, in hundredths of a second since the boot; the second is a name that may have anything in it.
    let stat = text(machine, &format!("/proc/{pid}/stat"))?;
    let ticks: i64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let all = text(machine, "/proc/stat")?;
    let boot: i64 = all.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    OffsetDateTime::from_unix_timestamp(boot + ticks / 100).ok()
}

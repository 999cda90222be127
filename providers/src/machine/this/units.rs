//! systemd's units, through systemctl.

use std::time::Duration;

use anyhow::bail;

use super::{files, process};
use crate::machine::{Command, Exit, UnitState, UnitVerb};

/// systemd's own limit for a job is 90 s.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn state(name: &str) -> anyhow::Result<UnitState> {
    let show = ["show", "--property=LoadState,ActiveState,MainPID,NeedDaemonReload,Job", "--", name];
    // What `show` says of it is what was so when systemd last read its units.
    let enabled = ["is-enabled", "--", name];
    let (exit, enabled) = tokio::try_join!(systemctl(&show), systemctl(&enabled))?;
    if !exit.success() {
        bail!("systemctl show: {}, {name}", said(&exit));
    }
    let mut state = UnitState { enabled: enabled.text().trim().to_owned(), ..UnitState::default() };
    let mut queued = false;
    for line in exit.text().lines() {
        match line.split_once('=') {
            Some(("LoadState", value)) => value.clone_into(&mut state.load),
            Some(("ActiveState", value)) => value.clone_into(&mut state.active),
            Some(("NeedDaemonReload", value)) => state.outdated = value == "yes",
            Some(("Job", value)) => queued = !matches!(value, "" | "0"),
            Some(("MainPID", value)) => state.main_pid = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    // Its start waits for that of another unit, as after a boot: it is as good as on its way.
    if queued && matches!(state.active.as_str(), "inactive" | "failed") {
        "activating".clone_into(&mut state.active);
    }
    // Newer releases of systemd say so of a unit that is not there.
    if state.enabled == "not-found" {
        state.enabled.clear();
    }
    Ok(state)
}

pub(super) async fn act(name: &str, verb: UnitVerb) -> anyhow::Result<()> {
    let word = match verb {
        UnitVerb::Start => "start",
        UnitVerb::Stop => "stop",
        UnitVerb::Restart => "restart",
        UnitVerb::Enable => "enable",
        UnitVerb::Disable => "disable",
        UnitVerb::ResetFailed => "reset-failed",
    };
    let mut args = vec![word, "--quiet"];
    if verb == UnitVerb::Enable {
        // It says what is started at boot: nothing that a running systemd has to read all its units for, a tenth of a second.
        args.push("--no-reload");
    }
    args.extend(["--", name]);
    let exit = systemctl(&args).await?;
    if !exit.success() {
        bail!("systemctl {word}: {}, {name}", said(&exit));
    }
    if verb == UnitVerb::Enable {
        // systemctl does not sync it: after a power cut the node would not start at boot. Our units are wanted there.
        files::sync(&format!("/etc/systemd/system/multi-user.target.wants/{name}"))?;
    }
    Ok(())
}

pub(super) async fn reload() -> anyhow::Result<()> {
    let exit = systemctl(&["daemon-reload"]).await?;
    if !exit.success() {
        bail!("systemctl daemon-reload: {}", said(&exit));
    }
    Ok(())
}

async fn systemctl(args: &[&str]) -> anyhow::Result<Exit> {
    let mut command = Command::new("systemctl", args.iter().copied());
    command.env = vec![("LC_ALL".to_owned(), "C".to_owned()), ("SYSTEMD_PAGER".to_owned(), String::new())];
    command.timeout = Some(LIMIT);
    process::run(command).await
}

/// The last thing that systemctl said, in a line.
fn said(exit: &Exit) -> String {
    let text = String::from_utf8_lossy(&exit.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { format!("exit code {}", exit.code) } else { lines.join("; ") }
}

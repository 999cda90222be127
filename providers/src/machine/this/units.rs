//! systemd's units, through systemctl.

use std::time::Duration;

use anyhow::bail;

use super::process;
use crate::machine::{Command, Exit, UnitState, UnitVerb};

/// systemd's own limit for a job is 90 s.
const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn state(name: &str) -> anyhow::Result<UnitState> {
    let show = ["show", "--property=LoadState,ActiveState,UnitFileState,MainPID", "--", name];
    let exit = systemctl(&show).await?;
    if !exit.success() {
        bail!("systemctl show: {}, {name}", said(&exit));
    }
    let mut state = UnitState::default();
    for line in exit.text().lines() {
        match line.split_once('=') {
            Some(("LoadState", value)) => value.clone_into(&mut state.load),
            Some(("ActiveState", value)) => value.clone_into(&mut state.active),
            Some(("UnitFileState", value)) => value.clone_into(&mut state.enabled),
            Some(("MainPID", value)) => state.main_pid = value.parse().unwrap_or(0),
            _ => {}
        }
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
    let exit = systemctl(&[word, "--quiet", "--", name]).await?;
    if !exit.success() {
        bail!("systemctl {word}: {}, {name}", said(&exit));
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

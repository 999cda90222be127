//! Programs that trials need, and kprov itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::LeftOut;

/// A program of PATH or of root's.
pub fn program(name: &str) -> Result<PathBuf, LeftOut> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    places
        .find_map(|dir| Some(dir.join(name)).filter(|file| file.is_file()))
        .ok_or_else(|| LeftOut(format!("there is no {name} (scripts/test brings it)")))
}

/// kprov as cargo built it.
pub fn kprov() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kprov"))
}

/// Runs a command, feeding it `input`.
pub fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that does not read it says why by itself.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a command said, which must have ended well.
pub fn good(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// What a command complained of, which must have ended with this code.
pub fn refused(output: Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}{text}", String::from_utf8_lossy(&output.stdout));
    text
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// True where this process may do what it likes.
pub fn root() -> Result<(), LeftOut> {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout.starts_with(b"0\n") { Ok(()) } else { Err(LeftOut("it needs root".into())) }
}

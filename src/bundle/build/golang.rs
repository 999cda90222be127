//! The Go tool chain: always the pinned one, whichever Go the host has.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run::{Run, output};
use super::{BuildError, Result, Shop};

/// The Go release that builds every part; also the `toolchain` line of every module.
pub(crate) const PINNED: &str = "1.26.8";

/// How to call the pinned Go.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    program: PathBuf,
    /// `GOTOOLCHAIN`: `local` when the program is the pinned release itself.
    select: String,
}

/// The host's Go: the one of PATH, else where Go's own archive is unpacked to, which root's PATH often lacks.
fn program() -> PathBuf {
    let known = Path::new("/usr/local/go/bin/go");
    if super::tools::find("go").is_none() && known.exists() { known.to_owned() } else { "go".into() }
}

/// The version of the host's Go, as major and minor, and whether it is the pinned release.
pub(crate) fn on_host() -> Option<(u32, u32, bool)> {
    let text = output(Command::new(program()).arg("version").env("GOTOOLCHAIN", "local").current_dir("/"))?;
    parse(&text)
}

fn parse(text: &str) -> Option<(u32, u32, bool)> {
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let minor: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((1, minor.parse().ok()?, format!("1.{version}") == PINNED))
}

/// Finds or fetches the pinned release.
///
/// # Errors
/// When the host's Go cannot fetch it.
pub(crate) fn prepare(shop: &Shop<'_>) -> Result<Toolchain> {
    let own = shop.cache.join(format!("go-{PINNED}"));
    let fetched = Toolchain { program: own.join("bin/go"), select: "local".into() };
    if fetched.program.exists() {
        return Ok(fetched);
    }
    match on_host() {
        Some((_, _, true)) => Ok(Toolchain { program: program(), select: "local".into() }),
        // Since 1.21 a Go fetches the release that it is told to be.
        Some((_, 21.., _)) => {
            let toolchain = Toolchain { program: program(), select: format!("go{PINNED}") };
            let log = shop.log("go");
            let mut command = Command::new(program());
            command.arg("version").env("GOTOOLCHAIN", &toolchain.select).current_dir("/");
            Run { running: shop.running, part: "go", what: "fetching", log: &log, input: None, progress: &|_| {} }
                .run(command)?;
            Ok(toolchain)
        }
        Some(_) => {
            fetch(shop, &own)?;
            Ok(fetched)
        }
        None => Err(BuildError::Tools { missing: vec!["go".into()], install: None }),
    }
}

/// An older Go cannot become another release, but it can fetch the module that holds one. As a module it has no
/// executable bits, and its own go.mod files are renamed.
fn fetch(shop: &Shop<'_>, to: &Path) -> Result<()> {
    shop.timed("go", &format!("fetching Go {PINNED}"), || {
        let part = shop.work.path().join("go");
        let modules = shop.work.path().join("go-modules");
        let log = shop.log("go");
        let empty = shop.work.path().join("empty");
        std::fs::create_dir_all(&empty).map_err(BuildError::file("creating a folder"))?;
        let host = super::root::native();
        let module = format!("golang.org/toolchain@v0.0.1-go{PINNED}.linux-{host}");
        let mut command = Command::new(program());
        command.args(["mod", "download", &module]).env("GOMODCACHE", &modules).env("GOFLAGS", "-modcacherw");
        command.env("GO111MODULE", "on").current_dir(&empty);
        Run { running: shop.running, part: "go", what: "fetching", log: &log, input: None, progress: &|_| {} }
            .run(command)?;
        let script = r#"set -eu
cp -R "$1" "$2"
chmod -R u+w "$2"
chmod +x "$2"/bin/* "$2"/pkg/tool/*/*
for dir in src src/cmd; do
	if [ -e "$2/$dir/_go.mod" ]; then mv "$2/$dir/_go.mod" "$2/$dir/go.mod"; fi
done
sync
mv "$2" "$3"
"#;
        let mut command = Command::new("/bin/sh");
        command.args(["-s", "--"]).arg(modules.join(&module)).arg(&part).arg(to);
        Run { running: shop.running, part: "go", what: "unpacking", log: &log, input: Some(script), progress: &|_| {} }
            .run(command)
    })
}

impl Toolchain {
    /// `go` for one target. What a user has set for other work must not change what is built.
    pub(crate) fn command(&self, arch: &str, cgo: bool) -> Command {
        let mut command = Command::new(&self.program);
        for (name, value) in self.environment(arch, cgo) {
            command.env(name, value);
        }
        for name in ["GOEXPERIMENT", "GOAMD64", "GOARM64", "GODEBUG", "CGO_CFLAGS", "CGO_LDFLAGS"] {
            command.env_remove(name);
        }
        command
    }

    /// The variables of [`command`](Self::command).
    pub(crate) fn environment(&self, arch: &str, cgo: bool) -> Vec<(&'static str, String)> {
        vec![
            ("GOTOOLCHAIN", self.select.clone()),
            ("GOOS", "linux".into()),
            ("GOARCH", arch.into()),
            ("CGO_ENABLED", if cgo { "1" } else { "0" }.into()),
            // Not empty: an empty value would fall back to what `go env -w` has stored.
            ("GOFLAGS", "-mod=readonly".into()),
            ("GOWORK", "off".into()),
            ("GO111MODULE", "on".into()),
        ]
    }

    /// One of Go's own settings, as a path.
    ///
    /// # Errors
    /// When Go does not answer.
    pub(crate) fn setting(&self, name: &str) -> Result<PathBuf> {
        let mut command = self.command(super::root::native(), false);
        command.args(["env", name]).current_dir("/");
        output(&mut command)
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
            .ok_or_else(|| BuildError::Lacks { part: "go".into(), what: format!("`go env {name}` says nothing") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("go version go1.26.8 linux/amd64"), Some((1, 26, true)));
        assert_eq!(parse("go version go1.19.8 linux/amd64"), Some((1, 19, false)));
        assert_eq!(parse("go version go1.27rc1 linux/arm64"), Some((1, 27, false)));
        assert_eq!(parse("gccgo"), None);
    }
}

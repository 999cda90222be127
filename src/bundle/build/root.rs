//! The build root: a debootstrapped Debian bookworm, so that C parts and Debian files never come from the host.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::golang::Toolchain;
use super::run::Run;
use super::{BuildError, Result, Shop, sources};

/// Debian's release that parts come from.
const SUITE: &str = "bookworm";

/// Where things of the host appear in the root.
pub(crate) const INSIDE: &str = "/kprov";

/// The host's architecture in Debian's and Go's word.
pub(crate) fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `x86_64-linux-gnu`.
pub(crate) fn triplet(arch: &str) -> &'static str {
    if arch == "arm64" { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" }
}

/// The compiler for a target: the root's own, or a cross compiler.
pub(crate) fn compiler(arch: &str) -> String {
    if arch == native() { "gcc".into() } else { format!("{}-gcc", triplet(arch)) }
}

fn packages(arch: &str) -> Vec<String> {
    let mut packages: Vec<String> = ["binutils", "ca-certificates", "pkgconf"].map(String::from).into();
    if arch == native() {
        packages.extend(["gcc", "libc6-dev", "libseccomp-dev"].map(String::from));
    } else {
        let gnu = triplet(arch).replace('_', "-");
        packages.push(format!("gcc-{gnu}"));
        packages.push(format!("libc6-dev-{arch}-cross"));
        packages.push(format!("libseccomp-dev:{arch}"));
    }
    packages
}

/// Where the root for the shop's target is or will be.
pub(crate) fn path(shop: &Shop<'_>) -> PathBuf {
    let recipe = format!("{SUITE}\n{}\n{}", packages(&shop.arch).join(" "), script("root.sh"));
    let hash = crate::bundle::manifest::sha256_hex(recipe.as_bytes());
    shop.cache.join(format!("buildroot-{SUITE}-{}-{}", shop.arch, hash.get(..12).unwrap_or_default()))
}

/// True when it has been made.
pub(crate) fn exists(shop: &Shop<'_>) -> bool {
    path(shop).is_dir()
}

fn script(name: &str) -> &'static str {
    sources::file(&format!("debian/{name}")).unwrap_or_default()
}

/// Makes the root, unless it is there.
///
/// # Errors
/// With the end of debootstrap's or apt's output.
pub(crate) fn make(shop: &Shop<'_>) -> Result<()> {
    let root = path(shop);
    if root.is_dir() {
        return Ok(());
    }
    let _lock = alone(shop)?;
    if root.is_dir() {
        return Ok(());
    }
    shop.timed("build-root", "making the Debian build root", || {
        let log = shop.log("build-root");
        let _ = std::fs::remove_file(&log);
        let new = shop.cache.join(format!(".buildroot-{}-new", shop.arch));
        if new.exists() {
            // Left by a run that was killed. Nothing is mounted in it: mounts live in namespaces of their own.
            std::fs::remove_dir_all(&new).map_err(BuildError::file(format!("removing {}", new.display())))?;
        }
        let progress = |_: usize| shop.say("build-root", "debootstrap is at work");
        let mut command = Command::new("debootstrap");
        command.arg("--variant=minbase").arg(SUITE).arg(&new);
        let run = |what, input, command| {
            Run { running: shop.running, part: "build-root", what, log: &log, input, progress: &progress }.run(command)
        };
        run("debootstrap", None, command)?;
        let mut command = chroot(&new);
        command.args(["/bin/sh", "-s", "--", native(), &shop.arch]).args(packages(&shop.arch));
        run("installing packages", Some(script("root.sh")), command)?;
        for dir in ["go", "mod", "cache", "work", "out"] {
            let dir = new.join(INSIDE.trim_start_matches('/')).join(dir);
            std::fs::create_dir_all(&dir).map_err(BuildError::file(format!("creating {}", dir.display())))?;
        }
        super::name(&new, &root).map_err(BuildError::file(format!("renaming {}", new.display())))
    })
}

/// Waits until no other build makes a root for the same target.
fn alone(shop: &Shop<'_>) -> Result<File> {
    let path = shop.cache.join(format!(".buildroot-{}-lock", shop.arch));
    let failed = || BuildError::file(format!("locking {}", path.display()));
    let lock = File::create(&path).map_err(failed())?;
    let mut pause = Duration::from_millis(50);
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if shop.running.ended() => return Err(BuildError::Interrupted),
            Err(TryLockError::WouldBlock) => {
                if pause == Duration::from_millis(50) {
                    shop.say("build-root", "another build makes the same build root; waiting for it");
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
    }
}

fn chroot(root: &Path) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).env_clear();
    clean(&mut command);
    command
}

fn clean(command: &mut Command) {
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.env("HOME", "/root").current_dir("/");
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// A shell script that runs in the root, with folders of the host bound into it. The mounts are seen by nobody else
/// and end with the script.
pub(crate) struct Inside<'a> {
    /// The part that it is for.
    pub(crate) part: &'a str,
    /// What it does, as a noun.
    pub(crate) what: &'a str,
    /// Folders of the host and their names below [`INSIDE`].
    pub(crate) binds: &'a [(&'a Path, &'a str)],
    /// Variables.
    pub(crate) env: &'a [(&'a str, String)],
    /// Positional arguments.
    pub(crate) args: &'a [&'a str],
    /// The script.
    pub(crate) script: &'a str,
}

impl Inside<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// With the end of its output.
    pub(crate) fn run(self, shop: &Shop<'_>, progress: &dyn Fn(usize)) -> Result<()> {
        let root = path(shop);
        let outer = r#"set -eu
root=$1
binds=$2
shift 2
mount -t proc proc "$root/proc"
while [ "$binds" -gt 0 ]; do
	mount --bind "$1" "$root/kprov/$2"
	binds=$((binds - 1))
	shift 2
done
exec chroot "$root" /bin/sh -c "$@"
"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", outer, "kprov"]);
        command.arg(&root).arg(self.binds.len().to_string());
        for (host, inside) in self.binds {
            command.arg(host).arg(inside);
        }
        command.arg(self.script).arg("kprov").args(self.args).env_clear();
        clean(&mut command);
        command.envs(self.env.iter().map(|(name, value)| (*name, value.as_str())));
        let log = shop.log(self.part);
        Run { running: shop.running, part: self.part, what: self.what, log: &log, input: None, progress }.run(command)
    }
}

/// Builds a Go program with C in the root, statically linked.
///
/// # Errors
/// With the end of the compiler's output.
pub(crate) fn build_cgo(
    shop: &Shop<'_>,
    go: &Toolchain,
    part: &str,
    (module, out): (&Path, &Path),
    arguments: &[String],
    progress: &dyn Fn(usize),
) -> Result<()> {
    let goroot = go.setting("GOROOT")?;
    let modules = go.setting("GOMODCACHE")?;
    let cache = go.setting("GOCACHE")?;
    std::fs::create_dir_all(&cache).map_err(BuildError::file(format!("creating {}", cache.display())))?;
    let mut env = go.environment(&shop.arch, true);
    env.retain(|(name, _)| *name != "GOTOOLCHAIN");
    let inside = |name: &str| format!("{INSIDE}/{name}");
    env.extend([
        ("GOTOOLCHAIN", "local".into()),
        ("GOROOT", inside("go")),
        ("GOMODCACHE", inside("mod")),
        ("GOCACHE", inside("cache")),
        // Everything was fetched outside, where the certificates are.
        ("GOPROXY", "off".into()),
        ("CC", compiler(&shop.arch)),
        ("PKG_CONFIG_LIBDIR", format!("/usr/lib/{}/pkgconfig", triplet(&shop.arch))),
    ]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Inside {
        part,
        what: "compiling",
        binds: &[(&goroot, "go"), (&modules, "mod"), (&cache, "cache"), (module, "work"), (out, "out")],
        env: &env,
        args: &arguments,
        script: "cd /kprov/work && exec /kprov/go/bin/go \"$@\"",
    }
    .run(shop, progress)
}

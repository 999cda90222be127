//! One part: built, or taken from the cache when its inputs have not changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kprov_providers::event::State;
use sha2::{Digest as _, Sha256};

use super::golang::{self, Toolchain};
use super::recipe::{Go, Kind, Part, Plan};
use super::run::Run;
use super::{BuildError, Result, Shop, debian, root, sources};

/// Changes when this file builds something else from the same inputs.
const REVISION: &str = "1";

/// Where each part is, and where it came from.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// A part's folder by its name.
    pub(crate) dirs: BTreeMap<&'static str, PathBuf>,
    /// Names that were in the cache.
    pub(crate) cached: Vec<String>,
    /// Names that were built, with seconds.
    pub(crate) built: Vec<(String, f64)>,
}

/// The folder that holds a part with exactly these inputs.
pub(crate) fn dir(shop: &Shop<'_>, part: &Part) -> PathBuf {
    let mut hash = Sha256::new();
    // Lengths keep neighbours apart.
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    add(REVISION);
    add(part.name);
    add(&part.version);
    add(&shop.arch);
    match &part.kind {
        Kind::Go(go) => {
            add(golang::PINNED);
            for (package, file) in go.packages {
                add(package);
                add(file);
            }
            add(go.tags);
            add(&go.ldflags);
            for (name, text) in sources::module(part.name, &part.version) {
                add(name);
                add(text);
            }
        }
        Kind::Pause => add(sources::file("pause/pause.c").unwrap_or_default()),
        Kind::Debian => add(sources::file("debian/collect.sh").unwrap_or_default()),
    }
    if part.needs_root() {
        add(&root::path(shop).file_name().unwrap_or_default().to_string_lossy());
    }
    let hex = data_encoding::HEXLOWER.encode(&hash.finalize());
    let short = hex.get(..16).unwrap_or_default();
    shop.cache.join("parts").join(format!("{}-{}-{}-{short}", part.name, part.version, shop.arch))
}

/// True when the part need not be built.
pub(crate) fn is_cached(shop: &Shop<'_>, part: &Part) -> bool {
    dir(shop, part).is_dir()
}

/// Builds what is not in the cache. What needs only Go is built beside what needs the build root, whose making is
/// mostly waiting.
///
/// # Errors
/// The first failure; parts that were finished stay in the cache.
pub(crate) fn build_all(shop: &Shop<'_>, plan: &Plan) -> Result<Outcome> {
    let outcome = Mutex::new(Outcome::default());
    let (cached, missing): (Vec<&Part>, Vec<&Part>) = plan.parts.iter().partition(|p| is_cached(shop, p));
    for part in cached {
        shop.event(part.name, State::Ready, format!("{} {} from the cache", part.name, part.version), None);
        note(&outcome, |o| {
            o.dirs.insert(part.name, dir(shop, part));
            o.cached.push(part.name.to_owned());
        });
    }
    if !missing.is_empty() {
        let go = golang::prepare(shop)?;
        let (inside, plain): (Vec<&Part>, Vec<&Part>) = missing.into_iter().partition(|p| p.needs_root());
        let stop = AtomicBool::new(false);
        let each = |parts: &[&Part]| -> Result<()> {
            for part in parts {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let begun = Instant::now();
                let what = format!("building {} {}", part.name, part.version);
                let built = shop.timed(part.name, &what, || build(shop, &go, part))?;
                note(&outcome, |o| {
                    o.dirs.insert(part.name, built);
                    o.built.push((part.name.to_owned(), begun.elapsed().as_secs_f64()));
                });
            }
            Ok(())
        };
        let stopping = |result: Result<()>| {
            stop.fetch_or(result.is_err(), Ordering::Relaxed);
            result
        };
        let (first, second) = std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                stopping(if inside.is_empty() { Ok(()) } else { root::make(shop).and_then(|()| each(&inside)) })
            });
            let own = stopping(each(&plain));
            // A panic in the other thread is a bug; it is said as such instead of being passed on.
            let other = beside.join().unwrap_or_else(|_| {
                Err(BuildError::Lacks { part: "build-root".into(), what: "its builder broke off".into() })
            });
            (own, other)
        });
        first.and(second)?;
    }
    Ok(outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn note(outcome: &Mutex<Outcome>, change: impl FnOnce(&mut Outcome)) {
    change(&mut outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// Builds one part into a folder that gets its name only when it is whole.
fn build(shop: &Shop<'_>, go: &Toolchain, part: &Part) -> Result<PathBuf> {
    let log = shop.log(part.name);
    let _ = std::fs::remove_file(&log);
    let module = shop.work.path().join(part.name);
    let out = shop.work.path().join(format!("{}-out", part.name));
    for dir in [&module, &out] {
        std::fs::create_dir_all(dir).map_err(BuildError::file(format!("creating {}", dir.display())))?;
    }
    let expected: Vec<&str> = match &part.kind {
        Kind::Go(recipe) => {
            build_go(shop, go, part, recipe, &module, &out)?;
            recipe.packages.iter().map(|(_, file)| *file).collect()
        }
        Kind::Pause => {
            sources::write(&sources::module("pause", ""), &module)?;
            debian::pause(shop, &part.version, &module, &out)?;
            debian::record(shop, part.name, &out)?;
            vec!["pause"]
        }
        Kind::Debian => {
            debian::collect(shop, &out)?;
            vec!["net/usr/sbin/nft", "certs", "versions", "loader"]
        }
    };
    if let Some(file) = expected.iter().find(|file| !out.join(file).exists()) {
        return Err(BuildError::Lacks { part: part.name.into(), what: format!("the build ended without {file}") });
    }
    let dir = dir(shop, part);
    match super::name(&out, &dir) {
        // Another build finished the same part meanwhile; it is as good.
        Err(_) if dir.is_dir() => Ok(dir),
        result => result.map(|()| dir.clone()).map_err(BuildError::file(format!("writing {}", dir.display()))),
    }
}

fn build_go(shop: &Shop<'_>, go: &Toolchain, part: &Part, recipe: &Go, module: &Path, out: &Path) -> Result<()> {
    let log = shop.log(part.name);
    let progress = |lines: usize| shop.say(part.name, format!("{}: {lines} packages compiled", part.name));
    let run = |what: &str, mut command: std::process::Command| {
        command.current_dir(module);
        Run { running: shop.running, part: part.name, what, log: &log, input: None, progress: &progress }.run(command)
    };
    let files = sources::module(part.name, &part.version);
    if files.iter().any(|(name, _)| *name == "go.sum") {
        sources::write(&files, module)?;
    } else {
        resolve(shop, part, recipe, module)?;
        let mut command = go.command(&shop.arch, recipe.cgo);
        command.args(["mod", "tidy"]).env("GOFLAGS", "-mod=mod");
        run("resolving", command)?;
    }
    if recipe.cgo {
        // Fetches what will be compiled, without compiling: the build root has no way out.
        let mut command = go.command(&shop.arch, true);
        command.args(["list", "-deps", "-tags", recipe.tags, "-f", "{{.ImportPath}}"]);
        command.args(recipe.packages.iter().map(|(package, _)| *package));
        run("fetching", command)?;
    }
    let ldflags = format!("-s -w -buildid= {}", recipe.ldflags);
    let mut arguments: Vec<String> =
        ["build", "-v", "-trimpath", "-buildvcs=false", "-tags", recipe.tags, "-ldflags"].map(String::from).into();
    let to = if recipe.cgo { format!("{}/out", root::INSIDE) } else { out.display().to_string() };
    // All of a part's programs in one call, so that they are linked side by side. Go names them by their packages'
    // last words, a module's own main by the module's.
    let target = match recipe.packages {
        [(".", file)] => format!("{to}/{file}"),
        _ => format!("{to}/"),
    };
    arguments.extend([ldflags.trim_end().to_owned(), "-o".into(), target]);
    arguments.extend(recipe.packages.iter().map(|(package, _)| (*package).to_owned()));
    if recipe.cgo {
        root::build_cgo(shop, go, part.name, (module, out), &arguments, &progress)?;
    } else {
        let mut command = go.command(&shop.arch, false);
        command.args(&arguments);
        run("compiling", command)?;
    }
    if recipe.cgo {
        debian::record(shop, part.name, out)?;
    }
    Ok(())
}

/// A version without embedded sums: the newest module that is embedded, with the version exchanged. Go checks what it
/// fetches against its checksum database.
fn resolve(shop: &Shop<'_>, part: &Part, recipe: &Go, module: &Path) -> Result<()> {
    let known = sources::versions(part.name);
    let Some(nearest) = known.last() else {
        return Err(BuildError::Lacks { part: part.name.into(), what: "no module is embedded".into() });
    };
    shop.say(part.name, format!("{} {}: no sums in this kprov, its modules are resolved now", part.name, part.version));
    for (name, text) in sources::module(part.name, nearest) {
        let text = match name {
            "go.mod" => exchange(text, recipe.module, nearest, &part.version),
            "go.sum" => continue,
            _ => text.to_owned(),
        };
        sources::write(&[(name, &text)], module)?;
    }
    Ok(())
}

fn exchange(go_mod: &str, module: &str, from: &str, to: &str) -> String {
    let line = |line: &str| {
        let plain = line.trim_start().trim_start_matches("require ");
        if plain.starts_with(module) { line.replace(from, to) } else { line.to_owned() }
    };
    go_mod.lines().map(|l| line(l) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::build::Running;
    use crate::bundle::build::recipe;
    use kprov_providers::Events;

    fn dirs(cache: &Path, arch: &str, parts: &[(&str, &str)]) -> BTreeMap<&'static str, PathBuf> {
        let (events, _) = Events::channel();
        let running = Running::default();
        let shop = Shop::open(cache, arch, &events, &running).unwrap();
        let parts = parts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let plan = recipe::plan(recipe::DEFAULT_KUBERNETES, arch, &parts).unwrap();
        plan.parts.iter().map(|p| (p.name, dir(&shop, p))).collect()
    }

    #[test]
    fn one_changed_part_rebuilds_one() {
        let cache = tempfile::tempdir().unwrap();
        let before = dirs(cache.path(), "amd64", &[]);
        assert_eq!(before, dirs(cache.path(), "amd64", &[]));
        let after = dirs(cache.path(), "amd64", &[("etcd", "v3.6.16")]);
        let changed: Vec<_> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        assert_eq!(changed, [&"etcd"]);
        let other = dirs(cache.path(), "arm64", &[]);
        assert!(before.keys().all(|name| before[name] != other[name]));
    }

    #[test]
    fn another_version_takes_the_module_along() {
        let text = "module x\n\nrequire go.etcd.io/etcd/server/v3 v3.6.8\n\nrequire (\n\tgo.etcd.io/etcd/api/v3 v3.6.8 // indirect\n\tgo.etcd.io/bbolt v3.6.8\n)\n";
        let new = exchange(text, "go.etcd.io/etcd", "v3.6.8", "v3.6.16");
        assert!(new.contains("server/v3 v3.6.16\n") && new.contains("api/v3 v3.6.16 // indirect"));
        assert!(new.contains("bbolt v3.6.8"));
    }
}

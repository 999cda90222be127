//! Building a bundle from package registries alone: Go modules, and Debian packages in a build root of their own.
//!
//! Reading order: [`recipe`] (which parts, which versions), [`part`] (one part, built or taken from the cache),
//! [`golang`] and [`root`] (the two tool chains), [`layer`] and [`assemble`] (images and the bundle itself). [`release`]
//! builds one of official releases instead.

mod assemble;
mod debian;
mod golang;
mod layer;
mod oci;
mod part;
mod recipe;
pub mod release;
mod root;
mod run;
mod sources;
mod tools;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kprov_providers::Events;
use kprov_providers::event::{Event, State, Type};

use super::fetch::FetchError;
use super::pack::{PackError, Packed};
pub use recipe::{DEFAULT_KUBERNETES, PARTS};
pub use run::Running;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Options {
    /// `v1.36.3`.
    pub kubernetes: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// The file.
    pub out: PathBuf,
    /// Install missing tools instead of naming them.
    pub install_tools: bool,
    /// Versions that differ from the release's, by part.
    pub parts: BTreeMap<String, String>,
    /// Where parts and the build root are kept: `~/.cache/kprov`.
    pub cache: PathBuf,
    /// Level of the packing, 1 to 19.
    pub level: i32,
}

/// Why no bundle was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A version, architecture or part that is not known.
    #[error("{0}")]
    Unknown(String),
    /// Tools that this host lacks.
    #[error("building needs what this host does not have: {}", missing.join("; "))]
    Tools {
        /// What is missing.
        missing: Vec<String>,
        /// The command that installs it, where there is one.
        install: Option<String>,
    },
    /// A part's own build failed.
    #[error("{what} of {part} failed; the end of its output:\n{tail}\n(all of it: {})", log.display())]
    Part {
        /// The part.
        part: String,
        /// What was being done.
        what: String,
        /// Its last lines.
        tail: String,
        /// Where all of it is.
        log: PathBuf,
    },
    /// A part's build ended well but lacks something.
    #[error("{what}: {part}")]
    Lacks {
        /// The part.
        part: String,
        /// What is missing or wrong.
        what: String,
    },
    /// Files of the cache or the output.
    #[error("{what}: {error}")]
    File {
        /// What was being done.
        what: String,
        /// The system's answer.
        error: std::io::Error,
    },
    /// [`Running::end`] was called.
    #[error("interrupted")]
    Interrupted,
    /// What could not be fetched, all of it.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Fetch(Vec<FetchError>),
    /// Writing the bundle.
    #[error(transparent)]
    Pack(#[from] PackError),
}

impl BuildError {
    fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::File { what, error }
    }
}

impl From<FetchError> for BuildError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(vec![error])
    }
}

type Result<T> = std::result::Result<T, BuildError>;

/// What was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The file's id and sizes.
    pub packed: Packed,
    /// The file was there already, whole and with the same content.
    pub kept: bool,
    /// Parts that came from the cache.
    pub cached: Vec<String>,
    /// Parts that were built now, with seconds.
    pub built: Vec<(String, f64)>,
    /// Seconds in all.
    pub seconds: f64,
}

/// Builds a bundle. Blocks, for minutes when the cache is cold: not to be called from an async task.
///
/// # Errors
/// Everything that is unknown or missing is said before anything is built; a part that fails shows the end of its own
/// output.
pub fn build(options: &Options, events: &Events, running: &Running) -> Result<Built> {
    let begun = Instant::now();
    let plan = recipe::plan(&options.kubernetes, &options.arch, &options.parts)?;
    check_out(&options.out)?;
    let shop = Shop::open(&options.cache, &options.arch, events, running)?;
    let missing: Vec<_> = plan.parts.iter().filter(|p| !part::is_cached(&shop, p)).collect();
    if !missing.is_empty() {
        let needs_root = missing.iter().any(|p| p.needs_root());
        tools::check(needs_root && !root::exists(&shop), needs_root, options.install_tools, &shop)?;
    }
    let outcome = part::build_all(&shop, &plan)?;
    let (packed, kept) = shop.timed("pack", "packing the bundle", || {
        assemble::bundle(&shop, &plan, &outcome.dirs, &options.out, options.level)
    })?;
    Ok(Built { packed, kept, cached: outcome.cached, built: outcome.built, seconds: begun.elapsed().as_secs_f64() })
}

/// Says that the bundle's folder is missing before hours have gone into it.
fn check_out(out: &Path) -> Result<()> {
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if dir.is_dir() {
        return Ok(());
    }
    let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
    Err(BuildError::file(format!("the folder for the bundle, {}", dir.display()))(missing))
}

/// Gives a folder that is whole its name, by which later builds trust it: all of it is on the disk before, or a power cut
/// could leave empty files in it.
fn name(new: &Path, to: &Path) -> std::io::Result<()> {
    rustix::fs::syncfs(File::open(new)?)?;
    std::fs::rename(new, to)?;
    File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Beginning of the names of folders in which builds work.
const WORK: &str = "work-";
/// The file in each that its build holds locked.
const LOCK: &str = "lock";

/// Removes what builds that were killed left behind.
fn sweep(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(WORK);
        // Between the folder's making and its lock's, another build's has none yet.
        let dead = || File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if ours && dead() {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Where work is done and told.
struct Shop<'a> {
    /// Says that the folder is in use.
    _lock: File,
    cache: PathBuf,
    arch: String,
    events: &'a Events,
    running: &'a Running,
    /// Removed at the end, also after a failure.
    work: tempfile::TempDir,
}

impl<'a> Shop<'a> {
    fn open(cache: &Path, arch: &str, events: &'a Events, running: &'a Running) -> Result<Self> {
        let cache = std::path::absolute(cache).map_err(BuildError::file("the cache's path"))?;
        let create =
            |dir: &Path| std::fs::create_dir_all(dir).map_err(BuildError::file(format!("creating {}", dir.display())));
        create(&cache.join("parts"))?;
        create(&cache.join("logs"))?;
        sweep(&cache);
        let failed = || BuildError::file(format!("creating a folder in {}", cache.display()));
        let work = tempfile::Builder::new().prefix(WORK).tempdir_in(&cache).map_err(failed())?;
        let lock = File::create(work.path().join(LOCK)).map_err(failed())?;
        lock.lock().map_err(failed())?;
        Ok(Self { _lock: lock, cache, arch: arch.to_owned(), events, running, work })
    }

    fn log(&self, part: &str) -> PathBuf {
        self.cache.join("logs").join(format!("{part}-{}.log", self.arch))
    }

    fn event(&self, part: &str, state: State, message: impl Into<String>, seconds: Option<f64>) {
        let event = Event::new(Type::Step, message).about(&format!("bundle/{part}"), "build").state(state);
        self.events.send(if let Some(seconds) = seconds { event.seconds(seconds) } else { event });
    }

    fn say(&self, part: &str, message: impl Into<String>) {
        self.events.send(Event::new(Type::Progress, message).about(&format!("bundle/{part}"), "build"));
    }

    /// Runs a piece of work between its start and its end as events.
    fn timed<T>(&self, part: &str, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.event(part, State::Start, what, None);
        let begun = Instant::now();
        let result = work();
        let seconds = Some(begun.elapsed().as_secs_f64());
        match &result {
            Ok(_) => self.event(part, State::Done, what, seconds),
            // The whole of it is the command's own error.
            Err(error) => {
                let text = error.to_string();
                self.event(part, State::Failed, text.lines().next().unwrap_or_default(), seconds);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_build_left_goes_and_a_living_ones_stays() {
        let cache = tempfile::tempdir().unwrap();
        let (events, _) = Events::channel();
        let running = Running::default();
        let living = Shop::open(cache.path(), "amd64", &events, &running).unwrap();
        let dead = cache.path().join("work-dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let other = Shop::open(cache.path(), "amd64", &events, &running).unwrap();
        assert!(!dead.exists());
        assert!(living.work.path().exists() && other.work.path().exists());
    }

    #[test]
    fn a_missing_folder_for_the_bundle_is_said_before_anything_is_built() {
        let cache = tempfile::tempdir().unwrap();
        let (events, _) = Events::channel();
        let options = Options {
            kubernetes: DEFAULT_KUBERNETES.into(),
            arch: "amd64".into(),
            out: cache.path().join("none/bundle.tar.zst"),
            install_tools: false,
            parts: BTreeMap::new(),
            cache: cache.path().join("cache"),
            level: 1,
        };
        let error = build(&options, &events, &Running::default()).unwrap_err().to_string();
        assert!(error.contains("the folder for the bundle") && error.contains("/none"), "{error}");
        assert!(!options.cache.exists());
    }
}

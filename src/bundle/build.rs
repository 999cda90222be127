//! Building a bundle from package registries alone: Go modules, and Debian packages in a build root of their own.
//!
//! Reading order: [`recipe`] (which parts, which versions), [`part`] (one part, built or taken from the cache),
//! [`golang`] and [`root`] (the two tool chains), [`layer`] and [`assemble`] (images and the bundle itself).

mod assemble;
mod debian;
mod golang;
mod layer;
mod part;
mod recipe;
mod root;
mod run;
mod sources;
mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kprov_providers::Events;
use kprov_providers::event::{Event, State, Type};

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

/// Where work is done and told.
struct Shop<'a> {
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
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&cache)
            .map_err(BuildError::file(format!("creating a folder in {}", cache.display())))?;
        Ok(Self { cache, arch: arch.to_owned(), events, running, work })
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
            Err(error) => self.event(part, State::Failed, error.to_string(), seconds),
        }
        result
    }
}

//! A bundle of official releases: programs over HTTP, images from a registry. Only kprov's own flannel, which nobody
//! publishes, is compiled, unless it is pulled from somewhere or not wanted.
//!
//! Reading order: [`hosts`] (what is where), [`lock`] (digests that are known beforehand), [`assemble`].

mod assemble;
mod hosts;
mod image;
mod lock;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kprov_providers::Events;
use kprov_providers::event::State;
use reqwest::Url;

use self::hosts::Source;
use self::image::Pulled;
use self::lock::Lock;
use super::recipe::{self, Plan};
use super::{BuildError, Built, Options, Result, Running, Shop, part, tools};
use crate::bundle::fetch::download::Wanted;
use crate::bundle::fetch::net::Tell;
use crate::bundle::fetch::registry::Registry;
use crate::bundle::fetch::{FetchError, Net, Settings};
use crate::bundle::manifest::{FLANNEL, hex_of};

pub use hosts::{FILES, IMAGES, mirror_of};

/// Where the parts of a release come from.
#[derive(Debug, Clone)]
pub struct From {
    /// Replaces scheme and host of all official servers of files.
    pub mirror: Option<String>,
    /// Replaces all registries: `HOST[:PORT][/PATH]`, with `http://` before it where it has no TLS.
    pub registry: Option<String>,
    /// Further images to bundle: the name, and where it is where that differs.
    pub images: Vec<(String, Option<String>)>,
    /// With a pod network. Its image is compiled here, unless it is one of `images`.
    pub flannel: bool,
    /// Digests that are known; what is not in it yet is added.
    pub lock: Option<PathBuf>,
    /// How things are fetched.
    pub settings: Settings,
}

/// A program or archive that is there.
struct Fetched {
    source: Source,
    path: PathBuf,
}

/// Builds a bundle of official releases. `running` ends what is compiled; what is fetched ends with the future.
///
/// # Errors
/// All that could not be fetched together; what was fetched stays in the cache. Before that: what compiling needs.
pub async fn build(options: Options, from: From, events: Events, running: Running) -> Result<Built> {
    let begun = Instant::now();
    let plan = recipe::plan(&options.kubernetes, &options.arch, &options.parts)?;
    super::check_out(&options.out)?;
    let pulled = from.images.iter().any(|(name, _)| name.rsplit_once(':').is_some_and(|(name, _)| name == FLANNEL));
    if pulled && !from.flannel {
        return Err(BuildError::Unknown(format!("{FLANNEL} is both named by --image and not wanted")));
    }
    let flannel = (from.flannel && !pulled).then(|| Flannel {
        options: options.clone(),
        plan: plan.only("flannel"),
        events: events.clone(),
        running: running.clone(),
    });
    let mut lock = Lock::open(from.lock.as_deref())?;
    let told = events.clone();
    let tell: Tell = Arc::new(move |url, message| {
        let event = kprov_providers::event::Event::new(kprov_providers::event::Type::Progress, message);
        told.send(event.about(&format!("bundle/{}", short(url)), "build"));
    });
    let net = Net::new(from.settings.clone(), tell)?;
    let sources = hosts::sources(&plan, from.mirror.as_deref())?;
    let names = image::names(&plan, &from)?;

    let flannel = match flannel {
        Some(flannel) => Some(blocking("looking for Go", move || flannel.check().map(|()| flannel)).await?),
        None => None,
    };

    let fetch = Fetch { net: &net, events: &events, lock: &lock, arch: &plan.arch };
    let compiling = async {
        match flannel {
            Some(flannel) => blocking("compiling flannel", move || flannel.compile()).await.map(Some),
            None => Ok(None),
        }
    };
    let (files, images, flanneld) = futures_util::future::join3(
        all(sources.iter().map(|source| fetch.file(source))),
        all(names.iter().map(|name| fetch.image(name))),
        compiling,
    )
    .await;
    let (files, images) = match (files, images) {
        (Ok(files), Ok(images)) => (files, images),
        (files, images) => return Err(together(files.err(), images.err())),
    };
    for (fetched, digest) in &files {
        lock.file(&fetched.source.lock_name, digest);
    }
    for pulled in &images {
        lock.image(&pulled.name, &plan.arch, &pulled.manifest.digest);
    }
    lock.save()?;

    let files: Vec<Fetched> = files.into_iter().map(|(fetched, _)| fetched).collect();
    let flanneld = flanneld?;
    blocking("packing the bundle", move || {
        let shop = Shop::open(&options.cache, &options.arch, &events, &running)?;
        let (packed, kept) = shop.timed("pack", "packing the bundle", || {
            assemble::bundle(&shop, &plan, &files, &images, flanneld.as_deref(), &options.out, options.level)
        })?;
        Ok(Built { packed, kept, cached: Vec::new(), built: Vec::new(), seconds: begun.elapsed().as_secs_f64() })
    })
    .await
}

/// Work that holds a thread.
async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| BuildError::file(what)(std::io::Error::other(e)))?
}

/// kprov's flannel, compiled of its Go module as for a bundle built from source.
struct Flannel {
    options: Options,
    plan: Plan,
    events: Events,
    running: Running,
}

impl Flannel {
    fn shop(&self) -> Result<Shop<'_>> {
        Shop::open(&self.options.cache, &self.options.arch, &self.events, &self.running)
    }

    /// What compiling it needs is said before anything is fetched.
    fn check(&self) -> Result<()> {
        let shop = self.shop()?;
        if self.plan.parts.iter().all(|part| part::is_cached(&shop, part)) {
            return Ok(());
        }
        tools::check(false, false, self.options.install_tools, &shop)
    }

    /// The program's file.
    fn compile(&self) -> Result<PathBuf> {
        let dirs = part::build_all(&self.shop()?, &self.plan)?.dirs;
        let lacks = || BuildError::Lacks { part: "flannel".into(), what: "nothing was built".into() };
        Ok(dirs.get("flannel").ok_or_else(lacks)?.join("flanneld"))
    }
}

/// The last word of an address.
fn short(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// All of them, several at a time; all failures together.
async fn all<T>(
    work: impl Iterator<Item = impl Future<Output = std::result::Result<T, FetchError>>>,
) -> std::result::Result<Vec<T>, Vec<FetchError>> {
    let running: FuturesUnordered<_> = work.enumerate().map(|(n, work)| async move { (n, work.await) }).collect();
    let mut ended: Vec<_> = running.collect().await;
    ended.sort_by_key(|(n, _)| *n);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (_, result) in ended {
        match result {
            Ok(value) => done.push(value),
            Err(error) => failed.push(error),
        }
    }
    if failed.is_empty() { Ok(done) } else { Err(failed) }
}

fn together(files: Option<Vec<FetchError>>, images: Option<Vec<FetchError>>) -> BuildError {
    BuildError::Fetch(files.into_iter().chain(images).flatten().collect())
}

struct Fetch<'a> {
    net: &'a Net,
    events: &'a Events,
    lock: &'a Lock,
    arch: &'a str,
}

impl Fetch<'_> {
    fn event(&self, name: &str, state: State, message: String, since: Option<Instant>) {
        let event = kprov_providers::event::Event::new(kprov_providers::event::Type::Step, message);
        let event = event.about(&format!("bundle/{name}"), "build").state(state);
        self.events.send(match since {
            Some(since) => event.seconds(since.elapsed().as_secs_f64()),
            None => event,
        });
    }

    /// Does one thing between its start and its end as events.
    async fn timed<T>(
        &self,
        name: &str,
        what: String,
        work: impl Future<Output = std::result::Result<T, FetchError>>,
    ) -> std::result::Result<T, FetchError> {
        let since = Instant::now();
        self.event(name, State::Start, what.clone(), None);
        let result = work.await;
        match &result {
            Ok(_) => self.event(name, State::Done, what, Some(since)),
            Err(error) => self.event(name, State::Failed, error.to_string(), Some(since)),
        }
        result
    }

    /// A program or archive; with its digest.
    async fn file(&self, source: &Source) -> std::result::Result<(Fetched, String), FetchError> {
        let what = format!("fetching {}", source.url);
        self.timed(short(source.url.as_str()), what, async {
            let (sha256, by) = match self.lock.file_digest(&source.lock_name) {
                Some(pinned) => (pinned.to_owned(), self.lock.says()),
                None => {
                    let sums = self.net.document(&source.sums).await?;
                    (hosts::sum_of(&source.sums, &sums, &source.url)?, format!("{} says", source.sums))
                }
            };
            let wanted = Wanted { url: source.url.clone(), sha256: sha256.clone(), by, size: None };
            let path = self.net.download(&wanted, None).await?;
            Ok((Fetched { source: source.clone(), path }, sha256))
        })
        .await
    }

    /// An image: its manifest, then its configuration and layers side by side.
    async fn image(&self, name: &image::Name) -> std::result::Result<Pulled, FetchError> {
        self.timed(short(&name.name), format!("pulling {} from {}", name.name, name.base), async {
            let registry = Registry::new(self.net, &name.base, &name.repository);
            let pinned = self.lock.image_digest(&name.name, self.arch);
            let manifest = registry.manifest(&name.tag, self.arch, pinned).await?;
            let blobs = manifest.layers.iter().chain([&manifest.config]);
            let wanted = blobs.map(|blob| async {
                let wanted = Wanted {
                    url: registry.blob(&blob.digest)?,
                    sha256: hex_of(&blob.digest).to_owned(),
                    by: "the image's manifest says".into(),
                    size: Some(blob.size),
                };
                self.net.download(&wanted, Some(&registry)).await
            });
            let fetched = futures_util::future::join_all(wanted).await;
            let mut paths = fetched.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
            let config = paths.pop().unwrap_or_default();
            Ok(Pulled { name: name.name.clone(), manifest, layers: paths, config })
        })
        .await
    }
}

/// An address of http or https, without a password in it.
fn parse(text: &str) -> Result<Url> {
    let url = Url::parse(text).map_err(|e| BuildError::Unknown(format!("{text} is no address ({e})")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(BuildError::Unknown(format!("{text} is no address of http or https")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BuildError::Unknown(
            "an address on the command line is seen by all users of this machine, so it may hold no password; write it \
             into a file for --registry-credentials"
                .into(),
        ));
    }
    Ok(url)
}

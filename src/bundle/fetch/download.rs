//! A file in the cache, named by its content: `downloads/HEX`. What has come of one that is not whole yet is
//! `downloads/HEX.part`; the next try, of this run or the next, goes on after it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};

use super::net::{As, Failed, Net, unanswered};
use super::registry::Registry;
use super::{FetchError, file};

/// No file is longer, in bytes.
const MAX: u64 = 8 << 30;
/// Progress is not told more often.
const PERIOD: Duration = Duration::from_secs(5);

/// A file to be fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it is.
    pub url: Url,
    /// Hex SHA-256 of its content.
    pub sha256: String,
    /// Who says that, for messages: `is pinned in FILE`.
    pub by: String,
    /// Bytes, where that is known.
    pub size: Option<u64>,
}

/// Where whole files are.
pub fn place(cache: &Path, sha256: &str) -> PathBuf {
    cache.join("downloads").join(sha256)
}

impl Net {
    /// Fetches a file, or takes it from the cache. Gives its path; its content was checked just now.
    ///
    /// # Errors
    /// When it cannot be had or is not what it is to be. What has come stays for the next time.
    pub async fn download(&self, wanted: &Wanted, registry: Option<&Registry<'_>>) -> Result<PathBuf, FetchError> {
        let _slot = self.slots.acquire().await;
        let path = place(&self.settings.cache, &wanted.sha256);
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(file(format!("creating {}", dir.display())))?;
        let mut part = loop {
            if let Some(found) = hash_of(&path).await? {
                if found == wanted.sha256 {
                    return Ok(path);
                }
                // A disk's fault: what is not as its name says is no use.
                std::fs::remove_file(&path).map_err(file(format!("removing {}", path.display())))?;
            }
            if let Some(part) = Part::lock(&path).await? {
                break part;
            }
        };
        let mut fresh = false;
        self.persist(&wanted.url, async || {
            self.fill(&mut part, wanted, registry).await?;
            let found = part.hash().await?;
            if found == wanted.sha256 {
                return Ok(());
            }
            let resumed = part.resumed && !fresh;
            part.clear()?;
            fresh = true;
            if resumed {
                return Err(Failed::again("what was resumed did not fit together; from the start", false));
            }
            let (url, wanted, by) = (wanted.url.to_string(), wanted.sha256.clone(), wanted.by.clone());
            Err(FetchError::Digest { url, wanted, found, by }.into())
        })
        .await?;
        part.finish(&path)?;
        Ok(path)
    }

    /// Goes on after what is there, to the end.
    async fn fill(&self, part: &mut Part, wanted: &Wanted, registry: Option<&Registry<'_>>) -> Result<(), Failed> {
        let mut have = part.len()?;
        if wanted.size.is_some_and(|size| have > size) {
            part.clear()?;
            have = 0;
        }
        if have > 0 && wanted.size == Some(have) {
            part.resumed = true;
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        if have > 0 {
            headers.insert(RANGE, value(&format!("bytes={have}-"))?);
            if let Some(etag) = part.etag() {
                headers.insert(IF_RANGE, value(&etag)?);
            }
        }
        let answer = match registry {
            None => self.get_range(&wanted.url, headers, As::Host).await?,
            Some(registry) => registry.get(&wanted.url, headers).await?,
        };
        let mut response = match answer {
            Some(response) => response,
            None => {
                // 416: there is nothing after what we have, or it is another file by now. The hash tells.
                part.resumed = true;
                return Ok(());
            }
        };
        if response.status() == StatusCode::PARTIAL_CONTENT {
            if start_of(&response) != Some(have) {
                part.clear()?;
                return Err(Failed::again("the server sent another range than it was asked for", false));
            }
            part.resumed = true;
            (self.tell)(wanted.url.as_str(), format!("resumed after {:.1} MB", have as f64 / 1e6));
        } else {
            // The whole file, because nothing was there, the server knows no ranges, or it is another file now.
            part.clear()?;
            have = 0;
        }
        part.remember(&response)?;
        let total = response.content_length().map(|rest| rest.saturating_add(have)).or(wanted.size);
        let (mut told, begun) = (Instant::now(), have);
        loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    return Err(match unanswered(&wanted.url, &error) {
                        Failed::Again { why, after, .. } => Failed::Again { why, after, progress: have > begun },
                        finally => finally,
                    });
                }
            };
            have = have.saturating_add(piece.len() as u64);
            if have > wanted.size.unwrap_or(MAX) {
                part.clear()?;
                let why = format!("longer than {} bytes", wanted.size.unwrap_or(MAX));
                return Err(FetchError::Answer { url: wanted.url.to_string(), why }.into());
            }
            part.file.write_all(&piece).map_err(part.failed())?;
            if told.elapsed() >= PERIOD {
                told = Instant::now();
                let of = total.map(|total| format!(" of {:.1}", total as f64 / 1e6)).unwrap_or_default();
                (self.tell)(wanted.url.as_str(), format!("{:.1}{of} MB", have as f64 / 1e6));
            }
        }
        if total.is_some_and(|total| have < total) {
            return Err(Failed::again("the connection was cut", have > begun));
        }
        Ok(())
    }

    /// As [`get`](Self::get); none: 416.
    pub(crate) async fn get_range(
        &self,
        url: &Url,
        headers: HeaderMap,
        who: As<'_>,
    ) -> Result<Option<Response>, Failed> {
        match self.get(url, headers, who).await {
            Err(Failed::Finally(FetchError::Answer { why, .. })) if why.contains("416") => Ok(None),
            other => other.map(Some),
        }
    }
}

fn value(text: &str) -> Result<HeaderValue, FetchError> {
    HeaderValue::from_str(text).map_err(|e| FetchError::Answer { url: text.to_owned(), why: e.to_string() })
}

/// Where a partial answer starts: `bytes 100-199/200`.
fn start_of(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The hash of a file; none where there is none.
async fn hash_of(path: &Path) -> Result<Option<String>, FetchError> {
    let opened = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(file(format!("reading {}", path.display())))?,
    };
    hash(opened, path).await.map(Some)
}

async fn hash(mut opened: File, path: &Path) -> Result<String, FetchError> {
    let hashing = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match opened.read(&mut buffer)? {
                0 => return Ok(data_encoding::HEXLOWER.encode(&hash.finalize())),
                n => hash.update(buffer.get(..n).unwrap_or_default()),
            }
        }
    });
    let hashed = hashing.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    hashed.map_err(file(format!("reading {}", path.display())))
}

/// What has come of a file, held by a lock: two kprovs do not write into one.
struct Part {
    path: PathBuf,
    file: File,
    /// Not all of it came in one piece, so a wrong hash may be our own fault.
    resumed: bool,
}

impl Part {
    /// Locks it, waiting for another kprov that is at it. None: that one has finished it meanwhile.
    async fn lock(whole: &Path) -> Result<Option<Self>, FetchError> {
        let path = whole.with_extension("part");
        let failed = || file(format!("opening {}", path.display()));
        let mut pause = Duration::from_millis(50);
        loop {
            let opened = File::options().create(true).append(true).read(true).open(&path).map_err(failed())?;
            match opened.try_lock() {
                Ok(()) => {
                    // The name may have gone to another file between the opening and the lock.
                    let ours = opened.metadata().map_err(failed())?.ino();
                    let there = std::fs::metadata(&path).map(|found| found.ino());
                    let same = there.is_ok_and(|there| there == ours);
                    return Ok(same.then_some(Self { path, file: opened, resumed: false }));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(Duration::from_secs(1));
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(failed()(error)),
            }
            if whole.exists() {
                return Ok(None);
            }
        }
    }

    fn failed(&self) -> impl FnOnce(std::io::Error) -> FetchError + use<> {
        file(format!("writing {}", self.path.display()))
    }

    fn len(&self) -> Result<u64, FetchError> {
        self.file.metadata().map(|found| found.len()).map_err(self.failed())
    }

    fn clear(&mut self) -> Result<(), FetchError> {
        self.resumed = false;
        let _ = std::fs::remove_file(self.etag_path());
        self.file.set_len(0).map_err(self.failed())
    }

    fn etag_path(&self) -> PathBuf {
        self.path.with_extension("etag")
    }

    /// By which the server knows this very content; a weak one does not.
    fn etag(&self) -> Option<String> {
        std::fs::read_to_string(self.etag_path()).ok().filter(|etag| etag.starts_with('"'))
    }

    fn remember(&self, response: &Response) -> Result<(), FetchError> {
        match response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()) {
            Some(etag) => std::fs::write(self.etag_path(), etag).map_err(self.failed()),
            None => {
                let _ = std::fs::remove_file(self.etag_path());
                Ok(())
            }
        }
    }

    async fn hash(&mut self) -> Result<String, FetchError> {
        let failed = self.failed();
        let again = self.file.try_clone().and_then(|mut again| {
            again.seek(SeekFrom::Start(0))?;
            Ok(again)
        });
        hash(again.map_err(failed)?, &self.path).await
    }

    /// Gives it its name.
    fn finish(self, whole: &Path) -> Result<(), FetchError> {
        let failed = || file(format!("writing {}", whole.display()));
        self.file.sync_all().map_err(failed())?;
        std::fs::rename(&self.path, whole).map_err(failed())?;
        let _ = std::fs::remove_file(self.etag_path());
        let dir = whole.parent().unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed())
    }
}

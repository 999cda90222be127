//! Finds a cluster by a token and trusts it by a pin (contract A.11).
//!
//! 1. cluster-info is read without verifying anybody; the token's holder has signed it, and a CA in it is pinned.
//! 2. It is read again from a server that this CA vouches for; both must be the same bytes.
//!
//! [`meet`] is the door for a joining node: it also reads what the cluster has for it.
//!
//! What cannot change by waiting (a refused pin, a wrong secret) ends at once; what may (nobody answers, no signature yet)
//! is said at once and tried again for as long as it makes sense: [`Patience`].

pub(crate) mod get;
mod info;
mod meet;
mod own;
mod trouble;

use std::mem::discriminant;
use std::time::{Duration, Instant};

use kprov_pki::jws;
use kprov_pki::pin::Pin;
use kprov_pki::token::Token;
use time::OffsetDateTime;

use self::get::{Answer, Silence, Untrusted};
pub(crate) use self::get::{Api, Trust, Who};
pub use self::info::{ClusterInfo, Place, place};
pub use self::meet::{Met, meet};
pub(crate) use self::own::{KUBELET_CONF, own};
pub use self::trouble::Trouble;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// What was typed.
#[derive(Debug, Clone)]
pub struct Request {
    /// `host:port`
    pub endpoint: String,
    /// Its id chooses the signature, its secret checks it.
    pub token: Token,
    /// One of them must be a CA's. None: whoever knows the token is believed (`unsafeSkipCAVerification`).
    pub pins: Vec<Pin>,
    /// How long to wait for what may change.
    pub patience: Patience,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For all together (`timeouts.discovery`).
    pub all: Duration,
    /// For a server that does not answer, or not as one: an API server comes back from a restart in this time. Also for
    /// the signature of a token when a young cluster has signed for others.
    pub silence: Duration,
    /// For the signature of a token when the cluster has long had time to sign for it.
    pub signature: Duration,
    /// For one connection.
    pub connect: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            all: Duration::from_secs(300),
            silence: Duration::from_secs(15),
            signature: Duration::from_secs(5),
            connect: Duration::from_secs(5),
        }
    }
}

/// Clocks further apart than this are spoken of.
const SKEW: time::Duration = time::Duration::minutes(2);
/// A cluster-info older than this has been signed for all its tokens.
const SETTLED: time::Duration = time::Duration::minutes(2);

/// Finds the cluster. `say` hears what is being waited for.
///
/// # Errors
/// [`Trouble`].
pub async fn discover(request: &Request, say: &(dyn Fn(String) + Sync)) -> Result<Place, Trouble> {
    let mut wait = Wait::new(request.patience, say);
    let open = api(request, &Trust::Anybody)?;
    let (first, answer, place) = loop {
        match request.look(open.get(PATH).await)? {
            Look::Found(kubeconfig, answer, place) => break (kubeconfig, *answer, place),
            Look::Wait(why, limit) => wait.more(why, limit).await?,
        }
    };
    warn_of_clock(&answer, say);
    if request.pins.is_empty() {
        return Ok(place);
    }
    let closed = api(request, &Trust::Ca(&place.ca_pem))?;
    loop {
        let again = match closed.get(PATH).await {
            Err(Silence::Certificate(why)) => return Err(request.untrusted(&why, &answer)),
            Err(why) => {
                wait.more(request.unreachable(&why), request.patience.silence).await?;
                continue;
            }
            Ok(again) => again,
        };
        let info = if again.status == 200 { ClusterInfo::read(&again.body, &request.token) } else { None };
        match info.and_then(|info| info.kubeconfig) {
            Some(second) if second == first => return Ok(place),
            Some(_) => return Err(Trouble::Changed { endpoint: request.endpoint.clone() }),
            None => wait.more(request.not_ready(status(again.status)), request.patience.silence).await?,
        }
    }
}

/// What one look showed.
enum Look {
    Found(String, Box<Answer>, Place),
    /// Not yet: why, and for how long this is worth waiting for.
    Wait(Trouble, Duration),
}

impl Request {
    fn look(&self, got: Result<Answer, Silence>) -> Result<Look, Trouble> {
        let patience = self.patience;
        let answer = match got {
            // Waiting does not mend it.
            Err(why @ Silence::OldTls) => return Err(self.unreachable(&why)),
            // Names do not come back from a restart.
            Err(why @ Silence::Unresolved) => return Ok(Look::Wait(self.unreachable(&why), patience.signature)),
            Err(why) => return Ok(Look::Wait(self.unreachable(&why), patience.silence)),
            Ok(answer) => answer,
        };
        if answer.status == 404 && info::is_status(&answer.body) {
            let why = "it has no cluster-info (yet): not a cluster made by kubeadm or kprov, or one that is being made";
            return Ok(Look::Wait(self.not_ready(why.into()), patience.all));
        }
        if answer.status != 200 {
            return Ok(Look::Wait(self.not_ready(status(answer.status)), patience.silence));
        }
        let Some(info) = ClusterInfo::read(&answer.body, &self.token) else {
            return Ok(Look::Wait(self.not_ready("not as an API server does".into()), patience.silence));
        };
        let Some(kubeconfig) = info.kubeconfig else {
            return Ok(Look::Wait(self.not_ready("cluster-info is empty".into()), patience.all));
        };
        let (place, cas) =
            info::place(&kubeconfig).map_err(|why| Trouble::BadClusterInfo { endpoint: self.endpoint.clone(), why })?;
        if !self.pins.is_empty() && !info::pinned(&cas, &self.pins) {
            let found = trouble::pins(&cas.iter().map(Pin::of).collect::<Vec<_>>());
            return Err(Trouble::WrongPin { endpoint: self.endpoint.clone(), found });
        }
        let id = || self.token.id().to_owned();
        let Some(signature) = info.signature else {
            let age = answer.date.unwrap_or_else(OffsetDateTime::now_utc)
                - info.created.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            return Ok(if info.created.is_some() && age > SETTLED {
                Look::Wait(Trouble::UnknownToken { id: id() }, patience.signature)
            } else if info.others {
                // init signs for its own tokens; whoever signs for the others may just be starting.
                Look::Wait(Trouble::UnknownToken { id: id() }, patience.silence)
            } else {
                let why = format!("it has not signed for bootstrap token {} yet", self.token.id());
                Look::Wait(self.not_ready(why), patience.all)
            });
        };
        if !jws::verify(kubeconfig.as_bytes(), &self.token, &signature) {
            // A moment after cluster-info was changed its signatures are still those of before.
            let why = Trouble::BadSignature { id: id(), endpoint: self.endpoint.clone() };
            return Ok(Look::Wait(why, patience.signature.min(Duration::from_secs(2))));
        }
        if let Some(why) = info::unfit(&cas, OffsetDateTime::now_utc()) {
            return Err(blame_clock(format!("the cluster's CA {why}"), &answer));
        }
        Ok(Look::Found(kubeconfig, Box::new(answer), place))
    }

    fn unreachable(&self, why: &Silence) -> Trouble {
        Trouble::Unreachable { endpoint: self.endpoint.clone(), why: why.to_string() }
    }

    fn not_ready(&self, why: String) -> Trouble {
        Trouble::NotReady { endpoint: self.endpoint.clone(), why }
    }

    /// The server's certificate does not hold; `answer` came from the same server, unverified.
    fn untrusted(&self, why: &Untrusted, answer: &Answer) -> Trouble {
        let now = OffsetDateTime::now_utc();
        match (why, answer.leaf.as_ref().map(|leaf| leaf.valid_at(now))) {
            (Untrusted::Expired | Untrusted::NotYet, Some(Err(unfit))) => {
                blame_clock(format!("the certificate of the API server at {} {unfit}", self.endpoint), answer)
            }
            _ => Trouble::Certificate(format!("the certificate of the API server at {} {why}", self.endpoint)),
        }
    }
}

/// A certificate out of its time: the clock's fault where the clocks differ.
fn blame_clock(why: String, answer: &Answer) -> Trouble {
    match skew(answer) {
        Some(clock) => Trouble::Clock { why, clock },
        None => Trouble::Certificate(why),
    }
}

fn warn_of_clock(answer: &Answer, say: &(dyn Fn(String) + Sync)) {
    if let Some(clock) = skew(answer) {
        say(format!("{clock}: certificates may be refused"));
    }
}

/// In words, how far this machine's clock is from the server's; `None`: near enough, or not known.
fn skew(answer: &Answer) -> Option<String> {
    let ahead = OffsetDateTime::now_utc() - answer.date?;
    let apart = ahead.unsigned_abs();
    if apart < SKEW {
        return None;
    }
    let apart = crate::cluster::duration_text(Duration::from_secs((apart.as_secs() + 30) / 60 * 60));
    let side = if ahead.is_positive() { "ahead of" } else { "behind" };
    Some(format!("this machine's clock is {apart} {side} the API server's"))
}

fn status(status: u16) -> String {
    match status {
        401 | 403 => "it does not let anonymous clients read cluster-info".into(),
        500.. => format!("it is not ready (status {status})"),
        _ => format!("not as expected (status {status})"),
    }
}

fn api(request: &Request, trust: &Trust<'_>) -> Result<Api, Trouble> {
    let base = format!("https://{}", request.endpoint);
    Api::new(&base, trust, Who::Anonymous, request.patience.connect).map_err(|e| Trouble::Unreachable {
        endpoint: request.endpoint.clone(),
        why: format!("{:#}", anyhow::Error::from(e)),
    })
}

/// Waiting for something that may change.
struct Wait<'a> {
    all: Instant,
    limit: Duration,
    reason: Option<(Trouble, Instant)>,
    pause: Duration,
    say: &'a (dyn Fn(String) + Sync),
}

impl<'a> Wait<'a> {
    fn new(patience: Patience, say: &'a (dyn Fn(String) + Sync)) -> Self {
        Self { all: Instant::now(), limit: patience.all, reason: None, pause: Duration::from_millis(50), say }
    }

    /// Waits a little, longer each time; fails with the reason when it has stood for too long.
    async fn more(&mut self, why: Trouble, limit: Duration) -> Result<(), Trouble> {
        let since = match self.reason.take() {
            Some((before, since)) if before == why => since,
            before => {
                let left = limit.min(self.limit.saturating_sub(self.all.elapsed())).as_secs_f64().round();
                (self.say)(format!("{why} (trying for {left} s)"));
                // Another reason of the same kind (refused, then late) is no new trouble.
                match before.filter(|(before, _)| discriminant(before) == discriminant(&why)) {
                    Some((_, since)) => since,
                    None => {
                        self.pause = Duration::from_millis(50);
                        Instant::now()
                    }
                }
            }
        };
        if since.elapsed() + self.pause > limit || self.all.elapsed() + self.pause > self.limit {
            return Err(why);
        }
        self.reason = Some((why, since));
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

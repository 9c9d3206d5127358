//! How often something may be asked: the rate limits of a port, or of a rule.
//!
//! Each limit is a token bucket, or one for every key that its requests are told apart by. A request has to pass
//! every limit that it falls under, and one that is refused is charged to none of them. Buckets belong to the whole
//! proxy: its workers share them, by atomic numbers and without a lock, and they outlive the snapshot that brought
//! them, so that no change of policy fills them anew.
//!
//! A limit of the whole mesh is held here for the part of it that this proxy has been leased ([`Share`]).

mod bucket;
mod share;
mod table;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, request};
use outrigger_certs::SpiffeId;
use smallvec::{SmallVec, smallvec};

pub use bucket::Rate;
pub use share::Share;

use crate::access::Shown;
use crate::access::operation::is_spelled;
use crate::failure::Failure;
use crate::flight::Flight;
use crate::metrics::Limit;
use crate::route::RouteMatch;
use crate::session::Session;
use crate::worker::Worker;
use bucket::{Bucket, Level, nanos};
use table::{Found, Table};

/// What is left of a limit now (draft-ietf-httpapi-ratelimit-headers-10).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The limit itself.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const SECOND: u64 = 1_000_000_000;

/// One limit.
#[derive(Debug)]
pub struct RateLimit {
    /// What shares a budget has the same, and nothing else has.
    pub id: Arc<str>,
    /// `namespace/name` of the policy.
    pub policy: Arc<str>,
    /// The limit's name within the policy.
    pub name: Arc<str>,
    /// How often.
    pub rate: Rate,
    /// What tells requests apart that have buckets of their own. Empty: one bucket for all.
    pub by: Vec<Key>,
    /// Requests that fall under it. Empty: all.
    pub matches: Vec<RouteMatch>,
    /// Answers to admitted requests say what is left.
    pub told: bool,
    /// The limit as `RateLimit-Policy` has it.
    pub quota: HeaderValue,
    /// Its buckets.
    pub state: Arc<State>,
}

/// What tells requests apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The verified identity of the caller.
    Identity,
    /// The values of a field.
    Header(HeaderName),
    /// The method.
    Method,
    /// The path.
    Path,
    /// The address that the connection came from.
    ClientAddress,
    /// A claim of the caller's verified token, by the names that lead to it, and whose token that is.
    Claim(Box<[Box<str>]>),
    /// What the caller's API key is called.
    ApiKey,
}

/// The buckets of one limit.
#[derive(Debug)]
pub struct State {
    rate: Rate,
    buckets: Buckets,
    /// For a limit of the whole mesh: the part of it that is this proxy's.
    pub share: Option<Share>,
}

#[derive(Debug)]
enum Buckets {
    One(Bucket),
    ByKey(Box<Table>),
}

impl State {
    /// Full buckets.
    pub fn new(rate: Rate, by_key: bool, of_mesh: bool) -> Self {
        let buckets = if by_key { Buckets::ByKey(Box::default()) } else { Buckets::One(Bucket::default()) };
        Self { rate, buckets, share: of_mesh.then(Share::default) }
    }

    /// Whether a limit that has `other` may go on with these buckets.
    pub fn fits(&self, other: &Self) -> bool {
        self.rate == other.rate
            && self.share.is_some() == other.share.is_some()
            && matches!(self.buckets, Buckets::One(_)) == matches!(other.buckets, Buckets::One(_))
    }

    fn rate(&self) -> Rate {
        self.share.as_ref().map_or(self.rate, |share| self.rate.part(share.part()))
    }

    /// Requests a second that the whole limit grants.
    pub fn whole_per_second(&self) -> f64 {
        self.rate.per_second()
    }

    /// Goes on with another part of a limit of the whole mesh, `now` after the proxy started.
    pub fn set_part(&self, part: f64, now: Duration) {
        let Some(share) = &self.share else { return };
        let old = self.rate();
        share.set_part(part);
        if let Buckets::One(bucket) = &self.buckets {
            bucket.carry_over(old, self.rate(), nanos(now));
        }
    }
}

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The request.
    pub head: &'a request::Parts,
    /// The caller, as far as it has proved who it is.
    pub identity: Option<&'a SpiffeId>,
    /// What the request has shown beside that.
    pub shown: Shown<'a>,
    /// Where the connection came from.
    pub address: IpAddr,
}

/// How a request stands with the limit that has least left for it: what its answer says of limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    quota: HeaderValue,
    name: Arc<str>,
    left: u64,
    /// Seconds until all of it can be had again.
    full_in: u64,
    /// Seconds to wait, for a request that was refused.
    wait: Option<u64>,
}

/// What became of a request.
#[derive(Debug, Default)]
pub struct Verdict<'a> {
    /// What its answer is to say, if anything.
    pub standing: Option<Standing>,
    /// The limit that refused it.
    pub refused_by: Option<&'a RateLimit>,
    /// It had a key for which there was no bucket left.
    pub crowded: bool,
}

/// The limits that hold in one place, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct RateLimits(pub Vec<RateLimit>);

impl RateLimits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks for one request, `now` after the proxy started.
    pub fn ask(&self, asker: &Asker<'_>, now: Duration) -> Verdict<'_> {
        let now = nanos(now);
        let mut verdict = Verdict::default();
        let mut charged: SmallVec<[(&Bucket, Rate); 4]> = SmallVec::new();
        for limit in self.0.iter().filter(|limit| limit.holds_for(asker.head)) {
            let (buckets, crowded) = limit.buckets(asker, now);
            verdict.crowded |= crowded;
            let rate = limit.state.rate();
            for bucket in buckets {
                match bucket.take(rate, now) {
                    Ok(level) => {
                        charged.push((bucket, rate));
                        let least = verdict.standing.as_ref().map_or(u64::MAX, |standing| standing.left);
                        if limit.told && level.left < least {
                            verdict.standing = Some(limit.standing(level, None));
                        }
                    }
                    Err(wait) => {
                        for (bucket, rate) in charged {
                            bucket.give_back(rate);
                        }
                        let level = Level { left: 0, full_in: wait };
                        verdict.standing = Some(limit.standing(level, Some(wait)));
                        verdict.refused_by = Some(limit);
                        return verdict;
                    }
                }
            }
        }
        verdict
    }
}

impl RateLimit {
    fn holds_for(&self, head: &request::Parts) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|one| one.holds(head))
    }

    /// The buckets that a request takes from, and whether it shares one with other keys. It is one bucket, unless a field
    /// that tells requests apart was sent several times: whoever reads only one of the values, and whichever that is,
    /// finds it counted.
    fn buckets(&self, asker: &Asker<'_>, now: u64) -> (SmallVec<[&Bucket; 1]>, bool) {
        if let Some(share) = &self.state.share {
            share.asked();
        }
        let table = match &self.state.buckets {
            Buckets::One(bucket) => return (smallvec![bucket], false),
            Buckets::ByKey(table) => table,
        };
        let mut address = [0; 16];
        match asker.address.to_canonical() {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        let mut parts: Parts<'_> = SmallVec::new();
        let mut repeated: SmallVec<[(usize, &HeaderName); 1]> = SmallVec::new();
        for key in &self.by {
            match key {
                Key::Identity => parts.push(asker.identity.map_or("", SpiffeId::as_str).as_bytes().into()),
                Key::Header(name) => {
                    let mut values = sent(asker.head, name);
                    let place = parts.len();
                    parts.extend(values.next().map(Cow::from));
                    if values.next().is_some() {
                        repeated.push((place, name));
                    }
                    parts.push(END);
                }
                Key::Method => parts.push(asker.head.method.as_str().as_bytes().into()),
                Key::Path => parts.push(asker.head.uri.path().as_bytes().into()),
                Key::ClientAddress => parts.push(address.as_slice().into()),
                Key::Claim(path) => {
                    // What two issuers call the same is not.
                    let said = asker.shown.claims.map(|claims| (claims.issuer(), claims.items(path)));
                    if let Some((issuer, values)) = said {
                        let mut values = values.take(MOST_VALUES).map(bytes).peekable();
                        let issuer = values.peek().map(|_| issuer.as_bytes().into());
                        parts.extend(issuer.into_iter().chain(values));
                    }
                    parts.push(END);
                }
                Key::ApiKey => parts.push(asker.shown.api_key.unwrap_or_default().as_bytes().into()),
            }
        }
        let mut keys: SmallVec<[Parts<'_>; 1]> = smallvec![parts];
        for (place, name) in repeated {
            let with = |value| keys.iter().map(move |parts| with(parts, place, value));
            let all = sent(asker.head, name).flat_map(with);
            keys = all.take(MOST_VALUES + 1).collect::<SmallVec<_>>();
        }
        if keys.len() > MOST_VALUES {
            return (smallvec![table.crowd()], true);
        }
        let hash = |parts: &Parts<'_>| table.hash(parts.iter().map(AsRef::as_ref));
        let mut hashes: SmallVec<[u64; 1]> = keys.iter().map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut crowded = false;
        let buckets = hashes.into_iter().map(|hash| match table.find(hash, now) {
            Found::Own(bucket) => bucket,
            Found::Shared(bucket) => {
                crowded = true;
                bucket
            }
        });
        (buckets.collect(), crowded)
    }

    fn standing(&self, level: Level, wait: Option<u64>) -> Standing {
        Standing {
            quota: self.quota.clone(),
            name: self.name.clone(),
            left: level.left,
            full_in: level.full_in.div_ceil(SECOND),
            wait: wait.map(|wait| wait.div_ceil(SECOND).max(1)),
        }
    }
}

/// So many keys a request may have at once, and so many values of one claim count in a key. A request with more keys
/// is charged to the bucket that many share.
const MOST_VALUES: usize = 16;

/// A key.
type Parts<'a> = SmallVec<[Cow<'a, [u8]>; 4]>;

/// The key with another value in its place.
fn with<'a>(parts: &Parts<'a>, place: usize, value: &'a [u8]) -> Parts<'a> {
    let mut parts = parts.clone();
    parts[place] = value.into();
    parts
}

/// The values of a field, also of one whose name differs by `_` for `-` alone: an application may not tell the two apart.
fn sent<'a>(head: &'a request::Parts, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let fields = head.headers.iter().filter(move |(other, _)| is_spelled(other, name));
    fields.map(|(_, value)| value.as_bytes())
}

/// What stands in a key where the values of a field or of a claim end.
const END: Cow<'static, [u8]> = Cow::Borrowed(b"");

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// A limit as `RateLimit-Policy` has it: its quota and the seconds of its window.
pub fn quota(name: &str, requests: u32, per: Duration) -> HeaderValue {
    let text = format!("\"{name}\";q={requests};w={}", per.as_secs().max(1));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

impl Standing {
    /// Writes `RateLimit`, `RateLimit-Policy` and, after a refusal, `Retry-After`.
    pub fn write(&self, fields: &mut HeaderMap) {
        let text = format!("\"{}\";r={};t={}", self.name, self.left, self.full_in);
        if let Ok(value) = HeaderValue::try_from(text) {
            fields.insert(RATE_LIMIT, value);
            fields.insert(RATE_LIMIT_POLICY, self.quota.clone());
        }
        if let Some(wait) = self.wait {
            fields.insert(RETRY_AFTER, HeaderValue::from(wait));
        }
    }
}

/// Asks for a request of `session` that has `shown` this; what its answer is to say goes into the flight.
///
/// # Errors
/// [`Failure::RateLimited`].
pub(crate) fn enforce(
    limits: &RateLimits,
    worker: &Worker,
    session: &Session,
    head: &request::Parts,
    shown: Shown<'_>,
    flight: &mut Flight,
) -> Result<(), Failure> {
    let exchange = flight.exchange();
    let (side, now) = (exchange.side, worker.since_start(exchange.started));
    let asker = Asker { head, identity: session.identity.as_ref(), shown, address: session.client.ip() };
    let Verdict { standing, refused_by, crowded } = limits.ask(&asker, now);
    let metrics = &worker.recorder.metrics;
    if crowded {
        metrics.limit_reached(side, Limit::RateLimitKeys);
    }
    flight.standing = standing.map(Box::new);
    let Some(limit) = refused_by else { return Ok(()) };
    metrics.rate_limited(side, &limit.policy, &limit.name);
    flight.exchange().policy = Some(limit.policy.clone());
    Err(Failure::RateLimited)
}

#[cfg(test)]
mod tests;

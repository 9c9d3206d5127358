//! What is counted per service, port, route, peer and TLS.
//!
//! Looking a series up happens once a request: the key is hashed and compared as it lies in the request, and is
//! only cloned when it is new.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hash};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_api::ServiceName;
use outrigger_certs::SpiffeId;
use smallvec::SmallVec;

use super::latency::{Exemplar, Latency};
use crate::exchange::{Attempt, Exchange};
use crate::failure::{Failure, Side};
use crate::hash::{FastMap, Seeded};

/// A status from upstream is any of 900 numbers; more kinds of answers than this are counted together.
const MAX_OUTCOMES: usize = 64;
/// The same for reasons to try again.
const MAX_REASONS: usize = 32;

/// Who spoke with whom, by which route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// Which proxy of the two counted.
    pub side: Side,
    /// `None`: no such service.
    pub service: Option<ServiceName>,
    /// 0: no such port.
    pub port: u16,
    /// `namespace/name`.
    pub route: Option<Arc<str>>,
    /// The verified identity of the other side.
    pub peer: Option<SpiffeId>,
    /// Mutual TLS.
    pub mtls: bool,
    /// Stands for all that came when the table was full.
    pub overflow: bool,
}

/// A [`SeriesKey`] that lies in a request.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct KeyRef<'a> {
    pub(super) side: Side,
    pub(super) service: Option<&'a ServiceName>,
    pub(super) port: u16,
    pub(super) route: Option<&'a Arc<str>>,
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) mtls: bool,
}

impl KeyRef<'_> {
    /// The port of a service that is not there is a number that a caller made up.
    fn without_made_up_port(self) -> Self {
        if self.service.is_some() { self } else { Self { port: 0, ..self } }
    }

    fn is(&self, key: &SeriesKey) -> bool {
        self.side == key.side
            && self.port == key.port
            && self.mtls == key.mtls
            && self.service == key.service.as_ref()
            && self.route == key.route.as_ref()
            && self.peer == key.peer.as_ref()
    }

    fn to_key(self) -> SeriesKey {
        SeriesKey {
            side: self.side,
            service: self.service.cloned(),
            port: self.port,
            route: self.route.cloned(),
            peer: self.peer.cloned(),
            mtls: self.mtls,
            overflow: false,
        }
    }
}

impl SeriesKey {
    fn overflow(side: Side) -> Self {
        Self { side, service: None, port: 0, route: None, peer: None, mtls: false, overflow: true }
    }
}

/// One series and where it is counted.
type Entry<T> = (SeriesKey, Rc<RefCell<T>>);

/// All series of one kind, bounded.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// In the order in which they came; none ever goes.
    entries: Vec<Entry<T>>,
    /// Where, by the hash of the key; two keys of one hash are rare.
    places: FastMap<u64, SmallVec<[usize; 1]>>,
    /// What keys are hashed with.
    seeded: Seeded,
    /// Where the last one was found: the next request is often of the same kind.
    last: usize,
    max: usize,
    overflow: [Option<Entry<T>>; 2],
    /// Lookups that found the table full.
    overflowed: u64,
}

impl<T: Default> Table<T> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: Vec::new(),
            places: FastMap::default(),
            seeded: Seeded::default(),
            last: 0,
            max,
            overflow: [None, None],
            overflowed: 0,
        }
    }

    pub(super) fn find_or_insert(&mut self, key: KeyRef<'_>) -> Rc<RefCell<T>> {
        let key = key.without_made_up_port();
        if let Some((known, data)) = self.entries.get(self.last)
            && key.is(known)
        {
            return Rc::clone(data);
        }
        let hash = self.seeded.hash_one(key);
        let mut places = self.places.get(&hash).into_iter().flatten();
        if let Some(place) = places.find(|place| key.is(&self.entries[**place].0)) {
            self.last = *place;
            return Rc::clone(&self.entries[*place].1);
        }
        if self.entries.len() >= self.max {
            self.overflowed += 1;
            let make = || (SeriesKey::overflow(key.side), Rc::default());
            return Rc::clone(&self.overflow[key.side as usize].get_or_insert_with(make).1);
        }
        let data = Rc::default();
        self.last = self.entries.len();
        self.places.entry(hash).or_default().push(self.last);
        self.entries.push((key.to_key(), Rc::clone(&data)));
        data
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.entries.iter().chain(self.overflow.iter().flatten())
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

/// How a request ended, for its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Ended { status: u16, grpc_status: Option<u8>, failure: Option<Failure> },
    Other,
}

/// Why a request was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    Failure(Failure),
    Grpc(u8),
    Status(u16),
    /// It was late, and another was sent beside it.
    Late,
    Other,
}

impl Reason {
    fn of(attempt: &Attempt) -> Self {
        match (attempt.failure, attempt.grpc_status, attempt.status) {
            (Some(failure), ..) => Self::Failure(failure),
            (None, Some(code), _) if code != 0 => Self::Grpc(code),
            (None, _, Some(status)) => Self::Status(status),
            (None, _, None) => Self::Late,
        }
    }
}

/// Counts of one series of requests.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestData {
    pub(super) outcomes: Tally<Outcome>,
    pub(super) retries: Tally<Reason>,
    pub(super) requests: u64,
    pub(super) successes: u64,
    pub(super) attempts: u64,
    pub(super) attempt_successes: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) duration: Latency,
    pub(super) overhead: Latency,
}

impl RequestData {
    pub(super) fn record(&mut self, exchange: &Exchange) {
        let (status, grpc_status, failure) = (exchange.status, exchange.grpc_status, exchange.failure);
        let outcome = Outcome::Ended { status, grpc_status, failure };
        self.outcomes.add(outcome, 1, Outcome::Other, MAX_OUTCOMES);
        for attempt in &exchange.attempts[..exchange.retries()] {
            self.retries.add(Reason::of(attempt), 1, Reason::Other, MAX_REASONS);
        }
        self.requests += 1;
        self.successes += u64::from(exchange.succeeded());
        self.attempts += exchange.attempts.len() as u64;
        self.attempt_successes += exchange.attempts.iter().filter(|a| a.succeeded()).count() as u64;
        self.request_bytes += exchange.request_bytes;
        self.response_bytes += exchange.response_bytes;
        self.duration.record(exchange.duration, Exemplar::of(exchange, exchange.duration));
        self.overhead.record(exchange.overhead(), None);
    }

    pub(super) fn refuse(&mut self, failure: Failure) {
        let status = failure.facts().status.as_u16();
        let outcome = Outcome::Ended { status, grpc_status: None, failure: Some(failure) };
        self.outcomes.add(outcome, 1, Outcome::Other, MAX_OUTCOMES);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.outcomes.merge(&other.outcomes, Outcome::Other, MAX_OUTCOMES);
        self.retries.merge(&other.retries, Reason::Other, MAX_REASONS);
        self.requests += other.requests;
        self.successes += other.successes;
        self.attempts += other.attempts;
        self.attempt_successes += other.attempt_successes;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.duration.merge(&other.duration);
        self.overhead.merge(&other.overhead);
    }
}

/// Counts of one series of opaque connections.
#[derive(Debug, Clone, Default)]
pub(super) struct TcpData {
    pub(super) opened: u64,
    pub(super) closed: Tally<Option<Failure>>,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) duration: Latency,
}

impl TcpData {
    pub(super) fn close(&mut self, failure: Option<Failure>) {
        // One place per failure and one for none: it cannot overflow.
        self.closed.add(failure, 1, None, Failure::ALL.len() + 1);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed.merge(&other.closed, None, Failure::ALL.len() + 1);
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.duration.merge(&other.duration);
    }
}

/// A few kinds and how often each was seen; searched from the front, where the common ones are.
#[derive(Debug, Clone)]
pub(super) struct Tally<K>(SmallVec<[(K, u64); 2]>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<K: Copy + PartialEq> Tally<K> {
    /// Adds to `kind`, or to `other` if `max` kinds are there already.
    fn add(&mut self, kind: K, count: u64, other: K, max: usize) {
        let full = self.0.len() >= max;
        if let Some((_, seen)) = self.0.iter_mut().find(|(k, _)| *k == kind) {
            *seen += count;
        } else if full && kind != other {
            self.add(other, count, other, max);
        } else {
            self.0.push((kind, count));
        }
    }

    fn merge(&mut self, from: &Self, other: K, max: usize) {
        for (kind, count) in &from.0 {
            self.add(*kind, *count, other, max);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().copied()
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

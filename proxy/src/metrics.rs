//! Counters and histograms: what happened, in numbers.
//!
//! Each worker counts for itself, in plain cells without a lock; a scrape asks every worker for a copy and adds
//! them up. Label values come from policy and from verified identities, never from what a request says, and every
//! table has a cap beyond which series fall together under `_other`, so that no caller can make the proxy grow.
//!
//! Reading order: `series` (what is counted per service, route and peer), `latency` (one histogram), `snapshot`
//! (a worker's copy, and their sum), `collector` (how a scrape asks), `families` and `page` (what it gets, and how that is
//! written), `edges` (the same for the control plane), `facts` and `process` (what is not counted by workers).

mod collector;
mod edges;
mod facts;
mod families;
mod latency;
mod page;
mod process;
mod series;
mod snapshot;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::ServiceName;
use outrigger_certs::SpiffeId;

pub use collector::{Collector, WorkerQuery, answer_queries, worker_queries};
pub use facts::{ControlFacts, ProxyFacts};
pub use families::render;
pub use page::Format;
pub use series::SeriesKey;
pub use snapshot::MetricsSnapshot;

use crate::breaker::{Cause, Transition};
use crate::exchange::Exchange;
use crate::failure::{Failure, Side};
use crate::snapshot::Endpoint;
use series::{KeyRef, RequestData, Table, TcpData};

/// At most so many combinations of service, port, route, peer and TLS, per worker.
const MAX_REQUEST_SERIES: usize = 512;
/// The same for opaque connections.
const MAX_TCP_SERIES: usize = 512;
/// At most so many services have series of breakers and of hedging, per worker.
const MAX_BREAKER_SERVICES: usize = 1024;
/// At most so many rate limits have a series, per worker.
const MAX_RATE_LIMITS: usize = 512;
/// At most so many access policies have series, per worker.
const MAX_ACCESS_POLICIES: usize = 512;
/// At most so many endpoints of a service are shown as kept out, and so many of all services.
const MAX_EJECTED: usize = 32;

/// One worker's metrics. Cheap to clone; the clones count into the same cells.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: RefCell<Table<RequestData>>,
    tcp: RefCell<Table<TcpData>>,
    active: [Cell<u64>; 2],
    connections: RefCell<HashMap<ConnectionKind, Rc<ConnectionCells>>>,
    breakers: RefCell<HashMap<ServiceName, BreakerData>>,
    rate_limited: RefCell<HashMap<LimitKey, u64>>,
    /// By port, the workload's own.
    concurrency: RefCell<HashMap<u16, u64>>,
    access: RefCell<HashMap<AccessKey, u64>>,
    hedges: RefCell<HashMap<(ServiceName, Hedge), u64>>,
    events: RefCell<HashMap<Event, u64>>,
}

/// A rate limit: whose proxy enforces it, its policy and its name.
type LimitKey = (Side, Arc<str>, Arc<str>);

impl Default for Inner {
    fn default() -> Self {
        Self {
            requests: RefCell::new(Table::new(MAX_REQUEST_SERIES)),
            tcp: RefCell::new(Table::new(MAX_TCP_SERIES)),
            active: Default::default(),
            connections: RefCell::default(),
            breakers: RefCell::default(),
            rate_limited: RefCell::default(),
            concurrency: RefCell::default(),
            access: RefCell::default(),
            hedges: RefCell::default(),
            events: RefCell::default(),
        }
    }
}

/// What a connection is, for its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionKind {
    /// Whose listener or pool it belongs to.
    pub side: Side,
    /// Who began it.
    pub role: Role,
    /// What is spoken on it.
    pub wire: Wire,
    /// It is inside mutual TLS.
    pub mtls: bool,
}

/// Who began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The other side.
    Accepted,
    /// This proxy.
    Dialed,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Connections of this proxy, all together.
    Connections,
    /// Size or number of a message's fields.
    Head,
    /// The time in which a request's head must arrive.
    HeadTime,
    /// The time in which a TLS handshake must end.
    HandshakeTime,
    /// Premature stream resets on one HTTP/2 connection.
    Resets,
    /// The time that a stream may be idle.
    IdleTime,
    /// `maxConnections` of a service.
    ServiceConnections,
    /// `maxPending` of a service.
    ServicePending,
    /// `maxActive` of a service.
    ServiceActive,
    /// What the application has under way, as its latency allows.
    Concurrency,
    /// Keys of one rate limit that are counted each on their own.
    RateLimitKeys,
}

/// Something rare that is only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    DetectTimeout(Side),
    Limit(Side, Limit),
    TlsRefused(Side, Failure),
    ConnectFailed(Side, Failure),
    Mirror(Mirrored),
    Fault(FaultKind),
    Fallback(Failure),
}

/// What became of the copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mirrored {
    /// It was answered.
    Answered,
    /// It was sent and got no answer, or none in time.
    Failed,
    /// Too many were under way.
    Busy,
    /// Its body was too big, or never came whole.
    Body,
    /// No endpoint could be picked.
    Unready,
}

/// What was done to a request on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// It was held back.
    Delay,
    /// It was answered with an error.
    Abort,
    /// Nothing, since too many were held back already.
    Omitted,
}

/// What an access policy said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AccessKey {
    policy: Arc<str>,
    allowed: bool,
    audit: bool,
}

/// What became of an attempt beside a late one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hedge {
    /// Its answer was the first good one.
    Won,
    /// Another's was.
    Lost,
    /// The budget was spent, so that it was not made.
    Refused,
}

/// An endpoint whose breaker is not closed, for showing it.
#[derive(Debug, Clone)]
pub struct Ejected {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// Why.
    pub cause: Cause,
}

#[derive(Debug, Clone, Default)]
struct BreakerData {
    opened: u64,
    closed: u64,
    out: u64,
    /// Some of those that are out, at most [`MAX_EJECTED`].
    ejected: Vec<Ejected>,
}

#[derive(Debug, Default)]
struct ConnectionCells {
    opened: Cell<u64>,
    open: Cell<u64>,
}

impl Metrics {
    /// Counts a finished request.
    pub fn record(&self, exchange: &Exchange) {
        let key = KeyRef {
            side: exchange.side,
            service: exchange.service.as_ref(),
            port: exchange.port,
            route: exchange.route.as_ref(),
            peer: exchange.peer.as_ref(),
            mtls: exchange.mtls,
        };
        let data = self.0.requests.borrow_mut().find_or_insert(key);
        data.borrow_mut().record(exchange);
    }

    /// Counts a message that was refused before it was a request: it has a status and an error, and no service,
    /// trace or duration.
    pub fn request_refused(&self, side: Side, failure: Failure) {
        let key = KeyRef { side, service: None, port: 0, route: None, peer: None, mtls: false };
        let data = self.0.requests.borrow_mut().find_or_insert(key);
        data.borrow_mut().refuse(failure);
    }

    /// Counts a request as under way until the guard is dropped.
    pub fn request_started(&self, side: Side) -> ActiveRequest {
        let active = &self.0.active[side as usize];
        active.set(active.get() + 1);
        ActiveRequest { metrics: self.clone(), side }
    }

    /// Requests under way, in both directions.
    pub fn active_requests(&self) -> u64 {
        self.0.active.iter().map(Cell::get).sum()
    }

    /// Counts an opaque connection until it is closed. `service` is `None` where there is no such service.
    pub fn tcp_opened(
        &self,
        side: Side,
        service: Option<&ServiceName>,
        port: u16,
        peer: Option<&SpiffeId>,
        mtls: bool,
    ) -> TcpConnection {
        let key = KeyRef { side, service, port, route: None, peer, mtls };
        let data = self.0.tcp.borrow_mut().find_or_insert(key);
        data.borrow_mut().opened += 1;
        TcpConnection { data, ended: false }
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connection_opened(&self, kind: ConnectionKind) -> OpenConnection {
        let cells = Rc::clone(self.0.connections.borrow_mut().entry(kind).or_default());
        cells.opened.set(cells.opened.get() + 1);
        cells.open.set(cells.open.get() + 1);
        OpenConnection(cells)
    }

    /// Counts a connection that could not be made.
    pub fn connect_failed(&self, side: Side, failure: Failure) {
        self.count(Event::ConnectFailed(side, failure));
    }

    /// Counts a TLS connection that was refused, by us or by the other side: [`Failure::TlsHandshake`],
    /// [`Failure::TlsIdentity`], or [`Failure::Denied`] for plaintext where mutual TLS is required.
    pub fn tls_refused(&self, side: Side, failure: Failure) {
        self.count(Event::TlsRefused(side, failure));
    }

    /// Counts a connection whose protocol could not be told in time and that goes on as opaque bytes.
    pub fn detect_timeout(&self, side: Side) {
        self.count(Event::DetectTimeout(side));
    }

    /// Counts that a bound was reached.
    pub fn limit_reached(&self, side: Side, limit: Limit) {
        self.count(Event::Limit(side, limit));
    }

    /// Counts a request that a rate limit refused.
    pub fn rate_limited(&self, side: Side, policy: &Arc<str>, limit: &Arc<str>) {
        let mut refused = self.0.rate_limited.borrow_mut();
        let key = (side, policy.clone(), limit.clone());
        if let Some(count) = refused.get_mut(&key) {
            *count += 1;
        } else if refused.len() < MAX_RATE_LIMITS {
            refused.insert(key, 1);
        } else {
            *refused.entry((side, "_other".into(), "".into())).or_default() += 1;
        }
    }

    /// Notes how many requests this worker lets the application have at once on a port now.
    pub fn concurrency_limit(&self, port: u16, limit: u32) {
        self.0.concurrency.borrow_mut().insert(port, limit.into());
    }

    /// Counts what became of the copy of a request.
    pub fn mirrored(&self, mirrored: Mirrored) {
        self.count(Event::Mirror(mirrored));
    }

    /// Counts what was done to a request on purpose.
    pub fn fault(&self, kind: FaultKind) {
        self.count(Event::Fault(kind));
    }

    /// Counts an answer in place of this failure.
    pub fn fell_back(&self, failure: Failure) {
        self.count(Event::Fallback(failure));
    }

    /// Counts that the breaker of one of the service's endpoints changed.
    pub fn breaker(&self, service: &ServiceName, transition: Transition) {
        self.with_breaker(service, |data| match transition {
            Transition::Opened(_) => data.opened += 1,
            Transition::Closed => data.closed += 1,
        });
    }

    /// Notes which of the service's endpoints are kept out by their breaker now.
    pub fn breakers_open(&self, service: &ServiceName, mut ejected: Vec<Ejected>) {
        if !ejected.is_empty() || self.0.breakers.borrow().contains_key(service) {
            self.with_breaker(service, |data| {
                data.out = ejected.len() as u64;
                ejected.truncate(MAX_EJECTED);
                data.ejected = ejected;
            });
        }
    }

    fn with_breaker(&self, service: &ServiceName, change: impl FnOnce(&mut BreakerData)) {
        let mut breakers = self.0.breakers.borrow_mut();
        if let Some(data) = breakers.get_mut(service) {
            change(data);
        } else if breakers.len() < MAX_BREAKER_SERVICES {
            change(breakers.entry(service.clone()).or_default());
        }
    }

    /// Counts what became of an attempt beside a late one.
    pub fn hedge(&self, service: &ServiceName, hedge: Hedge) {
        let mut hedges = self.0.hedges.borrow_mut();
        let key = (service.clone(), hedge);
        if hedges.len() < MAX_BREAKER_SERVICES || hedges.contains_key(&key) {
            *hedges.entry(key).or_default() += 1;
        }
    }

    /// Counts what a policy, or the mode, said of a request or connection.
    pub fn access(&self, policy: &Arc<str>, allowed: bool, audit: bool) {
        let mut counts = self.0.access.borrow_mut();
        let key = AccessKey { policy: policy.clone(), allowed, audit };
        let full = counts.len() >= MAX_ACCESS_POLICIES;
        if let Some(count) = counts.get_mut(&key) {
            *count += 1;
        } else {
            let policy = if full { "_other".into() } else { key.policy };
            *counts.entry(AccessKey { policy, ..key }).or_default() += 1;
        }
    }

    fn count(&self, event: Event) {
        *self.0.events.borrow_mut().entry(event).or_default() += 1;
    }

    /// A copy that can leave the worker.
    pub fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot::of(&self.0)
    }
}

/// A request under way; counted until dropped.
#[derive(Debug)]
pub struct ActiveRequest {
    metrics: Metrics,
    side: Side,
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let active = &self.metrics.0.active[self.side as usize];
        active.set(active.get().saturating_sub(1));
    }
}

/// An open connection; counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Rc<ConnectionCells>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// An opaque connection; its bytes are counted while it lives.
///
/// Dropped without [`TcpConnection::closed`], it counts as closed without a duration or an error.
#[derive(Debug)]
pub struct TcpConnection {
    data: Rc<RefCell<TcpData>>,
    ended: bool,
}

impl TcpConnection {
    /// Counts bytes that came from the caller.
    pub fn read(&self, bytes: u64) {
        self.data.borrow_mut().read_bytes += bytes;
    }

    /// Counts bytes that went to the caller.
    pub fn written(&self, bytes: u64) {
        self.data.borrow_mut().written_bytes += bytes;
    }

    /// Counts the end.
    pub fn closed(mut self, duration: Duration, failure: Option<Failure>) {
        self.ended = true;
        let mut data = self.data.borrow_mut();
        data.close(failure);
        data.duration.record(duration, None);
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        if !self.ended {
            self.data.borrow_mut().close(None);
        }
    }
}

impl Hedge {
    fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dialed => "dialed",
        }
    }
}

impl Mirrored {
    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Body => "body",
            Self::Unready => "unready",
        }
    }
}

impl FaultKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Omitted => "omitted",
        }
    }
}

impl Wire {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

impl Limit {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Head => "head",
            Self::HeadTime => "head-time",
            Self::HandshakeTime => "handshake-time",
            Self::Resets => "resets",
            Self::IdleTime => "idle-time",
            Self::ServiceConnections => "service-connections",
            Self::ServicePending => "service-pending",
            Self::ServiceActive => "service-active",
            Self::Concurrency => "concurrency",
            Self::RateLimitKeys => "rate-limit-keys",
        }
    }
}

#[cfg(test)]
mod tests;

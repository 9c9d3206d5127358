//! The policy that one request is served under, whole and unchanging.
//!
//! The control stream compiles each update into a new [`Snapshot`] that shares everything unchanged with the
//! one before, and publishes it with one pointer swap. A worker loads the pointer once per request: from then
//! on nothing that arrives can change that request's route, timeouts or backends.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::uri::Authority;
use ipnet::IpNet;
use outrigger_api::ServiceName;
use outrigger_certs::SpiffeId;
use tokio::sync::watch;

use crate::access::Access;
use crate::api_key::ApiKeys;
use crate::budget::{DEFAULT_INTERVAL, DEFAULT_WINDOW};
use crate::concurrency::ConcurrencyPolicy;
use crate::fallback::Fallback;
use crate::filter::Filter;
use crate::gateway::Gateway;
use crate::hash::FastMap;
use crate::hash_key::HashPolicy;
use crate::hedge::HedgePolicy;
use crate::jwt::Jwt;
use crate::origination::OriginatedTls;
use crate::outlier::OutlierPolicy;
use crate::persistence::SessionPolicy;
use crate::rate_limit::RateLimits;
use crate::retry::RetryPolicy;
use crate::route::RouteTable;

/// Everything a worker knows of the mesh at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Settings that hold for every service.
    pub mesh: Arc<MeshSettings>,
    /// The services that the workload calls, and those their routes lead to.
    pub services: FastMap<ServiceName, Arc<Service>>,
    /// What was asked for and does not exist.
    pub missing: HashMap<ServiceName, ()>,
    /// Addresses that redirected traffic is recognised by.
    pub addresses: HashMap<IpAddr, ServiceName>,
    /// Hosts outside the mesh, and the services that stand for them.
    pub hosts: HashMap<Arc<str>, HostServices>,
    /// What the control plane says of the workload's own ports.
    pub inbound: Arc<Inbound>,
}

/// What holds for calls of the workload itself.
#[derive(Debug, Default)]
pub struct Inbound {
    /// By port number, few.
    pub ports: Vec<InboundPort>,
}

impl Inbound {
    /// The port with this number.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.iter().find(|p| p.port == port)
    }
}

/// One of the workload's own ports, or of a gateway's.
#[derive(Debug)]
pub struct InboundPort {
    /// Its number.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// How often it may be called.
    pub rate_limits: RateLimits,
    /// How many requests may be under way. `None`: as many as come.
    pub concurrency: Option<ConcurrencyPolicy>,
    /// `None`: whoever mutual TLS lets in may call.
    pub access: Option<Arc<Access>>,
    /// `None`: tokens are the application's own affair.
    pub jwt: Option<Arc<Jwt>>,
    /// The same of keys.
    pub api_keys: Option<Arc<ApiKeys>>,
}

/// Settings from `MeshConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshSettings {
    /// The store's revision.
    pub version: u64,
    /// Plaintext callers are served (and counted) instead of refused.
    pub permissive_mtls: bool,
    /// Share of traces started here that are sampled, 0 to 1.
    pub sampling_ratio: f64,
    /// One JSON line a request.
    pub access_log: bool,
    /// Overrides the proxy's own collector.
    pub otlp_endpoint: Option<String>,
    /// Formats written beside those the request came with.
    pub trace_formats: Vec<TraceFormat>,
    /// Paths are brought to their normal form before anything looks at them.
    pub normalize_paths: bool,
    /// What may be called outside the mesh.
    pub egress: Egress,
}

/// What may be called outside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// Only hosts that a service stands for, and the networks of `cidrs`.
    pub listed_only: bool,
    /// Networks that connections may go to all the same.
    pub cidrs: Vec<IpNet>,
}

impl Egress {
    /// Whether something at `address` may be called that no service stands for.
    pub fn allows(&self, address: IpAddr) -> bool {
        !self.listed_only || self.cidrs.iter().any(|network| network.contains(&address.to_canonical()))
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            version: 0,
            permissive_mtls: false,
            sampling_ratio: 0.01,
            access_log: true,
            otlp_endpoint: None,
            trace_formats: vec![TraceFormat::W3c],
            normalize_paths: true,
            egress: Egress::default(),
        }
    }
}

/// How a trace context is written into headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TraceFormat {
    /// `traceparent` and `tracestate`.
    W3c,
    /// The one header `b3`.
    B3,
    /// `x-b3-traceid` and its sisters.
    B3Multi,
}

/// One service as its callers use it.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// The store's revision that the policy was compiled from.
    pub version: u64,
    /// By port number, few.
    pub ports: Vec<Arc<ServicePort>>,
    /// How its endpoints are called.
    pub policy: Arc<BackendPolicy>,
    /// Who answers for it now.
    pub endpoints: Arc<Endpoints>,
    /// Where it is, if not in the mesh.
    pub external: Option<Arc<External>>,
    /// Where its proxy takes connections in and on which terms, if it is a gateway.
    pub gateway: Option<Arc<Gateway>>,
    /// When it was last called, in seconds since the proxy started; shared by all versions of the service.
    pub last_used: Arc<AtomicU64>,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, port: u16) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// Notes that a worker used the service, `second`s after the proxy started.
    pub fn touch(&self, second: u64) {
        if self.last_used.load(Ordering::Relaxed) != second {
            self.last_used.store(second, Ordering::Relaxed);
        }
    }
}

/// Which services stand for a host outside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostServices {
    /// The one that a document made.
    pub listed: Option<ServiceName>,
    /// Those that were made for a call that the mesh allows, by port.
    pub unlisted: Vec<(u16, ServiceName)>,
}

/// A host outside the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// A DNS name in lower case, or an IP address.
    pub host: Arc<str>,
    /// By number of the service's port, few.
    pub ports: Vec<ExternalPort>,
    /// A document lists it; otherwise it is merely allowed.
    pub listed: bool,
}

impl External {
    /// What stands behind one of the service's ports.
    pub fn port(&self, port: u16) -> Option<&ExternalPort> {
        self.ports.iter().find(|known| known.port == port)
    }
}

/// One port of a host outside the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalPort {
    /// The service's.
    pub port: u16,
    /// The host's.
    pub target_port: u16,
    /// What requests name.
    pub authority: Authority,
    /// The TLS that the proxy begins.
    pub tls: Option<Arc<OriginatedTls>>,
}

impl ExternalPort {
    /// A port of `host`; requests name the host, and the port where it is not the scheme's own.
    ///
    /// # Errors
    /// It is no host.
    pub fn new(
        host: &str,
        port: u16,
        target_port: u16,
        tls: Option<Arc<OriginatedTls>>,
    ) -> Result<Self, String> {
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let usual = if tls.is_some() { 443 } else { 80 };
        let text = if target_port == usual { bracketed } else { format!("{bracketed}:{target_port}") };
        let authority = text.parse().map_err(|_| format!("{host:?} is no host"))?;
        Ok(Self { port, target_port, authority, tls })
    }
}

/// One port of a service, with the routes attached to it.
#[derive(Debug)]
pub struct ServicePort {
    /// Its number.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The routes. `None`: plain forwarding to the service's own endpoints.
    pub routes: Option<RouteTable>,
    /// Where connections go that the proxy does not read. Empty: to the service's own endpoints.
    pub tcp_backends: Vec<Backend>,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Found out from the first bytes.
    #[default]
    Detect,
    /// HTTP/1.1, upgrades included.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    /// Opaque bytes.
    Tcp,
}

/// What a rule does with the requests that it matches.
#[derive(Debug)]
pub struct Rule {
    /// `namespace/name` of the route, for labels.
    pub route: Arc<str>,
    /// The rule's own name or index, for error texts.
    pub name: Arc<str>,
    /// Applied in this order.
    pub filters: Vec<Filter>,
    /// For all attempts together.
    pub request_timeout: Option<Duration>,
    /// For each attempt.
    pub attempt_timeout: Option<Duration>,
    /// `None`: the service's own.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Requests of one client stay with one endpoint.
    pub session: Option<Box<SessionPolicy>>,
    /// `None`: the service's own.
    pub hedging: Option<Box<HedgePolicy>>,
    /// Where requests go, by weight.
    pub backends: Vec<Backend>,
    /// How often this proxy may use it.
    pub rate_limits: RateLimits,
    /// `None`: the service's own.
    pub fallback: Option<Arc<Fallback>>,
}

/// One target of a rule.
#[derive(Debug)]
pub struct Backend {
    /// 0 to 1,000,000; the share is weight / sum.
    pub weight: u32,
    /// Where to.
    pub target: Target,
    /// Applied to requests that take this backend.
    pub filters: Vec<Filter>,
}

/// Where a backend leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The endpoints of a service port.
    Service {
        /// Which service.
        name: ServiceName,
        /// Which of its ports.
        port: u16,
    },
    /// Nowhere, for this reason; its share of the requests fails.
    Invalid(Arc<str>),
}

/// How a service's endpoints are called.
#[derive(Debug, Clone)]
pub struct BackendPolicy {
    /// Which endpoint gets a request.
    pub balancer: BalancerKind,
    /// On what [`BalancerKind::Hash`] goes by.
    pub hash: Option<Box<HashPolicy>>,
    /// Requests stay in the caller's zone while at least this share of its endpoints there can be used, percent.
    /// `None`: no zone is preferred.
    pub zone_percent: Option<u32>,
    /// A new endpoint's share grows to what is due to it in this time.
    pub slow_start: Option<Duration>,
    /// For the TCP connection.
    pub connect_timeout: Duration,
    /// For the TLS handshake.
    pub tls_timeout: Duration,
    /// An unused connection closes after this long, less up to a tenth of it.
    pub idle_timeout: Duration,
    /// A connection takes no new requests after this long, less up to a tenth of it.
    pub max_connection_age: Option<Duration>,
    /// `None`: never open.
    pub breaker: Option<BreakerPolicy>,
    /// Per worker process: connections to all endpoints together.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending: u32,
    /// Requests under way.
    pub max_active: u32,
    /// Retries allowed, percent of requests.
    pub retry_budget_percent: u32,
    /// Retries always allowed, a second (or another interval).
    pub retry_budget_per_second: u32,
    /// The share is one of the requests of this last time.
    pub retry_budget_window: Duration,
    /// The interval in which so many are always allowed.
    pub retry_budget_interval: Duration,
    /// Where no rule says otherwise.
    pub request_timeout: Option<Duration>,
    /// Where no rule says otherwise.
    pub attempt_timeout: Option<Duration>,
    /// Where no rule says otherwise. `None`: only what provably never reached the application.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Where no rule says otherwise.
    pub hedging: Option<Box<HedgePolicy>>,
    /// Where there are no routes.
    pub session: Option<Arc<SessionPolicy>>,
    /// For connections on which nothing happens.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// For shared connections.
    pub http2: Http2Policy,
    /// Requests that an exclusive connection carries before it closes. `None`: any number.
    pub http1_max_requests: Option<u32>,
    /// The answer where no backend has an endpoint that could be used.
    pub fallback: Option<Arc<Fallback>>,
}

impl Default for BackendPolicy {
    fn default() -> Self {
        Self {
            balancer: BalancerKind::PeakEwma,
            hash: None,
            zone_percent: Some(70),
            slow_start: None,
            connect_timeout: Duration::from_secs(1),
            tls_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            max_connection_age: Some(Duration::from_secs(3600)),
            breaker: Some(BreakerPolicy::default()),
            max_connections: 1024,
            max_pending: 1024,
            max_active: 4096,
            retry_budget_percent: 20,
            retry_budget_per_second: 10,
            retry_budget_window: DEFAULT_WINDOW,
            retry_budget_interval: DEFAULT_INTERVAL,
            request_timeout: None,
            attempt_timeout: None,
            retry: None,
            hedging: None,
            session: None,
            tcp_keepalive: None,
            http2: Http2Policy::default(),
            http1_max_requests: None,
            fallback: None,
        }
    }
}

/// How the operating system asks whether a silent peer is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// After so much silence.
    pub time: Duration,
    /// So long after each question without an answer.
    pub interval: Duration,
    /// After so many of these the connection is gone.
    pub probes: u32,
}

/// How many requests share a connection, and how much may be under way on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Policy {
    /// Requests at once; a further one opens another connection.
    pub max_streams: u32,
    /// Bytes of one answer that the peer may send ahead.
    pub stream_window_bytes: u32,
    /// The same of all answers together.
    pub connection_window_bytes: u32,
}

impl Default for Http2Policy {
    fn default() -> Self {
        Self { max_streams: 200, stream_window_bytes: 1 << 20, connection_window_bytes: 4 << 20 }
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancerKind {
    /// Power of two choices on the peak of the moving average of latency.
    PeakEwma,
    /// Power of two choices on requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same one for the same key; without a key as [`BalancerKind::PeakEwma`].
    Hash,
}

/// When an endpoint is taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// So many failures in a row open it.
    pub consecutive_failures: u32,
    /// The first open time; it doubles with each reopening.
    pub min_open: Duration,
    /// The longest open time.
    pub max_open: Duration,
    /// At most this share of the endpoints is out, percent.
    pub max_ejected_percent: u32,
    /// One that succeeds far less often than its peers is taken out, too. `None`: they are not compared.
    pub outlier: Option<OutlierPolicy>,
    /// While less than this share of the endpoints is in, percent, all are used. 0: never those that are out.
    pub panic_percent: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 7,
            min_open: Duration::from_secs(1),
            max_open: Duration::from_secs(60),
            max_ejected_percent: 50,
            outlier: Some(OutlierPolicy::default()),
            panic_percent: 50,
        }
    }
}

/// Who answers for a service.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// The control plane's count of changes to this set.
    pub version: u64,
    /// Sorted by id.
    pub all: Vec<Arc<Endpoint>>,
}

/// Who is expected to answer at an endpoint, and how that is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A workload, through the proxy beside it: its certificate must say this.
    Workload(SpiffeId),
    /// Somebody outside the mesh; what is sent there is not encrypted by the proxy.
    Anybody,
    /// A server outside the mesh, by a certificate for its name.
    Server(Arc<OriginatedTls>),
}

impl Expected {
    /// The workload, if it is one.
    pub fn workload(&self) -> Option<&SpiffeId> {
        match self {
            Self::Workload(id) => Some(id),
            Self::Anybody | Self::Server(_) => None,
        }
    }

    /// Whether the connection is encrypted, and the peer proved.
    pub fn is_proved(&self) -> bool {
        !matches!(self, Self::Anybody)
    }
}

/// The identity of a workload.
impl FromStr for Expected {
    type Err = <SpiffeId as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Workload)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Anybody => f.write_str("anybody"),
            Self::Server(tls) => f.write_str(tls.name.as_ref()),
        }
    }
}

/// One instance of a service: the proxy beside it, or an address outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Stable for the life of the instance.
    pub id: Arc<str>,
    /// Where its proxy listens, or it itself.
    pub address: SocketAddr,
    /// Who must be there.
    pub identity: Expected,
    /// Empty where unknown.
    pub zone: Arc<str>,
    /// Its application passes its health check.
    pub healthy: bool,
    /// The service ports that it serves.
    pub ports: Vec<u16>,
}

/// Where the newest snapshot is found. Cloned into every worker.
#[derive(Debug, Clone, Default)]
pub struct Snapshots(Arc<Published>);

#[derive(Debug, Default)]
struct Published {
    newest: ArcSwap<Snapshot>,
    changed: watch::Sender<()>,
}

impl Snapshots {
    /// The newest. One call per request.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.newest.load_full()
    }

    /// Replaces it. Only the control stream's task calls this.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.newest.store(Arc::new(snapshot));
        self.0.changed.send_replace(());
    }

    /// Tells of each new snapshot.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}

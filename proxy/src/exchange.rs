//! One finished request, as metrics, access log and traces see it.
//!
//! The request path fills in one [`Exchange`] and hands it to the worker's [`Recorder`] once, when the last byte of
//! the answer or its trailers have gone. The three outputs are made from the same struct, so they cannot
//! disagree about what happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, Uri, Version};
use outrigger_api::ServiceName;
use outrigger_certs::SpiffeId;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::access_log::WorkerLog;
use crate::failure::{Failure, Side};
use crate::metrics::Metrics;
use crate::span::Spans;
use crate::trace::{SpanId, TraceContext};

/// The status of a request whose caller left before an answer began.
pub const NO_STATUS: u16 = 0;

/// One request from its head to the end of its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Which proxy of the two this is.
    pub side: Side,
    /// The service called (outbound) or the workload's own (inbound). `None` where there is no such service: a
    /// name that a caller made up must not become a label.
    pub service: Option<ServiceName>,
    /// The service's port; 0 where it has no such port.
    pub port: u16,
    /// `namespace/name` of the route, where one is attached.
    pub route: Option<Arc<str>>,
    /// The identity of the other side: verified, or expected where the connection failed before it could be.
    pub peer: Option<SpiffeId>,
    /// The other proxy was reached by, or came by, mutual TLS.
    pub mtls: bool,
    /// As the caller spoke it.
    pub version: Version,
    /// Of the request.
    pub method: Method,
    /// Of the request. Only the path is logged: queries carry secrets more often than answers to questions.
    pub uri: Uri,
    /// The Host header, as sent; where there is none, [`Exchange::uri`] has the authority.
    pub authority: Option<HeaderValue>,
    /// `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// The caller's address as the socket has it.
    pub client: Option<SocketAddr>,
    /// The status that the caller got; [`NO_STATUS`] if it left before that.
    pub status: u16,
    /// `grpc-status`, where the request was gRPC and it was said.
    pub grpc_status: Option<u8>,
    /// Why the proxy answered itself, or why the answer was cut short.
    pub failure: Option<Failure>,
    /// `namespace/name` of the policy that refused it, for the log; the caller is not told.
    pub policy: Option<Arc<str>>,
    /// The same of an audited policy that would have.
    pub audit_policy: Option<Arc<str>>,
    /// When the head had been read.
    pub started: Instant,
    /// The same moment on the wall.
    pub started_at: SystemTime,
    /// From `started` to the end of the answer.
    pub duration: Duration,
    /// The part of `duration` in which the upstream had the turn: connecting, the answer, its body.
    pub upstream: Duration,
    /// What was sent upstream, in order; empty where nothing was.
    pub attempts: SmallVec<[Attempt; 1]>,
    /// Body bytes read from the caller.
    pub request_bytes: u64,
    /// Body bytes sent to the caller.
    pub response_bytes: u64,
    /// The trace and this proxy's span in it.
    pub trace: TraceContext,
}

/// One try to get an answer from one endpoint.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The attempt's own span: what the next hop has for a parent.
    pub span_id: SpanId,
    /// When it began.
    pub started: Instant,
    /// Until its answer, or its part of it, ended.
    pub duration: Duration,
    /// Where it went; `None` if no endpoint could be picked.
    pub endpoint: Option<SocketAddr>,
    /// Who was expected there, and verified if there was an answer.
    pub peer: Option<SpiffeId>,
    /// `None`: no answer.
    pub status: Option<u16>,
    /// As in [`Exchange::grpc_status`].
    pub grpc_status: Option<u8>,
    /// Why there was no answer.
    pub failure: Option<Failure>,
}

impl Exchange {
    /// A request whose head has just been read; the request path fills in the rest as it learns it.
    pub fn new(side: Side, trace: TraceContext, started: Instant, started_at: SystemTime) -> Self {
        Self {
            side,
            service: None,
            port: 0,
            route: None,
            peer: None,
            mtls: false,
            version: Version::HTTP_11,
            method: Method::GET,
            uri: Uri::default(),
            authority: None,
            request_id: None,
            client: None,
            status: NO_STATUS,
            grpc_status: None,
            failure: None,
            policy: None,
            audit_policy: None,
            started,
            started_at,
            duration: Duration::ZERO,
            upstream: Duration::ZERO,
            attempts: SmallVec::new(),
            request_bytes: 0,
            response_bytes: 0,
            trace,
        }
    }

    /// Whether the caller saw it succeed: an answer that neither the proxy made nor the upstream failed.
    pub fn succeeded(&self) -> bool {
        succeeded(self.status, self.grpc_status, self.failure)
    }

    /// Time spent in the proxy itself.
    pub fn overhead(&self) -> Duration {
        self.duration.saturating_sub(self.upstream)
    }

    /// How often it was tried again.
    pub fn retries(&self) -> usize {
        self.attempts.len().saturating_sub(1)
    }
}

impl Attempt {
    /// Whether this try alone would have been a success.
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| succeeded(status, self.grpc_status, self.failure))
    }
}

/// gRPC codes that are the server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and
/// DATA_LOSS, as OpenTelemetry's conventions list them.
pub(crate) fn is_grpc_server_error(code: u8) -> bool {
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15)
}

fn succeeded(status: u16, grpc_status: Option<u8>, failure: Option<Failure>) -> bool {
    failure.is_none() && (100..500).contains(&status) && !grpc_status.is_some_and(is_grpc_server_error)
}

/// Where a worker's finished requests go. One per worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    /// Counters and histograms.
    pub metrics: Metrics,
    /// One JSON line a request.
    pub log: WorkerLog,
    /// Spans of sampled requests.
    pub spans: Spans,
}

impl Recorder {
    /// Records a request that has ended. Called exactly once for each. Never waits.
    ///
    /// `mesh_log` is `MeshSettings::access_log` of the snapshot that the request was served under.
    pub fn finish(&self, exchange: Exchange, mesh_log: bool) {
        self.metrics.record(&exchange);
        self.log.record(&exchange, mesh_log);
        self.spans.record(exchange);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use http::HeaderMap;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// A sampled outbound request to `payments.shop:80` that one attempt answered with 200 in 5 ms, 1 ms of them
    /// in the proxy.
    pub(crate) fn exchange() -> Exchange {
        let mut rng = StdRng::seed_from_u64(1);
        let trace = TraceContext::extract(&HeaderMap::new(), 1.0, &mut rng);
        let started = Instant::now();
        let span_id = trace.child(&mut rng).span_id;
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let mut exchange = Exchange::new(Side::Outbound, trace, started, wall);
        exchange.service = Some(ServiceName::new("shop", "payments").unwrap());
        exchange.port = 80;
        exchange.peer = Some("spiffe://outrigger.local/ns/shop/sa/payments".parse().unwrap());
        exchange.mtls = true;
        exchange.uri = "/charge?card=secret".parse().unwrap();
        exchange.authority = Some(HeaderValue::from_static("payments.shop"));
        exchange.status = 200;
        exchange.duration = Duration::from_millis(5);
        exchange.upstream = Duration::from_millis(4);
        exchange.attempts.push(attempt(span_id, started, Some(200)));
        exchange
    }

    /// An attempt that took 4 ms.
    pub(crate) fn attempt(span_id: SpanId, started: Instant, status: Option<u16>) -> Attempt {
        Attempt {
            span_id,
            started,
            duration: Duration::from_millis(4),
            endpoint: Some(SocketAddr::from(([127, 0, 0, 1], 4743))),
            peer: Some("spiffe://outrigger.local/ns/shop/sa/payments".parse().unwrap()),
            status,
            grpc_status: None,
            failure: None,
        }
    }

    #[test]
    fn success_is_what_the_caller_would_call_success() {
        let mut exchange = exchange();
        for (status, grpc_status, failure, expected) in [
            (200, None, None, true),
            (404, None, None, true),
            (500, None, None, false),
            (200, Some(0), None, true),
            (200, Some(5), None, true),
            (200, Some(14), None, false),
            (404, None, Some(Failure::NoRoute), false),
            (200, None, Some(Failure::UpstreamReset), false),
            (NO_STATUS, None, None, false),
        ] {
            (exchange.status, exchange.grpc_status, exchange.failure) = (status, grpc_status, failure);
            assert_eq!(exchange.succeeded(), expected, "{status} {grpc_status:?} {failure:?}");
        }
    }
}

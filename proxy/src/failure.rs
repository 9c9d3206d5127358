//! Why a proxy answered a request itself, or refused a connection.
//!
//! Everything that can go wrong on the request path meets in one closed enum. One exhaustive `match` decides
//! the public name, the HTTP and gRPC status, the flag that Envoy's users know, and whether another attempt may
//! help, so that response, log, metric and span can never disagree.

use std::fmt;

use http::StatusCode;

/// Why the proxy answered instead of the application. The docs say what to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// A message that is malformed or that two parsers could read in two ways. Check the client.
    BadRequest,
    /// More than 60 KiB of head or 100 fields. Check for a cookie or header that grows.
    HeadTooLarge,
    /// A token or an API key is missing where one is required, or it is not valid. The far proxy's log says why.
    Unauthenticated,
    /// Access policy, a plaintext caller where mutual TLS is required, or a host outside that no document lists. Check
    /// the caller's identity, and MeshConfig's egress.
    Denied,
    /// The connection was opened for another listener of the gateway. Clients open one of their own and try again.
    Misdirected,
    /// The service is not known, or it has routes and none matches. Check `outrigger get httproute`.
    NoRoute,
    /// A route refers to something that is not there. Check the route's backends.
    InvalidBackend,
    /// The upstream closed the connection or reset the stream. Check the application's log.
    UpstreamReset,
    /// The upstream broke the protocol. Check that the port's protocol is declared right.
    UpstreamProtocol,
    /// Nothing is ready behind the service. Check `outrigger proxies` and the application's health.
    NoEndpoints,
    /// The connection to the endpoint was refused or failed. Check that the peer's proxy runs.
    ConnectRefused,
    /// The endpoint did not accept the connection in time. Check the network between the two.
    ConnectTimeout,
    /// The TLS handshake failed. Check clocks and certificates on both sides.
    TlsHandshake,
    /// The peer's certificate is not that of the expected workload. Check `outrigger identity`.
    TlsIdentity,
    /// The circuit breakers of all endpoints are open. Check the upstream's errors.
    BreakerOpen,
    /// A limit on connections, requests or bytes is reached. Check load and `ServicePolicy`.
    Overloaded,
    /// The answer was a failure and the retry budget is spent. Check the upstream's errors.
    RetryBudget,
    /// More requests than a `RateLimitPolicy` allows. Check `retry-after`, and the policy that the log names.
    RateLimited,
    /// The proxy shuts down. The caller should connect elsewhere.
    Draining,
    /// One attempt took longer than the route allows it. Check the upstream's latency.
    TryTimeout,
    /// All attempts together took longer than the route allows. Check the upstream's latency.
    RequestTimeout,
    /// The caller's own deadline has passed. Check what it asks for.
    Deadline,
    /// A `FaultInjection` says so. Nothing is wrong but what it is meant to show.
    FaultInjected(Injected),
}

/// What a request that fails on purpose is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Injected {
    status: u16,
    grpc: u8,
}

impl Injected {
    /// What stands for all of them.
    const TYPICAL: Self = Self { status: 503, grpc: grpc::UNAVAILABLE };

    /// An HTTP status, and the gRPC status that a gRPC client makes of it.
    pub fn http(status: u16) -> Self {
        let grpc = match status {
            400 => grpc::INTERNAL,
            401 => grpc::UNAUTHENTICATED,
            403 => grpc::PERMISSION_DENIED,
            404 => grpc::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => grpc::UNAVAILABLE,
            _ => grpc::UNKNOWN,
        };
        Self { status: status.clamp(400, 599), grpc }
    }

    /// A gRPC status, and the HTTP status that `google.rpc.Code` names for it.
    pub fn grpc(code: u8) -> Self {
        let status = match code {
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        };
        Self { status, grpc: code }
    }
}

/// Which proxy made an answer: the caller's (outbound) or the application's (inbound).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The proxy beside the caller.
    Outbound,
    /// The proxy beside the application.
    Inbound,
}

impl Side {
    /// The word used in headers, labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// gRPC status codes that a proxy answers with.
mod grpc {
    pub(super) const UNKNOWN: u8 = 2;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
    pub(super) const UNAUTHENTICATED: u8 = 16;
}

/// Whether the failed attempt can have reached the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It provably never did: safe to try again, whatever the method.
    Never,
    /// It may have: only what is idempotent may be tried again.
    Perhaps,
    /// Another attempt cannot change the answer.
    Final,
}

/// What the world sees of one failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The name in the `outrigger-error` header, the `error` label, the log and the span.
    pub name: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// The gRPC status code.
    pub grpc: u8,
    /// Envoy's response flag.
    pub flag: &'static str,
    /// Whether another attempt may help.
    pub reached: Reached,
    /// What went wrong, for the caller.
    pub message: &'static str,
    /// What to check.
    pub hint: &'static str,
}

impl Failure {
    /// All of them, for documentation and pre-made series.
    pub const ALL: [Self; 23] = [
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::Unauthenticated,
        Self::Denied,
        Self::Misdirected,
        Self::NoRoute,
        Self::InvalidBackend,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::NoEndpoints,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::TlsHandshake,
        Self::TlsIdentity,
        Self::BreakerOpen,
        Self::Overloaded,
        Self::RetryBudget,
        Self::RateLimited,
        Self::Draining,
        Self::TryTimeout,
        Self::RequestTimeout,
        Self::Deadline,
        Self::FaultInjected(Injected::TYPICAL),
    ];

    /// The public name, as in the `outrigger-error` header.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The failure with this public name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.name() == name)
    }

    /// The one mapping from a failure to everything that is seen of it.
    pub fn facts(self) -> Facts {
        use Reached::{Final, Never, Perhaps};
        let (name, status, grpc, flag, reached, message, hint) = match self {
            Self::BadRequest => (
                "bad-request",
                400,
                grpc::INTERNAL,
                "DPE",
                Final,
                "the request is malformed or ambiguous",
                "send one Content-Length or one final chunked coding, CRLF line ends, no space before a colon, and no other scheme than http (TLS goes over CONNECT)",
            ),
            Self::HeadTooLarge => (
                "head-too-large",
                431,
                grpc::INTERNAL,
                "DPE",
                Final,
                "the request head is over 60 KiB or 100 fields",
                "look for a cookie or header that grows",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                401,
                grpc::UNAUTHENTICATED,
                "UAEX",
                Final,
                "the request brings no valid token or API key",
                "send a token of an issuer that the service takes, or a key that it knows; the log of the proxy that refused \
                 says what is wrong",
            ),
            Self::Denied => (
                "denied",
                403,
                grpc::PERMISSION_DENIED,
                "UAEX",
                Final,
                "the caller may not do this",
                "call through a proxy that has an identity in this mesh, and hosts outside only where MeshConfig's egress \
                 allows it; the log of the proxy that refused names the rule",
            ),
            Self::Misdirected => (
                "misdirected",
                421,
                grpc::UNAVAILABLE,
                "NR",
                Final,
                "the connection was opened for another host",
                "open a connection whose server name is the host of the request",
            ),
            Self::NoRoute => (
                "no-route",
                404,
                grpc::UNIMPLEMENTED,
                "NR",
                Final,
                "no service or route matches the request",
                "see `outrigger get httproute`; the Host must be NAME or NAME.NAMESPACE",
            ),
            Self::InvalidBackend => (
                "invalid-backend",
                500,
                grpc::UNAVAILABLE,
                "NC",
                Final,
                "the route leads to a backend that is not there",
                "see the route's backendRefs with `outrigger get httproute -o yaml`",
            ),
            Self::UpstreamReset => (
                "upstream-reset",
                502,
                grpc::UNAVAILABLE,
                "UR",
                Perhaps,
                "the upstream closed the connection before its answer ended",
                "see the application's log",
            ),
            Self::UpstreamProtocol => (
                "upstream-protocol",
                502,
                grpc::UNAVAILABLE,
                "UPE",
                Perhaps,
                "the upstream's answer is not valid HTTP",
                "see whether the port's protocol is declared right",
            ),
            Self::NoEndpoints => (
                "no-endpoints",
                503,
                grpc::UNAVAILABLE,
                "UH",
                Final,
                "the service has no ready endpoint",
                "see `outrigger proxies` and the application's health",
            ),
            Self::ConnectRefused => (
                "connect-refused",
                503,
                grpc::UNAVAILABLE,
                "UF",
                Never,
                "the connection to the upstream failed",
                "see whether the application or its proxy runs",
            ),
            Self::ConnectTimeout => (
                "connect-timeout",
                504,
                grpc::DEADLINE_EXCEEDED,
                "UT",
                Never,
                "the upstream did not accept the connection in time",
                "see the network between the two hosts",
            ),
            Self::TlsHandshake => (
                "tls-handshake",
                503,
                grpc::UNAVAILABLE,
                "UF",
                Never,
                "the TLS handshake with the upstream failed",
                "see the clocks and `outrigger identity` on both sides",
            ),
            Self::TlsIdentity => (
                "tls-identity",
                503,
                grpc::UNAVAILABLE,
                "UF",
                Never,
                "a certificate does not prove the identity that is expected",
                "the proxy's log names the expected and the presented identity",
            ),
            Self::BreakerOpen => (
                "breaker-open",
                503,
                grpc::UNAVAILABLE,
                "UO",
                Final,
                "the circuit breakers of the service's endpoints are open",
                "see the upstream's errors",
            ),
            Self::Overloaded => (
                "overloaded",
                503,
                grpc::UNAVAILABLE,
                "UO",
                Final,
                "a limit on connections, requests or bytes is reached",
                "see load and limits with `outrigger stat` and the ServicePolicy",
            ),
            Self::RetryBudget => (
                "retry-budget",
                503,
                grpc::UNAVAILABLE,
                "UO",
                Final,
                "the upstream fails and the retry budget is spent",
                "see the upstream's errors",
            ),
            Self::RateLimited => (
                "rate-limited",
                429,
                grpc::RESOURCE_EXHAUSTED,
                "RL",
                Final,
                "there were more requests than the service allows",
                "wait as long as retry-after says; the proxy's log names the RateLimitPolicy",
            ),
            Self::Draining => (
                "draining",
                503,
                grpc::UNAVAILABLE,
                "UO",
                Never,
                "the proxy is shutting down",
                "connect again",
            ),
            Self::TryTimeout => (
                "try-timeout",
                504,
                grpc::DEADLINE_EXCEEDED,
                "UT",
                Perhaps,
                "an attempt took longer than the route allows",
                "see the upstream's latency and timeouts.backendRequest",
            ),
            Self::RequestTimeout => (
                "request-timeout",
                504,
                grpc::DEADLINE_EXCEEDED,
                "UT",
                Final,
                "the request took longer than the route allows",
                "see the upstream's latency and timeouts.request",
            ),
            Self::Deadline => (
                "deadline",
                504,
                grpc::DEADLINE_EXCEEDED,
                "UT",
                Final,
                "the caller's deadline has passed",
                "see grpc-timeout or outrigger-deadline-ms in the request",
            ),
            Self::FaultInjected(injected) => (
                "fault-injected",
                injected.status,
                injected.grpc,
                "FI",
                Final,
                "the failure is made on purpose",
                "see `outrigger get faultinjection`",
            ),
        };
        let status = StatusCode::from_u16(status).expect("the table holds valid codes");
        Facts { name, status, grpc, flag, reached, message, hint }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_unique_and_fits_a_label() {
        let mut names: Vec<_> = Failure::ALL.iter().map(|f| f.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Failure::ALL.len());
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }

    #[test]
    fn the_readme_lists_every_failure_as_it_is() {
        let readme = include_str!("../../README.md");
        for failure in Failure::ALL {
            let facts = failure.facts();
            let code = match facts.grpc {
                grpc::DEADLINE_EXCEEDED => "DEADLINE_EXCEEDED",
                grpc::PERMISSION_DENIED => "PERMISSION_DENIED",
                grpc::RESOURCE_EXHAUSTED => "RESOURCE_EXHAUSTED",
                grpc::UNIMPLEMENTED => "UNIMPLEMENTED",
                grpc::INTERNAL => "INTERNAL",
                grpc::UNAVAILABLE => "UNAVAILABLE",
                grpc::UNAUTHENTICATED => "UNAUTHENTICATED",
                other => panic!("{failure} has the unexpected gRPC code {other}"),
            };
            let row = match failure {
                Failure::FaultInjected(_) => {
                    format!("| `{}` | as set | as set | {} |", facts.name, facts.flag)
                }
                _ => format!("| `{}` | {} | {code} | {} |", facts.name, facts.status.as_u16(), facts.flag),
            };
            assert!(readme.contains(&row), "the README has no row {row}");
        }
    }

    #[test]
    fn an_injected_failure_has_a_status_for_both_kinds_of_callers() {
        for (injected, status, grpc) in [
            (Injected::http(503), 503, 14),
            (Injected::http(404), 404, 12),
            (Injected::http(418), 418, 2),
            (Injected::grpc(14), 503, 14),
            (Injected::grpc(8), 429, 8),
            (Injected::grpc(2), 500, 2),
        ] {
            let facts = Failure::FaultInjected(injected).facts();
            assert_eq!((facts.status.as_u16(), facts.grpc), (status, grpc));
        }
    }
}

//! What connections to a service's endpoints are like.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refuse_zero;
use crate::resources::{FieldPath, Period, Problems};

/// Timeouts and age of connections between proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// How long a TCP connection may take to be made. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Period>,
    /// How long the TLS handshake may take. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_handshake_timeout: Option<Period>,
    /// How long an unused connection, or a silent stream, is kept. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Period>,
    /// How long a connection takes new requests. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
    /// Has the operating system ask silent peers whether they are still there. Default: off; HTTP/2 connections are
    /// asked every 10 s in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Connections that carry one request at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http1: Option<Http1>,
    /// Connections that carry many requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2>,
}

/// How the operating system asks a silent peer whether it is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpKeepalive {
    /// After so much silence. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Period>,
    /// So long after each question without an answer. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// Questions without an answer that end the connection. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u32>,
}

/// Connections that carry one request at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http1 {
    /// Requests that one connection carries before it closes. Default: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_connection: Option<u32>,
}

/// Connections that carry many requests at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http2 {
    /// Requests that share one connection; a further one opens another. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent_streams: Option<u32>,
    /// Bytes of one answer that may be on their way before they are read. Default: 1048576.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65_535, max = 268_435_456))]
    pub initial_stream_window_bytes: Option<u32>,
    /// The same of all answers on one connection. Default: 4194304.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65_535, max = 268_435_456))]
    pub initial_connection_window_bytes: Option<u32>,
}

impl Connection {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        for (name, period) in [
            ("connectTimeout", self.connect_timeout),
            ("tlsHandshakeTimeout", self.tls_handshake_timeout),
            ("idleTimeout", self.idle_timeout),
            ("maxAge", self.max_age),
        ] {
            refuse_zero(&path.field(name), period, problems);
        }
        if let Some(keepalive) = &self.tcp_keepalive {
            let path = path.field("tcpKeepalive");
            for (name, period) in [("time", keepalive.time), ("interval", keepalive.interval)] {
                if period.is_some_and(|period| period < Period::from_millis(1000)) {
                    problems.error(&path.field(name), "must be at least 1s");
                }
            }
        }
    }
}

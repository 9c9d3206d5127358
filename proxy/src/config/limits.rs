//! Bounds on what callers may do to the proxy.

use std::time::Duration;

use super::parse;
use super::settings::Settings;

/// Fields of `limits` in the file of `--config`.
pub(super) const LIMIT_FIELDS: [&str; 9] = [
    "buffered-bytes",
    "connections",
    "detect-timeout",
    "handshake-timeout",
    "head-timeout",
    "http2-resets",
    "http2-streams",
    "stream-idle",
    "tcp-idle",
];

/// Bounds; exceeding one is a named error and a counter. The defaults are the product's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections accepted by the whole process, 10,000.
    pub connections: usize,
    /// Request bodies kept for retries by the whole process, 64 MiB.
    pub buffered_bytes: usize,
    /// The time in which a request's head must arrive, 10 s. (Its size, 60 KiB and 100 fields, is fixed.)
    pub head_timeout: Duration,
    /// The time in which a connection must show its protocol, 3 s.
    pub detect_timeout: Duration,
    /// The time in which a caller's TLS handshake must end, 5 s.
    pub handshake_timeout: Duration,
    /// Streams at once on an HTTP/2 connection, 256.
    pub http2_streams: u32,
    /// Premature resets that close it, 250.
    pub http2_resets: usize,
    /// A request or kept-alive connection on which nothing moves ends after this, 5 min.
    pub stream_idle: Duration,
    /// An opaque connection on which nothing moves ends after this, 1 h.
    pub tcp_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            buffered_bytes: 64 << 20,
            head_timeout: Duration::from_secs(10),
            detect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            http2_streams: 256,
            http2_resets: 250,
            stream_idle: Duration::from_secs(5 * 60),
            tcp_idle: Duration::from_secs(3600),
        }
    }
}

impl Limits {
    pub(super) fn read(settings: &mut Settings) -> Self {
        let usual = Self::default();
        let mut number = |field: &str, parse: fn(&str) -> Result<usize, String>, least, most, usual| {
            let within = |text: &str| match parse(text)? {
                value if (least..=most).contains(&value) => Ok(value),
                _ => Err(format!("is out of bounds: {least} to {most}")),
            };
            settings.one(&format!("limits.{field}"), within).unwrap_or(usual)
        };
        let connections = number("connections", parse::count, 1, 1_000_000, usual.connections);
        let buffered_bytes = number("buffered-bytes", parse::size, 0, 1 << 40, usual.buffered_bytes);
        let http2_streams = number("http2-streams", parse::count, 1, 65_536, usual.http2_streams as usize);
        let http2_resets = number("http2-resets", parse::count, 1, 65_536, usual.http2_resets);
        let mut time =
            |field: &str, usual| settings.one(&format!("limits.{field}"), parse::duration).unwrap_or(usual);
        Self {
            connections,
            buffered_bytes,
            head_timeout: time("head-timeout", usual.head_timeout),
            detect_timeout: time("detect-timeout", usual.detect_timeout),
            handshake_timeout: time("handshake-timeout", usual.handshake_timeout),
            http2_streams: u32::try_from(http2_streams).unwrap_or(u32::MAX),
            http2_resets,
            stream_idle: time("stream-idle", usual.stream_idle),
            tcp_idle: time("tcp-idle", usual.tcp_idle),
        }
    }

    pub(super) fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "connections": self.connections,
            "bufferedBytes": self.buffered_bytes,
            "headTimeout": parse::duration_text(self.head_timeout),
            "detectTimeout": parse::duration_text(self.detect_timeout),
            "handshakeTimeout": parse::duration_text(self.handshake_timeout),
            "http2Streams": self.http2_streams,
            "http2Resets": self.http2_resets,
            "streamIdle": parse::duration_text(self.stream_idle),
            "tcpIdle": parse::duration_text(self.tcp_idle),
        })
    }
}

//! What two proxies speak inside one TLS connection, agreed by ALPN (RFC 7301).
//!
//! The client proxy offers exactly one of these, so that the choice between multiplexed HTTP/2, one HTTP/1
//! connection per request and opaque bytes is made where the load is known, and costs no extra round trip.

/// HTTP/2: many requests share the connection.
pub const H2: &[u8] = b"h2";

/// HTTP/1.1: one request at a time, upgrades included.
pub const HTTP1: &[u8] = b"http/1.1";

/// Opaque bytes in both directions, half-close included.
pub const TCP: &[u8] = b"outrigger-tcp";

//! Which fields of a message concern the proxy, found in one pass.
//!
//! A proxy strips, reads or replaces some thirty fields, of which a message has two or three. Looking each of them up
//! costs a hash of its name; going over the names that are there costs a comparison or two. So each head is looked over
//! once, and whoever deals with a group of fields first asks whether there is any.

use http::HeaderMap;
use http::header::HeaderName;

/// A set of groups of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notable(u16);

impl Notable {
    /// What belongs to one connection only (RFC 9110 section 7.6.1).
    pub const HOP_BY_HOP: Self = Self(1);
    /// `upgrade`, which is hop-by-hop, too.
    pub const UPGRADE: Self = Self(1 << 1);
    /// What only a proxy may say, but `outrigger-error`.
    pub const PROXY_ONLY: Self = Self(1 << 2);
    /// `outrigger-error`.
    pub const ERROR: Self = Self(1 << 3);
    /// A name with an underscore.
    pub const UNDERSCORE: Self = Self(1 << 4);
    /// `traceparent` or `tracestate`.
    pub const W3C: Self = Self(1 << 5);
    /// A time that is left for the answer.
    pub const DEADLINE: Self = Self(1 << 6);
    /// `content-type`.
    pub const CONTENT_TYPE: Self = Self(1 << 7);
    /// `grpc-status` or `retry-after`: what an answer says beside its status.
    pub const VERDICT: Self = Self(1 << 8);
    /// `b3` or a field of its family.
    pub const B3: Self = Self(1 << 9);
    /// Any trace context.
    pub const TRACE: Self = Self::W3C.or(Self::B3);

    /// Looks a head over.
    pub fn of(fields: &HeaderMap) -> Self {
        Self(fields.keys().fold(0, |found, name| found | group(name)))
    }

    /// Whether any field of any of these groups is there.
    pub const fn has(self, groups: Self) -> bool {
        self.0 & groups.0 != 0
    }

    /// Both sets together.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The groups of one field, by its name in lower case.
fn group(name: &HeaderName) -> u16 {
    let name = name.as_str().as_bytes();
    let known = match name[0] {
        b'b' if name == b"b3" => Notable::B3,
        b'c' => match name {
            b"connection" => Notable::HOP_BY_HOP,
            b"content-type" => Notable::CONTENT_TYPE,
            _ => Notable(0),
        },
        b'g' => match name {
            b"grpc-timeout" => Notable::DEADLINE,
            b"grpc-status" => Notable::VERDICT,
            _ => Notable(0),
        },
        b'k' if name == b"keep-alive" => Notable::HOP_BY_HOP,
        b'o' => match name {
            b"outrigger-error" => Notable::ERROR,
            b"outrigger-attempt" | b"outrigger-caller-protocol" => Notable::PROXY_ONLY,
            b"outrigger-deadline-ms" => Notable::DEADLINE,
            _ => Notable(0),
        },
        b'p' if name.starts_with(b"proxy-") => Notable::HOP_BY_HOP,
        b'r' if name == b"retry-after" => Notable::VERDICT,
        b't' => match name {
            b"te" | b"transfer-encoding" => Notable::HOP_BY_HOP,
            b"traceparent" | b"tracestate" => Notable::W3C,
            _ => Notable(0),
        },
        b'u' if name == b"upgrade" => Notable::UPGRADE.or(Notable::HOP_BY_HOP),
        b'x' => match name {
            b"x-forwarded-client-cert" => Notable::PROXY_ONLY,
            _ if name.starts_with(b"x-b3-") => Notable::B3,
            _ => Notable(0),
        },
        _ => Notable(0),
    };
    if name.contains(&b'_') { known.or(Notable::UNDERSCORE).0 } else { known.0 }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::deadline::{DEADLINE_MS, GRPC_TIMEOUT};
    use crate::headers;

    fn with(name: &str) -> Notable {
        let name: HeaderName = name.parse().unwrap();
        Notable::of(&HeaderMap::from_iter([(name, HeaderValue::from_static("x"))]))
    }

    #[test]
    fn every_name_that_a_proxy_deals_with_is_in_its_group() {
        for (names, group) in [
            (
                &[
                    "connection",
                    "keep-alive",
                    "te",
                    "transfer-encoding",
                    "upgrade",
                    "proxy-connection",
                    "proxy-authorization",
                    "proxy-authenticate",
                ][..],
                Notable::HOP_BY_HOP,
            ),
            (&["upgrade"], Notable::UPGRADE),
            (
                &[
                    headers::CLIENT_CERT.as_str(),
                    headers::ATTEMPT.as_str(),
                    headers::CALLER_PROTOCOL.as_str(),
                ],
                Notable::PROXY_ONLY,
            ),
            (&[headers::ERROR.as_str()], Notable::ERROR),
            (&["traceparent", "tracestate"], Notable::W3C),
            (
                &["b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"],
                Notable::B3,
            ),
            (&[DEADLINE_MS.as_str(), GRPC_TIMEOUT.as_str()], Notable::DEADLINE),
            (&["content-type"], Notable::CONTENT_TYPE),
            (&["grpc-status", "retry-after"], Notable::VERDICT),
            (&["x_forwarded_client_cert", "outrigger_error", "my_field"], Notable::UNDERSCORE),
        ] {
            for name in names {
                assert!(with(name).has(group), "{name}");
            }
        }
    }

    #[test]
    fn what_an_ordinary_request_has_concerns_nobody() {
        let names =
            ["host", "user-agent", "accept", "content-length", "cookie", "x-b4", "trailer", "priority"];
        for name in names {
            assert_eq!(with(name), Notable::default(), "{name}");
        }
        assert!(!with("connection").has(Notable::UPGRADE));
    }

    #[test]
    fn all_fields_are_looked_at() {
        let fields = [("accept", "*/*"), ("te", "trailers"), ("user_name", "x"), ("b3", "0")];
        let fields = fields.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let found = Notable::of(&HeaderMap::from_iter(fields));
        let all = [Notable::HOP_BY_HOP, Notable::UNDERSCORE, Notable::TRACE];
        assert!(all.into_iter().all(|group| found.has(group)));
        assert!(!found.has(Notable::DEADLINE.or(Notable::PROXY_ONLY)));
    }
}

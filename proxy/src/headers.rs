//! What happens to header fields at a hop: stripped, set and never trusted.
//!
//! A proxy removes what belongs to one connection only (RFC 9110 section 7.6.1), and keeps fields that only a proxy
//! may set from being set by anybody else.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use outrigger_certs::SpiffeId;
use smallvec::SmallVec;

use crate::deadline::DEADLINE_MS;
use crate::detect::is_token;

/// The verified peer's URI, set by the inbound proxy (the format is Envoy's).
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// One id for a request, made where it is absent.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Why the proxy answered itself.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("outrigger-error");
/// Which policy's fallback an answer is.
pub(crate) const FALLBACK: HeaderName = HeaderName::from_static("outrigger-fallback");
/// Which attempt this is, from 1.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("outrigger-attempt");
/// What the caller spoke, from proxy to proxy only.
pub(crate) const CALLER_PROTOCOL: HeaderName = HeaderName::from_static("outrigger-caller-protocol");

/// The value of [`CLIENT_CERT`] for a caller.
pub(crate) fn client_cert(caller: &SpiffeId) -> HeaderValue {
    HeaderValue::try_from(format!("URI={caller}")).expect("SPIFFE ids are visible ASCII")
}

/// Which protocol an upgrade asks for.
///
/// `h2c` is never passed on: behind it every further request would go to the application unseen, past routes and
/// policy. RFC 9113 section 3.1 has given it up; a server may ignore any upgrade. Nor is what some server might take for
/// it: an upgrade is one field of plain tokens (RFC 9110 section 7.8), or it is none.
pub(crate) fn upgrade_of(version: Version, headers: &HeaderMap) -> Option<&HeaderValue> {
    if version != Version::HTTP_11 || !lists(headers, &header::CONNECTION, "upgrade") {
        return None;
    }
    switch_to(headers)
}

/// The protocols that a message would switch to, all of them such as may be passed on.
pub(crate) fn switch_to(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut fields = headers.get_all(header::UPGRADE).iter();
    let field = fields.next().filter(|_| fields.next().is_none())?;
    items(field).all(is_safe_protocol).then_some(field)
}

/// A name and perhaps a version, each a token; and not HTTP/2, or any other HTTP.
fn is_safe_protocol(protocol: &[u8]) -> bool {
    let mut parts = protocol.split(|byte| *byte == b'/');
    let is_whole = |part: &[u8]| !part.is_empty() && part.iter().copied().all(is_token);
    let name = parts.next().filter(|name| is_whole(name));
    let plain = name.is_some() && parts.next().is_none_or(is_whole) && parts.next().is_none();
    plain
        && !name.is_some_and(|name| {
            [&b"h2c"[..], b"h2", b"http"].iter().any(|http| name.eq_ignore_ascii_case(http))
        })
}

/// The items of a field that is a list. Bytes: one that is not ASCII must not hide the others.
fn items(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a field that is a list of tokens holds `token`.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut all = headers.get_all(name).iter().flat_map(items);
    all.any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// Takes a name out of `connection`: the proxy sets the field, and it must go on whatever the caller lists there.
pub(crate) fn unlist(headers: &mut HeaderMap, name: &HeaderName) {
    if !lists(headers, &header::CONNECTION, name.as_str()) {
        return;
    }
    let all = headers.get_all(header::CONNECTION).iter().flat_map(items);
    let others: Vec<&[u8]> =
        all.filter(|item| !item.eq_ignore_ascii_case(name.as_str().as_bytes())).collect();
    let rest = HeaderValue::from_bytes(&others.join(&b", "[..])).expect("parts of what was a value");
    headers.insert(header::CONNECTION, rest);
}

/// Removes what belongs to the connection that the message came on.
///
/// `te: trailers` stays: gRPC refuses to work without it, and every hop here carries trailers.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = lists(headers, &header::TE, "trailers");
    let mut own: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in headers.get_all(header::CONNECTION).iter().flat_map(items) {
        // What nearly every message says, and is stripped in any case.
        if !name.eq_ignore_ascii_case(b"keep-alive") && !name.eq_ignore_ascii_case(b"close") {
            own.extend(HeaderName::try_from(name).ok().filter(|name| !may_not_be_named(name)));
        }
    }
    for name in own {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [
        "connection",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
    ]
    .contains(&name.as_str())
}

/// Fields that a caller must not be able to have removed by naming them in `connection`.
fn may_not_be_named(name: &HeaderName) -> bool {
    [CLIENT_CERT, REQUEST_ID, DEADLINE_MS, ATTEMPT, CALLER_PROTOCOL].contains(name)
        || [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::TE].contains(name)
        || ["x-forwarded-for", "x-forwarded-proto"].contains(&name.as_str())
}

/// How a request came in from outside the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl From<Scheme> for http::uri::Scheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Http => Self::HTTP,
            Scheme::Https => Self::HTTPS,
        }
    }
}

/// What says who called and how, by whichever convention.
const SAID_OF_CALLERS: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-envoy-external-address",
];

/// Says who called from outside and how, and forgets what the caller itself says of that.
pub(crate) fn forwarded(headers: &mut HeaderMap, client: std::net::IpAddr, scheme: Scheme) {
    strip_untrusted_request(headers);
    for name in SAID_OF_CALLERS {
        headers.remove(name);
    }
    remove_lookalikes(headers, &SAID_OF_CALLERS);
    let client =
        HeaderValue::try_from(client.to_canonical().to_string()).expect("an address is visible ASCII");
    headers.insert("x-forwarded-for", client);
    let scheme = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
}

/// Removes from a request what only a proxy may say.
pub(crate) fn strip_untrusted_request(headers: &mut HeaderMap) {
    for name in [CLIENT_CERT, ERROR, ATTEMPT, CALLER_PROTOCOL] {
        headers.remove(name);
    }
    strip_lookalikes(headers);
}

/// Removes fields whose names differ from those that only a proxy may set by `_` for `-` alone.
///
/// Interfaces in the way of CGI and WSGI cannot tell the two apart, so that an application would believe a caller that
/// says `x_forwarded_client_cert`.
pub(crate) fn strip_lookalikes(headers: &mut HeaderMap) {
    let own = [CLIENT_CERT, REQUEST_ID, DEADLINE_MS, ERROR, ATTEMPT, CALLER_PROTOCOL];
    remove_lookalikes(headers, &own.each_ref().map(HeaderName::as_str));
}

/// Removes fields whose names differ from one of these by `_` for `-`.
fn remove_lookalikes(headers: &mut HeaderMap, names: &[&str]) {
    let lookalikes: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .filter(|name| names.contains(&name.as_str().replace('_', "-").as_str()))
        .cloned()
        .collect();
    for name in lookalikes {
        headers.remove(name);
    }
}

/// Removes a field, and those whose names differ from its by `_` for `-` alone.
pub(crate) fn remove_spelled(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    let meant = name.as_str().replace('_', "-");
    let alike = headers.keys().filter(|name| name.as_str().replace('_', "-") == meant).cloned();
    for name in alike.collect::<SmallVec<[HeaderName; 1]>>() {
        headers.remove(name);
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The gRPC status in headers (a trailers-only answer) or trailers.
pub(crate) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether an answer to `method` with `status` never has a body (RFC 9110 section 6.4.1).
pub(crate) fn never_has_body(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn fields_of_the_connection_stay_behind() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("te", "trailers, deflate"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "keep-alive"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn connection_cannot_name_what_the_proxy_set() {
        let mut headers = map(&[
            ("connection", "x-forwarded-client-cert, authorization, host"),
            ("x-forwarded-client-cert", "URI=x"),
            ("authorization", "Bearer x"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn a_caller_cannot_say_what_only_a_proxy_may_not_even_with_underscores() {
        let mut headers = map(&[
            ("x-forwarded-client-cert", "URI=x"),
            ("x_forwarded_client_cert", "URI=x"),
            ("x-forwarded_client-cert", "URI=x"),
            ("outrigger_error", "x"),
            ("my_field", "1"),
        ]);
        strip_untrusted_request(&mut headers);
        assert_eq!(headers, map(&[("my_field", "1")]));
    }

    #[test]
    fn nobody_outside_says_who_called_not_even_with_underscores() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded_proto", "https"),
            ("x_real_ip", "10.0.0.1"),
            ("x_forwarded_host", "evil"),
            ("forwarded", "for=10.0.0.1"),
            ("my_field", "1"),
        ]);
        forwarded(&mut headers, [192, 0, 2, 7].into(), Scheme::Http);
        let expected = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "http"), ("my_field", "1")];
        assert_eq!(headers, map(&expected));
    }

    #[test]
    fn only_an_asked_for_upgrade_is_one() {
        let asked = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(upgrade_of(Version::HTTP_11, &asked).is_some());
        assert!(upgrade_of(Version::HTTP_10, &asked).is_none());
        assert!(upgrade_of(Version::HTTP_11, &map(&[("upgrade", "websocket")])).is_none());
        let smuggled = map(&[("connection", "upgrade, http2-settings"), ("upgrade", "websocket, h2c")]);
        assert!(upgrade_of(Version::HTTP_11, &smuggled).is_none());
    }

    #[test]
    fn what_some_server_reads_as_an_upgrade_to_http_is_none() {
        let asks = |protocols: &[&[u8]]| {
            let mut headers = map(&[("connection", "upgrade")]);
            for protocol in protocols {
                headers.append(header::UPGRADE, HeaderValue::from_bytes(protocol).unwrap());
            }
            upgrade_of(Version::HTTP_11, &headers).is_some()
        };
        for plain in [&b"websocket"[..], b"WebSocket", b"tls/1.0, irc/6.9", b"a,b"] {
            assert!(asks(&[plain]), "{plain:?}");
        }
        for other in [
            &b"h2c\xa0"[..],
            b"\x85h2c",
            b"h2c,\xff",
            b"websocket, H2C",
            b"h2",
            b"HTTP/2.0",
            b"h2c/1",
            b"web socket",
            b"\"h2c\"",
            b"websocket,",
            b"a/b/c",
            b"a/",
            b"",
        ] {
            assert!(!asks(&[other]), "{other:?}");
        }
        assert!(!asks(&[b"websocket", b"websocket"]) && !asks(&[]));
    }

    #[test]
    fn what_the_proxy_sets_goes_on_whatever_connection_lists() {
        let mut headers = map(&[
            ("connection", "close, X-User, x-other"),
            ("x-user", "ann"),
            ("x-other", "1"),
            ("x-forwarded-for", "a"),
        ]);
        headers.append(header::CONNECTION, "x-forwarded-for".parse().unwrap());
        headers.append(header::CONNECTION, HeaderValue::from_bytes(b"\xff, x-late").unwrap());
        headers.append("x-late", "1".parse().unwrap());
        unlist(&mut headers, &HeaderName::from_static("x-user"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-user", "ann"), ("x-forwarded-for", "a")]));
    }
}

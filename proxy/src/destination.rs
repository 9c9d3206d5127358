//! Where a request wants to go: a service of the mesh and one of its ports.
//!
//! Redirected traffic carries its destination in the connection; everything else names it in the request, as the
//! authority of the target or the Host field (RFC 9112 section 3.2.2: the target wins).

use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Uri, Version, header, request};
use outrigger_api::ServiceName;

use crate::failure::Failure;
use crate::outside::is_host;

/// The port meant by an authority without one.
const DEFAULT_PORT: u16 = 80;

/// The authority that a request names, from its target or its Host field.
///
/// # Errors
/// [`Failure::BadRequest`]: none where one is required, more than one Host field, or one that is not an authority
/// (RFC 9112 section 3.2).
pub(crate) fn authority(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Authority, Failure> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::BadRequest);
    }
    let host = match host {
        Some(value) => Some(Authority::try_from(value.as_bytes()).map_err(|_| Failure::BadRequest)?),
        None => None,
    };
    let named = match uri.authority() {
        Some(authority) => {
            // HTTP/2 has both only by mistake or malice (RFC 9113 section 8.3.1).
            if version == Version::HTTP_2 && host.is_some_and(|host| host != *authority) {
                return Err(Failure::BadRequest);
            }
            authority.clone()
        }
        None if method == Method::CONNECT => return Err(Failure::BadRequest),
        None => host.ok_or(Failure::BadRequest)?,
    };
    if named.as_str().as_bytes().contains(&b'@') {
        return Err(Failure::BadRequest); // RFC 9110 section 4.2.4
    }
    Ok(named)
}

/// Refuses a target that names another scheme than `http`: what is called through the outbound port is called in plain
/// HTTP, and must not be where the caller believes that it speaks TLS, or something else altogether. A caller of TLS
/// asks for a tunnel (RFC 9110 section 9.3.6). With HTTP/2 each request names a scheme, and some clients say `https`
/// without meaning anything by it.
///
/// # Errors
/// [`Failure::BadRequest`].
pub(crate) fn scheme(uri: &Uri, version: Version) -> Result<(), Failure> {
    match uri.scheme() {
        Some(scheme) if version < Version::HTTP_2 && *scheme != Scheme::HTTP => {
            tracing::info!(%scheme, "refused a request: through the outbound port only http:// can be called; use CONNECT");
            Err(Failure::BadRequest)
        }
        _ => Ok(()),
    }
}

/// The authority of a request whose destination is known: its own, or where HTTP/1.0 names none, the destination.
///
/// # Errors
/// As [`authority`].
pub(crate) fn authority_at(
    head: &request::Parts,
    service: &ServiceName,
    port: u16,
) -> Result<Authority, Failure> {
    let unnamed = head.version == Version::HTTP_10
        && head.uri.authority().is_none()
        && !head.headers.contains_key(header::HOST);
    if unnamed {
        return format!("{service}:{port}").parse().map_err(|_| Failure::BadRequest);
    }
    authority(&head.method, &head.uri, head.version, &head.headers)
}

/// The service and port that an authority names.
///
/// # Errors
/// [`Failure::NoRoute`]: it is not the name of a service.
pub(crate) fn service(authority: &Authority, own_namespace: &str) -> Result<(ServiceName, u16), Failure> {
    // No service is called by an address, so that the first colon is the one before the port.
    let text = authority.as_str();
    let colon = text.as_bytes().iter().position(|byte| *byte == b':');
    let host = colon.map_or(text, |colon| &text[..colon]);
    let name = ServiceName::from_host(host, own_namespace).map_err(|_| Failure::NoRoute)?;
    // The library passes over a port that is none, such as 99999.
    let port = match colon {
        Some(colon) => text[colon + 1..].parse().map_err(|_| Failure::BadRequest)?,
        None => DEFAULT_PORT,
    };
    Ok((name, port))
}

/// The host outside the mesh that an authority names, in lower case and without a final dot or brackets, and its port.
///
/// # Errors
/// [`Failure::NoRoute`]: it cannot be the name of a host.
pub(crate) fn host(authority: &Authority) -> Result<(String, u16), Failure> {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bare = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    if !is_host(&bare) {
        return Err(Failure::NoRoute);
    }
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => DEFAULT_PORT,
        // The library passes over a port that is none, such as 99999.
        Some(rest) => rest.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(Failure::BadRequest)?,
        None => return Err(Failure::BadRequest),
    };
    Ok((bare, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn of(target: &str, host: Option<&str>) -> Result<(String, u16), Failure> {
        let mut request = Request::builder().uri(target);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let authority = authority(&head.method, &head.uri, head.version, &head.headers)?;
        service(&authority, "shop").map(|(name, port)| (name.to_string(), port))
    }

    #[test]
    fn the_target_wins_over_the_host_field() {
        assert_eq!(of("/x", Some("payments")), Ok(("payments.shop".into(), 80)));
        assert_eq!(of("/x", Some("Payments.Shop:8080")), Ok(("payments.shop".into(), 8080)));
        assert_eq!(of("http://orders.shop/x", Some("payments.shop")), Ok(("orders.shop".into(), 80)));
    }

    #[test]
    fn a_target_names_no_scheme_but_http() {
        for (target, version, expected) in [
            ("/x", Version::HTTP_11, true),
            ("http://web.shop/x", Version::HTTP_11, true),
            ("HTTP://web.shop/x", Version::HTTP_11, true),
            ("https://web.shop/x", Version::HTTP_11, false),
            ("ftp://web.shop/x", Version::HTTP_10, false),
            ("web.shop:443", Version::HTTP_11, true),
            ("https://web.shop/x", Version::HTTP_2, true),
        ] {
            assert_eq!(scheme(&target.parse().unwrap(), version).is_ok(), expected, "{target} {version:?}");
        }
    }

    #[test]
    fn an_old_client_on_a_port_of_its_own_need_not_name_the_service() {
        let payments = ServiceName::new("shop", "payments").unwrap();
        let at = |version| {
            let (head, ()) = Request::builder().version(version).body(()).unwrap().into_parts();
            authority_at(&head, &payments, 80).map(|authority| authority.to_string())
        };
        assert_eq!(at(Version::HTTP_10), Ok("payments.shop:80".to_owned()));
        assert_eq!(at(Version::HTTP_11), Err(Failure::BadRequest));
    }

    #[test]
    fn a_host_field_of_other_bytes_than_a_name_has_is_refused() {
        for bytes in [&b"payments.shop\xff"[..], b"caf\xc3\xa9.shop", b"payments\t", b"payments%41"] {
            let mut request = Request::builder();
            request = request.header("host", http::HeaderValue::from_bytes(bytes).unwrap());
            let (head, ()) = request.uri("/x").body(()).unwrap().into_parts();
            let named = authority(&head.method, &head.uri, head.version, &head.headers);
            assert_eq!(named, Err(Failure::BadRequest), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn with_http_2_the_host_field_may_only_repeat_the_authority() {
        for (host, agrees) in [("payments.shop", true), ("Payments.Shop", true), ("orders.shop", false)] {
            let request = Request::builder().version(Version::HTTP_2).header("host", host);
            let (head, ()) = request.uri("http://payments.shop/x").body(()).unwrap().into_parts();
            let named = authority(&head.method, &head.uri, head.version, &head.headers);
            assert_eq!(named.is_ok(), agrees, "{host}");
        }
    }

    #[test]
    fn what_names_no_service_is_refused() {
        assert_eq!(of("/x", None), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("a b")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("user@payments.shop")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("payments.shop:99999")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("payments.shop:")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("payments.shop:80:80")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("payments.shop/x")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("")), Err(Failure::BadRequest));
        assert_eq!(of("/x", Some("www.example.com")), Err(Failure::NoRoute));
        assert_eq!(of("/x", Some("[::1]:80")), Err(Failure::NoRoute));
    }

    #[test]
    fn a_host_outside_is_a_name_with_a_dot_or_an_address() {
        let of = |text: &str| host(&text.parse().unwrap());
        assert_eq!(of("API.example.com"), Ok(("api.example.com".to_owned(), 80)));
        assert_eq!(of("api.example.com.:8443"), Ok(("api.example.com".to_owned(), 8443)));
        assert_eq!(of("192.0.2.7:81"), Ok(("192.0.2.7".to_owned(), 81)));
        assert_eq!(of("[2001:db8::7]:81"), Ok(("2001:db8::7".to_owned(), 81)));
        assert_eq!(of("[2001:db8::7]"), Ok(("2001:db8::7".to_owned(), 80)));
        assert_eq!(of("payments"), Err(Failure::NoRoute));
        assert_eq!(of("payments.shop.svc"), Err(Failure::NoRoute));
        assert_eq!(of("api.example.com:99999"), Err(Failure::BadRequest));
    }
}

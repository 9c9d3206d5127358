//! An answer that sends the caller elsewhere (Gateway API `HTTPRequestRedirectFilter`).

use http::uri::{Authority, Scheme};
use http::{HeaderValue, StatusCode, Uri};

use super::path::PathChange;

/// Where a request is sent; what is absent is the request's own. The query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// Without a port.
    pub host: Option<Box<str>>,
    /// `None`: the well-known one of a scheme that is set, otherwise the one that was called.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<PathChange>,
}

/// How a request reached the proxy.
#[derive(Debug, Clone)]
pub struct Called {
    /// `http` or `https`, as the caller spoke it.
    pub scheme: Scheme,
    /// What the caller named.
    pub authority: Authority,
    /// The port that it called: of the service, or of the gateway's listener.
    pub port: u16,
}

impl Redirect {
    /// The absolute URL that the request is sent to. `None`: it would be longer than any may be.
    pub fn location(&self, called: &Called, uri: &Uri) -> Option<HeaderValue> {
        let scheme = self.scheme.as_ref().unwrap_or(&called.scheme);
        let well_known = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let inherited = if self.scheme.is_some() { well_known } else { called.port };
        let port = self.port.unwrap_or(inherited);
        let host = self.host.as_deref().unwrap_or_else(|| called.authority.host());
        let mut location = format!("{scheme}://{host}");
        if port != well_known {
            location.push_str(&format!(":{port}"));
        }
        match &self.path {
            Some(change) => location.push_str(change.apply(uri)?.as_str()),
            None => location.push_str(uri.path_and_query().map_or("/", |path| path.as_str())),
        }
        // Browsers take a backslash for a slash, and `//` for the beginning of a host.
        HeaderValue::try_from(location.replace('\\', "%5C")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(change: impl FnOnce(&mut Redirect)) -> Redirect {
        let mut redirect =
            Redirect { status: StatusCode::FOUND, scheme: None, host: None, port: None, path: None };
        change(&mut redirect);
        redirect
    }

    #[test]
    fn what_is_not_said_is_the_requests_own() {
        for (redirect, authority, port, expected) in [
            (to(|_| {}), "pay", 80, "http://pay/a?b=c"),
            (to(|_| {}), "pay:8080", 8080, "http://pay:8080/a?b=c"),
            (to(|r| r.host = Some("example.org".into())), "pay", 80, "http://example.org/a?b=c"),
            (to(|r| r.host = Some("example.org".into())), "pay", 8080, "http://example.org:8080/a?b=c"),
            (to(|r| r.scheme = Some(Scheme::HTTPS)), "pay:8080", 8080, "https://pay/a?b=c"),
            (to(|r| r.scheme = Some(Scheme::HTTP)), "pay:8080", 8080, "http://pay/a?b=c"),
            (to(|r| r.port = Some(8443)), "pay", 80, "http://pay:8443/a?b=c"),
            (to(|r| r.port = Some(80)), "pay:8080", 8080, "http://pay/a?b=c"),
            (to(|r| r.port = Some(443)), "pay", 80, "http://pay:443/a?b=c"),
            (to(|r| (r.scheme, r.port) = (Some(Scheme::HTTPS), Some(443))), "pay", 80, "https://pay/a?b=c"),
            (to(|r| r.path = PathChange::full("/z").ok()), "[::1]:80", 80, "http://[::1]/z?b=c"),
        ] {
            let called = Called { scheme: Scheme::HTTP, authority: authority.parse().unwrap(), port };
            let location = redirect.location(&called, &Uri::from_static("/a?b=c")).unwrap();
            assert_eq!(location, expected, "{redirect:?} of {authority} at {port}");
        }
    }

    #[test]
    fn a_backslash_never_leads_a_browser_to_another_host() {
        let called = Called { scheme: Scheme::HTTP, authority: "pay".parse().unwrap(), port: 80 };
        let location = to(|_| {}).location(&called, &r"/\evil.example?b=\c".parse().unwrap()).unwrap();
        assert_eq!(location, "http://pay/%5Cevil.example?b=%5Cc");
    }

    #[test]
    fn over_tls_the_scheme_is_https_and_443_goes_without_saying() {
        let called = Called { scheme: Scheme::HTTPS, authority: "pay".parse().unwrap(), port: 443 };
        assert_eq!(to(|_| {}).location(&called, &Uri::from_static("/")).unwrap(), "https://pay/");
    }
}

//! Which pages of other origins may call (Gateway API `HTTPCORSFilter`, the Fetch standard's CORS protocol).
//!
//! A browser asks first, with a preflight, and shows a page an answer only if the answer's fields allow it. Both are
//! the proxy's business: it answers preflights itself, and what it writes into other answers takes the place of what the
//! application says. A page that is not allowed gets its answer without these fields, which the browser then keeps from
//! it. `*` never goes out where credentials are allowed.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, SET_COOKIE, VARY,
};
use http::{Method, Response, StatusCode, request};

use crate::body::Body;

/// The longest host that a DNS name can be; a longer origin is none.
const MOST_ORIGIN_BYTES: usize = 512;

/// What pages of other origins may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Who may call.
    pub origins: Origins,
    /// With cookies and the like.
    pub credentials: bool,
    /// By which methods, beside GET, HEAD and POST.
    pub methods: Names,
    /// With which fields, beside those that every page may send.
    pub headers: Names,
    /// Which fields of an answer they see, beside those that every page sees.
    pub expose: Names,
    /// How long a browser may keep the answer to a preflight, in seconds.
    pub max_age: u32,
}

/// Methods or fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// `*`.
    Any,
    /// These, as they go into a field; `None` if there are none.
    Listed(Option<HeaderValue>),
}

impl Names {
    /// Reads a list; `*` alone is every name.
    ///
    /// # Errors
    /// The first that is not a token (RFC 9110 section 5.6.2).
    pub fn new(names: &[String]) -> Result<Self, String> {
        if let [only] = names
            && only == "*"
        {
            return Ok(Self::Any);
        }
        // What is a name of a method is a name of a field, and the other way round: a token.
        if let Some(wrong) = names.iter().find(|name| Method::from_bytes(name.as_bytes()).is_err()) {
            return Err(wrong.clone());
        }
        let joined = (!names.is_empty()).then(|| HeaderValue::try_from(names.join(", ")));
        joined.transpose().map(Self::Listed).map_err(|_| names.join(", "))
    }

    /// What goes out: with credentials `*` would be taken literally, so that the names asked for go out instead.
    fn answer(&self, credentials: bool, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::Any if credentials => asked.cloned(),
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Listed(names) => names.clone(),
        }
    }
}

/// Origins: all of them, or those that one of the patterns covers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins {
    any: bool,
    patterns: Vec<Origin<Box<str>>>,
}

/// The origin of a page, or a pattern of such: `SCHEME://HOST[:PORT]` (RFC 6454 section 7), lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Origin<T> {
    scheme: T,
    /// In a pattern, `*` at its beginning stands for one character or more, dots included.
    host: T,
    /// `None`: the scheme has no port of its own, and none is written.
    port: Option<u16>,
}

impl Origins {
    /// Reads patterns; `*` is every origin.
    ///
    /// # Errors
    /// The first that is not a pattern.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let mut origins = Self::default();
        for pattern in patterns {
            if pattern == "*" {
                origins.any = true;
                continue;
            }
            let text = pattern.to_ascii_lowercase();
            let host = |host: &str| is_host(host.strip_prefix('*').unwrap_or(host)) || host == "*";
            let read = Origin::read(&text, host).ok_or_else(|| pattern.clone())?;
            origins.patterns.push(Origin {
                scheme: read.scheme.into(),
                host: read.host.into(),
                port: read.port,
            });
        }
        Ok(origins)
    }

    /// Whether a page may call whose browser sends this as its `Origin`.
    pub fn allow(&self, origin: &[u8]) -> bool {
        if self.any {
            return true;
        }
        let text = std::str::from_utf8(origin).ok().filter(|text| text.len() <= MOST_ORIGIN_BYTES);
        let Some(text) = text.map(str::to_ascii_lowercase) else { return false };
        Origin::read(&text, is_host).is_some_and(|origin| {
            self.patterns.iter().any(|pattern| {
                *pattern.scheme == *origin.scheme
                    && pattern.port == origin.port
                    && match pattern.host.strip_prefix('*') {
                        Some(end) => origin.host.len() > end.len() && origin.host.ends_with(end),
                        None => *pattern.host == *origin.host,
                    }
            })
        })
    }
}

impl<'t> Origin<&'t str> {
    fn read(text: &'t str, is_host: impl Fn(&str) -> bool) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_lowercase())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        // The colons of an IPv6 address are inside brackets.
        let (host, port) = match rest.rfind(':').filter(|colon| !rest[*colon..].contains(']')) {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0)?)
            }
            Some(_) => return None,
            None => match scheme {
                "http" => Some(80),
                "https" => Some(443),
                _ => None,
            },
        };
        (is_scheme(scheme) && is_host(host)).then_some(Self { scheme, host, port })
    }
}

fn is_host(text: &str) -> bool {
    let name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !text.is_empty() && name(text),
    }
}

/// What an application's answer may say and the policy says instead.
static FIELDS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

impl Cors {
    /// The origin of a request. Of two nobody can say which is the page's: it is as if there were none.
    pub(crate) fn origin(fields: &HeaderMap) -> Option<&HeaderValue> {
        let mut origins = fields.get_all(ORIGIN).iter();
        origins.next().filter(|_| origins.next().is_none())
    }

    /// The answer to a preflight. `None`: the request is none.
    pub(crate) fn preflight(&self, head: &request::Parts) -> Option<Response<Body>> {
        let origin = Self::origin(&head.headers)?;
        let method = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if head.method != Method::OPTIONS {
            return None;
        }
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        let fields = response.headers_mut();
        if self.allow(origin, fields) {
            let asked = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
            let methods = self.methods.answer(self.credentials, Some(method));
            fields.extend(methods.map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)));
            let headers = self.headers.answer(self.credentials, asked);
            fields.extend(headers.map(|headers| (ACCESS_CONTROL_ALLOW_HEADERS, headers)));
            fields.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        }
        if self.credentials && (self.methods == Names::Any || self.headers == Names::Any) {
            fields.append(VARY, ACCESS_CONTROL_REQUEST_METHOD.into());
            fields.append(VARY, ACCESS_CONTROL_REQUEST_HEADERS.into());
        }
        Some(response)
    }

    /// Writes into the answer to a request what the page that sent it may see. `origin` is the request's own.
    pub(crate) fn answer(&self, origin: Option<&HeaderValue>, fields: &mut HeaderMap) {
        let Some(origin) = origin else { return self.vary(fields) };
        for name in &FIELDS {
            fields.remove(name);
        }
        if self.allow(origin, fields) {
            let all = || {
                let names = fields.keys().filter(|name| !FIELDS.contains(name) && **name != SET_COOKIE);
                HeaderValue::try_from(names.map(HeaderName::as_str).collect::<Vec<_>>().join(", ")).ok()
            };
            let expose = match &self.expose {
                Names::Any if self.credentials => all(),
                names => names.answer(false, None),
            };
            fields.extend(expose.map(|expose| (ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
        }
    }

    /// Whether the origin may; says so in the fields.
    fn allow(&self, origin: &HeaderValue, fields: &mut HeaderMap) -> bool {
        self.vary(fields);
        if !self.origins.allow(origin.as_bytes()) {
            return false;
        }
        let origin = if self.is_for_all() { HeaderValue::from_static("*") } else { origin.clone() };
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    /// An answer that depends on the origin must not be given to another one from a cache.
    fn vary(&self, fields: &mut HeaderMap) {
        if !self.is_for_all() && !crate::headers::lists(fields, &VARY, "origin") {
            fields.append(VARY, ORIGIN.into());
        }
    }

    fn is_for_all(&self) -> bool {
        self.origins.any && !self.credentials
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn cors(origins: &[&str], credentials: bool, names: &[&str]) -> Cors {
        let names = Names::new(&strings(names)).unwrap();
        let origins = Origins::new(&strings(origins)).unwrap();
        Cors {
            origins,
            credentials,
            methods: names.clone(),
            headers: names.clone(),
            expose: names,
            max_age: 5,
        }
    }

    fn preflight(cors: &Cors, origin: &str) -> Vec<String> {
        let request = Request::options("/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-a, x-b");
        let response = cors.preflight(&request.body(()).unwrap().into_parts().0).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        lines(response.headers())
    }

    fn lines(fields: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| {
                let name = name.as_str().strip_prefix("access-control-").unwrap_or(name.as_str());
                format!("{name}: {}", value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn an_origin_is_matched_by_scheme_host_and_port() {
        for (pattern, origin, expected) in [
            ("*", "https://any.example", true),
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.Example:443", true),
            ("https://a.example:443", "https://a.example", true),
            ("http://a.example", "http://a.example:80", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "https://b.a.example", false),
            ("https://a.example", "https://a.example.evil", false),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://.a.example", false),
            ("https://*.a.example", "https://evila.example", false),
            ("https://*.a.example:8443", "https://b.a.example:8443", true),
            ("http://*", "http://any.example", true),
            ("http://*", "https://any.example", false),
            ("http://[::1]:8080", "http://[::1]:8080", true),
            ("https://a.example", "null", false),
            ("https://a.example", "", false),
            ("https://a.example", "https://user@a.example", false),
            ("https://a.example", "https://a.example/", false),
            ("https://a.example", "https://a.example:", false),
            ("https://a.example", "https://a.example:443x", false),
            ("https://a.example", "https://a.example, https://b.example", false),
            ("app://local", "app://local", true),
        ] {
            let origins = Origins::new(&strings(&[pattern])).unwrap();
            assert_eq!(origins.allow(origin.as_bytes()), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn what_is_not_a_pattern_is_refused() {
        for pattern in
            ["", "a.example", "https://", "https://a.*.example", "https://a:0", "https://a/b", "//a", "null"]
        {
            assert!(Origins::new(&strings(&[pattern])).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn a_preflight_of_an_allowed_origin_says_what_is_allowed() {
        let listed = cors(&["https://a.example"], true, &["PUT", "x-a"]);
        let expected = [
            "allow-credentials: true",
            "allow-headers: PUT, x-a",
            "allow-methods: PUT, x-a",
            "allow-origin: https://a.example",
            "max-age: 5",
            "vary: origin",
        ];
        assert_eq!(preflight(&listed, "https://a.example"), expected);
        assert_eq!(preflight(&listed, "https://b.example"), ["vary: origin"]);
        let open = cors(&["*"], false, &["*"]);
        let expected = ["allow-headers: *", "allow-methods: *", "allow-origin: *", "max-age: 5"];
        assert_eq!(preflight(&open, "https://a.example"), expected);
    }

    #[test]
    fn with_credentials_there_is_never_a_star() {
        let expected = [
            "allow-credentials: true",
            "allow-headers: x-a, x-b",
            "allow-methods: PUT",
            "allow-origin: https://a.example",
            "max-age: 5",
            "vary: access-control-request-headers",
            "vary: access-control-request-method",
            "vary: origin",
        ];
        let cors = cors(&["*"], true, &["*"]);
        assert_eq!(preflight(&cors, "https://a.example"), expected);
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", HeaderValue::from_static("1"));
        fields.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        cors.answer(Some(&HeaderValue::from_static("https://a.example")), &mut fields);
        let expected = [
            "allow-credentials: true",
            "allow-origin: https://a.example",
            "expose-headers: vary, x-sum",
            "vary: origin",
            "x-sum: 1",
        ];
        let mut found = lines(&fields);
        found.iter_mut().for_each(|line| *line = line.replace("x-sum, vary", "vary, x-sum"));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_the_policy_says_takes_the_place_of_what_the_application_says() {
        let cors = cors(&["https://a.example"], false, &["x-a"]);
        let answered = |origin: Option<&'static str>| {
            let mut fields = HeaderMap::new();
            fields.insert("access-control-allow-origin", HeaderValue::from_static("*"));
            fields.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
            fields.insert("vary", HeaderValue::from_static("accept"));
            cors.answer(origin.map(HeaderValue::from_static).as_ref(), &mut fields);
            lines(&fields)
        };
        assert_eq!(
            answered(Some("https://a.example")),
            ["allow-origin: https://a.example", "expose-headers: x-a", "vary: accept", "vary: origin"]
        );
        assert_eq!(answered(Some("https://b.example")), ["vary: accept", "vary: origin"]);
        assert_eq!(answered(None).len(), 4, "not from a page: only `vary` is added");
    }

    #[test]
    fn only_options_with_both_fields_is_a_preflight() {
        let cors = cors(&["*"], false, &[]);
        for (method, headers, expected) in [
            ("OPTIONS", &["origin", "access-control-request-method"][..], true),
            ("GET", &["origin", "access-control-request-method"][..], false),
            ("OPTIONS", &["origin"][..], false),
            ("OPTIONS", &["origin", "origin", "access-control-request-method"][..], false),
            ("OPTIONS", &["access-control-request-method"][..], false),
        ] {
            let request = headers
                .iter()
                .fold(Request::builder().method(method), |request, name| request.header(*name, "x"));
            let head = request.body(()).unwrap().into_parts().0;
            assert_eq!(cors.preflight(&head).is_some(), expected, "{method} {headers:?}");
        }
    }
}

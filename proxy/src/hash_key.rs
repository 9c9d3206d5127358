//! What of a request decides where it goes, with the balancer that hashes.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue, request};
use rand::{Rng, RngExt};

use crate::cookie::Cookie;
use crate::ring;
use crate::route::query_value;

/// How a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashPolicy {
    /// On what.
    pub key: HashKey,
    /// No endpoint has more requests under way than this percentage of an even share.
    pub max_load_percent: Option<u32>,
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// All values of a field.
    Header(HeaderName),
    /// A cookie, which is made where it is absent.
    Cookie(Cookie),
    /// Where the caller's connection comes from, without the port.
    SourceAddress,
    /// A parameter of the query, percent-decoded.
    QueryParameter(Box<str>),
}

/// The key of one request.
#[derive(Debug, Default)]
pub(crate) struct Keyed {
    /// `None`: the request has none, and may go anywhere.
    pub(crate) key: Option<u64>,
    /// What the answer sets, so that the next request has one.
    pub(crate) cookie: Option<HeaderValue>,
}

impl HashKey {
    /// The key of a request.
    pub(crate) fn of(&self, head: &request::Parts, client: SocketAddr, rng: &mut impl Rng) -> Keyed {
        let key = match self {
            Self::Header(name) => {
                let mut values = head.headers.get_all(name).iter().peekable();
                let is_there = values.peek().is_some();
                // Each value ends in what no value holds.
                let bytes = values.flat_map(|value| value.as_bytes().iter().copied().chain([b'\n']));
                is_there.then(|| ring::key(bytes))
            }
            Self::SourceAddress => Some(ring::key(client.ip().to_canonical().to_string().into_bytes())),
            Self::QueryParameter(name) => {
                head.uri.query().and_then(|query| query_value(query, name)).map(ring::key)
            }
            Self::Cookie(cookie) => match cookie.find(&head.headers) {
                Some(value) => Some(ring::key(value.iter().copied())),
                None => return Keyed::made(cookie, rng),
            },
        };
        Keyed { key, cookie: None }
    }
}

impl Keyed {
    fn made(cookie: &Cookie, rng: &mut impl Rng) -> Self {
        let value = format!("{:032x}", rng.random::<u128>());
        Self { key: Some(ring::key(value.bytes())), cookie: cookie.set(&value, None) }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn keyed(key: &HashKey, uri: &str, fields: &[(&str, &str)]) -> Keyed {
        let request =
            fields.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        let head = request.body(()).unwrap().into_parts().0;
        key.of(&head, "127.0.0.1:4000".parse().unwrap(), &mut StdRng::seed_from_u64(3))
    }

    #[test]
    fn a_request_without_what_is_hashed_has_no_key() {
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let query = HashKey::QueryParameter("user".into());
        assert_eq!(keyed(&header, "/", &[]).key, None);
        assert_eq!(keyed(&query, "/?u=1", &[]).key, None);
        assert_ne!(keyed(&header, "/", &[("x-user", "")]).key, None);
    }

    #[test]
    fn every_value_of_a_field_counts() {
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let key = |fields: &[_]| keyed(&header, "/", fields).key;
        assert_eq!(
            key(&[("x-user", "a"), ("x-user", "b")]),
            key(&[("x-user", "a"), ("x-other", "c"), ("x-user", "b")])
        );
        assert_ne!(key(&[("x-user", "a"), ("x-user", "b")]), key(&[("x-user", "ab")]));
    }

    #[test]
    fn a_parameter_is_the_same_however_it_is_encoded() {
        let query = HashKey::QueryParameter("user id".into());
        let key = |uri| keyed(&query, uri, &[]).key.unwrap();
        assert_eq!(key("/?user%20id=a%2Bb"), key("/x?y=1&user+id=a%2bb&user+id=c"));
        assert_ne!(key("/?user+id=a"), key("/?user+id=b"));
    }

    #[test]
    fn a_cookie_is_made_where_there_is_none_and_hashes_to_the_same_when_it_comes_back() {
        let cookie = HashKey::Cookie(Cookie { name: "user".into(), path: "/".into(), ttl: None });
        let made = keyed(&cookie, "/", &[]);
        let set = made.cookie.unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        let back = keyed(&cookie, "/", &[("cookie", pair)]);
        assert_eq!((back.key, back.cookie), (made.key, None));
    }
}

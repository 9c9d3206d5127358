//! What a rule does to a request on its way, and to the answer on its way back.
//!
//! Filters run in the order in which the route lists them (Gateway API `HTTPRouteFilter`). A filter that the
//! control plane could not resolve is kept as [`Filter::Unresolved`]: skipping it could mean skipping somebody's
//! protection, so that requests which meet it fail instead.
//!
//! [`HeaderModifier`] is here; every other kind has a file of its own. The plan of a request runs them.

mod cors;
mod fault;
mod mirror;
mod path;
mod redirect;
mod rewrite;

use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

pub use cors::{Cors, Names, Origins};
pub use fault::{Delay, Drawn, Fault, Share};
pub use mirror::Mirror;
pub use path::{PathChange, PathError};
pub use redirect::{Called, Redirect};
pub use rewrite::Rewrite;

/// One step of a rule or of a backend.
#[derive(Debug, Clone)]
pub enum Filter {
    /// Changes the request's fields.
    RequestHeaders(HeaderModifier),
    /// Changes the answer's fields.
    ResponseHeaders(HeaderModifier),
    /// Answers: what is asked for is elsewhere.
    Redirect(Redirect),
    /// Changes what the backend is asked for.
    Rewrite(Rewrite),
    /// Has the request copied to one more place.
    Mirror(Mirror),
    /// Says which pages may call, and answers browsers that ask.
    Cors(Arc<Cors>),
    /// Delays or fails the request on purpose.
    Fault(Box<Fault>),
    /// Refers to something that is not there, and says what: requests fail with `invalid-backend`.
    Unresolved(Arc<str>),
}

/// Sets, adds and removes fields. Names are compared without case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderModifier {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// Why a modifier is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A field that decides where a message ends belongs to the connection, not to a policy: changing it is
    /// how requests are smuggled.
    #[error("the field {0} frames the message and cannot be changed by a filter")]
    Framing(HeaderName),
}

/// Fields that say where a message ends or what the connection does; the proxy alone writes them.
static FRAMING: [HeaderName; 8] = [
    CONNECTION,
    CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

impl HeaderModifier {
    /// Makes a modifier that first sets, then adds, then removes.
    ///
    /// # Errors
    /// A field that frames the message is refused, with its name.
    pub fn new(
        set: Vec<(HeaderName, HeaderValue)>,
        add: Vec<(HeaderName, HeaderValue)>,
        remove: Vec<HeaderName>,
    ) -> Result<Self, FilterError> {
        let names = set.iter().chain(&add).map(|(name, _)| name).chain(&remove);
        if let Some(name) = names.into_iter().find(|name| FRAMING.contains(name)) {
            return Err(FilterError::Framing(name.clone()));
        }
        Ok(Self { set, add, remove })
    }

    /// Changes `headers`: what is set replaces every field of that name, what is added joins those that are
    /// there, what is removed goes entirely.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
    }

    #[test]
    fn set_replaces_add_appends_and_remove_deletes() {
        let modifier = HeaderModifier::new(
            vec![pair("x-set", "new"), pair("x-fresh", "1")],
            vec![pair("x-add", "b"), pair("x-lone", "c")],
            vec![HeaderName::from_static("x-gone")],
        )
        .unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("X-Set", "old"), ("x-set", "older"), ("x-add", "a"), ("X-Gone", "1"), ("x-gone", "2")]
        {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        headers.insert("x-kept", HeaderValue::from_static("kept"));

        modifier.apply(&mut headers);

        assert_eq!(values(&headers, "x-set"), ["new"]);
        assert_eq!(values(&headers, "x-fresh"), ["1"]);
        assert_eq!(values(&headers, "x-add"), ["a", "b"]);
        assert_eq!(values(&headers, "x-lone"), ["c"]);
        assert_eq!(values(&headers, "x-gone"), [""; 0]);
        assert_eq!(values(&headers, "x-kept"), ["kept"]);
    }

    #[test]
    fn fields_that_frame_the_message_are_refused_in_every_action() {
        let framing = || pair("content-length", "0");
        let error = Err(FilterError::Framing(CONTENT_LENGTH));
        assert_eq!(HeaderModifier::new(vec![framing()], vec![], vec![]), error);
        assert_eq!(HeaderModifier::new(vec![], vec![framing()], vec![]), error);
        assert_eq!(HeaderModifier::new(vec![], vec![], vec![framing().0]), error);
    }
}

//! Why a match does not hold, for people who ask. Requests are not asked: they are only matched.

use http::request;

use super::RouteMatch;

/// A part of a match that a request does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The method.
    Method,
    /// The path.
    Path,
    /// The header with this index.
    Header(usize),
    /// The query parameter with this index.
    Query(usize),
    /// The host, at a gateway.
    Host,
}

impl RouteMatch {
    /// Every part of the match that the request does not meet. None: it holds.
    pub fn mismatches(&self, head: &request::Parts) -> Vec<Mismatch> {
        let method = self.method.as_ref().is_none_or(|method| *method == head.method);
        let path = self.path.holds(head.uri.path());
        let query = head.uri.query().unwrap_or("");
        let mut found = Vec::new();
        found.extend((!method).then_some(Mismatch::Method));
        found.extend((!path).then_some(Mismatch::Path));
        let headers = self.headers.iter().enumerate().filter(|(_, header)| !header.holds(head));
        found.extend(headers.map(|(index, _)| Mismatch::Header(index)));
        let parameters = self.query.iter().enumerate().filter(|(_, parameter)| !parameter.holds(query));
        found.extend(parameters.map(|(index, _)| Mismatch::Query(index)));
        found.extend((!self.hosts.is_empty() && !self.is_for_host(head)).then_some(Mismatch::Host));
        found
    }
}

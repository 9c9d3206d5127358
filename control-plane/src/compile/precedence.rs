//! The order in which matches are tried (Gateway API, HTTPRouteRule): decided for each match, over all routes of
//! a port together, and total, so that the same documents give the same order everywhere.

use std::cmp::Reverse;

use k8s_openapi::jiff::Timestamp;
use outrigger_api::v1;
use outrigger_api::v1::path_match::Kind;

use super::Attached;

/// A match's place; the smallest is tried first.
///
/// An exact path, then a regular expression (which the specification leaves to us: the longer expression first),
/// then the longest prefix; then whether a method is named, the number of headers and of query parameters; then
/// the oldest route, `NAMESPACE/NAME` in the order of the alphabet, and the first in the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path: PathRank,
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// A route without a time is younger than all others.
    created: (bool, Option<Timestamp>),
    route: String,
    rule: usize,
    index: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex { characters: Reverse<usize> },
    Prefix { characters: Reverse<usize> },
}

impl Rank {
    pub(super) fn new(found: &v1::RouteMatch, attached: &Attached<'_>, rule: usize, index: usize) -> Self {
        let created = attached.route.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self {
            path: PathRank::of(found.path.as_ref()),
            without_method: found.method.is_empty(),
            headers: Reverse(found.headers.len()),
            query: Reverse(found.query.len()),
            created: (created.is_none(), created),
            route: attached.id(),
            rule,
            index,
        }
    }
}

impl PathRank {
    fn of(path: Option<&v1::PathMatch>) -> Self {
        match path.and_then(|path| path.kind.as_ref()) {
            Some(Kind::Exact(_)) => Self::Exact,
            Some(Kind::Regex(text)) => Self::Regex { characters: Reverse(text.chars().count()) },
            // "/" is what every path starts with: nothing that could be longer than something.
            Some(Kind::Prefix(text)) => {
                Self::Prefix { characters: Reverse(text.trim_end_matches('/').chars().count()) }
            }
            None => Self::Prefix { characters: Reverse(0) },
        }
    }
}

//! The order in which matches are tried (Gateway API, HTTPRouteRule and GRPCRouteRule): decided for each match, over all
//! routes of a port together, and total, so that the same documents give the same order everywhere.

use std::cmp::Reverse;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use outrigger_api::v1;
use outrigger_api::v1::path_match::Kind;

use super::Attached;
use crate::model::RouteKind;
use crate::resources::grpcroutes::{GrpcRouteRulesMatchesMethod, GrpcRouteRulesMatchesMethodType};

/// A match's place; the smallest is tried first.
///
/// An exact path, then a regular expression (which the specification leaves to us: the longer expression first),
/// then the longest prefix; then whether a method is named, the number of headers and of query parameters; then
/// the oldest route, `NAMESPACE/NAME` in the order of the alphabet, and the first in the list.
///
/// Of a GRPCRoute: the most characters of a service, then of a method, where these are exact; then the same of regular
/// expressions, which are left to us here as well; then the number of headers; then as above.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path: PathRank,
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    age: Age,
    route: String,
    rule: usize,
    index: usize,
}

/// When a document was created; the oldest is the smallest, and one without a time is younger than all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age(bool, Option<Timestamp>);

impl Age {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self(created.is_none(), created)
    }
}

/// Kinds never meet on one port, so that paths are compared with paths and calls with calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex { characters: Reverse<usize> },
    Prefix { characters: Reverse<usize> },
    Call { form: CallForm, service: Reverse<usize>, method: Reverse<usize> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CallForm {
    Exact,
    Regex,
    Any,
}

impl Rank {
    pub(super) fn new(found: &v1::RouteMatch, attached: &Attached<'_>, rule: usize, index: usize) -> Self {
        let path = match attached.kind {
            RouteKind::Grpc => PathRank::of_call(attached.form.call(rule, index)),
            RouteKind::Http | RouteKind::Tcp => PathRank::of(found.path.as_ref()),
        };
        Self {
            path,
            without_method: found.method.is_empty(),
            headers: Reverse(found.headers.len()),
            query: Reverse(found.query.len()),
            age: Age::of(&attached.route.metadata),
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

    fn of_call(call: Option<&GrpcRouteRulesMatchesMethod>) -> Self {
        let characters = |part: fn(&GrpcRouteRulesMatchesMethod) -> Option<&String>| {
            call.and_then(part).map_or(0, |text| text.chars().count())
        };
        let (service, method) =
            (characters(|call| call.service.as_ref()), characters(|call| call.method.as_ref()));
        let is_regex = call.and_then(|call| call.r#type.as_ref())
            == Some(&GrpcRouteRulesMatchesMethodType::RegularExpression);
        let form = match service + method {
            0 => CallForm::Any,
            _ if is_regex => CallForm::Regex,
            _ => CallForm::Exact,
        };
        Self::Call { form, service: Reverse(service), method: Reverse(method) }
    }
}

//! What a rule does to requests and answers. A filter that is not supported, or that a proxy would refuse, is
//! compiled to one that fails the request: leaving it out could leave out somebody's protection.

use http::{HeaderName, HeaderValue};
use outrigger_api::v1::{self, filter::Kind};

use crate::resources::httproutes::{
    HttpRouteRulesBackendRefsFilters, HttpRouteRulesBackendRefsFiltersType, HttpRouteRulesFilters,
    HttpRouteRulesFiltersType,
};

/// Fields that say where a message ends; changing them is how requests are smuggled.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Collects a generated header modifier, whichever of the four types it is.
macro_rules! modifier {
    ($modifier:expr) => {
        $modifier.as_ref().map(|modifier| v1::HeaderModifier {
            set: modifier.set.iter().flatten().map(|header| pair(&header.name, &header.value)).collect(),
            add: modifier.add.iter().flatten().map(|header| pair(&header.name, &header.value)).collect(),
            remove: modifier.remove.iter().flatten().map(|name| name.to_ascii_lowercase()).collect(),
        })
    };
}

/// A filter of a rule.
pub(super) fn of_rule(filter: &HttpRouteRulesFilters) -> v1::Filter {
    let kind = match &filter.r#type {
        HttpRouteRulesFiltersType::RequestHeaderModifier => {
            headers("RequestHeaderModifier", modifier!(filter.request_header_modifier), Kind::RequestHeaders)
        }
        HttpRouteRulesFiltersType::ResponseHeaderModifier => headers(
            "ResponseHeaderModifier",
            modifier!(filter.response_header_modifier),
            Kind::ResponseHeaders,
        ),
        other => unsupported(other),
    };
    v1::Filter { kind: Some(kind) }
}

/// A filter of one backend.
pub(super) fn of_backend(filter: &HttpRouteRulesBackendRefsFilters) -> v1::Filter {
    let kind = match &filter.r#type {
        HttpRouteRulesBackendRefsFiltersType::RequestHeaderModifier => {
            headers("RequestHeaderModifier", modifier!(filter.request_header_modifier), Kind::RequestHeaders)
        }
        HttpRouteRulesBackendRefsFiltersType::ResponseHeaderModifier => headers(
            "ResponseHeaderModifier",
            modifier!(filter.response_header_modifier),
            Kind::ResponseHeaders,
        ),
        other => unsupported(other),
    };
    v1::Filter { kind: Some(kind) }
}

fn pair(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.to_ascii_lowercase(), value: value.to_owned() }
}

fn unsupported(kind: &impl serde::Serialize) -> Kind {
    let kind = serde_json::to_value(kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("unknown");
    Kind::Unresolved(format!("filter {kind} is not supported"))
}

fn headers(
    name: &str,
    modifier: Option<v1::HeaderModifier>,
    kind: impl FnOnce(v1::HeaderModifier) -> Kind,
) -> Kind {
    let Some(modifier) = modifier else {
        return Kind::Unresolved(format!("filter {name} says nothing"));
    };
    match wrong_header(&modifier) {
        Some(header) => Kind::Unresolved(format!("filter {name} cannot change the header {header:?}")),
        None => kind(modifier),
    }
}

/// The first header that a proxy would refuse to write.
fn wrong_header(modifier: &v1::HeaderModifier) -> Option<&str> {
    let is_name = |name: &str| HeaderName::from_bytes(name.as_bytes()).is_ok() && !FRAMING.contains(&name);
    let written = modifier.set.iter().chain(&modifier.add);
    let wrong =
        written.filter(|header| !is_name(&header.name) || HeaderValue::from_str(&header.value).is_err());
    let removed = modifier.remove.iter().filter(|name| !is_name(name));
    wrong.map(|header| header.name.as_str()).chain(removed.map(String::as_str)).next()
}

/// The reason of a filter that fails its requests.
pub(super) fn problem(filter: &v1::Filter) -> Option<&str> {
    match &filter.kind {
        Some(Kind::Unresolved(reason)) => Some(reason),
        _ => None,
    }
}

//! A service's ports with the routes attached to them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use outrigger_api::{ServiceName, v1};
use v1::{backend, filter, path_match, value_match};

use super::limits::limits;
use super::problem::{Path, Problems};
use super::{filters, hedging, port_number, protocol, service_name, session};
use crate::filter::{Filter, HeaderModifier};
use crate::gateway::HostPattern;
use crate::policy::backend::{optional, retry};
use crate::policy::fallback::fallback;
use crate::route::{HeaderMatch, PathMatch, Pattern, Prefix, QueryMatch, RouteMatch, RouteTable, ValueMatch};
use crate::snapshot::{Backend, Rule, ServicePort, Target};

/// The greatest weight of a backend (Gateway API `BackendRef.weight`).
const MOST_WEIGHT: u32 = 1_000_000;

pub(super) fn port(raw: &v1::ServicePort, path: &Path<'_>, problems: &mut Problems) -> Option<ServicePort> {
    let number = port_number(raw.port, &path.field("port"), problems);
    let protocol = protocol(raw.protocol, &path.field("protocol"), problems);
    let mut matches = Vec::with_capacity(raw.matches.len());
    for (index, condition) in raw.matches.iter().enumerate() {
        let path = path.field("matches");
        let path = path.index(index);
        if usize::try_from(condition.rule).is_ok_and(|rule| rule >= raw.rules.len()) {
            problems.add(&path.field("rule"), format!("{} is not the index of a rule", condition.rule));
        }
        matches.extend(route_match(condition, &path, problems));
    }
    let mut rules = Vec::with_capacity(raw.rules.len());
    for (index, raw) in raw.rules.iter().enumerate() {
        rules.push(rule(raw, &path.field("rules").index(index), problems));
    }
    let mut tcp_backends = Vec::with_capacity(raw.tcp_backends.len());
    for (index, raw) in raw.tcp_backends.iter().enumerate() {
        tcp_backends.extend(backend(raw, &path.field("tcpBackends").index(index), problems));
    }
    Some(ServicePort {
        port: number?,
        protocol: protocol?,
        routes: raw.routed.then(|| RouteTable::new(matches, rules)),
        tcp_backends,
    })
}

pub(super) fn route_match(
    raw: &v1::RouteMatch,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<RouteMatch> {
    let condition = path_match(raw.path.as_ref(), &path.field("path"), problems);
    let mut headers = Vec::with_capacity(raw.headers.len());
    for (index, raw) in raw.headers.iter().enumerate() {
        headers.extend(header_match(raw, &path.field("headers").index(index), problems));
    }
    let mut query = Vec::with_capacity(raw.query.len());
    for (index, raw) in raw.query.iter().enumerate() {
        let value = value_match(raw, &path.field("query").index(index), problems);
        query.extend(value.map(|value| QueryMatch { name: raw.name.as_str().into(), value }));
    }
    let method = match raw.method.as_str() {
        "" => None,
        text => problems.ok(Method::from_bytes(text.as_bytes()), &path.field("method")),
    };
    let hosts = raw.hostnames.iter().map(|text| HostPattern::new(text)).collect();
    Some(RouteMatch {
        rule: usize::try_from(raw.rule).ok()?,
        path: condition?,
        headers,
        query,
        method,
        hosts,
    })
}

/// Reads a condition on one field.
pub(super) fn header_match(
    raw: &v1::ValueMatch,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<HeaderMatch> {
    let name = header_name(&raw.name, &path.field("name"), problems);
    let value = value_match(raw, path, problems);
    name.zip(value).map(|(name, value)| HeaderMatch { name, value })
}

pub(super) fn path_match(
    raw: Option<&v1::PathMatch>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<PathMatch> {
    match problems.present(raw.and_then(|raw| raw.kind.as_ref()), path)? {
        path_match::Kind::Exact(text) => Some(PathMatch::Exact(text.as_str().into())),
        path_match::Kind::Prefix(text) => Some(PathMatch::Prefix(Prefix::new(text))),
        path_match::Kind::Regex(text) => pattern(text, &path.field("regex"), problems).map(PathMatch::Regex),
    }
}

fn value_match(raw: &v1::ValueMatch, path: &Path<'_>, problems: &mut Problems) -> Option<ValueMatch> {
    match problems.present(raw.kind.as_ref(), path)? {
        value_match::Kind::Exact(text) => Some(ValueMatch::Exact(text.as_str().into())),
        value_match::Kind::Regex(text) => {
            pattern(text, &path.field("regex"), problems).map(ValueMatch::Regex)
        }
    }
}

pub(super) fn pattern(text: &str, path: &Path<'_>, problems: &mut Problems) -> Option<Pattern> {
    problems.ok(Pattern::new(text), path)
}

fn rule(raw: &v1::Rule, path: &Path<'_>, problems: &mut Problems) -> Rule {
    let mut backends = Vec::with_capacity(raw.backends.len());
    for (index, raw) in raw.backends.iter().enumerate() {
        backends.extend(backend(raw, &path.field("backends").index(index), problems));
    }
    Rule {
        route: Arc::from(&*raw.route),
        name: Arc::from(&*raw.name),
        filters: filters(&raw.filters, path, problems),
        request_timeout: optional(raw.request_timeout.as_ref(), &path.field("requestTimeout"), problems),
        attempt_timeout: optional(raw.attempt_timeout.as_ref(), &path.field("attemptTimeout"), problems),
        retry: retry(raw.retry.as_ref(), &path.field("retry"), problems),
        session: session::read(raw.session.as_ref(), &path.field("session"), problems).map(Box::new),
        hedging: hedging::read(raw.hedging.as_ref(), &path.field("hedging"), problems),
        fallback: fallback(raw.fallback.as_ref(), &path.field("fallback"), problems),
        backends,
        rate_limits: limits(&raw.rate_limits, path, problems),
    }
}

fn backend(raw: &v1::Backend, path: &Path<'_>, problems: &mut Problems) -> Option<Backend> {
    if raw.weight > MOST_WEIGHT {
        problems.add(&path.field("weight"), format!("{} is over {MOST_WEIGHT}", raw.weight));
    }
    let filters = filters(&raw.filters, path, problems);
    let target = match problems.present(raw.target.as_ref(), &path.field("target"))? {
        backend::Target::Service(raw) => {
            let (name, port) = service_port(raw, &path.field("service"), problems)?;
            Target::Service { name, port }
        }
        backend::Target::Invalid(reason) => Target::Invalid(Arc::from(&**reason)),
    };
    Some(Backend { weight: raw.weight, target, filters })
}

/// Reads a port of a service.
pub(super) fn service_port(
    raw: &v1::BackendService,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<(ServiceName, u16)> {
    let name = service_name(raw.name.as_ref(), &path.field("name"), problems);
    name.zip(port_number(raw.port, &path.field("port"), problems))
}

/// Reads the filters of what is at `path`.
fn filters(raw: &[v1::Filter], path: &Path<'_>, problems: &mut Problems) -> Vec<Filter> {
    let mut filters = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let path = path.field("filters");
        let path = path.index(index);
        // A kind that is not known here reads as absent. To skip it could skip somebody's protection.
        let Some(kind) = problems.present(raw.kind.as_ref(), &path) else { continue };
        filters.extend(match kind {
            filter::Kind::RequestHeaders(raw) => {
                modifier(raw, &path.field("requestHeaders"), problems).map(Filter::RequestHeaders)
            }
            filter::Kind::ResponseHeaders(raw) => {
                modifier(raw, &path.field("responseHeaders"), problems).map(Filter::ResponseHeaders)
            }
            filter::Kind::Unresolved(reason) => Some(Filter::Unresolved(Arc::from(&**reason))),
            filter::Kind::Redirect(raw) => {
                filters::redirect(raw, &path.field("redirect"), problems).map(Filter::Redirect)
            }
            filter::Kind::Rewrite(raw) => {
                filters::rewrite(raw, &path.field("rewrite"), problems).map(Filter::Rewrite)
            }
            filter::Kind::Mirror(raw) => {
                filters::mirror(raw, &path.field("mirror"), problems).map(Filter::Mirror)
            }
            filter::Kind::Cors(raw) => {
                filters::cors(raw, &path.field("cors"), problems).map(|cors| Filter::Cors(Arc::new(cors)))
            }
            filter::Kind::Fault(raw) => filters::fault(raw, &path.field("fault"), problems)
                .map(|fault| Filter::Fault(Box::new(fault))),
        });
    }
    filters
}

fn modifier(raw: &v1::HeaderModifier, path: &Path<'_>, problems: &mut Problems) -> Option<HeaderModifier> {
    let set = fields(&raw.set, &path.field("set"), problems);
    let add = fields(&raw.add, &path.field("add"), problems);
    let mut remove = Vec::with_capacity(raw.remove.len());
    for (index, name) in raw.remove.iter().enumerate() {
        remove.extend(header_name(name, &path.field("remove").index(index), problems));
    }
    problems.ok(HeaderModifier::new(set, add, remove), path)
}

pub(super) fn fields(
    raw: &[v1::Header],
    path: &Path<'_>,
    problems: &mut Problems,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let path = path.index(index);
        let name = header_name(&raw.name, &path.field("name"), problems);
        let value = problems.ok(HeaderValue::from_bytes(raw.value.as_bytes()), &path.field("value"));
        fields.extend(name.zip(value));
    }
    fields
}

pub(super) fn header_name(text: &str, path: &Path<'_>, problems: &mut Problems) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        problems.add(path, format!("{text:?} is not the name of a field"));
    }
    name
}

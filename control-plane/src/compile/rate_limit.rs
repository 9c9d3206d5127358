//! How often a service may be called, or a rule be used.

use std::time::Duration;

use outrigger_api::{ServiceName, v1};
use v1::path_match;

use super::access::claim_path;
use super::rule::route_match;
use super::timing::proto;
use crate::model::Model;
use crate::resources::httproutes::HttpRouteRulesMatches;
use crate::resources::{Period, RateLimit, RateLimitKey, RateLimitKeyType, RateLimitPolicy, RateLimitScope};

/// Limits that one proxy would take for one port.
const MOST_LIMITS: usize = 64;

/// The limits of a service's own ports: those of all policies that name it, by namespace and name.
pub(super) fn of_service(model: &Model, service: &ServiceName) -> Vec<v1::RateLimit> {
    let place = format!("service {service}");
    let limits = model
        .rate_limits(service)
        .flat_map(|((namespace, name), policy)| limits(&format!("{namespace}/{name}"), policy, &place));
    limits.take(MOST_LIMITS).collect()
}

/// The limits that a rule's filters name; `rule` tells the rule from all others.
pub(super) fn of_rule(policies: &[&RateLimitPolicy], rule: &str) -> Vec<v1::RateLimit> {
    let place = format!("rule {rule}");
    let limits = policies.iter().flat_map(|policy| {
        let (namespace, name) = (&policy.metadata.namespace, &policy.metadata.name);
        let [namespace, name] = [namespace, name].map(|text| text.as_deref().unwrap_or_default());
        limits(&format!("{namespace}/{name}"), policy, &place)
    });
    limits.take(MOST_LIMITS).collect()
}

/// The limits of a policy that are enforced at `place`, which is what their budgets are for.
fn limits(policy: &str, document: &RateLimitPolicy, place: &str) -> Vec<v1::RateLimit> {
    let headers = document.spec.headers.unwrap_or(false);
    let limits = document.spec.limits.iter().enumerate();
    let compiled = limits.map(|(index, limit)| {
        let name = limit.label(index);
        v1::RateLimit { id: format!("{policy}/{name} of {place}"), headers, ..limit_of(policy, name, limit) }
    });
    compiled.collect()
}

fn limit_of(policy: &str, name: String, limit: &RateLimit) -> v1::RateLimit {
    v1::RateLimit {
        id: String::new(),
        policy: policy.to_owned(),
        name,
        requests: limit.requests,
        per: Some(proto(limit.per.map_or(Duration::from_secs(1), Period::duration))),
        burst: limit.burst.unwrap_or(limit.requests),
        by: limit.by.iter().map(key).collect(),
        matches: limit.matches.iter().map(request_match).collect(),
        of_mesh: limit.scope == Some(RateLimitScope::Mesh),
        headers: false,
    }
}

fn key(key: &RateLimitKey) -> v1::RateLimitKey {
    let kind = match key.kind {
        RateLimitKeyType::Identity => v1::RateLimitKeyKind::Identity,
        RateLimitKeyType::Header => v1::RateLimitKeyKind::Header,
        RateLimitKeyType::Method => v1::RateLimitKeyKind::Method,
        RateLimitKeyType::Path => v1::RateLimitKeyKind::Path,
        RateLimitKeyType::ClientAddress => v1::RateLimitKeyKind::ClientAddress,
        RateLimitKeyType::Claim => v1::RateLimitKeyKind::Claim,
        RateLimitKeyType::ApiKey => v1::RateLimitKeyKind::ApiKey,
    };
    let header = key.header.as_deref().unwrap_or_default().to_ascii_lowercase();
    let claim = key.claim.as_deref().map(claim_path).unwrap_or_default();
    v1::RateLimitKey { kind: kind as i32, header, claim }
}

/// An expression that no proxy could use was refused when it was written; should one be there all the same, the match
/// becomes one that holds for every request, so that the limit holds for more and not for less.
fn request_match(found: &HttpRouteRulesMatches) -> v1::RouteMatch {
    let every = || v1::RouteMatch {
        path: Some(v1::PathMatch { kind: Some(path_match::Kind::Prefix("/".to_owned())) }),
        ..v1::RouteMatch::default()
    };
    route_match(found).unwrap_or_else(|_| every())
}

//! The rules of one route, with their matches and the places of these.

use std::collections::BTreeSet;

use outrigger_api::ServiceName;
use outrigger_api::v1::{self, path_match, value_match};
use regex::RegexBuilder;

use super::backend::{self, Unresolved};
use super::filter::{self, Place, Scope};
use super::policy::{self, Effective};
use super::precedence::Rank;
use super::timing::proto;
use super::{Attached, World, session, traffic_policy};
use crate::model::Route;
use crate::resources::httproutes::{
    HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};

/// What a proxy allows one compiled expression to take; a bigger one would make it refuse the service.
const REGEX_BYTES: usize = 256 << 10;

/// A route, compiled for one service.
#[derive(Debug, Default)]
pub(super) struct CompiledRoute {
    pub(super) rules: Vec<v1::Rule>,
    /// `rule` counts within this route.
    pub(super) matches: Vec<(Rank, v1::RouteMatch)>,
    /// Services that the rules lead to.
    pub(super) backends: BTreeSet<ServiceName>,
    /// Services that the rules name, whether there or not.
    pub(super) dependencies: BTreeSet<ServiceName>,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Unresolved>,
    /// Rules and matches that cannot be honoured, and why.
    pub(super) dropped: Vec<String>,
    /// As many as there are rules.
    filter_places: Vec<FilterPlaces>,
}

/// Where the filters of one compiled rule are written: for each its place in the list of the rule, or of a backend.
#[derive(Debug, Default)]
pub(crate) struct FilterPlaces {
    pub(crate) of_rule: Vec<usize>,
    /// In the order of the backends.
    pub(crate) of_backends: Vec<Vec<usize>>,
}

/// Where the filters of a route's rules are written, whoever its parent is.
pub(crate) fn filter_places(world: World<'_>, route: &Route, service: &ServiceName) -> Vec<FilterPlaces> {
    let attached = Attached {
        namespace: route.namespace(),
        name: route.name(),
        kind: route.kind,
        route: &route.http,
        form: route,
        parents: Vec::new(),
    };
    rules_of(world, &attached, &Effective::of(world.model, service)).filter_places
}

/// Compiles the rules of an attached route. `policy` is the parent's.
pub(super) fn rules_of(world: World<'_>, attached: &Attached<'_>, policy: &Effective<'_>) -> CompiledRoute {
    let mut compiled = CompiledRoute::default();
    for (index, rule) in attached.route.spec.rules.iter().flatten().enumerate() {
        compiled.add_rule(world, attached, policy, index, rule);
    }
    compiled
}

impl CompiledRoute {
    /// Whether it has rules, and none of them could ever be used.
    pub(super) fn is_useless(&self) -> bool {
        self.matches.is_empty() && !self.dropped.is_empty()
    }

    fn add_rule(
        &mut self,
        world: World<'_>,
        attached: &Attached<'_>,
        policy: &Effective<'_>,
        index: usize,
        rule: &HttpRouteRules,
    ) {
        let name = rule.name.clone().unwrap_or_else(|| index.to_string());
        let every = [HttpRouteRulesMatches::default()];
        let written = rule.matches.as_deref().filter(|matches| !matches.is_empty());
        for (place, written) in written.unwrap_or(&every).iter().enumerate() {
            match route_match(written) {
                Ok(found) => {
                    let rank = Rank::new(&found, attached, index, place);
                    let found = v1::RouteMatch { rule: self.rules.len() as u32, ..found }; // 16 rules at most
                    self.matches.push((rank, found));
                }
                Err(problem) => self.dropped.push(format!("rule {name}, matches[{place}]: {problem}")),
            }
        }
        let prefix = filter::only_prefix(rule);
        let place = Place { world, attached, prefix, scope: Scope::Rule };
        let filters = filter::of_rule(place, rule.filters.as_deref().unwrap_or_default());
        self.backends.extend(filters.mirrored.iter().cloned());
        self.dependencies.extend(filters.dependencies);
        let fallback = filters.policy.and_then(|(key, policy)| policy::fallback(key, policy));
        let hedging = filters.policy.and_then(|(_, policy)| policy.hedging.as_ref());
        let timing = policy.timing(filters.policy.map(|(_, policy)| policy));
        let timing = timing.of_rule(rule.timeouts.as_ref(), rule.retry.as_ref());
        self.unresolved.extend(filters.unresolved);
        let failing = filters.messages.iter().filter_map(filter::problem);
        self.dropped.extend(failing.map(|problem| format!("rule {name}: {problem}; its requests fail")));
        let mut backends = Vec::new();
        let mut session_of_backend = None;
        let mut filter_places = FilterPlaces { of_rule: filters.places, of_backends: Vec::new() };
        for reference in rule.backend_refs.iter().flatten() {
            let resolved = backend::resolve(place, reference);
            if resolved.problem.is_none() {
                self.backends.extend(resolved.service.clone());
                session_of_backend = session_of_backend
                    .or_else(|| traffic_policy::session_of_backend(world.model, resolved.service.as_ref()?));
            }
            self.dependencies.extend(resolved.service);
            self.unresolved.extend(resolved.problem);
            self.unresolved.extend(resolved.filters.unresolved);
            self.backends.extend(resolved.filters.mirrored.iter().cloned());
            self.dependencies.extend(resolved.filters.dependencies);
            let failing = resolved.message.filters.iter().filter_map(filter::problem);
            self.dropped.extend(
                failing.map(|problem| format!("rule {name}, a backend: {problem}; its requests fail")),
            );
            filter_places.of_backends.push(resolved.filters.places);
            backends.push(resolved.message);
        }
        let rate_limits =
            super::rate_limit::of_rule(&filters.rate_limits, &format!("{}/{name}", attached.id()));
        self.filter_places.push(filter_places);
        self.rules.push(v1::Rule {
            session: match &rule.session_persistence {
                Some(written) => Some(session::of_rule(written, &attached.route.metadata, &name)),
                None => policy.session().or(session_of_backend),
            },
            route: attached.id(),
            name,
            filters: filters.messages,
            request_timeout: timing.request.map(proto),
            attempt_timeout: timing.attempt.map(proto),
            retry: timing.retry,
            backends,
            rate_limits,
            fallback,
            hedging: hedging.and_then(policy::hedging),
        });
    }
}

/// # Errors
/// An expression that no proxy could use.
pub(super) fn route_match(written: &HttpRouteRulesMatches) -> Result<v1::RouteMatch, String> {
    Ok(v1::RouteMatch {
        rule: 0,
        path: Some(v1::PathMatch { kind: Some(path(written)?) }),
        headers: headers(written)?,
        query: query(written)?,
        method: written.method.as_ref().map(method).unwrap_or_default(),
        hostnames: Vec::new(),
    })
}

fn method(method: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(method).ok();
    text.and_then(|text| Some(text.as_str()?.to_owned())).unwrap_or_default()
}

fn path(written: &HttpRouteRulesMatches) -> Result<path_match::Kind, String> {
    let path = written.path.as_ref();
    let value = path.and_then(|path| path.value.as_deref()).unwrap_or("/").to_owned();
    Ok(match path.and_then(|path| path.r#type.as_ref()) {
        Some(HttpRouteRulesMatchesPathType::Exact) => path_match::Kind::Exact(value),
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            path_match::Kind::Regex(expression(&value)?)
        }
        Some(HttpRouteRulesMatchesPathType::PathPrefix) | None => {
            // By element, so that a final slash means nothing.
            let trimmed = value.trim_end_matches('/');
            path_match::Kind::Prefix(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
        }
    })
}

/// Of entries whose names are the same without case, the first counts.
fn headers(written: &HttpRouteRulesMatches) -> Result<Vec<v1::ValueMatch>, String> {
    let mut headers: Vec<v1::ValueMatch> = Vec::new();
    for header in written.headers.iter().flatten() {
        let name = header.name.to_ascii_lowercase();
        if headers.iter().any(|earlier| earlier.name == name) {
            continue;
        }
        let kind = match header.r#type {
            Some(HttpRouteRulesMatchesHeadersType::RegularExpression) => {
                value_match::Kind::Regex(expression(&header.value)?)
            }
            Some(HttpRouteRulesMatchesHeadersType::Exact) | None => {
                value_match::Kind::Exact(header.value.clone())
            }
        };
        headers.push(v1::ValueMatch { name, kind: Some(kind) });
    }
    Ok(headers)
}

/// Of entries with the same name, the first counts.
fn query(written: &HttpRouteRulesMatches) -> Result<Vec<v1::ValueMatch>, String> {
    let mut query: Vec<v1::ValueMatch> = Vec::new();
    for parameter in written.query_params.iter().flatten() {
        if query.iter().any(|earlier| earlier.name == parameter.name) {
            continue;
        }
        let kind = match parameter.r#type {
            Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression) => {
                value_match::Kind::Regex(expression(&parameter.value)?)
            }
            Some(HttpRouteRulesMatchesQueryParamsType::Exact) | None => {
                value_match::Kind::Exact(parameter.value.clone())
            }
        };
        query.push(v1::ValueMatch { name: parameter.name.clone(), kind: Some(kind) });
    }
    Ok(query)
}

/// An expression that every proxy can use.
pub(super) fn expression(text: &str) -> Result<String, String> {
    let build = |text: &str| RegexBuilder::new(text).size_limit(REGEX_BYTES).build();
    // Alone first: `a)|(b` is wrong, but would slip out of the group.
    build(text)
        .and_then(|_| build(&format!("^(?:{text})$")))
        .map(|_| text.to_owned())
        .map_err(|_| format!("{text:?} is not a regular expression that can be used"))
}

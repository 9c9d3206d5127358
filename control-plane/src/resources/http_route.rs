//! `HTTPRoute`: the defaults and the rules that its CRD gives an API server, for the experimental channel.
//!
//! The numbers and conditions are those of the Gateway API's own schema. On top of it, what this version of the
//! mesh cannot do is refused by name: a filter that was accepted and then failed every request would be a trap.

mod filters;
mod matches;
pub(super) mod session;
#[cfg(test)]
mod tests;

use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFilters,
    HttpRouteRulesMatches, HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesRetry,
    HttpRouteRulesTimeouts,
};
use serde::Serialize;

use super::as_http::same;
use super::duration::Period;
use super::metadata::{is_label_key, is_subdomain};
use super::{Admission, FieldPath, Problems};
pub(super) use matches::check_match;

pub(crate) use filters::is_origin;
pub(crate) use matches::check_name;
pub(super) use matches::{check_header_matches, check_literal_path, check_regex};

pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

// The bounds of the CRD's schema.
const MOST_PARENTS: usize = 32;
const MOST_HOSTNAMES: usize = 16;
pub(super) const MOST_RULES: usize = 16;
const MOST_MATCHES: usize = 64;
const MOST_MATCHES_IN_ROUTE: usize = 128;
const MOST_BACKENDS: usize = 16;
const MOST_WEIGHT: i32 = 1_000_000;
/// Ours: a request that ten more tries did not save is not saved by an eleventh.
const MOST_ATTEMPTS: i64 = 10;

impl Admission for HttpRoute {
    fn fill_defaults(&mut self) {
        self.status = None;
        for parent in self.spec.parent_refs.iter_mut().flatten() {
            parent.group.get_or_insert_with(|| GATEWAY_GROUP.to_owned());
            parent.kind.get_or_insert_with(|| "Gateway".to_owned());
        }
        for rule in self.spec.rules.get_or_insert_with(|| vec![HttpRouteRules::default()]) {
            default_rule(rule);
        }
    }

    fn check(&self, problems: &mut Problems) {
        let path = FieldPath::root().field("spec");
        check_frame(self, &path, problems);
        let path = path.field("rules");
        for (index, rule) in self.spec.rules.iter().flatten().enumerate().take(MOST_RULES) {
            check_rule(rule, &path.index(index), problems);
        }
    }
}

/// What the routes of every kind have around their rules. Those of another kind come in the words of this one.
pub(super) fn check_frame(route: &HttpRoute, path: &FieldPath, problems: &mut Problems) {
    check_parents(route, &path.field("parentRefs"), problems);
    check_hostnames(route, &path.field("hostnames"), problems);
    if route.spec.use_default_gateways.is_some() {
        problems.error(&path.field("useDefaultGateways"), "is not supported: a mesh has no gateways");
    }
    let rules = route.spec.rules.as_deref().unwrap_or_default();
    let path = path.field("rules");
    problems.check_count(&path, rules.len(), MOST_RULES);
    let matches: usize = rules.iter().filter_map(|rule| rule.matches.as_ref()).map(Vec::len).sum();
    if matches > MOST_MATCHES_IN_ROUTE {
        problems.error(
            &path,
            format!("must not have more than {MOST_MATCHES_IN_ROUTE} matches in all, not {matches}"),
        );
    }
    for (index, rule) in rules.iter().enumerate().take(MOST_RULES) {
        if let Some(name) = &rule.name
            && rules[..index].iter().any(|earlier| earlier.name.as_ref() == Some(name))
        {
            let path = path.index(index).field("name");
            problems.error(&path, format!("{name:?} names an earlier rule as well"));
        }
    }
}

fn default_rule(rule: &mut HttpRouteRules) {
    let matches = rule.matches.get_or_insert_default();
    if matches.is_empty() {
        matches.push(HttpRouteRulesMatches::default());
    }
    for found in matches {
        default_match(found);
    }
    if let Some(session) = &mut rule.session_persistence {
        session::fill_defaults(session);
    }
    rule.filters.iter_mut().flatten().for_each(filters::default_filter);
    rule.backend_refs.iter_mut().flatten().for_each(default_backend);
}

fn default_backend(backend: &mut HttpRouteRulesBackendRefs) {
    backend.group.get_or_insert_default();
    backend.kind.get_or_insert_with(|| "Service".to_owned());
    backend.weight.get_or_insert(1);
    backend.filters.iter_mut().flatten().for_each(filters::default_backend_filter);
}

/// Fills in the filters of a rule of another kind. `None`: they are not what a rule of this kind could have.
pub(super) fn with_default_filters(filters: &impl Serialize) -> Option<Vec<HttpRouteRulesFilters>> {
    let mut twins: Vec<HttpRouteRulesFilters> = same(filters)?;
    twins.iter_mut().for_each(filters::default_filter);
    Some(twins)
}

/// Fills in the backends of a rule of another kind.
pub(super) fn with_default_backends(backends: &impl Serialize) -> Option<Vec<HttpRouteRulesBackendRefs>> {
    let mut twins: Vec<HttpRouteRulesBackendRefs> = same(backends)?;
    twins.iter_mut().for_each(default_backend);
    Some(twins)
}

fn default_match(found: &mut HttpRouteRulesMatches) {
    use gateway_api::experimental::httproutes::{
        HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesQueryParamsType,
    };
    let path = found.path.get_or_insert_with(HttpRouteRulesMatchesPath::default);
    path.r#type.get_or_insert(HttpRouteRulesMatchesPathType::PathPrefix);
    path.value.get_or_insert_with(|| "/".to_owned());
    for header in found.headers.iter_mut().flatten() {
        header.r#type.get_or_insert(HttpRouteRulesMatchesHeadersType::Exact);
    }
    for parameter in found.query_params.iter_mut().flatten() {
        parameter.r#type.get_or_insert(HttpRouteRulesMatchesQueryParamsType::Exact);
    }
}

fn check_parents(route: &HttpRoute, path: &FieldPath, problems: &mut Problems) {
    let parents = route.spec.parent_refs.as_deref().unwrap_or_default();
    if parents.is_empty() {
        problems.error(
            path,
            "must name at least one Service, as in {group: \"\", kind: Service, name: payments}",
        );
    }
    problems.check_count(path, parents.len(), MOST_PARENTS);
    let namespace = route.metadata.namespace.as_deref();
    for (index, parent) in parents.iter().enumerate().take(MOST_PARENTS) {
        let path = path.index(index);
        check_parent(parent, &path, problems);
        if parents[..index].iter().any(|earlier| is_same_parent(earlier, parent, namespace)) {
            problems.error(
                &path,
                "names an earlier parent a second time; parents of one name must differ in sectionName or port, on both",
            );
        }
    }
}

/// Whether two references to one object overlap: neither a section nor a port tells them apart.
fn is_same_parent(a: &HttpRouteParentRefs, b: &HttpRouteParentRefs, namespace: Option<&str>) -> bool {
    let target = |parent: &HttpRouteParentRefs| {
        let group = parent.group.clone().filter(|group| group != "core");
        let namespace = parent.namespace.as_deref().or(namespace).map(str::to_owned);
        (group.unwrap_or_default(), parent.kind.clone(), namespace, parent.name.clone())
    };
    let selects = |parent: &HttpRouteParentRefs| parent.section_name.is_some() || parent.port.is_some();
    target(a) == target(b)
        && (!selects(a) || !selects(b) || (a.section_name == b.section_name && a.port == b.port))
}

fn check_parent(parent: &HttpRouteParentRefs, path: &FieldPath, problems: &mut Problems) {
    let group = parent.group.as_deref().unwrap_or_default();
    match (group, parent.kind.as_deref().unwrap_or_default()) {
        ("" | "core", "Service") => problems.check_label(&path.field("name"), &parent.name),
        (GATEWAY_GROUP, "Service") => problems.error(
            &path.field("group"),
            format!(
                "must be \"\", the group of Service; the default is {GATEWAY_GROUP}, so it has to be written"
            ),
        ),
        ("" | "core", "Gateway") => problems.error(&path.field("kind"), "must be Service in the group \"\""),
        (_, "Gateway") => problems.check_subdomain(&path.field("name"), &parent.name),
        (group, kind) => {
            problems.error(
                &path.field("kind"),
                format!("{kind:?} of group {group:?} cannot be a parent; expected Service"),
            );
        }
    }
    if let Some(namespace) = &parent.namespace {
        problems.check_label(&path.field("namespace"), namespace);
    }
    if let Some(section) = &parent.section_name {
        problems.check_subdomain(&path.field("sectionName"), section);
    }
    if let Some(port) = parent.port {
        problems.check_port_number(&path.field("port"), port);
    }
}

fn check_hostnames(route: &HttpRoute, path: &FieldPath, problems: &mut Problems) {
    let hostnames = route.spec.hostnames.as_deref().unwrap_or_default();
    problems.check_count(path, hostnames.len(), MOST_HOSTNAMES);
    for (index, hostname) in hostnames.iter().enumerate() {
        if !is_subdomain(hostname.strip_prefix("*.").unwrap_or(hostname)) {
            problems.error(
                &path.index(index),
                format!("{hostname:?} is not a DNS name, with or without \"*.\" before it"),
            );
        }
    }
    let mut parents = route.spec.parent_refs.iter().flatten();
    let serves_a_service =
        parents.any(|parent| crate::model::is_service(parent.group.as_deref(), parent.kind.as_deref()));
    if !hostnames.is_empty() && serves_a_service {
        problems.warning(path, "has no effect for a Service; match the header `host` instead");
    }
}

fn check_rule(rule: &HttpRouteRules, path: &FieldPath, problems: &mut Problems) {
    let matches = rule.matches.as_deref().unwrap_or_default();
    problems.check_count(&path.field("matches"), matches.len(), MOST_MATCHES);
    for (index, found) in matches.iter().enumerate().take(MOST_MATCHES) {
        matches::check_match(found, &path.field("matches").index(index), problems);
    }
    check_rule_apart_from_matches(rule, path, problems);
}

/// What the rules of every kind of route have beside their matches.
pub(super) fn check_rule_apart_from_matches(
    rule: &HttpRouteRules,
    path: &FieldPath,
    problems: &mut Problems,
) {
    if let Some(name) = &rule.name {
        problems.check_subdomain(&path.field("name"), name);
    }
    let matches = rule.matches.as_deref().unwrap_or_default();
    filters::check_rule_filters(rule, path, problems);
    let backends = rule.backend_refs.as_deref().unwrap_or_default();
    problems.check_count(&path.field("backendRefs"), backends.len(), MOST_BACKENDS);
    for (index, backend) in backends.iter().enumerate().take(MOST_BACKENDS) {
        let path = path.field("backendRefs").index(index);
        check_backend(backend, &path, problems);
        filters::check_backend_filters(backend, matches, &path, problems);
    }
    if let Some(timeouts) = &rule.timeouts {
        check_timeouts(timeouts, &path.field("timeouts"), problems);
    }
    if let Some(retry) = &rule.retry {
        check_retry(retry, &path.field("retry"), problems);
    }
    if let Some(session) = &rule.session_persistence {
        session::check(session, &path.field("sessionPersistence"), problems);
    }
}

fn check_backend(backend: &HttpRouteRulesBackendRefs, path: &FieldPath, problems: &mut Problems) {
    check_backend_target(
        BackendTarget {
            group: backend.group.as_deref(),
            kind: backend.kind.as_deref(),
            name: &backend.name,
            namespace: backend.namespace.as_deref(),
            port: backend.port,
        },
        path,
        problems,
    );
    if let Some(weight) = backend.weight
        && !(0..=MOST_WEIGHT).contains(&weight)
    {
        problems.error(&path.field("weight"), format!("{weight} is out of range, 0 to {MOST_WEIGHT}"));
    }
}

/// What a reference to a backend says, whichever of the generated types holds it.
struct BackendTarget<'a> {
    group: Option<&'a str>,
    kind: Option<&'a str>,
    name: &'a str,
    namespace: Option<&'a str>,
    port: Option<i32>,
}

/// Checks the form of a reference. A kind that is not known, or a service that is not there, is no error of the
/// document: its share of requests is answered 500, as the Gateway API says.
fn check_backend_target(backend: BackendTarget<'_>, path: &FieldPath, problems: &mut Problems) {
    let is_service =
        matches!((backend.group, backend.kind), (Some("" | "core") | None, Some("Service") | None));
    match is_service {
        true => problems.check_label(&path.field("name"), backend.name),
        false => {
            problems.check_subdomain(&path.field("name"), backend.name);
            problems.warning(
                &path.field("kind"),
                "is not Service, so its share of the requests is answered with status 500",
            );
        }
    }
    if let Some(group) = backend.group
        && !group.is_empty()
    {
        problems.check_subdomain(&path.field("group"), group);
    }
    if let Some(kind) = backend.kind
        && (kind.contains('/') || !is_label_key(kind))
    {
        problems.error(&path.field("kind"), format!("{kind:?} is not the name of a kind"));
    }
    if let Some(namespace) = backend.namespace {
        problems.check_label(&path.field("namespace"), namespace);
    }
    match backend.port {
        Some(port) => problems.check_port_number(&path.field("port"), port),
        None if is_service => problems.error(&path.field("port"), "is required for a Service"),
        None => {}
    }
}

fn check_timeouts(timeouts: &HttpRouteRulesTimeouts, path: &FieldPath, problems: &mut Problems) {
    let request = problems.check_period(&path.field("request"), timeouts.request.as_deref());
    let attempt = problems.check_period(&path.field("backendRequest"), timeouts.backend_request.as_deref());
    if let (Some(request), Some(attempt)) = (request, attempt)
        && !request.is_zero()
        && attempt > request
    {
        problems.error(&path.field("backendRequest"), format!("must not be longer than request, {request}"));
    }
}

fn check_retry(retry: &HttpRouteRulesRetry, path: &FieldPath, problems: &mut Problems) {
    problems.check_period(&path.field("backoff"), retry.backoff.as_deref());
    if let Some(attempts) = retry.attempts
        && !(1..=MOST_ATTEMPTS).contains(&attempts)
    {
        problems.error(&path.field("attempts"), format!("{attempts} is out of range, 1 to {MOST_ATTEMPTS}"));
    }
    for (index, code) in retry.codes.iter().flatten().enumerate() {
        if !(400..=599).contains(code) {
            problems.error(&path.field("codes").index(index), format!("{code} is out of range, 400 to 599"));
        }
    }
}

impl Problems {
    /// Refuses a list that is too long.
    pub(crate) fn check_count(&mut self, path: &FieldPath, count: usize, most: usize) {
        if count > most {
            self.error(path, format!("must not have more than {most} entries, not {count}"));
        }
    }

    /// Reads a duration that the Gateway API's types carry as text.
    pub(crate) fn check_period(&mut self, path: &FieldPath, text: Option<&str>) -> Option<Period> {
        match text?.parse() {
            Ok(period) => Some(period),
            Err(error) => {
                self.error(path, error.to_string());
                None
            }
        }
    }

    /// Refuses what the Gateway API has and this version has not.
    fn unsupported(&mut self, path: &FieldPath) {
        self.error(path, "is not supported by this version of Outrigger; leave it out");
    }
}

//! What the caller's proxy does with a request, decided by the proxy's own code from what it is sent.
//!
//! The control plane's answer holds the message that proxies get. It is read here as they read it, and the request is
//! looked up in the table that they would look it up in, so that what is said here is what happens. What the control
//! plane adds is where each value came from.

mod access;
mod limits;

use std::collections::BTreeSet;

use http::request;
use http::uri::PathAndQuery;
use outrigger_api::path::normalized;
use outrigger_api::{ServiceName, v1};
use outrigger_control_plane::explain::{
    CompiledService, FilterOrigin, PortOrigins, RuleOrigin, Setting, Source, words,
};
use outrigger_control_plane::status::EndpointStatus;
use outrigger_proxy::failure::Failure;
use outrigger_proxy::policy;
use outrigger_proxy::route::{Mismatch, RouteMatch};
use outrigger_proxy::snapshot::{self, Protocol, Rule, ServicePort, Target};
use serde::Serialize;

use crate::failure::Stop;

pub(crate) use access::{Admission, Caller, claims};

/// So many of the matches that did not hold are worth telling.
const NEAREST_MISSES: usize = 3;

/// Settings of the service that is called; all others are of the one behind the backend.
const OF_REQUESTS: [&str; 4] = ["defaults.", "hedging.", "sessionPersistence.", "fallback."];

/// Everything that decides about one request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// `GET /pay`.
    pub(crate) request: String,
    /// The service and port that it is for, `payments.shop:80`.
    pub(crate) destination: String,
    /// What the port speaks.
    pub(crate) protocol: &'static str,
    /// The namespace that it comes from.
    pub(crate) client: String,
    /// The store's revision.
    pub(crate) revision: u64,
    /// What becomes of it.
    pub(crate) verdict: Verdict,
    /// The rule that it falls under; absent where no route is attached or none matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<MatchedRule>,
    /// Matches that did not hold, the nearest first.
    pub(crate) missed: Vec<MissedRule>,
    /// Timeouts, retries, sessions, hedging, fallback, and the rate limits that count it.
    pub(crate) settings: Vec<Setting>,
    /// Where it may go.
    pub(crate) backends: Vec<Backend>,
    /// What holds in the whole mesh.
    pub(crate) mesh: Vec<Setting>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    /// It is sent to a backend.
    pub(crate) forwarded: bool,
    /// The name of the failure that the proxy answers with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<&'static str>,
    /// The status, where the proxy answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Why, for people.
    pub(crate) reason: String,
}

/// The rule that a request falls under.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MatchedRule {
    pub(crate) source: Source,
    pub(crate) name: String,
    /// The match that holds, in words.
    pub(crate) matched: String,
    pub(crate) filters: Vec<FilterOrigin>,
}

/// A rule that the request does not fall under.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MissedRule {
    pub(crate) source: Source,
    pub(crate) name: String,
    /// The match that does not hold, in words.
    pub(crate) matches: String,
    /// The parts of it that the request does not meet.
    pub(crate) because: Vec<String>,
}

/// Where a share of the requests goes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backend {
    /// `payments-v1.shop:80`; absent where it leads nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<String>,
    /// Why it leads nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invalid: Option<String>,
    pub(crate) weight: u32,
    /// Of the requests.
    pub(crate) percent: f64,
    /// What is done to the requests that take it, and to their answers.
    pub(crate) filters: Vec<FilterOrigin>,
    /// How its endpoints are called, and what its own proxies do.
    pub(crate) settings: Vec<Setting>,
    /// Whether its own proxy lets the request in. Absent: whoever mutual TLS lets in may call, or no caller was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admission: Option<Admission>,
    /// Who answers for it at this port.
    pub(crate) endpoints: Vec<EndpointStatus>,
    #[serde(skip)]
    pub(crate) target: Option<(ServiceName, u16)>,
}

impl Verdict {
    fn forwarded(reason: impl Into<String>) -> Self {
        Self { forwarded: true, failure: None, status: None, reason: reason.into() }
    }

    fn answered(status: u16, reason: impl Into<String>) -> Self {
        Self { forwarded: false, failure: None, status: Some(status), reason: reason.into() }
    }

    fn refused(failure: Failure, reason: impl Into<String>) -> Self {
        let facts = failure.facts();
        let (failure, status) = (Some(facts.name), Some(facts.status.as_u16()));
        Self { forwarded: false, failure, status, reason: reason.into() }
    }
}

/// Decides about a request to `port` of a service.
///
/// # Errors
/// The control plane's message cannot be read, or is one that a proxy would refuse.
pub(crate) fn explain(
    compiled: &CompiledService,
    port: u16,
    caller: &Caller,
    head: &request::Parts,
) -> Result<Explanation, Stop> {
    let message: v1::Service = compiled.service.read()?;
    let service = policy::service(&message)?;
    let mut explanation = Explanation {
        request: format!("{} {}", head.method, head.uri),
        destination: format!("{}:{port}", service.name),
        protocol: "none",
        client: compiled.client.clone(),
        revision: compiled.revision,
        verdict: Verdict::forwarded("to the service's own endpoints"),
        rule: None,
        missed: Vec::new(),
        settings: request_settings(compiled),
        backends: Vec::new(),
        mesh: compiled.mesh_settings.clone(),
    };
    let Some(place) = service.ports.iter().position(|one| one.port == port) else {
        let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
        let reason = format!("the service has no port {port}; it has {}", ports.join(", "));
        explanation.verdict = Verdict::refused(Failure::NoRoute, reason);
        return Ok(explanation);
    };
    let (parsed, raw) = (&service.ports[place], &message.ports[place]);
    explanation.protocol = protocol(parsed.protocol);
    match (&parsed.routes, compiled.ports.iter().find(|origins| origins.port == port)) {
        (_, Some(origins)) if !parsed.tcp_backends.is_empty() => {
            explanation.share_out(&parsed.tcp_backends, origins);
        }
        (Some(_), Some(origins)) if parsed.protocol != Protocol::Tcp => {
            explanation.route(parsed, raw, origins, caller, head);
        }
        _ => {
            explanation.backends = vec![Backend::of(1, 1, Target::Service { name: service.name, port })];
            if parsed.protocol == Protocol::Tcp {
                explanation.verdict.reason =
                    "unread, as opaque bytes, to the service's own endpoints".to_owned();
            }
        }
    }
    Ok(explanation)
}

/// What holds for requests where no rule says otherwise.
fn request_settings(compiled: &CompiledService) -> Vec<Setting> {
    compiled.settings.iter().filter(|setting| is_of_requests(setting)).cloned().collect()
}

fn is_of_requests(setting: &Setting) -> bool {
    OF_REQUESTS.iter().any(|part| setting.name.starts_with(part))
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detected",
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    }
}

/// Brings the path to the form that the mesh's proxies bring it to.
///
/// # Errors
/// The control plane's message cannot be read.
pub(crate) fn normalize(compiled: &CompiledService, head: &mut request::Parts) -> Result<(), Stop> {
    let mesh = policy::mesh(&compiled.mesh.read()?)?;
    let Some(path) = normalized(head.uri.path()).filter(|_| mesh.normalize_paths) else { return Ok(()) };
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    head.uri = PathAndQuery::try_from(format!("{path}{query}"))?.into();
    Ok(())
}

impl Explanation {
    /// Takes into account what the proxies beside the backends say.
    pub(crate) fn admit(&mut self) {
        let weighed = || self.backends.iter().filter(|backend| backend.weight > 0);
        let refused = weighed().filter_map(|backend| {
            let admission = backend.admission.as_ref().filter(|admission| !admission.allowed)?;
            let failure = admission.failure.unwrap_or(Failure::Denied);
            Some((format!("{} by {}", backend.destination.as_deref()?, admission.by), failure))
        });
        let refused: Vec<(String, Failure)> = refused.collect();
        if !self.verdict.forwarded {
            return;
        }
        let claims = weighed().filter_map(|backend| backend.admission.as_ref());
        let claims: BTreeSet<String> = claims.flat_map(|one| one.depends_on.iter().cloned()).collect();
        if let Some((_, failure)) = refused.first() {
            let by: Vec<&str> = refused.iter().map(|(by, _)| by.as_str()).collect();
            let reason = format!("the proxy beside the service refuses it: {}", by.join(", "));
            if refused.len() == weighed().count() {
                self.verdict = Verdict::refused(*failure, reason);
            } else {
                self.verdict.reason = format!("{}; of some, {reason}", self.verdict.reason);
            }
        }
        if let Some(claims) = claims.into_iter().reduce(|all, one| format!("{all}, {one}")) {
            let known = "decided as without a token; assume one with --claim NAME=VALUE";
            self.verdict.reason =
                format!("depends on the token's claim {claims} ({known}): {}", self.verdict.reason);
        }
    }

    /// A TCPRoute: whole connections, of which nothing is read.
    fn share_out(&mut self, backends: &[snapshot::Backend], origins: &PortOrigins) {
        self.rule = origins.rules.first().map(|origin| MatchedRule {
            source: origin.source.clone(),
            name: origin.rule.clone(),
            matched: "every connection, unread".to_owned(),
            filters: Vec::new(),
        });
        self.backends = Backend::of_all(backends);
        self.verdict = to_one_of(&self.backends);
    }

    fn route(
        &mut self,
        port: &ServicePort,
        raw: &v1::ServicePort,
        origins: &PortOrigins,
        caller: &Caller,
        head: &request::Parts,
    ) {
        let Some(routes) = &port.routes else { return };
        let origin = |of: &RouteMatch| origins.rules.get(of.rule);
        let found = routes.position(head);
        let tried = &routes.matches()[..found.unwrap_or(routes.matches().len())];
        let mut missed: Vec<_> =
            tried.iter().enumerate().map(|(place, one)| (one.mismatches(head), place, one)).collect();
        // Of those that fail in as many parts, the one that would have come first.
        missed.sort_by_key(|(mismatches, place, _)| (mismatches.len(), *place));
        self.missed = missed
            .into_iter()
            .take(NEAREST_MISSES)
            .filter_map(|(mismatches, place, one)| {
                MissedRule::new(origin(one)?, raw.matches.get(place)?, &mismatches, head)
            })
            .collect();
        let decided = found.and_then(|place| {
            let found = routes.matches().get(place)?;
            Some((raw.matches.get(place)?, routes.rules().get(found.rule)?, origin(found)?))
        });
        let Some((matched, rule, origin)) = decided else {
            self.verdict =
                Verdict::refused(Failure::NoRoute, "routes are attached to the port and none matches");
            return;
        };
        self.rule = Some(MatchedRule {
            source: origin.source.clone(),
            name: origin.rule.clone(),
            matched: words(matched),
            filters: origin.filters.clone(),
        });
        self.settings = origin.settings.clone();
        let sent = usize::try_from(matched.rule)
            .ok()
            .and_then(|rule| raw.rules.get(rule))
            .map(|rule| rule.rate_limits.as_slice());
        limits::keep_counting(&mut self.settings, sent.unwrap_or_default(), &rule.rate_limits, caller, head);
        self.backends = Backend::of_all(&rule.backends);
        for (backend, filters) in self.backends.iter_mut().zip(&origin.backends) {
            backend.filters = filters.clone();
        }
        self.verdict = verdict(rule, &self.backends);
    }
}

fn verdict(rule: &Rule, backends: &[Backend]) -> Verdict {
    let unresolved = rule.filters.iter().find_map(|filter| match filter {
        outrigger_proxy::filter::Filter::Unresolved(reason) => Some(reason),
        _ => None,
    });
    if let Some(reason) = unresolved {
        return Verdict::refused(Failure::InvalidBackend, &**reason);
    }
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        outrigger_proxy::filter::Filter::Redirect(redirect) => Some(redirect.status.as_u16()),
        _ => None,
    });
    if let Some(status) = redirect {
        return Verdict::answered(status, "the rule redirects");
    }
    to_one_of(backends)
}

/// What becomes of what goes to one of these by chance.
fn to_one_of(backends: &[Backend]) -> Verdict {
    let weighed = || backends.iter().filter(|backend| backend.weight > 0);
    if weighed().next().is_none() {
        return Verdict::refused(Failure::InvalidBackend, "the rule has no backend with a weight");
    }
    match weighed().filter_map(|backend| backend.invalid.as_ref()).collect::<Vec<_>>().as_slice() {
        [] => Verdict::forwarded("to a backend of the rule"),
        [reason, ..] if weighed().all(|backend| backend.invalid.is_some()) => {
            Verdict::refused(Failure::InvalidBackend, *reason)
        }
        [reason, ..] => Verdict::forwarded(format!(
            "to a backend of the rule, but for the share of one that fails: {reason}"
        )),
    }
}

impl Backend {
    fn of_all(backends: &[snapshot::Backend]) -> Vec<Self> {
        let sum = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        backends.iter().map(|backend| Self::of(backend.weight, sum, backend.target.clone())).collect()
    }

    fn of(weight: u32, sum: u64, target: Target) -> Self {
        let (target, invalid) = match target {
            Target::Service { name, port } => (Some((name, port)), None),
            Target::Invalid(reason) => (None, Some(reason.to_string())),
        };
        Self {
            destination: target.as_ref().map(|(name, port)| format!("{name}:{port}")),
            invalid,
            weight,
            percent: if sum == 0 { 0.0 } else { f64::from(weight) * 100.0 / sum as f64 },
            filters: Vec::new(),
            settings: Vec::new(),
            admission: None,
            endpoints: Vec::new(),
            target,
        }
    }

    /// Adds what is told of the service behind it, and what its own proxies say of the request.
    ///
    /// # Errors
    /// As [`explain`].
    pub(crate) fn complete(
        &mut self,
        compiled: &CompiledService,
        caller: &Caller,
        head: &request::Parts,
    ) -> Result<(), Stop> {
        let Some((_, port)) = &self.target else { return Ok(()) };
        let own = compiled.settings.iter().filter(|setting| !is_of_requests(setting));
        self.settings = own.cloned().collect();
        let serves = compiled.endpoints.iter().filter(|endpoint| endpoint.ports.contains(port));
        self.endpoints = serves.cloned().collect();
        let message: v1::Service = compiled.service.read()?;
        if message.external.is_some() {
            return Ok(()); // no proxy stands beside it
        }
        let raw: v1::Inbound = compiled.inbound.read()?;
        let inbound = policy::inbound(&raw)?;
        let raw = raw.ports.iter().find(|own| own.port == u32::from(*port));
        let Some((raw, own)) = raw.zip(inbound.port(*port)) else { return Ok(()) };
        limits::keep_counting(&mut self.settings, &raw.rate_limits, &own.rate_limits, caller, head);
        self.admission = access::admission(raw, caller, head)?;
        Ok(())
    }
}

impl MissedRule {
    fn new(
        origin: &RuleOrigin,
        raw: &v1::RouteMatch,
        mismatches: &[Mismatch],
        head: &request::Parts,
    ) -> Option<Self> {
        let because = mismatches.iter().map(|mismatch| match mismatch {
            Mismatch::Host => "the host is another".to_owned(),
            Mismatch::Method => format!("the method is {}", head.method),
            Mismatch::Path => format!("the path is {}", head.uri.path()),
            Mismatch::Header(index) => raw.headers.get(*index).map_or_else(String::new, |wanted| {
                not_so("header", &wanted.name, header(head, &wanted.name))
            }),
            Mismatch::Query(index) => raw.query.get(*index).map_or_else(String::new, |wanted| {
                format!("the query parameter {} is another, or absent", wanted.name)
            }),
        });
        Some(Self {
            source: origin.source.clone(),
            name: origin.rule.clone(),
            matches: words(raw),
            because: because.collect(),
        })
    }
}

fn not_so(what: &str, name: &str, value: Option<String>) -> String {
    match value {
        Some(value) => format!("the {what} {name} is {value:?}"),
        None => format!("the {what} {name} is absent"),
    }
}

fn header(head: &request::Parts, name: &str) -> Option<String> {
    let values = head.headers.get_all(name).iter();
    let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

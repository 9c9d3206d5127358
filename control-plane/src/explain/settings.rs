//! Every setting that can be in force, one line each: where it may be written, and where the message has it.
//!
//! A test compares the lines with the schemas, so that a field that a document can have and nobody can see fails.

use outrigger_api::v1::hedging::After;
use outrigger_api::v1::session::Carrier;
use outrigger_api::v1::{self, hash::Key};

use super::layers::{Layers, Level, Place};
use super::{Setting, Source, describe};
use crate::model::requires_grants;
use crate::resources::{Documents, Kind};

/// One setting, as a message of type `M` has it.
pub(super) struct Line<M> {
    /// As a ServicePolicy or the MeshConfig writes it below `spec`.
    pub(super) name: &'static str,
    places: Vec<Place>,
    value: fn(&M) -> Option<String>,
}

impl<M> Line<M> {
    /// `None`: it does not apply, because another setting switches off what it belongs to.
    fn show(&self, message: &M, layers: &Layers) -> Option<Setting> {
        let value = (self.value)(message)?;
        Some(Setting { name: self.name.to_owned(), value, source: layers.source(&self.places) })
    }

    /// What it leaves out of this part is not looked for in other documents.
    fn whole(mut self, level: Level, part: &'static str) -> Self {
        for place in self.places.iter_mut().filter(|place| place.level == level) {
            place.whole = Some(part);
        }
        self
    }

    fn or_in(mut self, level: Level, path: &'static str) -> Self {
        self.places.push(Place { level, path, whole: None });
        self
    }
}

/// A setting of a ServicePolicy alone.
fn policy<M>(name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    Line { name, places: Vec::new(), value }.or_in(Level::Policy, name)
}

/// A part of `retryBudget`, which an XBackendTrafficPolicy has at another place.
fn budget<M>(name: &'static str, theirs: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    policy(name, value).or_in(Level::Traffic, theirs).whole(Level::Policy, "retryBudget")
}

/// A setting of an XBackendTrafficPolicy alone, as it writes it.
fn traffic<M>(name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    Line { name, places: Vec::new(), value }.or_in(Level::Traffic, name)
}

/// A setting of the MeshConfig alone.
fn mesh<M>(name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    Line { name, places: Vec::new(), value }.or_in(Level::Mesh, name)
}

/// A setting of a ServicePolicy (the one that a rule refers to before the service's), else of the MeshConfig, at the
/// same place in all of them.
fn default<M>(name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    policy(name, value).or_in(Level::Extension, name).or_in(Level::Mesh, name)
}

/// A part of `defaults.retry`, which is taken whole from the first document that has it.
fn retry<M>(name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    let levels = [Level::Extension, Level::Policy, Level::Mesh];
    levels.into_iter().fold(default(name, value), |line, level| line.whole(level, "defaults.retry"))
}

/// How the endpoints of a service are called.
pub(super) fn policy_lines() -> Vec<Line<v1::BackendPolicy>> {
    vec![
        policy("loadBalancer.type", |it| Some(balancer(it).to_owned())),
        policy("loadBalancer.hash.header", |it| key(it, header)),
        policy("loadBalancer.hash.cookie.name", |it| key(it, |key| cookie(key, |it| it.name.clone()))),
        policy("loadBalancer.hash.cookie.path", |it| key(it, |key| cookie(key, |it| it.path.clone()))),
        policy("loadBalancer.hash.cookie.ttl", |it| {
            let ttl = |it: &v1::Cookie| {
                it.ttl.as_ref().map_or("the client's session".to_owned(), describe::duration)
            };
            key(it, |key| cookie(key, ttl))
        }),
        policy("loadBalancer.hash.sourceAddress", |it| {
            key(it, |key| matches!(key, Key::SourceAddress(_)).then(|| "true".to_owned()))
        }),
        policy("loadBalancer.hash.queryParameter", |it| key(it, query)),
        policy("loadBalancer.hash.maxLoadPercent", |it| {
            Some(positive(it.hash.as_ref()?.max_load_percent).unwrap_or_else(|| "none".to_owned()))
        }),
        policy("loadBalancer.zone.prefer", |it| Some((it.zone_percent > 0).to_string())),
        policy("loadBalancer.zone.minHealthyPercent", |it| positive(it.zone_percent)),
        policy("loadBalancer.slowStart.window", |it| duration(it.slow_start.as_ref())),
        policy("circuitBreaker.disabled", |it| Some(it.breaker.is_none().to_string())),
        policy("circuitBreaker.consecutiveFailures", |it| {
            Some(it.breaker.as_ref()?.consecutive_failures.to_string())
        }),
        policy("circuitBreaker.minOpen", |it| duration(it.breaker.as_ref()?.min_open.as_ref())),
        policy("circuitBreaker.maxOpen", |it| duration(it.breaker.as_ref()?.max_open.as_ref())),
        policy("circuitBreaker.maxEjectedPercent", |it| {
            Some(it.breaker.as_ref()?.max_ejected_percent.to_string())
        }),
        policy("circuitBreaker.panicThresholdPercent", |it| {
            Some(it.breaker.as_ref()?.panic_threshold_percent.to_string())
        }),
        policy("circuitBreaker.successRate.disabled", |it| {
            Some(it.breaker.as_ref()?.success_rate.is_none().to_string())
        }),
        policy("circuitBreaker.successRate.percentOfPeers", |it| {
            Some(rate(it)?.percent_of_peers.to_string())
        }),
        policy("circuitBreaker.successRate.minRequests", |it| Some(rate(it)?.min_requests.to_string())),
        policy("circuitBreaker.successRate.interval", |it| duration(rate(it)?.interval.as_ref())),
        policy("connection.connectTimeout", |it| duration(it.connect_timeout.as_ref())),
        policy("connection.tlsHandshakeTimeout", |it| duration(it.tls_timeout.as_ref())),
        policy("connection.idleTimeout", |it| duration(it.idle_timeout.as_ref())),
        policy("connection.maxAge", |it| duration(it.max_connection_age.as_ref())),
        policy("connection.tcpKeepalive.time", |it| duration(it.tcp_keepalive.as_ref()?.time.as_ref())),
        policy("connection.tcpKeepalive.interval", |it| {
            duration(it.tcp_keepalive.as_ref()?.interval.as_ref())
        }),
        policy("connection.tcpKeepalive.probes", |it| Some(it.tcp_keepalive.as_ref()?.probes.to_string())),
        policy("connection.http1.maxRequestsPerConnection", |it| {
            Some(positive(it.http1_max_requests).unwrap_or_else(|| "none".to_owned()))
        }),
        policy("connection.http2.maxConcurrentStreams", |it| {
            Some(it.http2.as_ref()?.max_streams.to_string())
        }),
        policy("connection.http2.initialStreamWindowBytes", |it| {
            Some(it.http2.as_ref()?.stream_window_bytes.to_string())
        }),
        policy("connection.http2.initialConnectionWindowBytes", |it| {
            Some(it.http2.as_ref()?.connection_window_bytes.to_string())
        }),
        policy("limits.maxConnections", |it| Some(it.max_connections.to_string())),
        policy("limits.maxPendingRequests", |it| Some(it.max_pending.to_string())),
        policy("limits.maxActiveRequests", |it| Some(it.max_active.to_string())),
        budget("retryBudget.percent", "retryConstraint.budget.percent", |it| {
            Some(it.retry_budget_percent.to_string())
        }),
        budget("retryBudget.minPerSecond", "retryConstraint.minRetryRate.count", |it| {
            Some(it.retry_budget_per_second.to_string())
        }),
    ]
}

/// What the service's own proxies do before the application, on every port.
pub(super) fn inbound_lines() -> Vec<Line<v1::InboundPort>> {
    vec![
        mesh("access.defaultMode", |it: &v1::InboundPort| Some(mode(it.access.as_ref())))
            .or_in(Level::Access, "defaultMode"),
        policy("adaptiveConcurrency.minLimit", |it| Some(it.concurrency.as_ref()?.min_limit.to_string())),
        policy("adaptiveConcurrency.maxLimit", |it| Some(it.concurrency.as_ref()?.max_limit.to_string())),
        policy("adaptiveConcurrency.tolerancePercent", |it| {
            Some(it.concurrency.as_ref()?.tolerance_percent.to_string())
        }),
        policy("adaptiveConcurrency.recalibrateEvery", |it| {
            duration(it.concurrency.as_ref()?.recalibrate.as_ref())
        }),
    ]
}

/// What only an XBackendTrafficPolicy has a field for. Where none is in force, neither of these applies.
fn traffic_lines() -> Vec<Line<v1::BackendPolicy>> {
    vec![
        traffic("retryConstraint.budget.interval", |it| {
            it.retry_budget_window.as_ref().map(describe::duration)
        }),
        traffic("retryConstraint.minRetryRate.interval", |it| {
            it.retry_budget_interval.as_ref().map(describe::duration)
        }),
    ]
}

/// A rule, or a service where no rule says otherwise: what becomes of its requests.
pub(super) trait Says {
    fn timeouts(&self) -> [Option<&prost_types::Duration>; 2];
    fn retry(&self) -> Option<&v1::Retry>;
    fn hedging(&self) -> Option<&v1::Hedging>;
    fn session(&self) -> Option<&v1::Session>;
    fn fallback(&self) -> Option<&v1::Fallback>;
}

macro_rules! says {
    ($message:ty) => {
        impl Says for $message {
            fn timeouts(&self) -> [Option<&prost_types::Duration>; 2] {
                [self.request_timeout.as_ref(), self.attempt_timeout.as_ref()]
            }
            fn retry(&self) -> Option<&v1::Retry> {
                self.retry.as_ref()
            }
            fn hedging(&self) -> Option<&v1::Hedging> {
                self.hedging.as_ref()
            }
            fn session(&self) -> Option<&v1::Session> {
                self.session.as_ref()
            }
            fn fallback(&self) -> Option<&v1::Fallback> {
                self.fallback.as_ref()
            }
        }
    };
}

says!(v1::BackendPolicy);
says!(v1::Rule);

/// What holds for requests. An HTTPRoute has no field for the last two of `defaults.retry`, which stay those of the
/// policy.
pub(super) fn request_lines<M: Says>() -> Vec<Line<M>> {
    let of = |line: Line<M>, path| line.or_in(Level::Rule, path);
    let part = |line: Line<M>, path| of(line, path).whole(Level::Rule, "retry");
    vec![
        of(default("defaults.timeouts.request", |it: &M| duration(it.timeouts()[0])), "timeouts.request"),
        of(
            default("defaults.timeouts.backendRequest", |it: &M| duration(it.timeouts()[1])),
            "timeouts.backendRequest",
        ),
        part(retry("defaults.retry.attempts", |it: &M| attempts(it.retry())), "retry.attempts"),
        part(
            retry("defaults.retry.backoff", |it: &M| duration(it.retry()?.backoff.as_ref())),
            "retry.backoff",
        ),
        part(retry("defaults.retry.codes", |it: &M| list(&it.retry()?.status_codes)), "retry.codes"),
        retry("defaults.retry.grpcCodes", |it: &M| list(&it.retry()?.grpc_codes)),
        retry("defaults.retry.nonIdempotent", |it: &M| Some(it.retry()?.non_idempotent.to_string())),
        extended("hedging", "hedging.delay", |it: &M| delay(it.hedging())),
        extended("hedging", "hedging.percentile", |it: &M| percentile(it.hedging())),
        extended("hedging", "hedging.maxExtra", |it: &M| Some(it.hedging()?.max_extra.to_string())),
        session("sessionPersistence.type", |it: &M| session_type(it.session())),
        session("sessionPersistence.sessionName", |it: &M| session_name(it.session())),
        session("sessionPersistence.absoluteTimeout", |it: &M| {
            duration(it.session()?.absolute_timeout.as_ref())
        }),
        session("sessionPersistence.idleTimeout", |it: &M| duration(it.session()?.idle_timeout.as_ref())),
        session("sessionPersistence.cookieConfig.lifetimeType", |it: &M| lifetime(it.session())),
        extended("fallback", "fallback.status", |it: &M| Some(it.fallback()?.status.to_string())),
        extended("fallback", "fallback.contentType", |it: &M| field(it.fallback()?, "content-type")),
        extended("fallback", "fallback.body", |it: &M| Some(format!("{} bytes", it.fallback()?.body.len()))),
        extended("fallback", "fallback.headers", |it: &M| {
            let headers = it.fallback()?.headers.iter();
            let names = headers.map(|header| header.name.as_str()).filter(|name| *name != "content-type");
            let names: Vec<&str> = names.collect();
            Some(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
        }),
        extended("fallback", "fallback.on", |it: &M| {
            let fallback = it.fallback()?;
            let reasons =
                [(fallback.on_no_endpoints, "NoEndpoints"), (fallback.on_breaker_open, "BreakerOpen")];
            let names: Vec<&str> = reasons.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            Some(names.join(", "))
        }),
    ]
}

/// A field of a part that the policy which a rule refers to has in place of the service's, whole.
fn extended<M>(part: &'static str, name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    policy(name, value).or_in(Level::Extension, name).whole(Level::Extension, part)
}

/// A field of a `sessionPersistence`: the rule's own, else the policy's, else the Gateway API's, each taken whole.
fn session<M>(name: &'static str, value: fn(&M) -> Option<String>) -> Line<M> {
    let part = "sessionPersistence";
    let line = policy(name, value).or_in(Level::Traffic, name).or_in(Level::Rule, name);
    line.whole(Level::Policy, part).whole(Level::Traffic, part).whole(Level::Rule, part)
}

/// What holds in the whole mesh. Its `defaults` are among those of every service.
pub(super) fn mesh_lines() -> Vec<Line<v1::MeshSettings>> {
    vec![
        mesh("mtls.mode", |it| Some(if it.permissive_mtls { "Permissive" } else { "Strict" }.to_owned())),
        mesh("tracing.samplingRatio", |it| Some(it.sampling_ratio.to_string())),
        mesh("tracing.formats", |it| {
            let names: Vec<&str> = it.trace_formats().map(format).collect();
            Some(names.join(", "))
        }),
        mesh("tracing.endpoint", |it| match it.otlp_endpoint.as_str() {
            "" => Some("each proxy's own".to_owned()),
            endpoint => Some(endpoint.to_owned()),
        }),
        mesh("pathNormalization", |it| match it.path_normalization() {
            v1::PathNormalization::None => Some("None".to_owned()),
            v1::PathNormalization::Full | v1::PathNormalization::Unspecified => Some("Full".to_owned()),
        }),
        mesh("egress.mode", |it| {
            let listed_only = it.egress.as_ref().is_some_and(|egress| egress.listed_only);
            Some(if listed_only { "ListedOnly" } else { "AllowAll" }.to_owned())
        }),
        mesh("egress.cidrs", |it| {
            let cidrs = it.egress.as_ref().map(|egress| egress.cidrs.join(", "))?;
            Some(if cidrs.is_empty() { "none".to_owned() } else { cidrs })
        }),
        mesh("accessLog.enabled", |it| Some(it.access_log.to_string())),
    ]
}

/// What the control plane alone goes by.
pub(super) fn documents_lines() -> Vec<Line<Documents>> {
    vec![mesh("routing.requireReferenceGrants", |it| Some(requires_grants(it).to_string()))]
}

/// The settings of a service.
pub(super) fn of_policy(message: &v1::BackendPolicy, layers: &Layers) -> Vec<Setting> {
    let lines = policy_lines().into_iter().chain(traffic_lines()).chain(request_lines());
    lines.filter_map(|line| line.show(message, layers)).collect()
}

/// The settings of the service's own proxies, and how often it may be called.
pub(super) fn of_inbound(message: &v1::Inbound, layers: &Layers, documents: &Documents) -> Vec<Setting> {
    let Some(port) = message.ports.first() else { return Vec::new() };
    let mut settings: Vec<Setting> =
        inbound_lines().iter().filter_map(|line| line.show(port, layers)).collect();
    settings.extend(port.access.iter().flat_map(|access| &access.policies).map(access));
    settings.extend(port.rate_limits.iter().map(|limit| rate_limit(limit, documents)));
    settings
}

/// What a policy does to those whom it is about.
fn access(policy: &v1::AccessPolicy) -> Setting {
    let action = match policy.action() {
        v1::AccessAction::Deny => "denies those whom it is about",
        v1::AccessAction::Allow | v1::AccessAction::Unspecified => "allows those whom it is about",
    };
    let audit = if policy.audit { ", and only reports" } else { "" };
    Setting {
        name: format!("access {}", policy.name),
        value: format!("{action}{audit}"),
        source: Some(Source {
            document: format!("{} {}", Kind::AccessPolicy, policy.name),
            field: "spec.rules".to_owned(),
        }),
    }
}

fn mode(access: Option<&v1::Access>) -> String {
    let mode = match access.map_or(v1::AccessMode::Open, v1::Access::mode) {
        v1::AccessMode::Open | v1::AccessMode::Unspecified => "Open",
        v1::AccessMode::Authenticated => "Authenticated",
        v1::AccessMode::SameNamespace => "SameNamespace",
        v1::AccessMode::Deny => "Deny",
    };
    mode.to_owned()
}

/// A limit, and where it is written.
fn rate_limit(limit: &v1::RateLimit, documents: &Documents) -> Setting {
    let key = limit.policy.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let policy = key.and_then(|key| documents.rate_limit_policies.get(&key));
    let limits = policy.map(|policy| policy.spec.limits.iter().enumerate()).into_iter().flatten();
    let mut places = limits.filter(|(index, written)| written.label(*index) == limit.name);
    Setting {
        name: format!("rateLimit {}/{}", limit.policy, limit.name),
        value: describe::rate_limit(limit),
        source: places.next().map(|(index, _)| Source {
            document: format!("{} {}", Kind::RateLimitPolicy, limit.policy),
            field: format!("spec.limits[{index}]"),
        }),
    }
}

/// The limits of a rule.
pub(super) fn of_rule_limits(message: &v1::Rule, documents: &Documents) -> Vec<Setting> {
    message.rate_limits.iter().map(|limit| rate_limit(limit, documents)).collect()
}

/// The settings of a rule; `policy` is the service's, of which some parts hold where the rule has none.
pub(super) fn of_rule(
    message: &v1::Rule,
    policy: Option<&v1::BackendPolicy>,
    layers: &Layers,
) -> Vec<Setting> {
    let mut message = message.clone();
    message.hedging = message.hedging.or_else(|| policy?.hedging);
    message.fallback = message.fallback.or_else(|| policy?.fallback.clone());
    request_lines().iter().filter_map(|line| line.show(&message, layers)).collect()
}

/// What the control plane goes by.
pub(super) fn of_documents(documents: &Documents, layers: &Layers) -> Vec<Setting> {
    documents_lines().iter().filter_map(|line| line.show(documents, layers)).collect()
}

/// The settings of the mesh.
pub(super) fn of_mesh(message: &v1::MeshSettings, layers: &Layers) -> Vec<Setting> {
    mesh_lines().iter().filter_map(|line| line.show(message, layers)).collect()
}

fn balancer(policy: &v1::BackendPolicy) -> &'static str {
    match policy.balancer() {
        v1::LoadBalancer::PeakEwma | v1::LoadBalancer::Unspecified => "PeakEwma",
        v1::LoadBalancer::LeastRequest => "LeastRequest",
        v1::LoadBalancer::RoundRobin => "RoundRobin",
        v1::LoadBalancer::Hash => "Hash",
    }
}

fn key(policy: &v1::BackendPolicy, value: impl Fn(&Key) -> Option<String>) -> Option<String> {
    policy.hash.as_ref()?.key.as_ref().and_then(value)
}

fn header(key: &Key) -> Option<String> {
    if let Key::Header(name) = key { Some(name.clone()) } else { None }
}

fn query(key: &Key) -> Option<String> {
    if let Key::QueryParameter(name) = key { Some(name.clone()) } else { None }
}

fn cookie(key: &Key, value: impl Fn(&v1::Cookie) -> String) -> Option<String> {
    if let Key::Cookie(cookie) = key { Some(value(cookie)) } else { None }
}

fn field(fallback: &v1::Fallback, name: &str) -> Option<String> {
    let header = fallback.headers.iter().find(|header| header.name == name)?;
    Some(header.value.clone())
}

fn rate(policy: &v1::BackendPolicy) -> Option<&v1::SuccessRate> {
    policy.breaker.as_ref()?.success_rate.as_ref()
}

fn delay(hedging: Option<&v1::Hedging>) -> Option<String> {
    match hedging?.after.as_ref()? {
        After::Delay(delay) => Some(describe::duration(delay)),
        After::Percentile(_) => None,
    }
}

fn percentile(hedging: Option<&v1::Hedging>) -> Option<String> {
    match hedging?.after.as_ref()? {
        After::Delay(_) => None,
        After::Percentile(number) => Some(number.to_string()),
    }
}

fn session_type(session: Option<&v1::Session>) -> Option<String> {
    let kind = match session?.carrier.as_ref()? {
        Carrier::Cookie(_) => "Cookie",
        Carrier::Header(_) => "Header",
    };
    Some(kind.to_owned())
}

fn session_name(session: Option<&v1::Session>) -> Option<String> {
    match session?.carrier.as_ref()? {
        Carrier::Cookie(cookie) => Some(cookie.name.clone()),
        Carrier::Header(name) => Some(name.clone()),
    }
}

fn lifetime(session: Option<&v1::Session>) -> Option<String> {
    let Carrier::Cookie(cookie) = session?.carrier.as_ref()? else { return None };
    Some(if cookie.ttl.is_some() { "Permanent" } else { "Session" }.to_owned())
}

fn positive(number: u32) -> Option<String> {
    (number > 0).then(|| number.to_string())
}

fn format(format: v1::TraceFormat) -> &'static str {
    match format {
        v1::TraceFormat::W3c | v1::TraceFormat::Unspecified => "W3C",
        v1::TraceFormat::B3 => "B3",
        v1::TraceFormat::B3Multi => "B3Multi",
    }
}

/// `none` where there is none.
fn duration(duration: Option<&prost_types::Duration>) -> Option<String> {
    Some(duration.map_or_else(|| "none".to_owned(), describe::duration))
}

/// Numbers with commas between; `none` where there is none.
fn list(numbers: &[u32]) -> Option<String> {
    let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
    Some(if texts.is_empty() { "none".to_owned() } else { texts.join(", ") })
}

/// Without a policy, only what provably never reached the application is tried again.
fn attempts(retry: Option<&v1::Retry>) -> Option<String> {
    Some(
        retry.map_or_else(
            || "2, of what never reached the application".to_owned(),
            |of| of.attempts.to_string(),
        ),
    )
}

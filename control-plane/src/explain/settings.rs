//! Every setting that can be in force, one line each: where it may be written, and where the message has it.
//!
//! A test compares the lines with the schemas, so that a field that a document can have and nobody can see fails.

use outrigger_api::v1;

use super::Setting;
use super::describe::{duration, list};
use super::layers::{Layers, Level, Place};

/// One setting, as a message of type `M` has it.
pub(super) struct Line<M> {
    /// As a ServicePolicy or the MeshConfig writes it below `spec`.
    pub(super) name: &'static str,
    places: Vec<Place>,
    value: fn(&M) -> String,
}

impl<M> Line<M> {
    fn show(&self, message: &M, layers: &Layers) -> Setting {
        Setting {
            name: self.name.to_owned(),
            value: (self.value)(message),
            source: layers.source(&self.places),
        }
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
fn policy<M>(name: &'static str, value: fn(&M) -> String) -> Line<M> {
    Line { name, places: Vec::new(), value }.or_in(Level::Policy, name)
}

/// A setting of the MeshConfig alone.
fn mesh(name: &'static str, value: fn(&v1::MeshSettings) -> String) -> Line<v1::MeshSettings> {
    Line { name, places: Vec::new(), value }.or_in(Level::Mesh, name)
}

/// A setting of a ServicePolicy, else of the MeshConfig, at the same place in both.
fn default<M>(name: &'static str, value: fn(&M) -> String) -> Line<M> {
    policy(name, value).or_in(Level::Mesh, name)
}

/// A part of `defaults.retry`, which is taken whole from the first document that has it.
fn retry<M>(name: &'static str, value: fn(&M) -> String) -> Line<M> {
    default(name, value).whole(Level::Policy, "defaults.retry").whole(Level::Mesh, "defaults.retry")
}

/// How the endpoints of a service are called.
pub(super) fn policy_lines() -> Vec<Line<v1::BackendPolicy>> {
    vec![
        policy("loadBalancer.type", |it| balancer(it).to_owned()),
        policy("circuitBreaker.disabled", |it| it.breaker.is_none().to_string()),
        policy("circuitBreaker.consecutiveFailures", |it| {
            breaker(it, |of| of.consecutive_failures.to_string())
        }),
        policy("circuitBreaker.minOpen", |it| breaker(it, |of| duration(of.min_open.as_ref()))),
        policy("circuitBreaker.maxOpen", |it| breaker(it, |of| duration(of.max_open.as_ref()))),
        policy("circuitBreaker.maxEjectedPercent", |it| breaker(it, |of| of.max_ejected_percent.to_string())),
        policy("connection.connectTimeout", |it| duration(it.connect_timeout.as_ref())),
        policy("connection.tlsHandshakeTimeout", |it| duration(it.tls_timeout.as_ref())),
        policy("connection.idleTimeout", |it| duration(it.idle_timeout.as_ref())),
        policy("connection.maxAge", |it| duration(it.max_connection_age.as_ref())),
        policy("limits.maxConnections", |it| it.max_connections.to_string()),
        policy("limits.maxPendingRequests", |it| it.max_pending.to_string()),
        policy("limits.maxActiveRequests", |it| it.max_active.to_string()),
        policy("retryBudget.percent", |it| it.retry_budget_percent.to_string()),
        policy("retryBudget.minPerSecond", |it| it.retry_budget_per_second.to_string()),
        default("defaults.timeouts.request", |it| duration(it.request_timeout.as_ref())),
        default("defaults.timeouts.backendRequest", |it| duration(it.attempt_timeout.as_ref())),
        retry("defaults.retry.attempts", |it| attempts(it.retry.as_ref())),
        retry("defaults.retry.backoff", |it| retried(it.retry.as_ref(), |of| duration(of.backoff.as_ref()))),
        retry("defaults.retry.codes", |it| retried(it.retry.as_ref(), |of| list(&of.status_codes))),
        retry("defaults.retry.grpcCodes", |it| retried(it.retry.as_ref(), |of| list(&of.grpc_codes))),
        retry("defaults.retry.nonIdempotent", |it| {
            retried(it.retry.as_ref(), |of| of.non_idempotent.to_string())
        }),
    ]
}

/// What a rule may say for itself. An HTTPRoute has no field for the last two, which stay those of the policy.
fn rule_lines() -> Vec<Line<v1::Rule>> {
    let of = |line: Line<v1::Rule>, path| line.or_in(Level::Rule, path);
    let part = |line: Line<v1::Rule>, path| of(line, path).whole(Level::Rule, "retry");
    vec![
        of(
            default("defaults.timeouts.request", |it| duration(it.request_timeout.as_ref())),
            "timeouts.request",
        ),
        of(
            default("defaults.timeouts.backendRequest", |it| duration(it.attempt_timeout.as_ref())),
            "timeouts.backendRequest",
        ),
        part(retry("defaults.retry.attempts", |it| attempts(it.retry.as_ref())), "retry.attempts"),
        part(
            retry("defaults.retry.backoff", |it| {
                retried(it.retry.as_ref(), |of| duration(of.backoff.as_ref()))
            }),
            "retry.backoff",
        ),
        part(
            retry("defaults.retry.codes", |it| retried(it.retry.as_ref(), |of| list(&of.status_codes))),
            "retry.codes",
        ),
        retry("defaults.retry.grpcCodes", |it| retried(it.retry.as_ref(), |of| list(&of.grpc_codes))),
        retry("defaults.retry.nonIdempotent", |it| {
            retried(it.retry.as_ref(), |of| of.non_idempotent.to_string())
        }),
    ]
}

/// What holds in the whole mesh. Its `defaults` are among those of every service.
pub(super) fn mesh_lines() -> Vec<Line<v1::MeshSettings>> {
    vec![
        mesh("mtls.mode", |it| if it.permissive_mtls { "Permissive" } else { "Strict" }.to_owned()),
        mesh("tracing.samplingRatio", |it| it.sampling_ratio.to_string()),
        mesh("tracing.formats", |it| {
            let names: Vec<&str> = it.trace_formats().map(format).collect();
            names.join(", ")
        }),
        mesh("tracing.endpoint", |it| match it.otlp_endpoint.as_str() {
            "" => "each proxy's own".to_owned(),
            endpoint => endpoint.to_owned(),
        }),
        mesh("accessLog.enabled", |it| it.access_log.to_string()),
    ]
}

/// The settings of a service.
pub(super) fn of_policy(message: &v1::BackendPolicy, layers: &Layers) -> Vec<Setting> {
    policy_lines().iter().map(|line| line.show(message, layers)).collect()
}

/// The settings of a rule, whose layer is the first.
pub(super) fn of_rule(message: &v1::Rule, layers: &Layers) -> Vec<Setting> {
    rule_lines().iter().map(|line| line.show(message, layers)).collect()
}

/// The settings of the mesh.
pub(super) fn of_mesh(message: &v1::MeshSettings, layers: &Layers) -> Vec<Setting> {
    mesh_lines().iter().map(|line| line.show(message, layers)).collect()
}

fn balancer(policy: &v1::BackendPolicy) -> &'static str {
    match policy.balancer() {
        v1::LoadBalancer::PeakEwma | v1::LoadBalancer::Unspecified => "PeakEwma",
        v1::LoadBalancer::LeastRequest => "LeastRequest",
        v1::LoadBalancer::RoundRobin => "RoundRobin",
    }
}

fn format(format: v1::TraceFormat) -> &'static str {
    match format {
        v1::TraceFormat::W3c | v1::TraceFormat::Unspecified => "W3C",
        v1::TraceFormat::B3 => "B3",
        v1::TraceFormat::B3Multi => "B3Multi",
    }
}

fn breaker(policy: &v1::BackendPolicy, value: impl Fn(&v1::Breaker) -> String) -> String {
    policy.breaker.as_ref().map_or_else(|| "off".to_owned(), value)
}

/// Without a policy, only what provably never reached the application is tried again.
fn attempts(retry: Option<&v1::Retry>) -> String {
    retry.map_or_else(|| "2, of what never reached the application".to_owned(), |of| of.attempts.to_string())
}

fn retried(retry: Option<&v1::Retry>, value: impl Fn(&v1::Retry) -> String) -> String {
    retry.map_or_else(|| "none".to_owned(), value)
}

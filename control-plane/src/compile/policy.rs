//! How a service's endpoints are called: its ServicePolicy, the mesh's defaults, and what holds where neither
//! says anything.

use std::borrow::Cow;
use std::time::Duration;

use outrigger_api::v1::hedging::After;
use outrigger_api::{ServiceName, v1};

use super::precedence::Age;
use super::timing::{Timing, proto};
use super::traffic_policy::{RetryBudget, budget_policy_of, traffic_policy_of};
use super::{balancing, session};
use crate::model::Model;
use crate::resources::xbackendtrafficpolicies::XBackendTrafficPolicyRetryConstraint;
use crate::resources::{
    CircuitBreaker, FallbackReason, Hedging, Http2, Period, RequestDefaults, ServicePolicy,
    ServicePolicySpec, SuccessRate, TcpKeepalive, XBackendTrafficPolicy,
};

/// The `content-type` of a fallback's body.
const DEFAULT_CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// What holds for one service.
#[derive(Debug)]
pub(super) struct Effective<'a> {
    policy: Option<&'a ServicePolicy>,
    /// Its namespace and name.
    key: Option<&'a (String, String)>,
    mesh: Option<&'a RequestDefaults>,
    /// The Gateway API's own policy.
    traffic: Option<&'a XBackendTrafficPolicy>,
    /// What that says of retries, where it holds.
    constraint: Option<&'a XBackendTrafficPolicyRetryConstraint>,
    /// Where no rule says otherwise.
    timing: Timing,
}

impl<'a> Effective<'a> {
    pub(super) fn of(model: &'a Model, service: &ServiceName) -> Self {
        let (key, policy) = policy_of(model, service).unzip();
        let constraint = budget_policy_of(model, service);
        let constraint = constraint.and_then(|policy| policy.spec.retry_constraint.as_ref());
        let mesh = model.documents().mesh_config.as_ref().and_then(|mesh| mesh.spec.defaults.as_ref());
        let own = policy.and_then(|policy| policy.spec.defaults.as_ref());
        let traffic = traffic_policy_of(model, service);
        Self { policy, key, mesh, traffic, constraint, timing: Timing::defaults([own, mesh]) }
    }

    /// What holds for a rule that does not say otherwise itself, and may refer to a policy of its own.
    pub(super) fn timing(&self, of_rule: Option<&ServicePolicySpec>) -> Cow<'_, Timing> {
        let Some(of_rule) = of_rule else { return Cow::Borrowed(&self.timing) };
        let own = self.policy.and_then(|policy| policy.spec.defaults.as_ref());
        Cow::Owned(Timing::defaults([of_rule.defaults.as_ref(), own, self.mesh]))
    }

    /// How many requests an instance works on at once, where that is looked after.
    pub(super) fn adaptive_concurrency(&self) -> Option<v1::AdaptiveConcurrency> {
        let written = self.policy?.spec.adaptive_concurrency.as_ref()?;
        // Only one of the two may be written, on the wrong side of the other's default.
        let max_limit = written.max_limit.unwrap_or(1000.max(written.min_limit.unwrap_or(10)));
        Some(v1::AdaptiveConcurrency {
            min_limit: written.min_limit.unwrap_or(10).min(max_limit),
            max_limit,
            tolerance_percent: written.tolerance_percent.unwrap_or(50),
            recalibrate: seconds(written.recalibrate_every, 30),
        })
    }

    /// The whole policy, every default filled in.
    pub(super) fn backend_policy(&self) -> v1::BackendPolicy {
        let spec = self.policy.map(|policy| policy.spec.clone()).unwrap_or_default();
        let connection = spec.connection.unwrap_or_default();
        let limits = spec.limits.unwrap_or_default();
        let constraint = self.constraint.map(RetryBudget::of);
        let budget = spec.retry_budget.unwrap_or_default();
        let balancer = spec.load_balancer.unwrap_or_default();
        v1::BackendPolicy {
            balancer: balancing::kind(&balancer) as i32,
            hash: balancing::hash(&balancer),
            zone_percent: balancing::zone_percent(&balancer),
            slow_start: balancer.slow_start.map(|slow_start| proto(slow_start.window.duration())),
            connect_timeout: seconds(connection.connect_timeout, 1),
            tls_timeout: seconds(connection.tls_handshake_timeout, 5),
            idle_timeout: seconds(connection.idle_timeout, 60),
            max_connection_age: seconds(connection.max_age, 3600),
            breaker: breaker(spec.circuit_breaker.unwrap_or_default()),
            max_connections: limits.max_connections.unwrap_or(1024),
            max_pending: limits.max_pending_requests.unwrap_or(1024),
            max_active: limits.max_active_requests.unwrap_or(4096),
            retry_budget_percent: constraint.map_or(budget.percent.unwrap_or(20), |one| one.percent),
            retry_budget_per_second: constraint.map_or(budget.min_per_second.unwrap_or(10), |one| one.count),
            retry_budget_window: constraint.map(|one| proto(one.window)),
            retry_budget_interval: constraint.map(|one| proto(one.interval)),
            request_timeout: self.timing.request.map(proto),
            attempt_timeout: self.timing.attempt.map(proto),
            retry: self.timing.retry.clone(),
            hedging: spec.hedging.as_ref().and_then(hedging),
            session: self.session(),
            tcp_keepalive: connection.tcp_keepalive.map(tcp_keepalive),
            http2: Some(http2(connection.http2.unwrap_or_default())),
            http1_max_requests: connection
                .http1
                .and_then(|http1| http1.max_requests_per_connection)
                .unwrap_or(0),
            fallback: self.key.zip(self.policy).and_then(|(key, policy)| fallback(key, &policy.spec)),
        }
    }

    /// Sessions of the rules that have none of their own, and of a service without routes.
    pub(super) fn session(&self) -> Option<v1::Session> {
        let ours = self.policy.and_then(session::of_policy);
        ours.or_else(|| self.traffic.and_then(session::of_traffic_policy))
    }
}

/// The policy that holds for a service, with its namespace and name: of several that name it, the oldest.
pub(crate) fn policy_of<'a>(
    model: &'a Model,
    service: &ServiceName,
) -> Option<(&'a (String, String), &'a ServicePolicy)> {
    model.policies(service).min_by_key(|(key, policy)| (Age::of(&policy.metadata), *key))
}

/// The ServicePolicy that says how many retries the service can bear, by its name.
pub(super) fn sets_retry_budget<'a>(model: &'a Model, service: &ServiceName) -> Option<&'a str> {
    let ((_, name), _) =
        policy_of(model, service).filter(|(_, policy)| policy.spec.retry_budget.is_some())?;
    Some(name)
}

/// Whether a ServicePolicy says how the service's clients stay where they are.
pub(super) fn sets_session(model: &Model, service: &ServiceName) -> bool {
    policy_of(model, service).is_some_and(|(_, policy)| policy.spec.session_persistence.is_some())
}

/// What the policy has callers told where nobody can answer them.
pub(super) fn fallback(
    (namespace, name): &(String, String),
    spec: &ServicePolicySpec,
) -> Option<v1::Fallback> {
    let fallback = spec.fallback.as_ref()?;
    let header =
        |name: &str, value: &str| v1::Header { name: name.to_ascii_lowercase(), value: value.to_owned() };
    let body = fallback.body.clone().unwrap_or_default();
    let kind = fallback.content_type.as_deref().unwrap_or(DEFAULT_CONTENT_TYPE);
    let kind = (!body.is_empty()).then(|| header("content-type", kind));
    let others = fallback.headers.iter().map(|other| header(&other.name, &other.value));
    Some(v1::Fallback {
        policy: format!("{namespace}/{name}"),
        status: fallback.status().into(),
        headers: kind.into_iter().chain(others).collect(),
        body: body.into_bytes(),
        on_no_endpoints: fallback.covers(FallbackReason::NoEndpoints),
        on_breaker_open: fallback.covers(FallbackReason::BreakerOpen),
    })
}

fn breaker(breaker: CircuitBreaker) -> Option<v1::Breaker> {
    if breaker.disabled == Some(true) {
        return None;
    }
    let min_open = breaker.min_open.map_or(Duration::from_secs(1), Period::duration);
    let max_open = breaker.max_open.map_or(Duration::from_secs(60), Period::duration);
    let max_ejected_percent = breaker.max_ejected_percent.unwrap_or(50).min(100);
    Some(v1::Breaker {
        consecutive_failures: breaker.consecutive_failures.unwrap_or(7),
        min_open: Some(proto(min_open)),
        // Only one of the two may be written, on the wrong side of the other's default.
        max_open: Some(proto(max_open.max(min_open))),
        max_ejected_percent,
        success_rate: success_rate(breaker.success_rate.unwrap_or_default()),
        panic_threshold_percent: breaker.panic_threshold_percent.unwrap_or(100 - max_ejected_percent),
    })
}

fn success_rate(rate: SuccessRate) -> Option<v1::SuccessRate> {
    (rate.disabled != Some(true)).then(|| v1::SuccessRate {
        percent_of_peers: rate.percent_of_peers.unwrap_or(50),
        interval: seconds(rate.interval, 10),
        min_requests: rate.min_requests.unwrap_or(20),
    })
}

/// When attempts are late, of a service's policy or of one that extends a rule.
pub(super) fn hedging(hedging: &Hedging) -> Option<v1::Hedging> {
    let delay = hedging.delay.map(Period::duration).filter(|delay| !delay.is_zero());
    let after = delay.map(proto).map(After::Delay);
    let after = after.or_else(|| hedging.percentile.map(|number| After::Percentile(number.into())))?;
    Some(v1::Hedging { after: Some(after), max_extra: hedging.max_extra.unwrap_or(1).clamp(1, 4) })
}

fn tcp_keepalive(keepalive: TcpKeepalive) -> v1::TcpKeepalive {
    v1::TcpKeepalive {
        time: seconds(keepalive.time, 60),
        interval: seconds(keepalive.interval, 10),
        probes: keepalive.probes.unwrap_or(3),
    }
}

fn http2(http2: Http2) -> v1::Http2 {
    v1::Http2 {
        max_streams: http2.max_concurrent_streams.unwrap_or(200),
        stream_window_bytes: http2.initial_stream_window_bytes.unwrap_or(1 << 20),
        connection_window_bytes: http2.initial_connection_window_bytes.unwrap_or(4 << 20),
    }
}

fn seconds(period: Option<Period>, default: u64) -> Option<prost_types::Duration> {
    Some(proto(period.map_or(Duration::from_secs(default), Period::duration)))
}

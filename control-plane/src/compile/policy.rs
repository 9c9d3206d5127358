//! How a service's endpoints are called: its ServicePolicy, the mesh's defaults, and what holds where neither
//! says anything.

use std::time::Duration;

use outrigger_api::{ServiceName, v1};

use super::timing::{Timing, proto};
use crate::model::Model;
use crate::resources::{CircuitBreaker, LoadBalancerType, Period, ServicePolicy, ServicePolicySpec};

/// What holds for one service.
#[derive(Debug)]
pub(super) struct Effective<'a> {
    spec: Option<&'a ServicePolicySpec>,
    /// Where no rule says otherwise.
    pub(super) timing: Timing,
}

impl<'a> Effective<'a> {
    /// Of several policies that name the service, the oldest holds.
    pub(super) fn of(model: &'a Model, service: &ServiceName) -> Self {
        let oldest = model.policies(service).min_by_key(|(key, policy)| (created(policy), *key));
        let spec = oldest.map(|(_, policy)| &policy.spec);
        let mesh = model.documents().mesh_config.as_ref().and_then(|mesh| mesh.spec.defaults.as_ref());
        let own = spec.and_then(|spec| spec.defaults.as_ref());
        Self { spec, timing: Timing::defaults(own, mesh) }
    }

    /// The whole policy, every default filled in.
    pub(super) fn backend_policy(&self) -> v1::BackendPolicy {
        let spec = self.spec.cloned().unwrap_or_default();
        let connection = spec.connection.unwrap_or_default();
        let limits = spec.limits.unwrap_or_default();
        let budget = spec.retry_budget.unwrap_or_default();
        let balancer = spec.load_balancer.map(|balancer| balancer.kind);
        v1::BackendPolicy {
            balancer: balancer_number(balancer) as i32,
            connect_timeout: seconds(connection.connect_timeout, 1),
            tls_timeout: seconds(connection.tls_handshake_timeout, 5),
            idle_timeout: seconds(connection.idle_timeout, 60),
            max_connection_age: seconds(connection.max_age, 3600),
            breaker: breaker(spec.circuit_breaker.unwrap_or_default()),
            max_connections: limits.max_connections.unwrap_or(1024),
            max_pending: limits.max_pending_requests.unwrap_or(1024),
            max_active: limits.max_active_requests.unwrap_or(4096),
            retry_budget_percent: budget.percent.unwrap_or(20),
            retry_budget_per_second: budget.min_per_second.unwrap_or(10),
            request_timeout: self.timing.request.map(proto),
            attempt_timeout: self.timing.attempt.map(proto),
            retry: self.timing.retry.clone(),
        }
    }
}

/// A policy without a time is younger than all others.
fn created(policy: &ServicePolicy) -> (bool, Option<k8s_openapi::jiff::Timestamp>) {
    let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created.is_none(), created)
}

fn balancer_number(balancer: Option<LoadBalancerType>) -> v1::LoadBalancer {
    match balancer {
        None | Some(LoadBalancerType::PeakEwma) => v1::LoadBalancer::PeakEwma,
        Some(LoadBalancerType::LeastRequest) => v1::LoadBalancer::LeastRequest,
        Some(LoadBalancerType::RoundRobin) => v1::LoadBalancer::RoundRobin,
    }
}

fn breaker(breaker: CircuitBreaker) -> Option<v1::Breaker> {
    if breaker.disabled == Some(true) {
        return None;
    }
    let min_open = breaker.min_open.map_or(Duration::from_secs(1), Period::duration);
    let max_open = breaker.max_open.map_or(Duration::from_secs(60), Period::duration);
    Some(v1::Breaker {
        consecutive_failures: breaker.consecutive_failures.unwrap_or(7),
        min_open: Some(proto(min_open)),
        // Only one of the two may be written, on the wrong side of the other's default.
        max_open: Some(proto(max_open.max(min_open))),
        max_ejected_percent: breaker.max_ejected_percent.unwrap_or(50),
    })
}

fn seconds(period: Option<Period>, default: u64) -> Option<prost_types::Duration> {
    Some(proto(period.map_or(Duration::from_secs(default), Period::duration)))
}

//! `XBackendTrafficPolicy`: the Gateway API's words for a service's retry budget (GEP-3388) and for its sessions
//! (GEP-1619).
//!
//! Of several that name a service the oldest holds, and a ServicePolicy that sets `retryBudget` or `sessionPersistence`
//! goes before all of them in that: it is the more particular one, and says so of its own free will.

use std::time::Duration;

use outrigger_api::{ServiceName, v1};

use super::policy::{policy_of, sets_retry_budget, sets_session};
use super::precedence::Age;
use super::{Facts, World, session};
use crate::model::{Model, is_service};
use crate::resources::xbackendtrafficpolicies::XBackendTrafficPolicyRetryConstraint;
use crate::resources::{Period, XBackendTrafficPolicy};
use crate::status::{Condition, ParentStatus};

/// How many retries a service can bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RetryBudget {
    /// Of the requests of the last `window`.
    pub(super) percent: u32,
    pub(super) window: Duration,
    /// Always allowed in each `interval`.
    pub(super) count: u32,
    pub(super) interval: Duration,
}

/// The policy whose budget holds for the service: none where a ServicePolicy has one.
pub(crate) fn budget_policy_of<'a>(
    model: &'a Model,
    service: &ServiceName,
) -> Option<&'a XBackendTrafficPolicy> {
    let is_ours = sets_retry_budget(model, service).is_some();
    traffic_policy_of(model, service).filter(|policy| !is_ours && policy.spec.retry_constraint.is_some())
}

/// The session of the rules that lead to the service and have none, neither of their own nor of their parent's.
pub(super) fn session_of_backend(model: &Model, service: &ServiceName) -> Option<v1::Session> {
    traffic_policy_of(model, service).and_then(session::of_traffic_policy)
}

/// The policy that holds for a service: of several the oldest.
pub(crate) fn traffic_policy_of<'a>(
    model: &'a Model,
    service: &ServiceName,
) -> Option<&'a XBackendTrafficPolicy> {
    let all = model.traffic_policies(service);
    all.min_by_key(|(key, policy)| (Age::of(&policy.metadata), *key)).map(|(_, policy)| policy)
}

impl RetryBudget {
    /// What a policy asks for. Its own defaults were filled in when it was written, and hold where that was not so.
    pub(super) fn of(constraint: &XBackendTrafficPolicyRetryConstraint) -> Self {
        let budget = constraint.budget.as_ref();
        let rate = constraint.min_retry_rate.as_ref();
        let number = |number: Option<i64>, default: u32| {
            number.map_or(default, |number| u32::try_from(number).unwrap_or(default))
        };
        let time = |text: Option<&String>, default: u64| {
            let written =
                text.and_then(|text| text.parse::<Period>().ok()).filter(|period| !period.is_zero());
            written.map_or(Duration::from_secs(default), Period::duration)
        };
        Self {
            percent: number(budget.and_then(|budget| budget.percent), 20),
            window: time(budget.and_then(|budget| budget.interval.as_ref()), 10),
            count: number(rate.and_then(|rate| rate.count), 10),
            interval: time(rate.and_then(|rate| rate.interval.as_ref()), 1),
        }
    }
}

/// What became of the policy at each of its targets. `None`: there is no such policy.
pub(super) fn statuses(world: World<'_>, namespace: &str, name: &str) -> Option<Vec<ParentStatus>> {
    let key = (namespace.to_owned(), name.to_owned());
    let policy = world.model.documents().backend_traffic_policies.get(&key)?;
    let mut statuses = Vec::new();
    for target in &policy.spec.target_refs {
        let (status, reason, message) = match ServiceName::new(namespace, &target.name) {
            Ok(service) if is_service(Some(&target.group), Some(&target.kind)) => {
                accepted(world, policy, &service)
            }
            _ => (false, "Invalid", format!("{} {} is not a Service", target.kind, target.name)),
        };
        statuses.push(ParentStatus {
            parent: serde_json::json!({
                "group": target.group, "kind": target.kind, "name": target.name, "namespace": namespace,
            }),
            conditions: vec![Condition {
                kind: "Accepted".to_owned(),
                status,
                reason: reason.to_owned(),
                message,
                observed_generation: policy.metadata.generation.unwrap_or_default(),
            }],
        });
    }
    Some(statuses)
}

fn accepted(
    world: World<'_>,
    policy: &XBackendTrafficPolicy,
    service: &ServiceName,
) -> (bool, &'static str, String) {
    if Facts::of(world, service).is_none() {
        return (false, "TargetNotFound", format!("service {service} does not exist"));
    }
    let holds = traffic_policy_of(world.model, service);
    if let Some(other) = holds.filter(|other| !std::ptr::eq(*other, policy)) {
        let name = other.metadata.name.as_deref().unwrap_or_default();
        return (false, "Conflicted", format!("{name} is older and names service {service} as well"));
    }
    let Some((_, name)) = policy_of(world.model, service).map(|(key, _)| key) else {
        return (true, "Accepted", String::new());
    };
    let (budget, session) = (&policy.spec.retry_constraint, &policy.spec.session_persistence);
    let ours = |set: bool, what: &str| {
        set.then(|| format!("ServicePolicy {name} sets the {what} of service {service}"))
    };
    let lost: Vec<String> = [
        ours(budget.is_some() && sets_retry_budget(world.model, service).is_some(), "retry budget"),
        ours(session.is_some() && sets_session(world.model, service), "sessions"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let wanted = usize::from(budget.is_some()) + usize::from(session.is_some());
    match lost.len() {
        0 => (true, "Accepted", String::new()),
        // The rest of it holds.
        some if some < wanted => (true, "Accepted", lost.join("; ")),
        _ => (false, "Conflicted", lost.join("; ")),
    }
}

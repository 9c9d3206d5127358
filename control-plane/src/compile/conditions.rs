//! What to tell people of a route: the conditions that the Gateway API defines, for one parent.

use outrigger_api::ServiceName;

use super::policy::Effective;
use super::rule::{CompiledRoute, rules_of};
use super::{Attached, Facts, World, attached};
use crate::status::{Condition, RouteStatus};

/// The routes that name `service`, each with its conditions for this parent.
pub(crate) fn route_statuses(world: World<'_>, service: &ServiceName, facts: &Facts) -> Vec<RouteStatus> {
    let policy = Effective::of(world.model, service);
    let status = |attached: Attached<'_>| RouteStatus {
        route: attached.id(),
        scope: if attached.is_producer(service) { "producer" } else { "consumer" }.to_owned(),
        conditions: conditions(&attached, &rules_of(world, &attached, &policy)),
    };
    attached(world.model, service, facts).into_iter().map(status).collect()
}

fn conditions(attached: &Attached<'_>, compiled: &CompiledRoute) -> Vec<Condition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    };
    let refusal = attached.refusal.clone().unwrap_or_default();
    let mut conditions = Vec::with_capacity(3);
    conditions.push(if attached.ports.is_empty() {
        condition("Accepted", false, "NoMatchingParent", refusal)
    } else if attached.route.spec.hostnames.iter().flatten().next().is_some() {
        let message = "hostnames mean nothing for a Service parent and are ignored; match the Host header";
        condition("Accepted", true, "Accepted", message.to_owned())
    } else {
        condition("Accepted", true, "Accepted", refusal)
    });
    conditions.push(match compiled.unresolved.first() {
        None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
        Some(problem) => condition("ResolvedRefs", false, problem.reason(), problem.to_string()),
    });
    if !compiled.dropped.is_empty() {
        let message = format!("Dropped Rule: {}", compiled.dropped.join("; "));
        conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
    }
    conditions
}

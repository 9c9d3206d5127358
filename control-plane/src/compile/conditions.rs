//! What to tell people of a document: the conditions that the Gateway API defines, for each of a route's parents and each
//! of a policy's targets.
//!
//! Computed, like everything here, from the documents alone: a status is not kept, and so cannot be out of date.

use outrigger_api::ServiceName;

use super::attach::{Parent, Refusal};
use super::policy::Effective;
use super::rule::{CompiledRoute, rules_of};
use super::{Attached, Facts, World, attached, gateway, traffic_policy};
use crate::model::{Route, RouteKey, RouteKind, gateway_service, is_gateway, is_service};
use crate::resources::httproutes::HttpRouteParentRefs;
use crate::resources::{Kind, ResourceKey};
use crate::status::{Condition, ParentStatus, RouteStatus};

/// The routes that name `service`, each of their references with its conditions.
pub(crate) fn route_statuses(world: World<'_>, service: &ServiceName, facts: &Facts) -> Vec<RouteStatus> {
    let policy = Effective::of(world.model, service);
    let mut statuses = Vec::new();
    for attached in attached(world.model, service, facts) {
        let compiled = rules_of(world, &attached, &policy);
        let status = |parent: &Parent<'_>| RouteStatus {
            kind: attached.kind.kind().name().to_owned(),
            route: attached.id(),
            scope: if attached.is_producer(service) { "producer" } else { "consumer" }.to_owned(),
            conditions: conditions(&attached, parent, &compiled),
        };
        statuses.extend(attached.parents.iter().map(status));
    }
    statuses
}

/// The status of one document, of the kinds that have one: what became of it at each of its parents or targets that is
/// there. A parent that is not there, or is none of this mesh's, has no entry.
pub(crate) fn document_status(world: World<'_>, key: &ResourceKey) -> Option<Vec<ParentStatus>> {
    if key.kind == Kind::BackendTrafficPolicy {
        return traffic_policy::statuses(world, &key.namespace, &key.name);
    }
    let key: RouteKey = (RouteKind::of(key.kind)?, key.namespace.clone(), key.name.clone());
    let route = world.model.route(&key)?;
    Some(parent_statuses(world, route))
}

fn parent_statuses(world: World<'_>, route: &Route) -> Vec<ParentStatus> {
    let mut statuses = Vec::new();
    for reference in route.http.spec.parent_refs.iter().flatten() {
        if is_gateway(reference.group.as_deref(), reference.kind.as_deref()) {
            statuses.extend(at_gateway(world, route, reference));
            continue;
        }
        if !is_service(reference.group.as_deref(), reference.kind.as_deref()) {
            continue;
        }
        let namespace = reference.namespace.as_deref().unwrap_or(route.namespace());
        let Ok(service) = ServiceName::new(namespace, &reference.name) else { continue };
        let Some(facts) = Facts::of(world, &service) else { continue };
        let attached = attached(world.model, &service, &facts);
        let Some(own) = attached.iter().find(|attached| std::ptr::eq(attached.form, route)) else { continue };
        let mut parents = own.parents.iter();
        let Some(parent) = parents.find(|parent| std::ptr::eq(parent.reference, reference)) else { continue };
        let compiled = rules_of(world, own, &Effective::of(world.model, &service));
        statuses.push(ParentStatus {
            parent: serde_json::to_value(reference).unwrap_or_default(),
            conditions: conditions(own, parent, &compiled),
        });
    }
    statuses
}

/// What became of one of the route's references to a gateway, if there is such a gateway.
fn at_gateway(world: World<'_>, route: &Route, reference: &HttpRouteParentRefs) -> Option<ParentStatus> {
    let namespace = reference.namespace.as_deref().unwrap_or(route.namespace());
    let service = gateway_service(namespace, &reference.name)?;
    let gateway = world.model.gateway(&service)?;
    let (own, compiled) = gateway::statuses(world, &service, gateway, route)?;
    let parent = own.parents.iter().find(|parent| std::ptr::eq(parent.reference, reference))?;
    Some(ParentStatus {
        parent: serde_json::to_value(reference).unwrap_or_default(),
        conditions: conditions(&own, parent, &compiled),
    })
}

fn conditions(attached: &Attached<'_>, parent: &Parent<'_>, compiled: &CompiledRoute) -> Vec<Condition> {
    let generation = attached.route.metadata.generation.unwrap_or_default();
    let condition = |kind: &str, status: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
    };
    let mut conditions = Vec::with_capacity(3);
    let refusal = parent.refusal.as_ref().map(Refusal::reason);
    let of_service = is_service(parent.reference.group.as_deref(), parent.reference.kind.as_deref());
    let hostnames = of_service && attached.route.spec.hostnames.iter().flatten().next().is_some();
    conditions.push(match refusal {
        Some((reason, message)) if parent.ports.is_empty() => {
            condition("Accepted", false, reason, message.to_owned())
        }
        _ if compiled.is_useless() => {
            condition("Accepted", false, "UnsupportedValue", compiled.dropped.join("; "))
        }
        // On some of the ports that it asked for.
        Some((_, message)) => condition("Accepted", true, "Accepted", message.to_owned()),
        None if hostnames => {
            let message =
                "hostnames mean nothing for a Service parent and are ignored; match the Host header";
            condition("Accepted", true, "Accepted", message.to_owned())
        }
        None => condition("Accepted", true, "Accepted", String::new()),
    });
    conditions.push(match compiled.unresolved.first() {
        None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
        Some(problem) => condition("ResolvedRefs", false, problem.reason(), problem.to_string()),
    });
    if !compiled.dropped.is_empty() && !compiled.is_useless() {
        let message = format!("Dropped Rule: {}", compiled.dropped.join("; "));
        conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message));
    }
    conditions
}

//! A Gateway: where traffic from outside the mesh comes in, and which routes it takes.
//!
//! To its proxy a gateway is a service whose ports are the numbers of its listeners; it has routes and no endpoints.
//! Several listeners may share a port: a request belongs to the one whose hostname means its host best, and takes the
//! routes attached to that one, the most specific host first (Gateway API, HTTPRouteSpec.hostnames). Who may come in at
//! all is said by the policies whose target is the Gateway, and by no others: callers from outside are not the mesh's.

mod conditions;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use gateway_api::experimental::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom,
};
use outrigger_api::ServiceName;
use outrigger_api::v1::{self, Protocol, backend::Target};

use super::access::{Door, access};
use super::attach::{Parent, Refusal};
use super::backend::Unresolved;
use super::grant::{Referent, Referrer, is_granted};
use super::jwt::{api_keys, jwt};
use super::policy::Effective;
use super::rule::CompiledRoute;
use super::{Attached, Compiled, World, rate_limit, rule};
use crate::model::{Model, Route, RouteKind, is_gateway};
use crate::resources::HttpRoute;
use crate::resources::httproutes::HttpRouteParentRefs;

pub(crate) use conditions::{Served, gateway_status};

/// Compiles the gateway that `service` stands for.
pub(super) fn compile(world: World<'_>, service: &ServiceName, gateway: &Gateway) -> Compiled {
    let policy = Effective::of(world.model, service);
    let listeners = &gateway.spec.listeners;
    let mut compiled = Compiled {
        message: v1::Service {
            name: Some(service.into()),
            version: world.model.documents().revision,
            policy: Some(policy.backend_policy()),
            gateway: Some(v1::Gateway {
                listeners: listeners.iter().map(listener).collect(),
                ports: entries(world.model, service, gateway),
            }),
            ..v1::Service::default()
        },
        backends: BTreeSet::new(),
        dependencies: BTreeSet::from([service.clone()]),
    };
    for (number, listener) in (1..).zip(listeners) {
        compiled.add_listener(world, service, gateway, (number, listener), &policy);
    }
    compiled
}

/// What holds for those who come in, by port.
fn entries(model: &Model, service: &ServiceName, gateway: &Gateway) -> Vec<v1::InboundPort> {
    let name = gateway.metadata.name.as_deref().unwrap_or_default();
    let door = Door::Gateway { namespace: service.namespace(), name };
    let (jwt, api_keys) = (jwt(model, door), api_keys(model, door));
    let rate_limits = rate_limit::of_service(model, service);
    let listeners = gateway.spec.listeners.iter();
    let numbers: BTreeSet<u16> = listeners.filter_map(|listener| u16::try_from(listener.port).ok()).collect();
    let port = |port: u16| v1::InboundPort {
        port: port.into(),
        protocol: Protocol::Unspecified as i32,
        access: access(model, door, port),
        jwt: jwt.clone(),
        api_keys: api_keys.clone(),
        rate_limits: rate_limits.clone(),
        concurrency: None,
    };
    numbers.into_iter().map(port).collect()
}

impl Compiled {
    fn add_listener(
        &mut self,
        world: World<'_>,
        service: &ServiceName,
        gateway: &Gateway,
        (number, listener): (u32, &GatewayListeners),
        policy: &Effective<'_>,
    ) {
        let mut rules = Vec::new();
        let mut ranked = Vec::new();
        let namespace = service.namespace();
        for form in world.model.routes(service) {
            if !takes(listener, gateway, namespace, form) {
                continue;
            }
            let hosts: BTreeSet<String> = hosts(listener, &form.http).into_iter().collect();
            let found = rules_of(world, &attached(form, Vec::new()), policy);
            self.backends.extend(found.backends);
            self.dependencies.extend(found.dependencies);
            let first = rules.len() as u32; // bounded: 16 rules a route
            for (rank, condition) in found.matches {
                for host in &hosts {
                    let hostnames = (!host.is_empty()).then(|| host.clone()).into_iter().collect();
                    let condition =
                        v1::RouteMatch { rule: condition.rule + first, hostnames, ..condition.clone() };
                    ranked.push(((HostRank::of(host), rank.clone()), condition));
                }
            }
            rules.extend(found.rules);
        }
        ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.message.ports.push(v1::ServicePort {
            port: number,
            name: listener.name.clone(),
            protocol: Protocol::Unspecified as i32,
            routed: true,
            matches: ranked.into_iter().map(|(_, found)| found).collect(),
            rules,
            ..v1::ServicePort::default()
        });
    }
}

/// A whole name before a wildcard, a longer wildcard before a shorter one, and any host last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HostRank {
    any: bool,
    wildcard: bool,
    length: Reverse<usize>,
}

impl HostRank {
    fn of(host: &str) -> Self {
        Self { any: host.is_empty(), wildcard: host.starts_with("*."), length: Reverse(host.len()) }
    }
}

fn listener(listener: &GatewayListeners) -> v1::GatewayListener {
    let certificates = listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
    let certificate = certificates.map(|certificate| certificate.name.clone()).next();
    v1::GatewayListener {
        port: u32::try_from(listener.port).unwrap_or_default(),
        hostname: listener.hostname.clone().unwrap_or_default(),
        certificate: certificate.unwrap_or_default(),
    }
}

/// A route of the gateway, with what came of its references.
fn attached<'a>(form: &'a Route, parents: Vec<Parent<'a>>) -> Attached<'a> {
    let (namespace, name) = (form.namespace(), form.name());
    Attached { namespace, name, kind: form.kind, route: &form.http, form, parents }
}

/// Whether the listener has the route: one of its references means it, it lets the route in, and their hosts overlap.
fn takes(listener: &GatewayListeners, gateway: &Gateway, namespace: &str, form: &Route) -> bool {
    let references = form.http.spec.parent_refs.iter().flatten();
    let mut own = references.filter(|reference| names(reference, form.namespace(), gateway, namespace));
    lets_in(listener, namespace, form)
        && own.any(|reference| is_meant(reference, listener))
        && !hosts(listener, &form.http).is_empty()
}

/// Whether a reference names the gateway.
fn names(reference: &HttpRouteParentRefs, of: &str, gateway: &Gateway, namespace: &str) -> bool {
    is_gateway(reference.group.as_deref(), reference.kind.as_deref())
        && Some(&reference.name) == gateway.metadata.name.as_ref()
        && reference.namespace.as_deref().unwrap_or(of) == namespace
}

fn is_meant(reference: &HttpRouteParentRefs, listener: &GatewayListeners) -> bool {
    reference.port.is_none_or(|port| port == listener.port)
        && reference.section_name.as_deref().is_none_or(|section| section == listener.name)
}

/// Whether the listener lets a route of that kind and namespace in.
fn lets_in(listener: &GatewayListeners, namespace: &str, form: &Route) -> bool {
    let from = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let let_in = match from.and_then(|namespaces| namespaces.from.as_ref()) {
        Some(GatewayListenersAllowedRoutesNamespacesFrom::All) => true,
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Same) | None => form.namespace() == namespace,
        Some(_) => false,
    };
    let_in && form.kind == RouteKind::Http && !supported_kinds(listener).is_empty()
}

/// The kinds of routes that the listener takes, of those that it allows.
fn supported_kinds(listener: &GatewayListeners) -> Vec<&'static str> {
    let kinds = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    let all = kinds.is_none_or(|kinds| kinds.is_empty() || kinds.iter().any(|kind| kind.kind == "HTTPRoute"));
    if all { vec!["HTTPRoute"] } else { Vec::new() }
}

/// What a route's references to the gateway come to, and its rules. `None`: it has none.
pub(super) fn statuses<'a>(
    world: World<'a>,
    service: &ServiceName,
    gateway: &Gateway,
    form: &'a Route,
) -> Option<(Attached<'a>, CompiledRoute)> {
    let namespace = service.namespace();
    let references = form.http.spec.parent_refs.iter().flatten();
    let own = references.filter(|reference| names(reference, form.namespace(), gateway, namespace));
    let parents: Vec<_> = own.map(|reference| parent(reference, gateway, namespace, form)).collect();
    if parents.is_empty() {
        return None;
    }
    let attached = attached(form, parents);
    let compiled = rules_of(world, &attached, &Effective::of(world.model, service));
    Some((attached, compiled))
}

fn parent<'a>(
    reference: &'a HttpRouteParentRefs,
    gateway: &Gateway,
    namespace: &str,
    form: &Route,
) -> Parent<'a> {
    let refused = |refusal| Parent { reference, ports: Vec::new(), refusal: Some(refusal) };
    let listeners = gateway.spec.listeners.iter();
    let meant: Vec<_> = listeners.filter(|listener| is_meant(reference, listener)).collect();
    if meant.is_empty() {
        let message = "the gateway has no listener of that name and port";
        return refused(Refusal::NoMatchingParent(message.to_owned()));
    }
    let open: Vec<_> = meant.into_iter().filter(|listener| lets_in(listener, namespace, form)).collect();
    if open.is_empty() {
        let message = format!("no listener lets a {} of namespace {} in", form.kind, form.namespace());
        return refused(Refusal::NotAllowedByListeners(message));
    }
    let wanted = open.into_iter().filter(|listener| !hosts(listener, &form.http).is_empty());
    let ports: Vec<u16> = wanted.filter_map(|listener| u16::try_from(listener.port).ok()).collect();
    if ports.is_empty() {
        let message = "no hostname of the route is one of the listener's";
        return refused(Refusal::NoMatchingListenerHostname(message.to_owned()));
    }
    Parent { reference, ports, refusal: None }
}

/// The hosts that both the listener and the route want, of two that overlap the narrower one; empty text is any host.
fn hosts(listener: &GatewayListeners, route: &HttpRoute) -> Vec<String> {
    let own = listener.hostname.as_deref().unwrap_or_default().to_ascii_lowercase();
    let named: Vec<String> =
        route.spec.hostnames.iter().flatten().map(|host| host.to_ascii_lowercase()).collect();
    if named.is_empty() {
        return vec![own];
    }
    named.into_iter().filter_map(|host| narrower(&own, &host)).collect()
}

fn narrower(a: &str, b: &str) -> Option<String> {
    if covers(a, b) {
        Some(b.to_owned())
    } else if covers(b, a) {
        Some(a.to_owned())
    } else {
        None
    }
}

/// Whether every host that `inner` means is one that `outer` means. A wildcard stands for one label or more.
fn covers(outer: &str, inner: &str) -> bool {
    match outer.strip_prefix('*') {
        _ if outer.is_empty() || outer == inner => true,
        Some(suffix) => {
            inner.strip_prefix('*').unwrap_or(inner).ends_with(suffix) && inner.len() > suffix.len()
        }
        None => false,
    }
}

/// The rules of a route as callers from outside take them: they reach services of other namespaces only where these grant
/// it (ReferenceGrant). Without a grant nothing is said of whether the service is there.
fn rules_of(world: World<'_>, attached: &Attached<'_>, policy: &Effective<'_>) -> CompiledRoute {
    let mut found = rule::rules_of(world, attached, policy);
    let (kind, from) = (attached.kind, attached.namespace);
    let rules = attached.route.spec.rules.iter().flatten();
    let mut refused = Vec::new();
    for (rule, written) in found.rules.iter_mut().zip(rules) {
        for (backend, reference) in rule.backends.iter_mut().zip(written.backend_refs.iter().flatten()) {
            let namespace = reference.namespace.as_deref().unwrap_or(from);
            let referrer =
                Referrer { group: "gateway.networking.k8s.io", kind: "HTTPRoute", namespace: from };
            let referent = Referent { group: "", kind: "Service", namespace, name: &reference.name };
            if !is_granted(world.model.documents(), referrer, referent) {
                let [namespace, name] = [namespace, &reference.name].map(str::to_owned);
                let problem = Unresolved::NotPermitted(kind, namespace, from.to_owned(), name);
                backend.target = Some(Target::Invalid(problem.to_string()));
                refused.push(problem);
            }
        }
    }
    refused.append(&mut found.unresolved);
    found.unresolved = refused;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_hosts_that_overlap_the_narrower_counts() {
        for (a, b, expected) in [
            ("", "", Some("")),
            ("", "a.b", Some("a.b")),
            ("a.b", "", Some("a.b")),
            ("*.b", "a.b", Some("a.b")),
            ("*.b", "x.a.b", Some("x.a.b")),
            ("*.b", "*.a.b", Some("*.a.b")),
            ("*.b", "b", None),
            ("*.b", "*.b", Some("*.b")),
            ("a.b", "c.b", None),
            ("*.a.b", "*.c.b", None),
        ] {
            assert_eq!(narrower(a, b).as_deref(), expected, "{a:?} {b:?}");
            assert_eq!(narrower(b, a).as_deref(), expected, "{b:?} {a:?}");
        }
    }

    #[test]
    fn the_most_specific_host_is_tried_first() {
        let mut hosts = ["", "*.b", "*.a.b", "a.b", "long.name.b"];
        hosts.sort_by_key(|host| HostRank::of(host));
        assert_eq!(hosts, ["long.name.b", "a.b", "*.a.b", "*.b", ""]);
    }
}

//! A Gateway: where traffic from outside the mesh comes in, and which routes it takes.
//!
//! To its proxy a gateway is a service whose ports are the numbers of its listeners; it has routes and no endpoints.
//! Several listeners may share a port: a request belongs to the one whose hostname means its host best, and takes the
//! routes attached to that one, the most specific host first (Gateway API, HTTPRouteSpec.hostnames). Who may come in at
//! all is said by the policies whose target is the Gateway, and by no others: callers from outside are not the mesh's.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use gateway_api::experimental::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom,
};
use outrigger_api::ServiceName;
use outrigger_api::v1::{self, Protocol, backend::Target};

use super::access::{Door, access};
use super::grant::{Referent, Referrer, is_granted};
use super::jwt::{api_keys, jwt};
use super::policy::Effective;
use super::{Attached, Compiled, World, rate_limit, rule};
use crate::model::{Model, RouteKind, is_gateway};
use crate::resources::HttpRoute;

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
        for form in world.model.routes(service).filter(|route| route.kind == RouteKind::Http) {
            let (route_namespace, route) = (form.namespace(), form.http.as_ref());
            if !admits(listener, gateway, namespace, route, route_namespace) {
                continue;
            }
            let hosts: BTreeSet<String> = hosts(listener, route).into_iter().collect();
            if hosts.is_empty() {
                continue;
            }
            let attached = Attached {
                namespace: route_namespace,
                name: form.name(),
                kind: form.kind,
                route,
                form,
                parents: Vec::new(),
            };
            let mut found = rule::rules_of(world, &attached, policy);
            refuse_ungranted(world, route_namespace, &mut found.rules);
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

/// Whether one of the route's parentRefs means the listener, and the listener lets routes of that namespace in.
fn admits(
    listener: &GatewayListeners,
    gateway: &Gateway,
    namespace: &str,
    route: &HttpRoute,
    route_namespace: &str,
) -> bool {
    let from = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let from = from.and_then(|namespaces| namespaces.from.as_ref());
    let let_in = match from {
        Some(GatewayListenersAllowedRoutesNamespacesFrom::All) => true,
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Same) | None => route_namespace == namespace,
        Some(_) => false,
    };
    let name = gateway.metadata.name.as_deref().unwrap_or_default();
    let_in
        && route.spec.parent_refs.iter().flatten().any(|parent| {
            is_gateway(parent.group.as_deref(), parent.kind.as_deref())
                && parent.name == name
                && parent.namespace.as_deref().unwrap_or(route_namespace) == namespace
                && parent.port.is_none_or(|port| port == listener.port)
                && parent.section_name.as_deref().is_none_or(|section| section == listener.name)
        })
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

/// What comes from outside reaches services of other namespaces only where these grant it (ReferenceGrant). Without a
/// grant nothing is said of whether the service is there.
fn refuse_ungranted(world: World<'_>, from: &str, rules: &mut [v1::Rule]) {
    for backend in rules.iter_mut().flat_map(|rule| &mut rule.backends) {
        let Some(Target::Service(target)) = &backend.target else { continue };
        let Some(name) = &target.name else { continue };
        let referrer = Referrer { group: "gateway.networking.k8s.io", kind: "HTTPRoute", namespace: from };
        let (namespace, service) = (name.namespace.as_str(), name.name.as_str());
        let referent = Referent { group: "", kind: "Service", namespace, name: service };
        if !is_granted(world.model.documents(), referrer, referent) {
            let reason =
                format!("RefNotPermitted: no ReferenceGrant lets {from} refer to {}", name.namespace);
            backend.target = Some(Target::Invalid(reason));
        }
    }
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

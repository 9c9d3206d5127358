//! Which routes are on which port of a service, and for whom (Gateway API, GEP-1294).
//!
//! A route in the service's own namespace is a producer route: it holds for every caller. One in another
//! namespace is a consumer route: it holds for callers of that namespace alone, and on the ports it is attached to it
//! replaces the producer routes there. `hostnames` mean nothing for a service and are ignored.
//!
//! Within one such set only routes of one kind are on a port, the first of [`RouteKind`]'s; of several TCPRoutes, which
//! all want every connection, only the oldest.

use outrigger_api::ServiceName;
use outrigger_api::v1::Protocol;

use super::port::{Facts, Port};
use super::precedence::Age;
use crate::model::{Model, Route, RouteKind, is_service};
use crate::resources::HttpRoute;
use crate::resources::httproutes::HttpRouteParentRefs;

/// One route that names a service as its parent.
#[derive(Debug, Clone)]
pub(crate) struct Attached<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) kind: RouteKind,
    /// The route, in the words of an HTTPRoute.
    pub(crate) route: &'a HttpRoute,
    /// The route as the model has it.
    pub(crate) form: &'a Route,
    /// The references that name the service, in the route's order, and what came of each.
    pub(crate) parents: Vec<Parent<'a>>,
}

/// One of a route's references to a service.
#[derive(Debug, Clone)]
pub(crate) struct Parent<'a> {
    pub(crate) reference: &'a HttpRouteParentRefs,
    /// The ports that it puts the route on. None: it is not accepted.
    pub(crate) ports: Vec<u16>,
    /// Why on none, or on fewer than it asked for.
    pub(crate) refusal: Option<Refusal>,
}

/// Why a reference does not put its route on a port, as the `Accepted` condition says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The service has no such port, or takes no routes.
    NoMatchingParent(String),
    /// Another route has the port.
    Conflicted(String),
    /// No listener of the gateway lets a route of that kind and namespace in.
    NotAllowedByListeners(String),
    /// None has a hostname that the route has as well.
    NoMatchingListenerHostname(String),
}

impl Refusal {
    /// The reason in one word, and for people.
    pub(crate) fn reason(&self) -> (&'static str, &str) {
        match self {
            Self::NoMatchingParent(message) => ("NoMatchingParent", message),
            Self::Conflicted(message) => ("Conflicted", message),
            Self::NotAllowedByListeners(message) => ("NotAllowedByListeners", message),
            Self::NoMatchingListenerHostname(message) => ("NoMatchingListenerHostname", message),
        }
    }
}

impl Attached<'_> {
    /// `NAMESPACE/NAME`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether the route holds for every caller of `service`.
    pub(crate) fn is_producer(&self, service: &ServiceName) -> bool {
        self.namespace == service.namespace()
    }

    /// Whether any of its references puts it on the port.
    pub(crate) fn is_on(&self, port: u16) -> bool {
        self.parents.iter().any(|parent| parent.ports.contains(&port))
    }
}

/// Every route that names `service`, attached or not, in the order of their kinds and names.
pub(crate) fn attached<'a>(model: &'a Model, service: &ServiceName, facts: &Facts) -> Vec<Attached<'a>> {
    let mut all: Vec<_> = model.routes(service).map(|route| attach(route, service, facts)).collect();
    let mixed = |attached: &Attached<'_>| attached.kind == RouteKind::Tcp || attached.kind != all[0].kind;
    if all.iter().any(mixed) {
        for port in &facts.ports {
            settle(&mut all, service, port.number);
        }
    }
    all
}

fn attach<'a>(route: &'a Route, service: &ServiceName, facts: &Facts) -> Attached<'a> {
    let (namespace, name) = (route.namespace(), route.name());
    let references = route.http.spec.parent_refs.iter().flatten();
    let parents = references
        .filter(|reference| names(reference, namespace, service))
        .map(|reference| parent(reference, route.kind, service, facts));
    Attached {
        namespace,
        name,
        kind: route.kind,
        route: &route.http,
        form: route,
        parents: parents.collect(),
    }
}

fn parent<'a>(
    reference: &'a HttpRouteParentRefs,
    kind: RouteKind,
    service: &ServiceName,
    facts: &Facts,
) -> Parent<'a> {
    let refused =
        |why: String| Parent { reference, ports: Vec::new(), refusal: Some(Refusal::NoMatchingParent(why)) };
    if !facts.routable {
        return refused(format!("service {service} is headless or external and takes no routes"));
    }
    let asked: Vec<&Port> = facts.ports.iter().filter(|port| is_meant(reference, port)).collect();
    let Some(first) = asked.first() else {
        return refused(format!("service {service} has no port {}", describe(reference)));
    };
    // What is carried unread can be shared out, and no more.
    let fits = |port: &&&Port| kind == RouteKind::Tcp || port.protocol != Protocol::Tcp;
    let ports: Vec<u16> = asked.iter().filter(fits).map(|port| port.number).collect();
    if ports.is_empty() {
        return refused(format!("port {} of service {service} is opaque TCP", first.number));
    }
    Parent { reference, ports, refusal: None }
}

fn names(parent: &HttpRouteParentRefs, own_namespace: &str, service: &ServiceName) -> bool {
    is_service(parent.group.as_deref(), parent.kind.as_deref())
        && parent.name == service.name()
        && parent.namespace.as_deref().unwrap_or(own_namespace) == service.namespace()
}

/// Without `port` and `sectionName` every port is meant; with both, both must be the port's.
fn is_meant(parent: &HttpRouteParentRefs, port: &Port) -> bool {
    parent.port.is_none_or(|number| number == i32::from(port.number))
        && parent.section_name.as_deref().is_none_or(|name| !name.is_empty() && name == port.name)
}

fn describe(parent: &HttpRouteParentRefs) -> String {
    match (parent.port, parent.section_name.as_deref()) {
        (Some(port), Some(name)) => format!("{port} named {name:?}"),
        (Some(port), None) => port.to_string(),
        (None, Some(name)) => format!("named {name:?}"),
        (None, None) => "at all".to_owned(),
    }
}

/// Takes those routes off a port that may not be there beside others of their namespace: each namespace's routes are
/// one set, since sets are never merged.
fn settle(all: &mut [Attached<'_>], service: &ServiceName, port: u16) {
    let place = |attached: &Attached<'_>| (attached.kind, Age::of(&attached.route.metadata), attached.id());
    for index in 0..all.len() {
        let attached = &all[index];
        if !attached.is_on(port) {
            continue;
        }
        let rivals = all.iter().filter(|other| other.namespace == attached.namespace && other.is_on(port));
        let Some(winner) = rivals.min_by_key(|other| place(other)) else { continue };
        let both_fit = winner.kind == attached.kind && attached.kind != RouteKind::Tcp;
        if both_fit || place(winner) == place(attached) {
            continue;
        }
        let why = if winner.kind == attached.kind { "is older" } else { "goes before it" };
        let why =
            format!("port {port} of service {service} has {} {}, which {why}", winner.kind, winner.id());
        for parent in all[index].parents.iter_mut().filter(|parent| parent.ports.contains(&port)) {
            parent.ports.retain(|number| *number != port);
            parent.refusal = Some(Refusal::Conflicted(why.clone()));
        }
    }
}

/// The routes that hold on `port` for callers in `client_namespace`. All of them are of one kind.
pub(crate) fn of_port<'r, 'a>(
    attached: &'r [Attached<'a>],
    port: &Port,
    service: &ServiceName,
    client_namespace: &str,
) -> Vec<&'r Attached<'a>> {
    let on_port = |attached: &&Attached<'_>| attached.is_on(port.number);
    let consumer: Vec<_> = attached
        .iter()
        .filter(on_port)
        .filter(|attached| !attached.is_producer(service) && attached.namespace == client_namespace)
        .collect();
    if !consumer.is_empty() {
        return consumer;
    }
    attached.iter().filter(on_port).filter(|attached| attached.is_producer(service)).collect()
}

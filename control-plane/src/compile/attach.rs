//! Which routes are on which port of a service, and for whom (Gateway API, GEP-1294).
//!
//! A route in the service's own namespace is a producer route: it holds for every caller. One in another
//! namespace is a consumer route: it holds for callers of that namespace alone, and on the ports it is attached to it
//! replaces the producer routes there. `hostnames` mean nothing for a service and are ignored.

use outrigger_api::ServiceName;
use outrigger_api::v1::Protocol;

use super::port::{Facts, Port};
use crate::model::{Model, is_service};
use crate::resources::HttpRoute;
use crate::resources::httproutes::HttpRouteParentRefs;

/// One route that names a service as its parent.
#[derive(Debug, Clone)]
pub(crate) struct Attached<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) route: &'a HttpRoute,
    /// The ports it is on. None: it is not accepted.
    pub(crate) ports: Vec<u16>,
    /// Why it is on none, or on fewer than it asked for.
    pub(crate) refusal: Option<String>,
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
}

/// Every route that names `service`, attached or not, in the order of their names.
pub(crate) fn attached<'a>(model: &'a Model, service: &ServiceName, facts: &Facts) -> Vec<Attached<'a>> {
    let routes = model.routes(service);
    routes.map(|((namespace, name), route)| attach(namespace, name, route, service, facts)).collect()
}

fn attach<'a>(
    namespace: &'a str,
    name: &'a str,
    route: &'a HttpRoute,
    service: &ServiceName,
    facts: &Facts,
) -> Attached<'a> {
    let mut attached = Attached { namespace, name, route, ports: Vec::new(), refusal: None };
    if !facts.routable {
        attached.refusal = Some(format!("service {service} is headless or external and takes no routes"));
        return attached;
    }
    for parent in route.spec.parent_refs.iter().flatten().filter(|parent| names(parent, namespace, service)) {
        let asked: Vec<&Port> = facts.ports.iter().filter(|port| is_meant(parent, port)).collect();
        let http: Vec<&&Port> = asked.iter().filter(|port| port.protocol != Protocol::Tcp).collect();
        if asked.is_empty() {
            attached.refusal = Some(format!("service {service} has no port {}", describe(parent)));
        } else if http.is_empty() {
            attached.refusal = Some(format!("port {} of service {service} is opaque TCP", asked[0].number));
        }
        for port in http {
            if !attached.ports.contains(&port.number) {
                attached.ports.push(port.number);
            }
        }
    }
    attached
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

/// The routes that hold on `port` for callers in `client_namespace`.
pub(crate) fn of_port<'r, 'a>(
    attached: &'r [Attached<'a>],
    port: &Port,
    service: &ServiceName,
    client_namespace: &str,
) -> Vec<&'r Attached<'a>> {
    let on_port = |attached: &&Attached<'_>| attached.ports.contains(&port.number);
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

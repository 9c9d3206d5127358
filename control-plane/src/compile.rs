//! Documents in, configuration for one service out: what its callers in one namespace do.
//!
//! Pure: no clock, no I/O, no state, so that policy is tested here by tables. Every default is filled in, every
//! reference resolved and every list sorted in the order in which it is tried; a proxy that is sent the result
//! may assume that indices are in range, that regular expressions compile, and that a backend that is not marked
//! invalid names a service and port that exist. What cannot be honoured fails closed: a filter that is not
//! supported makes its rule's requests fail, it is never left out.
//!
//! Reading order: [`port`] (what a service has), [`attach`] (which routes are on which port, for whom),
//! [`rule`] with [`backend`], [`grant`], [`filter`], [`extension`], [`fault`], [`timing`] and [`session`] (one rule),
//! [`precedence`] (the order of all matches), [`policy`] with [`balancing`] and [`traffic_policy`] (how endpoints are
//! called), [`conditions`] (what people are told of it), [`mesh`] (settings for every proxy), [`access`] (who may call).

mod access;
mod attach;
mod backend;
mod balancing;
mod conditions;
mod extension;
mod external;
mod fault;
mod filter;
mod gateway;
mod grant;
mod jwt;
mod mesh;
mod policy;
mod port;
mod precedence;
mod rate_limit;
mod rule;
mod session;
mod timing;
mod traffic_policy;

use std::collections::{BTreeSet, HashMap};

use outrigger_api::v1::Protocol;
use outrigger_api::{ServiceName, v1};

use crate::discovery::RegisteredService;
use crate::model::{Model, RouteKind};

pub(crate) use access::mode_policy;
pub(crate) use attach::{Attached, attached};
pub(crate) use conditions::{document_status, route_statuses};
pub(crate) use external::tls_policy;
pub(crate) use gateway::{Served, gateway_status};
pub(crate) use mesh::{inbound, mesh_settings};
pub(crate) use policy::policy_of;
pub(crate) use port::{Facts, SERVER_FIRST};
pub(crate) use rule::{FilterPlaces, filter_places};
pub(crate) use traffic_policy::traffic_policy_of;

/// Everything that is compiled from: the documents, and what registrations say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) model: &'a Model,
    pub(crate) registered: &'a HashMap<ServiceName, RegisteredService>,
}

/// One service as its callers in one namespace are sent it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compiled {
    pub(crate) message: v1::Service,
    /// The services that the rules lead to, which a caller must have as well.
    pub(crate) backends: BTreeSet<ServiceName>,
    /// The services whose existence or ports this was compiled from, itself included.
    pub(crate) dependencies: BTreeSet<ServiceName>,
}

impl Compiled {
    /// Whether both say the same, from whichever revision.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.message, &other.message);
        a.name == b.name
            && a.ports == b.ports
            && a.policy == b.policy
            && a.addresses == b.addresses
            && a.external == b.external
            && a.gateway == b.gateway
    }
}

/// Compiles `service` for callers in `client_namespace`. `None`: there is no such service.
pub(crate) fn compile(world: World<'_>, service: &ServiceName, client_namespace: &str) -> Option<Compiled> {
    if let Some(gateway) = world.model.gateway(service) {
        return Some(gateway::compile(world, service, gateway));
    }
    let facts = Facts::of(world, service)?;
    let policy = policy::Effective::of(world.model, service);
    let mut compiled = Compiled {
        message: v1::Service {
            name: Some(service.into()),
            version: world.model.documents().revision,
            ports: Vec::with_capacity(facts.ports.len()),
            policy: Some(policy.backend_policy()),
            addresses: facts.addresses.iter().map(ToString::to_string).collect(),
            external: external::of(world.model, service, &facts.ports),
            gateway: None,
        },
        backends: BTreeSet::new(),
        dependencies: BTreeSet::from([service.clone()]),
    };
    let attached = attached(world.model, service, &facts);
    for port in &facts.ports {
        let routes = attach::of_port(&attached, port, service, client_namespace);
        compiled.add_port(world, port, &routes, &policy);
    }
    Some(compiled)
}

impl Compiled {
    fn add_port(
        &mut self,
        world: World<'_>,
        port: &port::Port,
        routes: &[&Attached<'_>],
        policy: &policy::Effective<'_>,
    ) {
        let mut rules = Vec::new();
        let mut ranked = Vec::new();
        for attached in routes {
            let compiled = rule::rules_of(world, attached, policy);
            self.backends.extend(compiled.backends);
            self.dependencies.extend(compiled.dependencies);
            let first = rules.len();
            for (rank, mut found) in compiled.matches {
                found.rule += first as u32; // bounded: 16 rules a route
                ranked.push((rank, found));
            }
            rules.extend(compiled.rules);
        }
        ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
        // The routes of one port are of one kind, and the kind says what else is so.
        let kind = routes.first().map(|attached| attached.kind);
        let protocol = match (port.protocol, kind) {
            (Protocol::Tcp, _) => Protocol::Tcp,
            (_, Some(RouteKind::Grpc)) => Protocol::Http2,
            (protocol, _) => protocol,
        };
        let whole_connections = rules.first().filter(|_| kind == Some(RouteKind::Tcp));
        let tcp_backends = whole_connections.map(|rule| rule.backends.clone()).unwrap_or_default();
        self.message.ports.push(v1::ServicePort {
            port: port.number.into(),
            name: port.name.clone(),
            protocol: protocol as i32,
            routed: !routes.is_empty(),
            matches: ranked.into_iter().map(|(_, found)| found).collect(),
            rules,
            tcp_backends,
        });
    }
}

#[cfg(test)]
pub(crate) mod tests;

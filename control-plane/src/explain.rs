//! What a proxy is told of a service, and which field of which document each value came from.
//!
//! The message is the one that `compile` makes and `push` sends, byte for byte: whoever reads it with the proxy's own
//! code decides as the proxy does. Where a value came from is found beside it and cannot change it: `settings` has
//! a line for each setting, which says where it may be written and where it is found in the message; `layers` are
//! the documents that may say something, the first that does wins, as in `compile`. What none of them says is the
//! default.

mod describe;
mod layers;
mod outside;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;

use outrigger_api::{ServiceName, v1};
use prost::Message;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::compile::{FilterPlaces, World, compile, filter_places, inbound, mesh_settings};
use crate::model::RouteKind;
use crate::resources::Documents;
use crate::status::EndpointStatus;
use layers::Layers;

pub use describe::words;
pub use wire::{NotAMessage, WireMessage};

/// One service as its callers in one namespace are told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompiledService {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// The namespace of the callers.
    pub client: String,
    /// The store's revision.
    pub revision: u64,
    /// What the callers' proxies are sent: `outrigger.v1.Service`.
    pub service: WireMessage,
    /// What the service's own proxies are sent: `outrigger.v1.Inbound`.
    pub inbound: WireMessage,
    /// What every proxy is sent: `outrigger.v1.MeshSettings`.
    pub mesh: WireMessage,
    /// How the service is called.
    pub settings: Vec<Setting>,
    /// What holds in the whole mesh.
    pub mesh_settings: Vec<Setting>,
    /// The rules of each port, in the order of the message.
    pub ports: Vec<PortOrigins>,
    /// Who answers for the service.
    pub endpoints: Vec<EndpointStatus>,
}

/// Where the rules of one port came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortOrigins {
    /// The port.
    pub port: u16,
    /// As many as the message has rules.
    pub rules: Vec<RuleOrigin>,
}

/// Where one rule came from, and what holds for the requests that fall under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleOrigin {
    /// The rule, `HTTPRoute shop/payments spec.rules[0]`.
    pub source: Source,
    /// The rule's name, or its index.
    pub rule: String,
    /// Counted from 0 in its route.
    pub index: usize,
    /// What is done to requests and answers, in this order.
    pub filters: Vec<FilterOrigin>,
    /// The same for those that take a backend, in the order of the backends.
    pub backends: Vec<Vec<FilterOrigin>>,
    /// Timeouts, retries, sessions, hedging, fallback and rate limits.
    pub settings: Vec<Setting>,
}

/// One filter that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterOrigin {
    /// What it does.
    pub what: String,
    /// Who says so.
    pub source: Source,
}

/// One value that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The field, as a ServicePolicy or the MeshConfig writes it below `spec`.
    pub name: String,
    /// The value.
    pub value: String,
    /// Who says so. Absent: nobody; it is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// One field of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Kind and name, `ServicePolicy shop/payments`.
    pub document: String,
    /// The field, `spec.defaults.retry.attempts`.
    pub field: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.document, self.field)
    }
}

/// Explains `service` for callers in `client`. `None`: there is no such service.
pub(crate) fn explain(
    world: World<'_>,
    service: &ServiceName,
    client: &str,
    endpoints: Vec<EndpointStatus>,
) -> Option<CompiledService> {
    let message = compile(world, service, client)?.message;
    let mesh = mesh_settings(world.model.documents());
    let layers = Layers::of(world.model, service);
    let policy = message.policy.clone().unwrap_or_default();
    let mut all = outside::settings(world.model, service, &message);
    all.extend(settings::of_policy(&policy, &layers));
    let inbound = inbound(world, service);
    if message.external.is_none() {
        // No proxy stands beside a host outside the mesh.
        all.extend(settings::of_inbound(&inbound, &layers, world.model.documents()));
    }
    let mut mesh_settings = settings::of_mesh(&mesh, &layers);
    mesh_settings.extend(settings::of_documents(world.model.documents(), &layers));
    Some(CompiledService {
        namespace: service.namespace().to_owned(),
        name: service.name().to_owned(),
        client: client.to_owned(),
        revision: message.version,
        settings: all,
        mesh_settings,
        ports: message.ports.iter().map(|port| origins(port, world, &message, &layers)).collect(),
        inbound: WireMessage(inbound.encode_to_vec()),
        mesh: WireMessage(mesh.encode_to_vec()),
        service: WireMessage(message.encode_to_vec()),
        endpoints,
    })
}

fn origins(port: &v1::ServicePort, world: World<'_>, of: &v1::Service, layers: &Layers) -> PortOrigins {
    let documents = world.model.documents();
    let service = of.name.clone().and_then(|name| ServiceName::try_from(name).ok());
    // Of the route whose rules are looked at; they stand together.
    let mut places: (&str, Vec<FilterPlaces>) = ("", Vec::new());
    let mut rules = Vec::with_capacity(port.rules.len());
    for (rule, (source, index)) in port.rules.iter().zip(rule_sources(port, documents)) {
        if places.0 != rule.route {
            places = (&rule.route, filter_places_of(world, &rule.route, service.as_ref()));
        }
        let own = places.1.get(index);
        let filters = |messages: &[v1::Filter], places: Option<&Vec<usize>>, at: &str| {
            let places = places.into_iter().flatten();
            let origin = |(message, place): (&v1::Filter, &usize)| {
                let field = format!("{}{at}.filters[{place}]", source.field);
                FilterOrigin {
                    what: describe::filter(message),
                    source: Source { document: source.document.clone(), field },
                }
            };
            messages.iter().zip(places).map(origin).collect::<Vec<_>>()
        };
        let backends = rule.backends.iter().enumerate().map(|(backend, message)| {
            let places = own.and_then(|own| own.of_backends.get(backend));
            filters(&message.filters, places, &format!(".backendRefs[{backend}]"))
        });
        let layers = layers.of_rule(world.model, rule, index);
        let mut settings = settings::of_rule(rule, of.policy.as_ref(), &layers);
        settings.extend(settings::of_rule_limits(rule, documents));
        rules.push(RuleOrigin {
            rule: rule.name.clone(),
            index,
            filters: filters(&rule.filters, own.map(|own| &own.of_rule), ""),
            backends: backends.collect(),
            settings,
            source: source.clone(),
        });
    }
    PortOrigins { port: u16::try_from(port.port).unwrap_or_default(), rules }
}

fn filter_places_of(world: World<'_>, route: &str, service: Option<&ServiceName>) -> Vec<FilterPlaces> {
    let key = layers::route_key(world.model.documents(), route);
    let route = RouteKind::of(key.kind).and_then(|kind| world.model.route(&(kind, key.namespace, key.name)));
    route.zip(service).map(|(route, service)| filter_places(world, route, service)).unwrap_or_default()
}

/// Where each rule of a compiled port is written, and its index there: a route's rules stand together in the message,
/// in the order in which the route has them.
pub(crate) fn rule_sources(port: &v1::ServicePort, documents: &Documents) -> Vec<(Source, usize)> {
    let mut sources = Vec::with_capacity(port.rules.len());
    let mut index = 0;
    for (position, rule) in port.rules.iter().enumerate() {
        let goes_on = position.checked_sub(1).is_some_and(|before| port.rules[before].route == rule.route);
        index = if goes_on { index + 1 } else { 0 };
        let document = layers::route_key(documents, &rule.route).to_string();
        sources.push((Source { document, field: format!("spec.rules[{index}]") }, index));
    }
    sources
}

/// The rules of every port of a service, with what holds for each.
pub(crate) fn rules_explained(world: World<'_>, service: &ServiceName, client: &str) -> Vec<RuleOrigin> {
    let Some(compiled) = compile(world, service, client) else { return Vec::new() };
    let layers = Layers::of(world.model, service);
    let message = &compiled.message;
    message.ports.iter().flat_map(|port| origins(port, world, message, &layers).rules).collect()
}

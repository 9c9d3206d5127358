//! Where a rule's requests go. A reference that leads nowhere stays in the list, marked with the reason: its
//! share of the requests fails, and the others keep theirs (Gateway API, GEP-1364).

use outrigger_api::ServiceName;
use outrigger_api::v1::{self, Protocol, backend::Target};

use super::filter::{self, Filters, Place};
use super::grant::{Referent, Referrer, is_granted};
use super::port::Facts;
use super::{Attached, World};
use crate::model::{RouteKind, requires_grants};
use crate::resources::httproutes::HttpRouteRulesBackendRefs;

/// Why a reference leads nowhere, as the `ResolvedRefs` condition names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unresolved {
    /// Not a Service.
    #[error("InvalidKind: {0} is not a Service")]
    Kind(String),
    /// No such service.
    #[error("BackendNotFound: service {0} does not exist")]
    Missing(String),
    /// The service has no such port.
    #[error("BackendNotFound: service {0} has no port {1}")]
    Port(ServiceName, String),
    /// The other namespace has not consented. Says nothing of what is there.
    #[error("RefNotPermitted: no ReferenceGrant in namespace {1} lets a {0} of namespace {2} refer to {3}")]
    NotPermitted(RouteKind, String, String, String),
    /// The port does not speak HTTP.
    #[error("UnsupportedProtocol: port {1} of service {0} is opaque TCP")]
    Protocol(ServiceName, u16),
    /// The port does not speak HTTP/2, which calls need.
    #[error("UnsupportedProtocol: port {1} of service {0} speaks HTTP/1 by its appProtocol, and no gRPC")]
    Calls(ServiceName, u16),
    /// An extension of a kind that is not known here.
    #[error("InvalidKind: {0} extends no rule here")]
    ExtensionKind(String),
    /// No such extension: its kind, namespace and name.
    #[error("ExtensionNotFound: {0} does not exist")]
    Extension(String),
}

impl Unresolved {
    /// The reason, in one word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Kind(_) | Self::ExtensionKind(_) => "InvalidKind",
            Self::Missing(_) | Self::Port(..) => "BackendNotFound",
            Self::NotPermitted(..) => "RefNotPermitted",
            Self::Protocol(..) | Self::Calls(..) => "UnsupportedProtocol",
            Self::Extension(_) => "ExtensionNotFound",
        }
    }
}

/// A compiled reference, the service it depends on, and why it leads nowhere.
pub(super) struct Resolved<'a> {
    pub(super) message: v1::Backend,
    pub(super) service: Option<ServiceName>,
    pub(super) problem: Option<Unresolved>,
    /// But for the messages, which the backend has.
    pub(super) filters: Filters<'a>,
}

/// Resolves one backendRef of a route. Other namespaces need no grant in a mesh (GEP-1294), unless the mesh says so.
pub(super) fn resolve<'a>(place: Place<'a>, backend: &HttpRouteRulesBackendRefs) -> Resolved<'a> {
    let weight = backend.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(0));
    let (service, target) = find(place.world, place.attached, backend);
    let (target, problem) = match target {
        Ok(target) => (Target::Service(target), None),
        Err(problem) => (Target::Invalid(problem.to_string()), Some(problem)),
    };
    let mut filters = filter::of_backend(place, backend.filters.as_deref().unwrap_or_default());
    let messages = std::mem::take(&mut filters.messages);
    let message = v1::Backend { weight, target: Some(target), filters: messages };
    Resolved { message, service, problem, filters }
}

pub(super) fn find(
    world: World<'_>,
    attached: &Attached<'_>,
    backend: &HttpRouteRulesBackendRefs,
) -> (Option<ServiceName>, Result<v1::BackendService, Unresolved>) {
    let (group, kind) =
        (backend.group.as_deref().unwrap_or(""), backend.kind.as_deref().unwrap_or("Service"));
    if !matches!(group, "" | "core") || kind != "Service" {
        let what = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
        return (None, Err(Unresolved::Kind(what)));
    }
    let namespace = backend.namespace.as_deref().unwrap_or(attached.namespace);
    let Ok(name) = ServiceName::new(namespace, &backend.name) else {
        return (None, Err(Unresolved::Missing(format!("{}.{namespace}", backend.name))));
    };
    if !is_permitted(world, attached, &name) {
        let (from, to) = (attached.namespace.to_owned(), backend.name.clone());
        let problem = Unresolved::NotPermitted(attached.kind, namespace.to_owned(), from, to);
        return (Some(name), Err(problem));
    }
    let target = find_port(world, &name, backend.port, attached.kind);
    (Some(name), target)
}

fn is_permitted(world: World<'_>, attached: &Attached<'_>, to: &ServiceName) -> bool {
    let documents = world.model.documents();
    let kind = attached.kind.kind();
    let from = Referrer { group: kind.group(), kind: kind.name(), namespace: attached.namespace };
    let to = Referent { group: "", kind: "Service", namespace: to.namespace(), name: to.name() };
    !requires_grants(documents) || is_granted(documents, from, to)
}

fn find_port(
    world: World<'_>,
    name: &ServiceName,
    port: Option<i32>,
    kind: RouteKind,
) -> Result<v1::BackendService, Unresolved> {
    let facts = Facts::of(world, name).ok_or_else(|| Unresolved::Missing(name.to_string()))?;
    let asked = port.map_or_else(|| "(none given)".to_owned(), |port| port.to_string());
    let number = port.and_then(|port| u16::try_from(port).ok());
    let found = number.and_then(|number| facts.port(number));
    let found = found.ok_or_else(|| Unresolved::Port(name.clone(), asked))?;
    if found.protocol == Protocol::Tcp && kind != RouteKind::Tcp {
        return Err(Unresolved::Protocol(name.clone(), found.number));
    }
    if found.only_http1 && kind == RouteKind::Grpc {
        return Err(Unresolved::Calls(name.clone(), found.number));
    }
    Ok(v1::BackendService { name: Some(name.into()), port: found.number.into() })
}

//! Routes of every kind in one form: the words of an HTTPRoute, and what is left to the kind.

use std::fmt;
use std::sync::Arc;

use outrigger_api::ServiceName;

use super::{gateway_service, is_gateway, is_service};
use crate::resources::grpcroutes::GrpcRouteRulesMatchesMethod;
use crate::resources::{GrpcRoute, HttpRoute, Kind, TcpRoute, as_http};

/// The kinds of routes. Where routes of several are on one port of a service, the first of these wins (GEP-1294).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RouteKind {
    /// Calls, by service and method.
    Grpc,
    /// Requests.
    Http,
    /// Whole connections.
    Tcp,
}

impl RouteKind {
    /// The kind of document that it is.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Grpc => Kind::GrpcRoute,
            Self::Http => Kind::HttpRoute,
            Self::Tcp => Kind::TcpRoute,
        }
    }

    /// The routes among the kinds of documents.
    pub(crate) fn of(kind: Kind) -> Option<Self> {
        [Self::Grpc, Self::Http, Self::Tcp].into_iter().find(|route| route.kind() == kind)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())
    }
}

/// What tells one route from every other: its kind, its namespace and its name.
pub(crate) type RouteKey = (RouteKind, String, String);

/// One route, whatever its kind.
#[derive(Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) kind: RouteKind,
    /// The route in the words of an HTTPRoute.
    pub(crate) http: Arc<HttpRoute>,
    /// A GRPCRoute as it was written: the order of its matches is found in its own words.
    grpc: Option<Arc<GrpcRoute>>,
}

impl From<&Arc<HttpRoute>> for Route {
    fn from(route: &Arc<HttpRoute>) -> Self {
        Self { kind: RouteKind::Http, http: route.clone(), grpc: None }
    }
}

impl From<&Arc<GrpcRoute>> for Route {
    fn from(route: &Arc<GrpcRoute>) -> Self {
        Self { kind: RouteKind::Grpc, http: Arc::new(as_http::of_grpc(route)), grpc: Some(route.clone()) }
    }
}

impl From<&Arc<TcpRoute>> for Route {
    fn from(route: &Arc<TcpRoute>) -> Self {
        Self { kind: RouteKind::Tcp, http: Arc::new(as_http::of_tcp(route)), grpc: None }
    }
}

impl Route {
    /// Its namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.http.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.http.metadata.name.as_deref().unwrap_or_default()
    }

    /// The services that it names as parents, gateways among them. The group of Service is written `""`; the Gateway API's own
    /// documentation also shows `core`.
    pub(super) fn parents(&self) -> impl Iterator<Item = ServiceName> {
        let parents = self.http.spec.parent_refs.iter().flatten();
        parents.filter_map(|parent| {
            let namespace = parent.namespace.as_deref().unwrap_or(self.namespace());
            let (group, kind) = (parent.group.as_deref(), parent.kind.as_deref());
            if is_service(group, kind) {
                ServiceName::new(namespace, &parent.name).ok()
            } else if is_gateway(group, kind) {
                gateway_service(namespace, &parent.name)
            } else {
                None
            }
        })
    }

    /// Whether it leads to a service in another namespace than its own, this one.
    pub(super) fn leads_into(&self, namespace: &str) -> bool {
        let rules = self.http.spec.rules.iter().flatten();
        let mut backends = rules.flat_map(|rule| rule.backend_refs.iter().flatten());
        self.namespace() != namespace
            && backends.any(|backend| backend.namespace.as_deref() == Some(namespace))
    }

    /// The calls that one match of one rule is about. `None`: of another kind, or every call.
    pub(crate) fn call(&self, rule: usize, index: usize) -> Option<&GrpcRouteRulesMatchesMethod> {
        self.grpc.as_ref()?.spec.rules.as_ref()?.get(rule)?.matches.as_ref()?.get(index)?.method.as_ref()
    }
}

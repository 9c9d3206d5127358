//! The documents that users write: reading, defaults, validation, and the typed set that the mesh runs on.
//!
//! A document goes one way: text → tree ([`parse`]) → shape checked against the kind's JSON schema → typed
//! resource → defaults → validation. Every problem found on the way is reported at once, each with the path of
//! its field and its line. What comes out is a [`Resource`]; the store keeps resources and publishes them as one
//! immutable [`Documents`].
//!
//! Without an API server this module does what the schemas and admission rules of the CRDs do in a cluster. To
//! add a kind: a variant in [`Kind`] and [`Resource`], a row in the table of `kind.rs`, an `impl Admission`
//! beside the type, and a map in [`Documents`].

mod access_policy;
pub(crate) mod as_http;
mod backend_tls_policy;
mod backend_traffic_policy;
mod depth;
mod documents;
mod duration;
mod egress;
mod fallback;
mod fault_injection;
mod gateway;
mod grpc_route;
mod http_route;
mod kind;
mod locate;
mod mesh_config;
mod metadata;
mod parse;
mod problem;
mod rate_limit_policy;
mod reference_grant;
mod schema;
mod service;
mod service_policy;
mod tcp_route;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use access_policy::{
    AccessMode, AccessPolicy, AccessPolicySpec, Action, ApiKey, ApiKeys, ClaimCondition, ClaimHeader,
    HeaderCondition, Jwks, Jwt, JwtIssuer, MESH_NAMESPACE, Operation, PathCondition, PathType,
    Rule as AccessRule, Source, TextType, TokenSource,
};
pub use documents::{ByName, Documents};
pub use duration::{Period, PeriodError};
pub use egress::{Egress, EgressMode};
pub use fallback::{Fallback, FallbackHeader, FallbackReason};
pub use fault_injection::{
    DelayRange, FaultAbort, FaultDelay, FaultHeader, FaultInjection, FaultInjectionSpec, FaultMatch,
    HeaderComparison,
};
pub use gateway_api::backendtlspolicies::BackendTlsPolicy;
pub use gateway_api::experimental::gateways::Gateway;
pub use gateway_api::experimental::grpcroutes::GrpcRoute;
pub use gateway_api::experimental::httproutes::HttpRoute;
pub use gateway_api::experimental::referencegrants::ReferenceGrant;
pub use gateway_api::experimental::tcproutes::TcpRoute;
pub use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
/// The Gateway API's types, as generated from its CRDs.
pub use gateway_api::experimental::{grpcroutes, httproutes, tcproutes, xbackendtrafficpolicies};
pub use k8s_openapi::api::core::v1::Service;
pub use kind::{Kind, Scope, UnknownKind};
pub use mesh_config::{
    Access, AccessLog, MESH_CONFIG_NAME, MeshConfig, MeshConfigSpec, Mtls, MtlsMode, PathNormalization,
    Routing, TraceFormat, Tracing,
};
pub use parse::{Format, Parsed, ParsedDocument, Rejected, parse, parse_in};
pub use problem::{DocumentProblem, Problem};
pub use rate_limit_policy::{
    RateLimit, RateLimitKey, RateLimitKeyType, RateLimitPolicy, RateLimitPolicySpec, RateLimitScope,
};
pub use service_policy::{
    AdaptiveConcurrency, CircuitBreaker, Connection, CookieConfig, CookieLifetime, Hash, HashCookie, Hedging,
    Http1, Http2, Limits, LoadBalancer, LoadBalancerType, RequestDefaults, Retry, RetryBudget, ServicePolicy,
    ServicePolicySpec, SessionPersistence, SessionType, SlowStart, SuccessRate, TargetRef, TcpKeepalive,
    Timeouts, ZonePreference,
};

pub(crate) use access_policy::Reach;
pub(crate) use egress::network;
pub(crate) use http_route::is_origin;
pub(crate) use metadata::{is_label, is_subdomain};
pub(crate) use problem::{FieldPath, Problems};
pub(crate) use schema::of as schema_of;

/// The namespace of a document that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Makes [`Resource`] of one line a kind, and each kind's type a [`Document`].
macro_rules! resources {
    ($($(#[doc = $doc:literal])+ $kind:ident($document:ident),)+) => {
        /// A document of one of the known kinds: shape checked, defaults filled in, valid.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Resource {
            $($(#[doc = $doc])+ $kind(Arc<$document>),)+
        }

        impl Resource {
            /// The kind of the document.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)+
                }
            }

            /// The document's metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(document) => &document.metadata,)+
                }
            }

            /// The same document with other metadata.
            pub(crate) fn with_metadata(&self, metadata: ObjectMeta) -> Self {
                fn replaced<D: Document>(document: &D, metadata: ObjectMeta) -> Resource {
                    let mut document = document.clone();
                    *document.metadata_mut() = metadata;
                    document.wrap()
                }
                match self {
                    $(Self::$kind(document) => replaced(document.as_ref(), metadata),)+
                }
            }

            fn document_value(&self) -> serde_json::Result<Value> {
                match self {
                    $(Self::$kind(document) => serde_json::to_value(document.as_ref()),)+
                }
            }
        }

        $(impl Document for $document {
            const KIND: Kind = Kind::$kind;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }

            fn wrap(self) -> Resource {
                Resource::$kind(self.into())
            }
        })+
    };
}

resources! {
    /// core/v1 Service.
    Service(Service),
    /// gateway.networking.k8s.io/v1 HTTPRoute.
    HttpRoute(HttpRoute),
    /// gateway.networking.k8s.io/v1 GRPCRoute.
    GrpcRoute(GrpcRoute),
    /// gateway.networking.k8s.io/v1 TCPRoute.
    TcpRoute(TcpRoute),
    /// gateway.networking.k8s.io/v1 ReferenceGrant.
    ReferenceGrant(ReferenceGrant),
    /// gateway.networking.k8s.io/v1 Gateway.
    Gateway(Gateway),
    /// gateway.networking.k8s.io/v1 BackendTLSPolicy.
    BackendTlsPolicy(BackendTlsPolicy),
    /// gateway.networking.x-k8s.io/v1alpha1 XBackendTrafficPolicy.
    BackendTrafficPolicy(XBackendTrafficPolicy),
    /// outrigger.dev/v1alpha1 ServicePolicy.
    ServicePolicy(ServicePolicy),
    /// outrigger.dev/v1alpha1 AccessPolicy.
    AccessPolicy(AccessPolicy),
    /// outrigger.dev/v1alpha1 RateLimitPolicy.
    RateLimitPolicy(RateLimitPolicy),
    /// outrigger.dev/v1alpha1 FaultInjection.
    FaultInjection(FaultInjection),
    /// outrigger.dev/v1alpha1 MeshConfig.
    MeshConfig(MeshConfig),
}

/// What an API server does to a document of a kind when it admits it; written for each kind beside its type.
pub(crate) trait Admission {
    /// Fills in what the schema of the kind defaults.
    fn fill_defaults(&mut self) {}

    /// Reports what the JSON schema cannot say. Defaults are filled in before.
    fn check(&self, problems: &mut Problems);
}

/// What every kind of document is; the table of kinds is built over it.
pub(crate) trait Document: Admission + Serialize + DeserializeOwned + Clone + 'static {
    /// The kind that this type is.
    const KIND: Kind;

    /// The document's metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// The document's metadata, to change.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// The document as one of the known kinds.
    fn wrap(self) -> Resource;
}

/// What names one document: its kind, its namespace (empty for a kind without) and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace, empty where the kind has none.
    pub namespace: String,
    /// The name within kind and namespace.
    pub name: String,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl Resource {
    /// What names the document.
    pub fn key(&self) -> ResourceKey {
        let metadata = self.metadata();
        ResourceKey {
            kind: self.kind(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// The document as JSON, in the form that `apply` takes.
    pub fn to_value(&self) -> Value {
        let value = self.document_value();
        let mut value = value.expect("a typed document has text keys only, and so is JSON");
        if let Some(object) = value.as_object_mut() {
            let kind = self.kind();
            object.insert("apiVersion".to_owned(), kind.api_version().into());
            object.insert("kind".to_owned(), kind.name().into());
            object.remove("status"); // nobody here writes one; Kubernetes keeps it apart as well
        }
        value
    }
}

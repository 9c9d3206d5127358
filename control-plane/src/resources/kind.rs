//! The table of kinds: the one place that says what a kind is called, where it lives and how it is read.

use std::fmt;
use std::str::FromStr;

use gateway_api::backendtlspolicies::{BackendTlsPolicy, BackendTlsPolicySpec};
use gateway_api::experimental::gateways::{Gateway, GatewaySpec};
use gateway_api::experimental::grpcroutes::{GrpcRoute, GrpcRouteSpec};
use gateway_api::experimental::httproutes::{HttpRoute, HttpRouteSpec};
use gateway_api::experimental::referencegrants::{ReferenceGrant, ReferenceGrantSpec};
use gateway_api::experimental::tcproutes::{TcpRoute, TcpRouteSpec};
use gateway_api::experimental::xbackendtrafficpolicies::{XBackendTrafficPolicy, XBackendTrafficPolicySpec};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::access_policy::{AccessPolicy, AccessPolicySpec};
use super::fault_injection::{FaultInjection, FaultInjectionSpec};
use super::mesh_config::{MeshConfig, MeshConfigSpec};
use super::rate_limit_policy::{RateLimitPolicy, RateLimitPolicySpec};
use super::service_policy::{ServicePolicy, ServicePolicySpec};
use super::{Document, Problems, Resource};

/// A kind of document that the control plane knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A service and its ports.
    Service,
    /// How HTTP requests for a service are routed.
    HttpRoute,
    /// How gRPC calls of a service are routed.
    GrpcRoute,
    /// How opaque connections to a service are shared out.
    TcpRoute,
    /// Which references across namespaces are allowed.
    ReferenceGrant,
    /// Where requests from outside the mesh come in.
    Gateway,
    /// How TLS to a service outside the mesh is checked.
    BackendTlsPolicy,
    /// The retry budget of a service, in the Gateway API's words.
    BackendTrafficPolicy,
    /// How a service is called.
    ServicePolicy,
    /// Who may call what.
    AccessPolicy,
    /// How often a service may be called.
    RateLimitPolicy,
    /// Delays and errors on purpose.
    FaultInjection,
    /// The settings of the whole mesh.
    MeshConfig,
}

/// Whether a kind's documents are in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Names are unique within a namespace.
    Namespaced,
    /// Names are unique in the mesh.
    Cluster,
}

/// A text that names no known kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kind known here; there are {known}", known = known())]
pub struct UnknownKind(pub String);

fn known() -> String {
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    names.join(", ")
}

/// One row of the table.
pub(crate) struct Entry {
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    group: &'static str,
    /// The first is the one that is stored and printed.
    versions: &'static [&'static str],
    scope: Scope,
    pub(crate) spec_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Turns a tree of the right shape into the typed document, with defaults, checked.
    pub(crate) read: fn(Value, &mut Problems) -> Option<Resource>,
    /// Turns what was stored into the typed document, as it is.
    pub(crate) load: fn(Value) -> Result<Resource, serde_json::Error>,
}

const TABLE: [Entry; 13] = [
    Entry {
        kind: Kind::Service,
        name: "Service",
        plural: "services",
        short: &["service", "svc"],
        group: "",
        versions: &["v1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<ServiceSpec>,
        read: read::<Service>,
        load: load::<Service>,
    },
    Entry {
        kind: Kind::HttpRoute,
        name: "HTTPRoute",
        plural: "httproutes",
        short: &["httproute"],
        group: "gateway.networking.k8s.io",
        versions: &["v1", "v1beta1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<HttpRouteSpec>,
        read: read::<HttpRoute>,
        load: load::<HttpRoute>,
    },
    Entry {
        kind: Kind::GrpcRoute,
        name: "GRPCRoute",
        plural: "grpcroutes",
        short: &["grpcroute"],
        group: "gateway.networking.k8s.io",
        versions: &["v1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<GrpcRouteSpec>,
        read: read::<GrpcRoute>,
        load: load::<GrpcRoute>,
    },
    Entry {
        kind: Kind::TcpRoute,
        name: "TCPRoute",
        plural: "tcproutes",
        short: &["tcproute"],
        group: "gateway.networking.k8s.io",
        versions: &["v1", "v1alpha2"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<TcpRouteSpec>,
        read: read::<TcpRoute>,
        load: load::<TcpRoute>,
    },
    Entry {
        kind: Kind::ReferenceGrant,
        name: "ReferenceGrant",
        plural: "referencegrants",
        short: &["referencegrant", "refgrant"],
        group: "gateway.networking.k8s.io",
        versions: &["v1", "v1beta1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<ReferenceGrantSpec>,
        read: read::<ReferenceGrant>,
        load: load::<ReferenceGrant>,
    },
    Entry {
        kind: Kind::Gateway,
        name: "Gateway",
        plural: "gateways",
        short: &["gateway", "gtw"],
        group: "gateway.networking.k8s.io",
        versions: &["v1", "v1beta1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<GatewaySpec>,
        read: read::<Gateway>,
        load: load::<Gateway>,
    },
    Entry {
        kind: Kind::BackendTlsPolicy,
        name: "BackendTLSPolicy",
        plural: "backendtlspolicies",
        short: &["backendtlspolicy", "btlspolicy"],
        group: "gateway.networking.k8s.io",
        versions: &["v1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<BackendTlsPolicySpec>,
        read: read::<BackendTlsPolicy>,
        load: load::<BackendTlsPolicy>,
    },
    Entry {
        kind: Kind::BackendTrafficPolicy,
        name: "XBackendTrafficPolicy",
        plural: "xbackendtrafficpolicies",
        short: &["xbackendtrafficpolicy", "xbtrafficpolicy"],
        group: "gateway.networking.x-k8s.io",
        versions: &["v1alpha1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<XBackendTrafficPolicySpec>,
        read: read::<XBackendTrafficPolicy>,
        load: load::<XBackendTrafficPolicy>,
    },
    Entry {
        kind: Kind::ServicePolicy,
        name: "ServicePolicy",
        plural: "servicepolicies",
        short: &["servicepolicy"],
        group: "outrigger.dev",
        versions: &["v1alpha1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<ServicePolicySpec>,
        read: read::<ServicePolicy>,
        load: load::<ServicePolicy>,
    },
    Entry {
        kind: Kind::AccessPolicy,
        name: "AccessPolicy",
        plural: "accesspolicies",
        short: &["accesspolicy"],
        group: "outrigger.dev",
        versions: &["v1alpha1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<AccessPolicySpec>,
        read: read::<AccessPolicy>,
        load: load::<AccessPolicy>,
    },
    Entry {
        kind: Kind::RateLimitPolicy,
        name: "RateLimitPolicy",
        plural: "ratelimitpolicies",
        short: &["ratelimitpolicy"],
        group: "outrigger.dev",
        versions: &["v1alpha1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<RateLimitPolicySpec>,
        read: read::<RateLimitPolicy>,
        load: load::<RateLimitPolicy>,
    },
    Entry {
        kind: Kind::FaultInjection,
        name: "FaultInjection",
        plural: "faultinjections",
        short: &["faultinjection"],
        group: "outrigger.dev",
        versions: &["v1alpha1"],
        scope: Scope::Namespaced,
        spec_schema: SchemaGenerator::subschema_for::<FaultInjectionSpec>,
        read: read::<FaultInjection>,
        load: load::<FaultInjection>,
    },
    Entry {
        kind: Kind::MeshConfig,
        name: "MeshConfig",
        plural: "meshconfigs",
        short: &["meshconfig"],
        group: "outrigger.dev",
        versions: &["v1alpha1"],
        scope: Scope::Cluster,
        spec_schema: SchemaGenerator::subschema_for::<MeshConfigSpec>,
        read: read::<MeshConfig>,
        load: load::<MeshConfig>,
    },
];

/// Whether table, list and enum agree, so that a kind is the index of its row.
const fn is_in_order() -> bool {
    let mut index = 0;
    while index < TABLE.len() {
        if TABLE[index].kind as usize != index || Kind::ALL[index] as usize != index {
            return false;
        }
        index += 1;
    }
    TABLE.len() == Kind::ALL.len()
}

fn read<D: Document>(value: Value, problems: &mut Problems) -> Option<Resource> {
    let mut document: D = problems.typed(value)?;
    document.fill_defaults();
    problems.check_metadata(D::KIND, document.metadata());
    document.check(problems);
    Some(document.wrap())
}

fn load<D: Document>(value: Value) -> Result<Resource, serde_json::Error> {
    serde_json::from_value::<D>(value).map(Document::wrap)
}

impl Kind {
    /// Every kind, in the order in which lists show them.
    pub const ALL: [Self; 13] = [
        Self::Service,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::Gateway,
        Self::BackendTlsPolicy,
        Self::BackendTrafficPolicy,
        Self::ServicePolicy,
        Self::AccessPolicy,
        Self::RateLimitPolicy,
        Self::FaultInjection,
        Self::MeshConfig,
    ];

    pub(crate) fn entry(self) -> &'static Entry {
        const { assert!(is_in_order()) };
        &TABLE[self as usize]
    }

    /// The kind as documents write it, `HTTPRoute`.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The kind as the REST API's paths write it, `httproutes`.
    pub fn plural(self) -> &'static str {
        self.entry().plural
    }

    /// The API group, empty for core.
    pub fn group(self) -> &'static str {
        self.entry().group
    }

    /// Group and version as documents write them, in the version that is stored.
    pub fn api_version(self) -> String {
        self.api_version_of(self.entry().versions[0])
    }

    /// Every group and version that is read.
    pub(crate) fn api_versions(self) -> Vec<String> {
        self.entry().versions.iter().map(|version| self.api_version_of(version)).collect()
    }

    fn api_version_of(self, version: &str) -> String {
        match self.group() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Whether documents of this kind are in namespaces.
    pub fn scope(self) -> Scope {
        self.entry().scope
    }

    /// The kind of what an `ExtensionRef` may refer to: a document of ours that can hold for one rule.
    pub(crate) fn extending(group: &str, kind: &str) -> Option<Self> {
        let known = [Self::FaultInjection, Self::RateLimitPolicy, Self::ServicePolicy];
        known.into_iter().find(|known| known.group() == group && known.name() == kind)
    }

    /// The kind with this name in a path, `httproutes`.
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}

/// Reads a kind as a person writes it: `HTTPRoute`, `httproute`, `httproutes`, `svc`.
impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let folded = text.to_ascii_lowercase();
        let matches = |kind: &Kind| kind.plural() == folded || kind.entry().short.contains(&folded.as_str());
        Self::ALL.into_iter().find(matches).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_each_of_its_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_plural(kind.plural()), Some(kind));
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.plural().parse(), Ok(kind));
        }
        assert!("Ingress".parse::<Kind>().unwrap_err().to_string().contains("HTTPRoute"));
    }
}

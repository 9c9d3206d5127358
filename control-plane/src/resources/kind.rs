//! The table of kinds: the one place that says what a kind is called, where it lives and how it is read.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::httproutes::{HttpRoute, HttpRouteSpec};
use super::mesh_config::{MeshConfig, MeshConfigSpec};
use super::service_policy::{ServicePolicy, ServicePolicySpec};
use super::{Document, Problems, Resource};

/// A kind of document that the control plane knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A service and its ports.
    Service,
    /// How HTTP requests for a service are routed.
    HttpRoute,
    /// How a service is called.
    ServicePolicy,
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

const TABLE: [Entry; 4] = [
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
    pub const ALL: [Self; 4] = [Self::Service, Self::HttpRoute, Self::ServicePolicy, Self::MeshConfig];

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
        assert!("Gateway".parse::<Kind>().unwrap_err().to_string().contains("HTTPRoute"));
    }
}

//! `FaultInjection`: delays and errors on purpose, to see what callers make of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Kind, Problems, Resource};

/// Delays and errors on purpose (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultInjection {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: FaultInjectionSpec,
}

/// What the policy says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultInjectionSpec {}

impl Document for FaultInjection {
    const KIND: Kind = Kind::FaultInjection;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn fill_defaults(&mut self) {}

    fn check(&self, _problems: &mut Problems) {}

    fn wrap(self) -> Resource {
        Resource::FaultInjection(self.into())
    }
}

//! `AccessPolicy`: who may call what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Kind, Problems, Resource};

/// Who may call what (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessPolicy {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: AccessPolicySpec,
}

/// What the policy says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicySpec {}

impl Document for AccessPolicy {
    const KIND: Kind = Kind::AccessPolicy;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn fill_defaults(&mut self) {}

    fn check(&self, _problems: &mut Problems) {}

    fn wrap(self) -> Resource {
        Resource::AccessPolicy(self.into())
    }
}

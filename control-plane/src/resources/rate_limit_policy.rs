//! `RateLimitPolicy`: how often a service may be called.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Kind, Problems, Resource};

/// How often a service may be called (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateLimitPolicy {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: RateLimitPolicySpec,
}

/// What the policy says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitPolicySpec {}

impl Document for RateLimitPolicy {
    const KIND: Kind = Kind::RateLimitPolicy;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn fill_defaults(&mut self) {}

    fn check(&self, _problems: &mut Problems) {}

    fn wrap(self) -> Resource {
        Resource::RateLimitPolicy(self.into())
    }
}

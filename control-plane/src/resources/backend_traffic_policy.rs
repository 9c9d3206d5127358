//! `XBackendTrafficPolicy`: the defaults and the rules that its CRD gives an API server.

use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Document, Kind, Problems, Resource};

impl Document for XBackendTrafficPolicy {
    const KIND: Kind = Kind::BackendTrafficPolicy;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn fill_defaults(&mut self) {
        self.status = None;
    }

    fn check(&self, _problems: &mut Problems) {}

    fn wrap(self) -> Resource {
        Resource::BackendTrafficPolicy(self.into())
    }
}

//! The set of documents at one revision: what `compile` reads, immutable and shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_api::ServiceName;

use super::{HttpRoute, Kind, MeshConfig, Resource, ResourceKey, Service, ServicePolicy};

/// Every document of the mesh at one revision of the store.
///
/// Cloning copies the maps and shares the documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    /// The store's revision: it grows with every change and never repeats.
    pub revision: u64,
    /// core/v1 Service by name.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// HTTPRoute by namespace and name.
    pub http_routes: BTreeMap<(String, String), Arc<HttpRoute>>,
    /// ServicePolicy by namespace and name.
    pub service_policies: BTreeMap<(String, String), Arc<ServicePolicy>>,
    /// The one MeshConfig, where there is one.
    pub mesh_config: Option<Arc<MeshConfig>>,
}

impl Documents {
    /// Adds or replaces one document.
    pub fn insert(&mut self, resource: Resource) {
        let key = resource.key();
        let name = (key.namespace, key.name);
        match resource {
            Resource::Service(document) => {
                if let Ok(name) = ServiceName::new(&name.0, &name.1) {
                    self.services.insert(name, document);
                }
            }
            Resource::HttpRoute(document) => {
                self.http_routes.insert(name, document);
            }
            Resource::ServicePolicy(document) => {
                self.service_policies.insert(name, document);
            }
            Resource::MeshConfig(document) => self.mesh_config = Some(document),
        }
    }

    /// Removes one document, if it is there.
    pub fn remove(&mut self, key: &ResourceKey) {
        let name = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Service => {
                if let Ok(name) = ServiceName::new(&name.0, &name.1) {
                    self.services.remove(&name);
                }
            }
            Kind::HttpRoute => {
                self.http_routes.remove(&name);
            }
            Kind::ServicePolicy => {
                self.service_policies.remove(&name);
            }
            Kind::MeshConfig => self.mesh_config = None,
        }
    }

    /// One document.
    pub fn resource(&self, key: &ResourceKey) -> Option<Resource> {
        let name = || (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Service => {
                let name = ServiceName::new(&key.namespace, &key.name).ok()?;
                self.services.get(&name).cloned().map(Resource::Service)
            }
            Kind::HttpRoute => self.http_routes.get(&name()).cloned().map(Resource::HttpRoute),
            Kind::ServicePolicy => self.service_policies.get(&name()).cloned().map(Resource::ServicePolicy),
            Kind::MeshConfig => {
                let resource = self.mesh_config.clone().map(Resource::MeshConfig)?;
                (resource.key() == *key).then_some(resource)
            }
        }
    }

    /// The documents of one kind, ordered by namespace and name; of one namespace where it is given.
    pub fn of_kind(&self, kind: Kind, namespace: Option<&str>) -> Vec<Resource> {
        let mut found: Vec<Resource> = match kind {
            Kind::Service => self.services.values().cloned().map(Resource::Service).collect(),
            Kind::HttpRoute => self.http_routes.values().cloned().map(Resource::HttpRoute).collect(),
            Kind::ServicePolicy => {
                self.service_policies.values().cloned().map(Resource::ServicePolicy).collect()
            }
            Kind::MeshConfig => self.mesh_config.iter().cloned().map(Resource::MeshConfig).collect(),
        };
        if let Some(namespace) = namespace {
            found.retain(|resource| resource.metadata().namespace.as_deref() == Some(namespace));
        }
        found
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.services.len()
            + self.http_routes.len()
            + self.service_policies.len()
            + usize::from(self.mesh_config.is_some())
    }

    /// Whether there is no document at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

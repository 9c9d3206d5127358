//! The set of documents at one revision: what `compile` reads, immutable and shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_api::ServiceName;

use super::{
    AccessPolicy, BackendTlsPolicy, FaultInjection, Gateway, GrpcRoute, HttpRoute, Kind, MeshConfig,
    RateLimitPolicy, ReferenceGrant, Resource, ResourceKey, Service, ServicePolicy, TcpRoute,
    XBackendTrafficPolicy,
};

/// Documents of one kind by namespace and name.
pub type ByName<D> = BTreeMap<(String, String), Arc<D>>;

/// Makes [`Documents`] of one line a kind. `Service` and `MeshConfig` are kept in ways of their own.
macro_rules! documents {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident($document:ident),)+) => {
        /// Every document of the mesh at one revision of the store.
        ///
        /// Cloning copies the maps and shares the documents.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Documents {
            /// The store's revision: it grows with every change and never repeats.
            pub revision: u64,
            /// core/v1 Service by name.
            pub services: BTreeMap<ServiceName, Arc<Service>>,
            $($(#[doc = $doc])+ pub $field: ByName<$document>,)+
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
                    $(Resource::$kind(document) => drop(self.$field.insert(name, document)),)+
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
                    $(Kind::$kind => drop(self.$field.remove(&name)),)+
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
                    $(Kind::$kind => self.$field.get(&name()).cloned().map(Resource::$kind),)+
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
                    $(Kind::$kind => self.$field.values().cloned().map(Resource::$kind).collect(),)+
                    Kind::MeshConfig => self.mesh_config.iter().cloned().map(Resource::MeshConfig).collect(),
                };
                if let Some(namespace) = namespace {
                    found.retain(|resource| resource.metadata().namespace.as_deref() == Some(namespace));
                }
                found
            }

            /// How many documents there are.
            pub fn len(&self) -> usize {
                let named = [$(self.$field.len(),)+].into_iter().sum::<usize>();
                self.services.len() + named + usize::from(self.mesh_config.is_some())
            }
        }
    };
}

documents! {
    /// HTTPRoute by namespace and name.
    http_routes: HttpRoute(HttpRoute),
    /// GRPCRoute by namespace and name.
    grpc_routes: GrpcRoute(GrpcRoute),
    /// TCPRoute by namespace and name.
    tcp_routes: TcpRoute(TcpRoute),
    /// ReferenceGrant by namespace and name.
    reference_grants: ReferenceGrant(ReferenceGrant),
    /// Gateway by namespace and name.
    gateways: Gateway(Gateway),
    /// BackendTLSPolicy by namespace and name.
    backend_tls_policies: BackendTlsPolicy(BackendTlsPolicy),
    /// XBackendTrafficPolicy by namespace and name.
    backend_traffic_policies: BackendTrafficPolicy(XBackendTrafficPolicy),
    /// ServicePolicy by namespace and name.
    service_policies: ServicePolicy(ServicePolicy),
    /// AccessPolicy by namespace and name.
    access_policies: AccessPolicy(AccessPolicy),
    /// RateLimitPolicy by namespace and name.
    rate_limit_policies: RateLimitPolicy(RateLimitPolicy),
    /// FaultInjection by namespace and name.
    fault_injections: FaultInjection(FaultInjection),
}

impl Documents {
    /// Whether there is no document at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

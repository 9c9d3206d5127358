//! The documents, indexed by what they are about: which routes and policies concern a service, which address is
//! whose. A new revision is compared with the one before, so that a change costs what depends on it and not the
//! size of the mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_api::ServiceName;

use crate::resources::{Documents, HttpRoute, RateLimitPolicy, Service, ServicePolicy, TargetRef};

/// Namespace and name of a document.
type Key = (String, String);

/// One revision of the documents and its indices.
#[derive(Debug, Default)]
pub(crate) struct Model {
    documents: Arc<Documents>,
    routes: HashMap<ServiceName, BTreeSet<Key>>,
    policies: HashMap<ServiceName, BTreeSet<Key>>,
    rate_limits: HashMap<ServiceName, BTreeSet<Key>>,
    addresses: HashMap<IpAddr, ServiceName>,
}

/// What a new revision is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelChange {
    /// Services whose document, routes or policies changed.
    pub(crate) services: BTreeSet<ServiceName>,
    /// Addresses that lead somewhere else now.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The settings of the mesh changed; they hold for every service.
    pub(crate) mesh: bool,
}

impl Model {
    /// Takes the place of the revision before.
    pub(crate) fn replace(&mut self, documents: Arc<Documents>) -> ModelChange {
        if Arc::ptr_eq(&self.documents, &documents) {
            return ModelChange::default();
        }
        let old = std::mem::replace(&mut self.documents, documents.clone());
        let mut change =
            ModelChange { mesh: old.mesh_config != documents.mesh_config, ..ModelChange::default() };
        for (name, before, after) in changed(&old.services, &documents.services) {
            change.services.insert(name.clone());
            let before: BTreeSet<IpAddr> =
                before.into_iter().flat_map(|service| addresses(service)).collect();
            let after: BTreeSet<IpAddr> = after.into_iter().flat_map(|service| addresses(service)).collect();
            change.addresses.extend(before.symmetric_difference(&after));
        }
        if !change.addresses.is_empty() {
            self.addresses = index_addresses(&documents);
        }
        for (key, before, after) in changed(&old.http_routes, &documents.http_routes) {
            let before = before.map(|route| parents(route)).unwrap_or_default();
            let after = after.map(|route| parents(route)).unwrap_or_default();
            reindex(&mut self.routes, key, before, after, &mut change.services);
        }
        for (key, before, after) in changed(&old.service_policies, &documents.service_policies) {
            let before = before.map(|policy| targets(policy)).unwrap_or_default();
            let after = after.map(|policy| targets(policy)).unwrap_or_default();
            reindex(&mut self.policies, key, before, after, &mut change.services);
        }
        for (key, before, after) in changed(&old.rate_limit_policies, &documents.rate_limit_policies) {
            let targets = |policy: Option<&Arc<RateLimitPolicy>>| {
                policy.map(|policy| named(&policy.metadata, &policy.spec.target_refs)).unwrap_or_default()
            };
            reindex(&mut self.rate_limits, key, targets(before), targets(after), &mut change.services);
        }
        change
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The document that declares a service.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.documents.services.get(name).map(Arc::as_ref)
    }

    /// The routes that name the service as a parent, by namespace and name.
    pub(crate) fn routes(&self, service: &ServiceName) -> impl Iterator<Item = (&Key, &HttpRoute)> {
        let keys = self.routes.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.documents.http_routes.get(key)?.as_ref())))
    }

    /// The policies that name the service as a target, by namespace and name.
    pub(crate) fn policies(&self, service: &ServiceName) -> impl Iterator<Item = (&Key, &ServicePolicy)> {
        let keys = self.policies.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.documents.service_policies.get(key)?.as_ref())))
    }

    /// The rate limits that name the service as a target, by namespace and name.
    pub(crate) fn rate_limits(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&Key, &RateLimitPolicy)> {
        let keys = self.rate_limits.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.documents.rate_limit_policies.get(key)?.as_ref())))
    }

    /// The service whose cluster address this is.
    pub(crate) fn service_at(&self, address: IpAddr) -> Option<&ServiceName> {
        self.addresses.get(&address)
    }
}

/// A key, and its value before and after.
type Difference<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// What is not the same in two maps, with both values. Documents that nobody touched are shared between
/// revisions, so that most comparisons are of two pointers.
fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> Vec<Difference<'a, K, V>> {
    let same = |a: &Arc<V>, b: &Arc<V>| Arc::ptr_eq(a, b) || a == b;
    let mut changed = Vec::new();
    for (key, after) in new {
        let before = old.get(key);
        if !before.is_some_and(|before| same(before, after)) {
            changed.push((key, before, Some(after)));
        }
    }
    let removed = old.iter().filter(|(key, _)| !new.contains_key(key));
    changed.extend(removed.map(|(key, before)| (key, Some(before), None)));
    changed
}

fn reindex(
    index: &mut HashMap<ServiceName, BTreeSet<Key>>,
    key: &Key,
    before: BTreeSet<ServiceName>,
    after: BTreeSet<ServiceName>,
    touched: &mut BTreeSet<ServiceName>,
) {
    for service in before.difference(&after) {
        if let Some(keys) = index.get_mut(service) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(service);
            }
        }
    }
    for service in after.difference(&before) {
        index.entry(service.clone()).or_default().insert(key.clone());
    }
    touched.extend(before);
    touched.extend(after);
}

/// The services that a route names as parents. The group of Service is written `""`; the Gateway API's own
/// documentation also shows `core`.
fn parents(route: &HttpRoute) -> BTreeSet<ServiceName> {
    let own = route.metadata.namespace.as_deref().unwrap_or_default();
    let parents = route.spec.parent_refs.iter().flatten();
    parents
        .filter(|parent| is_service(parent.group.as_deref(), parent.kind.as_deref()))
        .filter_map(|parent| ServiceName::new(parent.namespace.as_deref().unwrap_or(own), &parent.name).ok())
        .collect()
}

/// Whether a parentRef means a Service. Both fields must be written, for the defaults mean a Gateway.
pub(crate) fn is_service(group: Option<&str>, kind: Option<&str>) -> bool {
    matches!(group, Some("" | "core")) && kind == Some("Service")
}

fn targets(policy: &ServicePolicy) -> BTreeSet<ServiceName> {
    named(&policy.metadata, &policy.spec.target_refs)
}

/// The services that a policy names, all of them in its own namespace.
fn named(metadata: &ObjectMeta, targets: &[TargetRef]) -> BTreeSet<ServiceName> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    targets.iter().filter_map(|target| ServiceName::new(namespace, &target.name).ok()).collect()
}

/// A service's cluster addresses. A headless one (`None`) has none.
pub(crate) fn addresses(service: &Service) -> BTreeSet<IpAddr> {
    let Some(spec) = &service.spec else { return BTreeSet::new() };
    let all = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    all.filter_map(|address| address.parse().ok()).collect()
}

/// Two services that claim one address: the first by name has it, whatever the order in which they were written.
fn index_addresses(documents: &Documents) -> HashMap<IpAddr, ServiceName> {
    let mut index = HashMap::new();
    for (name, service) in &documents.services {
        for address in addresses(service) {
            index.entry(address).or_insert_with(|| name.clone());
        }
    }
    index
}

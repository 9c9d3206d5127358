//! The documents, indexed by what they are about: which routes and policies concern a service, which address is
//! whose. A new revision is compared with the one before, so that a change costs what depends on it and not the
//! size of the mesh.

mod route;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_api::{ServiceName, v1};

use crate::jwks::fetch::KeySets;
use crate::resources::{
    AccessPolicy, BackendTlsPolicy, Documents, Gateway, HttpRoute, Kind, MeshConfig, RateLimitPolicy, Reach,
    Service, ServicePolicy, TargetRef, XBackendTrafficPolicy,
};

pub(crate) use route::{Route, RouteKey, RouteKind};

/// Begins the name of the service that a gateway is to its proxy.
const GATEWAY_PREFIX: &str = "gateway--";

/// Namespace and name of a document.
type Key = (String, String);

/// One revision of the documents and its indices.
#[derive(Debug, Default)]
pub(crate) struct Model {
    documents: Arc<Documents>,
    /// Every route, in one form.
    routes: BTreeMap<RouteKey, Arc<Route>>,
    /// The routes of a service.
    attached: HashMap<ServiceName, BTreeSet<RouteKey>>,
    policies: HashMap<ServiceName, BTreeSet<Key>>,
    rate_limits: HashMap<ServiceName, BTreeSet<Key>>,
    traffic_policies: HashMap<ServiceName, BTreeSet<Key>>,
    tls_policies: HashMap<ServiceName, BTreeSet<Key>>,
    /// The routes whose rules refer to a document of ours.
    extended: HashMap<(Kind, Key), BTreeSet<RouteKey>>,
    addresses: HashMap<IpAddr, ServiceName>,
    /// By host, the services that stand for it.
    hosts: HashMap<String, BTreeSet<ServiceName>>,
    /// Of token issuers, by URL.
    keys: Arc<KeySets>,
}

/// What a new revision is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelChange {
    /// Services whose document, routes or policies changed, or what their routes refer to.
    pub(crate) services: BTreeSet<ServiceName>,
    /// Addresses that lead somewhere else now.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Hosts outside the mesh that other services stand for now.
    pub(crate) hosts: BTreeSet<String>,
    /// The settings of the mesh changed; they hold for every service.
    pub(crate) mesh: bool,
    /// Whose callers are let in by other rules.
    pub(crate) access: AccessChange,
}

/// Services to whose own proxies something changed: who may call them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AccessChange {
    mesh: bool,
    namespaces: BTreeSet<String>,
    services: BTreeSet<ServiceName>,
    /// As the services that they are to their proxies.
    pub(crate) gateways: BTreeSet<ServiceName>,
}

impl AccessChange {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it concerns the service.
    pub(crate) fn concerns(&self, service: &ServiceName) -> bool {
        self.mesh || self.namespaces.contains(service.namespace()) || self.services.contains(service)
    }

    fn note(&mut self, policy: &AccessPolicy) {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        for reach in policy.reaches() {
            match reach {
                Reach::Mesh => self.mesh = true,
                Reach::Namespace => drop(self.namespaces.insert(namespace.to_owned())),
                Reach::Service(name) => self.services.extend(ServiceName::new(namespace, name)),
                Reach::Gateway(name) => self.gateways.extend(gateway_service(namespace, name)),
            }
        }
    }
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
            self.reindex_host(
                name,
                before.and_then(|it| host(it)),
                after.and_then(|it| host(it)),
                &mut change,
            );
            let before: BTreeSet<IpAddr> =
                before.into_iter().flat_map(|service| addresses(service)).collect();
            let after: BTreeSet<IpAddr> = after.into_iter().flat_map(|service| addresses(service)).collect();
            change.addresses.extend(before.symmetric_difference(&after));
        }
        if !change.addresses.is_empty() {
            self.addresses = index_addresses(&documents);
        }
        for (key, _, _) in changed(&old.gateways, &documents.gateways) {
            change.services.extend(gateway_service(&key.0, &key.1));
        }
        if !changed(&old.reference_grants, &documents.reference_grants).is_empty() {
            let gateways = documents.gateways.keys();
            change.services.extend(gateways.filter_map(|(namespace, name)| gateway_service(namespace, name)));
        }
        self.take_routes(RouteKind::Grpc, &old.grpc_routes, &documents.grpc_routes, &mut change);
        self.take_routes(RouteKind::Http, &old.http_routes, &documents.http_routes, &mut change);
        self.take_routes(RouteKind::Tcp, &old.tcp_routes, &documents.tcp_routes, &mut change);
        if requires_grants(&documents) {
            for ((namespace, _), ..) in changed(&old.reference_grants, &documents.reference_grants) {
                let concerned = self.routes.values().filter(|route| route.leads_into(namespace));
                change.services.extend(concerned.flat_map(|route| route.parents()));
            }
        }
        for (key, before, after) in changed(&old.service_policies, &documents.service_policies) {
            let before = before.map(|policy| targets(policy)).unwrap_or_default();
            let after = after.map(|policy| targets(policy)).unwrap_or_default();
            reindex(&mut self.policies, key, before, after, &mut change.services);
            change.services.extend(self.extended_by(Kind::ServicePolicy, key));
        }
        for (key, ..) in changed(&old.fault_injections, &documents.fault_injections) {
            change.services.extend(self.extended_by(Kind::FaultInjection, key));
        }
        for (key, before, after) in changed(&old.rate_limit_policies, &documents.rate_limit_policies) {
            let targets = |policy: Option<&Arc<RateLimitPolicy>>| {
                policy.map(|policy| named(&policy.metadata, &policy.spec.target_refs)).unwrap_or_default()
            };
            reindex(&mut self.rate_limits, key, targets(before), targets(after), &mut change.services);
            change.services.extend(self.extended_by(Kind::RateLimitPolicy, key));
        }
        for (key, before, after) in
            changed(&old.backend_traffic_policies, &documents.backend_traffic_policies)
        {
            let before = before.map(|policy| traffic_targets(policy)).unwrap_or_default();
            let after = after.map(|policy| traffic_targets(policy)).unwrap_or_default();
            reindex(&mut self.traffic_policies, key, before, after, &mut change.services);
        }
        for (key, before, after) in changed(&old.backend_tls_policies, &documents.backend_tls_policies) {
            let before = before.map(|policy| tls_targets(policy)).unwrap_or_default();
            let after = after.map(|policy| tls_targets(policy)).unwrap_or_default();
            reindex(&mut self.tls_policies, key, before, after, &mut change.services);
        }
        for (_, before, after) in changed(&old.access_policies, &documents.access_policies) {
            before.into_iter().chain(after).for_each(|policy| change.access.note(policy));
        }
        change.services.extend(change.access.gateways.iter().cloned());
        let access = |mesh: &Option<Arc<MeshConfig>>| mesh.as_ref().and_then(|mesh| mesh.spec.access.clone());
        change.access.mesh |= access(&old.mesh_config) != access(&documents.mesh_config);
        change
    }

    /// Takes over the routes of one kind, in the form that is compiled.
    fn take_routes<D: PartialEq>(
        &mut self,
        kind: RouteKind,
        old: &BTreeMap<Key, Arc<D>>,
        new: &BTreeMap<Key, Arc<D>>,
        change: &mut ModelChange,
    ) where
        for<'a> Route: From<&'a Arc<D>>,
    {
        for ((namespace, name), _, after) in changed(old, new) {
            let key = (kind, namespace.clone(), name.clone());
            let after = after.map(|document| Arc::new(Route::from(document)));
            let before = match &after {
                Some(route) => self.routes.insert(key.clone(), route.clone()),
                None => self.routes.remove(&key),
            };
            let [from, to] = [&before, &after]
                .map(|route| route.as_ref().map(|route| extensions(&route.http)).unwrap_or_default());
            update(&mut self.extended, &key, &from, &to);
            let parents =
                |route: Option<Arc<Route>>| route.iter().flat_map(|route| route.parents()).collect();
            reindex(&mut self.attached, &key, parents(before), parents(after), &mut change.services);
        }
    }

    fn reindex_host(
        &mut self,
        service: &ServiceName,
        before: Option<String>,
        after: Option<String>,
        change: &mut ModelChange,
    ) {
        if before == after {
            return;
        }
        if let Some(host) = before {
            if let Some(services) = self.hosts.get_mut(&host) {
                services.remove(service);
                if services.is_empty() {
                    self.hosts.remove(&host);
                }
            }
            change.hosts.insert(host);
        }
        if let Some(host) = after {
            self.hosts.entry(host.clone()).or_default().insert(service.clone());
            change.hosts.insert(host);
        }
    }

    /// The services with a route that refers to this document.
    fn extended_by(&self, kind: Kind, key: &Key) -> BTreeSet<ServiceName> {
        let routes = self.extended.get(&(kind, key.clone())).into_iter().flatten();
        routes.filter_map(|key| self.routes.get(key)).flat_map(|route| route.parents()).collect()
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The document that declares a service.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.documents.services.get(name).map(Arc::as_ref)
    }

    /// The gateway that `service` stands for.
    pub(crate) fn gateway(&self, service: &ServiceName) -> Option<&Gateway> {
        let name = gateway_name(service)?;
        let key = (service.namespace().to_owned(), name.to_owned());
        self.documents.gateways.get(&key).map(Arc::as_ref)
    }

    /// The routes that name the service as a parent, by kind, namespace and name.
    pub(crate) fn routes(&self, service: &ServiceName) -> impl Iterator<Item = &Route> {
        let keys = self.attached.get(service).into_iter().flatten();
        keys.filter_map(|key| self.routes.get(key).map(Arc::as_ref))
    }

    /// One route.
    pub(crate) fn route(&self, key: &RouteKey) -> Option<&Route> {
        self.routes.get(key).map(Arc::as_ref)
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

    /// The policies of the Gateway API that name the service as a target, by namespace and name.
    pub(crate) fn traffic_policies(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&Key, &XBackendTrafficPolicy)> {
        let keys = self.traffic_policies.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.documents.backend_traffic_policies.get(key)?.as_ref())))
    }

    /// Takes in what was fetched. Returns whom it concerns.
    pub(crate) fn replace_keys(&mut self, keys: Arc<KeySets>) -> AccessChange {
        let old = std::mem::replace(&mut self.keys, keys);
        let mut change = AccessChange::default();
        let is_new = |url: &String| old.get(url) != self.keys.get(url);
        for policy in self.documents.access_policies.values() {
            let issuers = policy.spec.jwt.iter().flat_map(|jwt| &jwt.issuers);
            if issuers.filter_map(|issuer| issuer.jwks.url.as_ref()).any(is_new) {
                change.note(policy);
            }
        }
        change
    }

    /// The keys that were fetched from there.
    pub(crate) fn keys(&self, url: &str) -> &[v1::JwtKey] {
        self.keys.get(url).map_or(&[], |keys| keys)
    }

    /// The access policies of a namespace, by name.
    pub(crate) fn access_policies(&self, namespace: &str) -> impl Iterator<Item = &AccessPolicy> {
        let from = (namespace.to_owned(), String::new());
        let policies = self.documents.access_policies.range(from..);
        let own = policies.take_while(move |((of, _), _)| *of == namespace);
        own.map(|(_, policy)| policy.as_ref())
    }

    /// The policies for TLS towards the service, by namespace and name.
    pub(crate) fn tls_policies(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&Key, &BackendTlsPolicy)> {
        let keys = self.tls_policies.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.documents.backend_tls_policies.get(key)?.as_ref())))
    }

    /// The service that stands for a host outside the mesh, for callers in `namespace`: one of their own if there is
    /// one, else the first by name.
    pub(crate) fn service_for_host(&self, host: &str, namespace: &str) -> Option<&ServiceName> {
        let services = self.hosts.get(host)?;
        services.iter().find(|service| service.namespace() == namespace).or_else(|| services.first())
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

fn reindex<K: Ord + Clone>(
    index: &mut HashMap<ServiceName, BTreeSet<K>>,
    key: &K,
    before: BTreeSet<ServiceName>,
    after: BTreeSet<ServiceName>,
    touched: &mut BTreeSet<ServiceName>,
) {
    update(index, key, &before, &after);
    touched.extend(before);
    touched.extend(after);
}

/// Notes that `key` is no longer about what it was about `before`, but about `after`.
fn update<About: Clone + Ord + Hash, K: Clone + Ord>(
    index: &mut HashMap<About, BTreeSet<K>>,
    key: &K,
    before: &BTreeSet<About>,
    after: &BTreeSet<About>,
) {
    for about in before.difference(after) {
        if let Some(keys) = index.get_mut(about) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(about);
            }
        }
    }
    for about in after.difference(before) {
        index.entry(about.clone()).or_default().insert(key.clone());
    }
}

/// The documents that the rules of a route refer to, whether they are there or not.
fn extensions(route: &HttpRoute) -> BTreeSet<(Kind, Key)> {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let find = |group: &str, kind: &str, name: &str| {
        Some((Kind::extending(group, kind)?, (namespace.to_owned(), name.to_owned())))
    };
    let mut found = BTreeSet::new();
    for rule in route.spec.rules.iter().flatten() {
        let filters = rule.filters.iter().flatten().filter_map(|filter| filter.extension_ref.as_ref());
        found.extend(filters.filter_map(|to| find(&to.group, &to.kind, &to.name)));
        let filters = rule.backend_refs.iter().flatten().flat_map(|backend| backend.filters.iter().flatten());
        let filters = filters.filter_map(|filter| filter.extension_ref.as_ref());
        found.extend(filters.filter_map(|to| find(&to.group, &to.kind, &to.name)));
    }
    found
}

/// The service that a gateway is to its proxy.
pub(crate) fn gateway_service(namespace: &str, name: &str) -> Option<ServiceName> {
    ServiceName::new(namespace, &format!("{GATEWAY_PREFIX}{name}")).ok()
}

/// The name of the gateway that a service would stand for.
pub(crate) fn gateway_name(service: &ServiceName) -> Option<&str> {
    service.name().strip_prefix(GATEWAY_PREFIX)
}

/// Whether a parentRef means a Gateway, which it does where it says nothing.
pub(crate) fn is_gateway(group: Option<&str>, kind: Option<&str>) -> bool {
    matches!(group, None | Some("gateway.networking.k8s.io")) && matches!(kind, None | Some("Gateway"))
}

/// Whether a parentRef means a Service. Both fields must be written, for the defaults mean a Gateway.
pub(crate) fn is_service(group: Option<&str>, kind: Option<&str>) -> bool {
    matches!(group, Some("" | "core")) && kind == Some("Service")
}

fn targets(policy: &ServicePolicy) -> BTreeSet<ServiceName> {
    named(&policy.metadata, &policy.spec.target_refs)
}

/// The services that a policy names, all of them in its own namespace; a gateway is one, too.
fn named(metadata: &ObjectMeta, targets: &[TargetRef]) -> BTreeSet<ServiceName> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let service = |target: &TargetRef| match target.is_gateway() {
        true => gateway_service(namespace, &target.name),
        false => ServiceName::new(namespace, &target.name).ok(),
    };
    targets.iter().filter_map(service).collect()
}

fn traffic_targets(policy: &XBackendTrafficPolicy) -> BTreeSet<ServiceName> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let targets = policy.spec.target_refs.iter();
    targets
        .filter(|target| is_service(Some(&target.group), Some(&target.kind)))
        .filter_map(|target| ServiceName::new(namespace, &target.name).ok())
        .collect()
}

/// Whether a reference into another namespace needs that namespace's consent. In a mesh it does not (GEP-1294), unless
/// somebody wants it so.
pub(crate) fn requires_grants(documents: &Documents) -> bool {
    let routing = documents.mesh_config.as_ref().and_then(|mesh| mesh.spec.routing.as_ref());
    routing.and_then(|routing| routing.require_reference_grants).unwrap_or(false)
}

fn tls_targets(policy: &BackendTlsPolicy) -> BTreeSet<ServiceName> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let targets = policy.spec.target_refs.iter();
    targets.filter_map(|target| ServiceName::new(namespace, &target.name).ok()).collect()
}

/// The host outside the mesh that a service stands for, as it is compared: in lower case, without a final dot.
pub(crate) fn host(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() == Some("ExternalName"))?;
    let host = spec.external_name.as_deref()?;
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
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

//! Services as they were compiled last, by who calls them. Compiled when somebody first asks, and again only when
//! something that the result was made from changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use outrigger_api::ServiceName;

use crate::compile::{Compiled, World, compile};

/// A service, and the namespace of its callers where that has routes of its own for it. All other namespaces
/// share one result.
type Key = (ServiceName, Option<Arc<str>>);

/// The results. Bounded by what is subscribed to: [`Cache::forget`] is called when nobody is left.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    compiled: HashMap<Key, Arc<Compiled>>,
    dependents: HashMap<ServiceName, HashSet<Key>>,
}

impl Cache {
    /// The service as callers in `client_namespace` are sent it. The same pointer as long as it says the same.
    pub(crate) fn get(
        &mut self,
        world: World<'_>,
        service: &ServiceName,
        client_namespace: &str,
    ) -> Option<Arc<Compiled>> {
        let key = key(world, service, client_namespace);
        if let Some(compiled) = self.compiled.get(&key) {
            return Some(compiled.clone());
        }
        let compiled = Arc::new(compile_for(world, &key)?);
        self.store(key, compiled.clone());
        Some(compiled)
    }

    /// Compiles again what was made from any of `changed`. Returns the services whose result is another now.
    pub(crate) fn refresh(
        &mut self,
        world: World<'_>,
        changed: &BTreeSet<ServiceName>,
    ) -> BTreeSet<ServiceName> {
        let stale = changed.iter().filter_map(|service| self.dependents.get(service)).flatten().cloned();
        let stale: HashSet<Key> = stale.collect();
        self.compile_again(world, stale)
    }

    /// Compiles everything again.
    pub(crate) fn refresh_all(&mut self, world: World<'_>) -> BTreeSet<ServiceName> {
        let stale = self.compiled.keys().cloned().collect();
        self.compile_again(world, stale)
    }

    fn compile_again(&mut self, world: World<'_>, stale: HashSet<Key>) -> BTreeSet<ServiceName> {
        let mut different = BTreeSet::new();
        for key in stale {
            let new = compile_for(world, &key);
            let old = self.compiled.get(&key);
            if let (Some(old), Some(new)) = (old, &new)
                && old.says_the_same_as(new)
            {
                continue;
            }
            different.insert(key.0.clone());
            self.discard(&key);
            if let Some(new) = new {
                self.store(key, Arc::new(new));
            }
        }
        different
    }

    /// Nobody uses the service any more.
    pub(crate) fn forget(&mut self, service: &ServiceName) {
        let keys: Vec<Key> = self.dependents.get(service).into_iter().flatten().cloned().collect();
        for key in keys.into_iter().filter(|key| key.0 == *service) {
            self.discard(&key);
        }
    }

    fn store(&mut self, key: Key, compiled: Arc<Compiled>) {
        for dependency in &compiled.dependencies {
            self.dependents.entry(dependency.clone()).or_default().insert(key.clone());
        }
        self.compiled.insert(key, compiled);
    }

    fn discard(&mut self, key: &Key) {
        let Some(compiled) = self.compiled.remove(key) else { return };
        for dependency in &compiled.dependencies {
            if let Some(keys) = self.dependents.get_mut(dependency) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
    }
}

fn key(world: World<'_>, service: &ServiceName, client_namespace: &str) -> Key {
    let is_consumers = |namespace: &str| namespace == client_namespace && namespace != service.namespace();
    let has_own = world.model.routes(service).any(|route| is_consumers(route.namespace()));
    (service.clone(), has_own.then(|| client_namespace.into()))
}

fn compile_for(world: World<'_>, (service, client_namespace): &Key) -> Option<Compiled> {
    compile(world, service, client_namespace.as_deref().unwrap_or(service.namespace()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::documents;
    use crate::model::Model;

    const DOCUMENTS: &str = "
kind: Service
metadata: {name: a, namespace: shop}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: b, namespace: shop}
spec: {ports: [{port: 80}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: later, port: 80}]}]}
";

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn a_change_compiles_what_depends_on_it_and_nothing_else() {
        let (mut model, mut cache, registered) = (Model::default(), Cache::default(), HashMap::new());
        model.replace(Arc::new(documents(DOCUMENTS)));
        let world = World { model: &model, registered: &registered };
        let [a, b] = ["a.shop", "b.shop"].map(|service| cache.get(world, &name(service), "shop").unwrap());

        let later = format!(
            "{DOCUMENTS}---\nkind: Service\nmetadata: {{name: later, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
        );
        let change = model.replace(Arc::new(documents(&later)));
        let world = World { model: &model, registered: &registered };
        assert_eq!(
            cache.refresh(world, &change.services),
            BTreeSet::from([name("a.shop")]),
            "its backend is there now"
        );
        assert!(!Arc::ptr_eq(&a, &cache.get(world, &name("a.shop"), "shop").unwrap()));
        assert!(Arc::ptr_eq(&b, &cache.get(world, &name("b.shop"), "shop").unwrap()));

        assert_eq!(cache.refresh_all(world), BTreeSet::new(), "compiled again, and the same");
        assert!(Arc::ptr_eq(&b, &cache.get(world, &name("b.shop"), "shop").unwrap()));
    }

    #[test]
    fn namespaces_without_routes_of_their_own_share_one_result() {
        let consumer = "---
kind: HTTPRoute
metadata: {name: mine, namespace: other}
spec: {parentRefs: [{group: '', kind: Service, name: b, namespace: shop}], rules: [{}]}
";
        let (mut model, mut cache, registered) = (Model::default(), Cache::default(), HashMap::new());
        model.replace(Arc::new(documents(&format!("{DOCUMENTS}{consumer}"))));
        let world = World { model: &model, registered: &registered };
        let [shop, web, other] =
            ["shop", "web", "other"].map(|client| cache.get(world, &name("b.shop"), client).unwrap());
        assert!(Arc::ptr_eq(&shop, &web));
        assert!(!shop.message.ports[0].routed && other.message.ports[0].routed);
        cache.forget(&name("b.shop"));
        assert!(cache.compiled.is_empty() && cache.dependents.is_empty(), "{cache:?}");
    }
}

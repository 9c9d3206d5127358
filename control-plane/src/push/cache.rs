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
    let has_own = world.model.routes(service).any(|((namespace, _), _)| is_consumers(namespace));
    (service.clone(), has_own.then(|| client_namespace.into()))
}

fn compile_for(world: World<'_>, (service, client_namespace): &Key) -> Option<Compiled> {
    compile(world, service, client_namespace.as_deref().unwrap_or(service.namespace()))
}

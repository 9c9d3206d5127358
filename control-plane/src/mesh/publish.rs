//! From what changed to what is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::ServiceName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Mesh, State};
use crate::compile::{World, mesh_settings};
use crate::discovery::Changes;
use crate::jwks::fetch::KeySets;
use crate::resources::Documents;

/// Updates are at least this far apart: a change on its own is told at once, and of a burst all that came since.
const COALESCE: Duration = Duration::from_millis(10);
/// The wait before registrations that could not be written are tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Departed instances are looked for this often at least.
const TIDY_EVERY: Duration = Duration::from_secs(60);

impl Mesh {
    /// Tells the proxies of every change, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut documents = self.documents.clone();
        let mut bundles = self.certificates.bundles();
        let mut keys = self.keys.subscribe();
        let mut unwritten = false;
        let mut told = Instant::now();
        let mut tidy = Instant::now() + TIDY_EVERY;
        loop {
            let again = if unwritten { Instant::now() + RETRY_AFTER } else { tidy };
            let due = {
                let state = self.state();
                state.registry.next_deadline().into_iter().chain(state.leases.next())
            };
            let deadline = due.fold(again.min(tidy), Instant::min);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                Ok(()) = documents.changed() => {}
                Ok(()) = bundles.changed() => {}
                Ok(()) = keys.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            tokio::time::sleep_until(told + COALESCE).await;
            told = Instant::now();
            let newest = documents.borrow_and_update().clone();
            let bundle = bundles.borrow_and_update().clone();
            unwritten = !self.publish(newest).await;
            self.state().take_bundle(bundle);
            let keys = keys.borrow_and_update().clone();
            self.state().take_keys(keys);
            let now = Instant::now();
            self.state().settle_leases(now);
            if now >= tidy {
                self.state().tidy(now);
                tidy = now + TIDY_EVERY;
            }
        }
    }

    /// Returns whether everything that is told is on disk as well.
    async fn publish(&self, documents: Arc<Documents>) -> bool {
        let mut changes = {
            let mut state = self.state();
            state.registry.expire(Instant::now());
            state.registry.take_changes()
        };
        let mut written = true;
        if !changes.rows.is_empty() {
            let journal = self.journal.clone();
            let rows = std::mem::take(&mut changes.rows);
            let work = tokio::task::spawn_blocking(move || (journal.write(&rows), rows));
            if let Ok((Err(error), rows)) = work.await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "registrations are told although a restart would forget them");
                self.state().registry.not_written(rows.into_keys());
                written = false;
            }
        }
        self.state().take_changes(changes, documents);
        written
    }
}

impl State {
    /// Lets go of who is gone for good.
    fn tidy(&mut self, now: Instant) {
        self.proxies.forget_lost(now);
        self.traffic.retire(now);
        let proxies = &self.proxies;
        self.leases.retain(|limit, proxy| proxies.enforces(proxy, limit), now);
    }

    /// Tells proxies of their parts of the limits of the whole mesh.
    fn settle_leases(&mut self, now: Instant) {
        for (proxy, limit, lease) in self.leases.settle(now) {
            self.proxies.lease(&proxy, limit, lease);
        }
    }

    fn take_bundle(&mut self, bundle: Arc<outrigger_api::v1::TrustBundle>) {
        if !Arc::ptr_eq(&self.bundle, &bundle) {
            self.bundle = bundle;
            self.proxies.wake_all();
        }
    }

    fn take_keys(&mut self, keys: Arc<KeySets>) {
        let change = self.model.replace_keys(keys);
        self.proxies.mark_own(|service| change.concerns(service));
        let world = World { model: &self.model, registered: &self.published };
        for gateway in self.cache.refresh(world, &change.gateways) {
            self.proxies.mark(&gateway);
        }
    }

    /// Makes changes visible and wakes whoever uses what changed.
    fn take_changes(&mut self, changes: Changes, documents: Arc<Documents>) {
        // Whatever changed of a service concerns those who use it; what others were compiled from is only its
        // existence and its ports.
        let mut touched: BTreeSet<ServiceName> = BTreeSet::new();
        let mut facts: BTreeSet<ServiceName> = BTreeSet::new();
        for (name, service) in changes.services {
            let ports = service.as_ref().map(|service| service.ports.clone());
            let before = match service {
                Some(service) => self.published.insert(name.clone(), service),
                None => self.published.remove(&name),
            };
            if before.map(|before| before.ports) != ports {
                facts.insert(name.clone());
            }
            touched.insert(name);
        }
        let change = self.model.replace(documents);
        facts.extend(change.services);
        let world = World { model: &self.model, registered: &self.published };
        let different =
            if change.mesh { self.cache.refresh_all(world) } else { self.cache.refresh(world, &facts) };
        if change.mesh {
            self.settings = Arc::new(mesh_settings(self.model.documents()));
            self.proxies.wake_all();
        }
        touched.extend(facts);
        touched.extend(different);
        for service in &touched {
            self.proxies.mark(service);
        }
        if !change.access.is_empty() {
            self.proxies.mark_own(|service| change.access.concerns(service));
        }
        if !change.addresses.is_empty() {
            self.proxies.mark_addresses(&change.addresses);
        }
        if !change.hosts.is_empty() {
            self.proxies.mark_hosts(&change.hosts);
        }
    }
}

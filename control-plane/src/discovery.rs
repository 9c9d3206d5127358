//! Who answers for which service: the registrations of the proxies, each kept for as long as its stream lives
//! and a grace beyond, so that a torn connection is not an outage.
//!
//! ```text
//!            register                     stream lost
//!   (absent) ────────► connected ───────────────────────► lost ──grace──► (absent)
//!                          ▲  └─ goodbye, replaced ─► (absent)  │
//!                          └──────────── register ──────────────┘
//! ```
//!
//! What was registered is kept on disk by the [`journal`] before any proxy hears of it. A control plane that
//! starts again therefore begins with the whole set, every entry lost since the start: nobody is ever sent a
//! smaller set because of a restart. An unhealthy instance stays in the set, marked.
//!
//! [`Registry`] decides and does no I/O; it takes `now`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::{ServiceName, v1};
use outrigger_certs::SpiffeId;
use tokio::time::Instant;

pub(crate) mod journal;
mod registration;

pub(crate) use registration::{ProxyId, Registration, RegistrationError};

/// Registrations in the mesh at most.
const MAX_REGISTRATIONS: usize = 65_536;
/// Registrations of one identity at most: what one leaked credential can add.
const MAX_PER_IDENTITY: usize = 4_096;
/// How long a service that no document declares is known after its last instance left, so that its callers
/// are told that nobody answers rather than that there is no such service.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Services remembered at most; above it, those that emptied first are forgotten.
const MAX_REMEMBERED: usize = 1_024;

/// The endpoints of one service at one moment, shared by all who are sent it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct EndpointSet {
    /// Counts the changes to this service's set since the control plane started.
    pub(crate) version: u64,
    /// By id.
    pub(crate) all: BTreeMap<ProxyId, Arc<v1::Endpoint>>,
}

impl EndpointSet {
    /// What has to be said to a proxy that has `old`.
    pub(crate) fn since(&self, old: &Self) -> (Vec<v1::Endpoint>, Vec<String>) {
        let unchanged = |id: &ProxyId, new: &Arc<v1::Endpoint>| {
            old.all.get(id).is_some_and(|old| Arc::ptr_eq(old, new) || old == new)
        };
        let changed = self.all.iter().filter(|(id, new)| !unchanged(id, new));
        let changed = changed.map(|(_, new)| v1::Endpoint::clone(new)).collect();
        let removed = old.all.keys().filter(|id| !self.all.contains_key(id));
        (changed, removed.map(|id| id.as_str().to_owned()).collect())
    }
}

/// What registrations say of a service's ports: number to [`v1::Protocol`] number.
pub(crate) type RegisteredPorts = BTreeMap<u16, i32>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Connected,
    Lost { until: Instant },
}

#[derive(Debug)]
struct Entry {
    registration: Registration,
    endpoint: Arc<v1::Endpoint>,
    presence: Presence,
}

/// A service that was registered: what remains known of it while nobody answers.
#[derive(Debug, Default)]
struct Known {
    version: u64,
    ports: Arc<RegisteredPorts>,
    instances: BTreeSet<ProxyId>,
    emptied: Option<Instant>,
}

/// What changed since the last [`Registry::take_changes`].
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// To be written down; `None`: to be removed.
    pub(crate) rows: BTreeMap<ProxyId, Option<Registration>>,
    /// The new sets, `None` where nothing is known of the service any more.
    pub(crate) services: BTreeMap<ServiceName, Option<RegisteredService>>,
}

/// One service by registration.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RegisteredService {
    pub(crate) endpoints: Arc<EndpointSet>,
    pub(crate) ports: Arc<RegisteredPorts>,
}

/// The registrations. See the module's documentation for the states of one.
#[derive(Debug)]
pub(crate) struct Registry {
    grace: Duration,
    entries: HashMap<ProxyId, Entry>,
    services: HashMap<ServiceName, Known>,
    by_identity: HashMap<SpiffeId, BTreeSet<ProxyId>>,
    /// Ends of grace and of remembrance, soonest first.
    lost: BTreeSet<(Instant, ProxyId)>,
    emptied: BTreeSet<(Instant, ServiceName)>,
    changed_rows: BTreeSet<ProxyId>,
    changed_services: BTreeSet<ServiceName>,
}

impl Registry {
    /// Starts with what was written down before: lost since `now`, to be confirmed within `restart_grace`.
    pub(crate) fn new(
        grace: Duration,
        restart_grace: Duration,
        before: Vec<(ProxyId, Registration)>,
        now: Instant,
    ) -> Self {
        let mut registry = Self {
            grace,
            entries: HashMap::new(),
            services: HashMap::new(),
            by_identity: HashMap::new(),
            lost: BTreeSet::new(),
            emptied: BTreeSet::new(),
            changed_rows: BTreeSet::new(),
            changed_services: BTreeSet::new(),
        };
        for (id, registration) in before {
            registry.insert(id, registration, Presence::Lost { until: now + restart_grace });
        }
        registry.changed_rows.clear(); // they are on disk
        registry
    }

    /// Enters a workload, or confirms one whose stream was lost. An older instance of the same identity at the
    /// same address is gone, for only one process can listen there.
    ///
    /// # Errors
    /// The tables are full.
    pub(crate) fn register(
        &mut self,
        id: &ProxyId,
        registration: Registration,
        now: Instant,
    ) -> Result<(), RegistrationError> {
        let siblings = self.by_identity.get(&registration.identity);
        if !self.entries.contains_key(id) {
            if siblings.is_some_and(|siblings| siblings.len() >= MAX_PER_IDENTITY) {
                return Err(RegistrationError::IdentityFull(MAX_PER_IDENTITY));
            }
            if self.entries.len() >= MAX_REGISTRATIONS {
                return Err(RegistrationError::Full(MAX_REGISTRATIONS));
            }
        }
        let address = registration.address;
        let is_same_place = |other: &ProxyId| {
            self.entries.get(other).is_some_and(|entry| entry.registration.address == address)
        };
        let replaced: Vec<ProxyId> = siblings
            .into_iter()
            .flatten()
            .filter(|other| *other != id && is_same_place(other))
            .cloned()
            .collect();
        let moved = |entry: &Entry| entry.registration.service != registration.service;
        if self.entries.get(id).is_some_and(moved) {
            self.remove(id, now);
        }
        self.insert(id.clone(), registration, Presence::Connected);
        for other in replaced {
            self.remove(&other, now);
        }
        Ok(())
    }

    /// Notes that the workload's application turned healthy or unhealthy.
    pub(crate) fn set_healthy(&mut self, id: &ProxyId, healthy: bool) {
        let Some(entry) = self.entries.get(id) else { return };
        let (registration, presence) =
            (Registration { healthy, ..entry.registration.clone() }, entry.presence);
        self.insert(id.clone(), registration, presence);
    }

    /// Notes that the stream ended without a goodbye: the grace begins.
    pub(crate) fn lost(&mut self, id: &ProxyId, now: Instant) {
        let presence = Presence::Lost { until: now + self.grace };
        self.set_presence(id, presence);
    }

    /// Takes the workload out at once.
    pub(crate) fn goodbye(&mut self, id: &ProxyId, now: Instant) {
        self.remove(id, now);
    }

    /// Takes out every workload whose grace is over, and forgets services that nobody answered for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((until, id)) = self.lost.first().cloned() {
            if until > now {
                break;
            }
            self.remove(&id, now);
        }
        while let Some((since, service)) = self.emptied.first().cloned() {
            if self.emptied.len() <= MAX_REMEMBERED && now < since + REMEMBERED {
                break;
            }
            self.emptied.remove(&(since, service.clone()));
            self.services.remove(&service);
            self.changed_services.insert(service);
        }
    }

    /// When [`Self::expire`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let lost = self.lost.first().map(|(until, _)| *until);
        let forgotten = self.emptied.first().map(|(since, _)| *since + REMEMBERED);
        lost.into_iter().chain(forgotten).min()
    }

    /// Whether the proxy's stream is open.
    pub(crate) fn is_connected(&self, id: &ProxyId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.presence == Presence::Connected)
    }

    /// What is to be written down and then told.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for id in std::mem::take(&mut self.changed_rows) {
            let row = self.entries.get(&id).map(|entry| entry.registration.clone());
            changes.rows.insert(id, row);
        }
        for service in std::mem::take(&mut self.changed_services) {
            let state = self.service(&service);
            changes.services.insert(service, state);
        }
        changes
    }

    /// Rows of [`Self::take_changes`] that are to be tried again.
    pub(crate) fn not_written(&mut self, rows: impl IntoIterator<Item = ProxyId>) {
        self.changed_rows.extend(rows);
    }

    /// The state of a service after a change to it.
    fn service(&mut self, service: &ServiceName) -> Option<RegisteredService> {
        let known = self.services.get_mut(service)?;
        known.version += 1;
        let mut all = BTreeMap::new();
        let mut ports = RegisteredPorts::new();
        for (id, entry) in known.instances.iter().filter_map(|id| Some((id, self.entries.get(id)?))) {
            all.insert(id.clone(), entry.endpoint.clone());
            for (port, protocol) in &entry.registration.ports {
                let agreed = ports.entry(*port).or_insert(*protocol);
                // Instances that disagree leave it to detection.
                if agreed != protocol {
                    *agreed = v1::Protocol::Unspecified as i32;
                }
            }
        }
        if !all.is_empty() && *known.ports != ports {
            known.ports = Arc::new(ports);
        }
        let endpoints = Arc::new(EndpointSet { version: known.version, all });
        Some(RegisteredService { endpoints, ports: known.ports.clone() })
    }

    fn insert(&mut self, id: ProxyId, registration: Registration, presence: Presence) {
        if self.entries.get(&id).is_some_and(|entry| entry.registration == registration) {
            return self.set_presence(&id, presence);
        }
        let service = registration.service.clone();
        let known = self.services.entry(service.clone()).or_default();
        known.instances.insert(id.clone());
        if let Some(since) = known.emptied.take() {
            self.emptied.remove(&(since, service.clone()));
        }
        self.by_identity.entry(registration.identity.clone()).or_default().insert(id.clone());
        let endpoint = Arc::new(registration.endpoint(&id));
        let before =
            self.entries.insert(id.clone(), Entry { registration, endpoint, presence: Presence::Connected });
        if let Some(Presence::Lost { until }) = before.map(|entry| entry.presence) {
            self.lost.remove(&(until, id.clone()));
        }
        self.set_presence(&id, presence);
        self.changed_rows.insert(id);
        self.changed_services.insert(service);
    }

    fn set_presence(&mut self, id: &ProxyId, presence: Presence) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Presence::Lost { until } = entry.presence {
            self.lost.remove(&(until, id.clone()));
        }
        entry.presence = presence;
        if let Presence::Lost { until } = presence {
            self.lost.insert((until, id.clone()));
        }
    }

    fn remove(&mut self, id: &ProxyId, now: Instant) {
        let Some(entry) = self.entries.remove(id) else { return };
        if let Presence::Lost { until } = entry.presence {
            self.lost.remove(&(until, id.clone()));
        }
        let Registration { service, identity, ports, .. } = entry.registration;
        if let Some(siblings) = self.by_identity.get_mut(&identity) {
            siblings.remove(id);
            if siblings.is_empty() {
                self.by_identity.remove(&identity);
            }
        }
        if let Some(known) = self.services.get_mut(&service) {
            known.instances.remove(id);
            if known.instances.is_empty() {
                known.emptied = Some(now);
                // What the last one served stays known.
                if *known.ports != ports {
                    known.ports = Arc::new(ports);
                }
                self.emptied.insert((now, service.clone()));
            }
        }
        self.changed_rows.insert(id.clone());
        self.changed_services.insert(service);
    }
}

#[cfg(test)]
mod tests;

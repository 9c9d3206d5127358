//! What the control plane has said so far, and the snapshot that follows from it.
//!
//! Updates go in one by one, in their order; a [`Snapshot`] comes out that shares everything unchanged with the
//! one before. Nothing here waits, connects or reads a clock, and a refused update leaves no trace, so that the
//! rules of what may be shown when can be read and tested in one place:
//!
//! - a service is shown once its policy, its endpoints and everything its rules name have arrived;
//! - what is shown stays until its successor may be shown, or until nothing needs it any more;
//! - every service in the table is one that this proxy has subscribed to, so that nothing in it goes stale.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_api::v1::control_message::Update;
use outrigger_api::{ServiceName, v1};

use super::compiled::Compiled;
use super::endpoint_set::{self, Change};
use super::ledger::Ledger;
use super::refused::Refused;
use super::visible::{self, Candidate};
use crate::policy;
use crate::rate_limit::State;
use crate::snapshot::{Endpoints, HostServices, Inbound, MeshSettings, Service, Snapshot};

/// Services that one proxy follows, most of them backends of others.
pub(super) const MAX_SERVICES: usize = 10_000;
/// Names that were asked for and are not there, or not yet. A caller can invent as many as it likes.
pub(super) const MAX_EMPTY: usize = 1024;

/// Hosts, by port, that may be followed although no document lists them.
pub(super) const MAX_UNLISTED: usize = 1024;

/// Everything that was said and is still good.
#[derive(Debug, Default)]
pub(super) struct Model {
    mesh: Arc<MeshSettings>,
    raw_mesh: Option<v1::MeshSettings>,
    inbound: Arc<Inbound>,
    raw_inbound: Option<v1::Inbound>,
    services: HashMap<ServiceName, Entry>,
    /// The buckets of all rate limits.
    ledger: Ledger,
    /// Of the workload: of two services for one host its own counts.
    namespace: Arc<str>,
    /// What hosts outside the mesh were last resolved to.
    resolved: HashMap<Arc<str>, Arc<[IpAddr]>>,
    /// Names given to hosts that no document lists.
    named: u64,
    /// Other hosts are needed than at the last call of [`Model::take_hosts`].
    hosts_changed: bool,
    /// Names to subscribe to, in the order in which the need was seen.
    subscribe: Vec<ServiceName>,
    /// Something was said that was not known, since the last [`Model::settle`].
    changed: bool,
    /// What [`Model::messages`] gives is not what it was. Names that are not there do not count: callers can
    /// invent them faster than a disk can write.
    worth_keeping: bool,
}

/// One name that this proxy has subscribed to.
#[derive(Debug, Default)]
struct Entry {
    /// The newest policy that could be read.
    newest: Option<Arc<Compiled>>,
    endpoints: Option<Arc<Endpoints>>,
    /// The same of a service outside the mesh, as its host was resolved; the control plane knows of none.
    outside: Option<Arc<Endpoints>>,
    /// No document made it, and the control plane does not know it.
    unlisted: bool,
    /// The endpoints are the stream's own: a change may build on them.
    in_step: bool,
    /// What workers see, with the policy that it was made of.
    shown: Option<(Arc<Compiled>, Arc<Service>)>,
    /// The control plane says that there is no such service.
    missing: bool,
    /// The newest policy waits for a backend since then.
    held: Option<Held>,
    /// Shared by all versions of the service; seconds since the proxy started.
    last_used: Arc<AtomicU64>,
}

/// A policy that may not be shown yet.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// The update that brought it.
    nonce: u64,
    /// When, in seconds since the proxy started.
    since: u64,
    /// The control plane has been told.
    reported: bool,
}

impl Entry {
    fn new(second: u64) -> Self {
        Self { last_used: Arc::new(AtomicU64::new(second)), ..Self::default() }
    }

    /// Nothing is known of it but perhaps that it is not there.
    fn empty(&self) -> bool {
        self.newest.is_none() && self.shown.is_none()
    }

    /// The endpoints that go with a policy.
    fn endpoints_of(&self, compiled: &Compiled) -> Option<&Arc<Endpoints>> {
        if compiled.external.is_some() { self.outside.as_ref() } else { self.endpoints.as_ref() }
    }

    fn host(&self) -> Option<&Arc<str>> {
        Some(&self.newest.as_ref()?.external.as_ref()?.host)
    }

    /// Takes in what the host was resolved to, `None`: it has not been yet. Returns whether that changes anything.
    fn resolve(&mut self, addresses: Option<&[IpAddr]>) -> bool {
        let Some(external) = self.newest.as_ref().and_then(|newest| newest.external.clone()) else {
            return false;
        };
        let next = addresses.map(|addresses| {
            let changed = external.endpoints(addresses);
            let change = Change { version: 0, whole: true, changed, removed: Vec::new() };
            endpoint_set::changed(self.outside.as_deref(), change)
        });
        let same = match (&self.outside, &next) {
            (Some(before), Some(next)) => endpoint_set::same(before, next),
            (before, next) => before.is_none() && next.is_none(),
        };
        if !same {
            self.outside = next.map(Arc::new);
        }
        !same
    }

    fn backends(&self) -> impl Iterator<Item = &ServiceName> {
        let shown = self.shown.iter().flat_map(|(compiled, _)| &compiled.backends);
        self.newest.iter().flat_map(|compiled| &compiled.backends).chain(shown)
    }

    /// The service as workers see it, made anew only if policy or endpoints changed.
    fn show(&mut self, compiled: Arc<Compiled>, name: &ServiceName) {
        let Some(endpoints) = self.endpoints_of(&compiled).cloned() else { return };
        if let Some((known, service)) = &self.shown
            && Arc::ptr_eq(known, &compiled)
            && Arc::ptr_eq(&service.endpoints, &endpoints)
        {
            return;
        }
        let service = Service {
            name: name.clone(),
            version: compiled.raw.version,
            ports: compiled.ports.clone(),
            policy: compiled.policy.clone(),
            endpoints,
            external: compiled.external.clone(),
            gateway: compiled.gateway.clone(),
            last_used: self.last_used.clone(),
        };
        self.shown = Some((compiled, Arc::new(service)));
    }
}

/// What is known of a name that a worker asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The control plane is or will be asked.
    Waiting,
    /// The tables are full of names that were used more recently.
    Full,
}

impl Model {
    /// Of a proxy whose workload is in `namespace`.
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..Self::default() }
    }

    /// Whether the settings that hold for every service have arrived.
    pub(super) fn has_settings(&self) -> bool {
        self.raw_mesh.is_some()
    }

    /// How many services this proxy follows.
    pub(super) fn len(&self) -> usize {
        self.services.len()
    }

    /// A worker wants `name`: it is to be subscribed to, if it is not.
    pub(super) fn ask(&mut self, name: &ServiceName, second: u64) -> Asked {
        if let Some(entry) = self.services.get(name) {
            entry.last_used.fetch_max(second, Ordering::Relaxed);
            return Asked::Waiting;
        }
        let empty = self.services.values().filter(|entry| entry.empty()).count();
        if empty >= MAX_EMPTY || self.services.len() >= MAX_SERVICES {
            return Asked::Full;
        }
        self.follow(name, second);
        Asked::Waiting
    }

    /// Forgets the missing name that was asked for longest ago, to make room for another. Returns it, to be
    /// unsubscribed from.
    pub(super) fn evict_missing(&mut self) -> Option<ServiceName> {
        let needed: HashSet<&ServiceName> = self.services.values().flat_map(Entry::backends).collect();
        let missing =
            self.services.iter().filter(|(name, e)| e.missing && e.empty() && !needed.contains(name));
        let (oldest, _) = missing.min_by_key(|(_, entry)| entry.last_used.load(Ordering::Relaxed))?;
        let oldest = oldest.clone();
        self.forget(&oldest);
        Some(oldest)
    }

    /// Whether `host` may be called although no document lists it.
    pub(super) fn allows(&self, host: &str) -> bool {
        !self.mesh.egress.listed_only || host.parse().is_ok_and(|address| self.mesh.egress.allows(address))
    }

    /// Whether a host that no document lists can only be meant for the mesh: `NAME.NAMESPACE`, of a namespace from which
    /// the proxy knows a service. No name server need be asked for what is most likely misspelt.
    pub(super) fn is_inside(&self, host: &str) -> bool {
        let is_known = |(name, entry): (&ServiceName, &Entry)| {
            let rest = host.strip_suffix(name.namespace()).and_then(|rest| rest.strip_suffix('.'));
            entry.newest.is_some() && !entry.unlisted && rest.is_some_and(|rest| !rest.contains('.'))
        };
        self.services.iter().any(is_known)
    }

    /// A worker wants a host that no document lists, and may have it.
    pub(super) fn open(&mut self, host: &Arc<str>, port: u16, second: u64) -> Asked {
        let is_it = |entry: &&Entry| {
            let ports = entry.newest.iter().flat_map(|newest| &newest.ports);
            entry.unlisted && entry.host() == Some(host) && ports.into_iter().any(|known| known.port == port)
        };
        if let Some(entry) = self.services.values().find(is_it) {
            entry.last_used.fetch_max(second, Ordering::Relaxed);
            return Asked::Waiting;
        }
        let Some(compiled) = Compiled::unlisted(host.clone(), port) else { return Asked::Full };
        if self.services.values().filter(|entry| entry.unlisted).count() >= MAX_UNLISTED {
            let unlisted = self.services.iter().filter(|(_, entry)| entry.unlisted);
            let oldest = unlisted.min_by_key(|(_, entry)| entry.last_used.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.forget(&oldest);
            }
        }
        self.named += 1;
        let name = ServiceName::new("outrigger", &format!("external-{}", self.named));
        let Ok(name) = name else { return Asked::Full };
        let mut entry = Entry { unlisted: true, newest: Some(Arc::new(compiled)), ..Entry::new(second) };
        entry.resolve(self.resolved.get(host).map(AsRef::as_ref));
        self.services.insert(name, entry);
        self.changed = true;
        self.hosts_changed = true;
        Asked::Waiting
    }

    /// Takes in what a host was resolved to. `None`: nothing, so that what it was before stays.
    pub(super) fn resolved(&mut self, host: &Arc<str>, addresses: Option<Vec<IpAddr>>) {
        if addresses.is_none() && self.resolved.contains_key(host) {
            return;
        }
        let addresses: Arc<[IpAddr]> = addresses.unwrap_or_default().into();
        self.resolved.insert(host.clone(), addresses.clone());
        for entry in self.services.values_mut().filter(|entry| entry.host() == Some(host)) {
            self.changed |= entry.resolve(Some(&addresses));
        }
    }

    /// The hosts that are to be resolved, if they are others than at the last call.
    pub(super) fn take_hosts(&mut self) -> Option<HashSet<Arc<str>>> {
        if !std::mem::take(&mut self.hosts_changed) {
            return None;
        }
        let hosts: HashSet<Arc<str>> = self.services.values().filter_map(Entry::host).cloned().collect();
        self.resolved.retain(|host, _| hosts.contains(host));
        Some(hosts)
    }

    /// Hosts that are called although no document lists them.
    pub(super) fn unlisted_hosts(&self) -> HashSet<Arc<str>> {
        let unlisted = self.services.values().filter(|entry| entry.unlisted);
        unlisted.filter_map(Entry::host).cloned().collect()
    }

    /// Forgets hosts that may not be called any more.
    fn close_unlisted(&mut self) {
        let closed = self
            .services
            .iter()
            .filter(|(_, entry)| entry.unlisted && !entry.host().is_some_and(|host| self.allows(host)));
        for name in closed.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.forget(&name);
        }
    }

    fn follow(&mut self, name: &ServiceName, second: u64) -> &mut Entry {
        if !self.services.contains_key(name) {
            self.subscribe.push(name.clone());
        }
        self.services.entry(name.clone()).or_insert_with(|| Entry::new(second))
    }

    fn forget(&mut self, name: &ServiceName) {
        self.changed = true;
        let entry = self.services.remove(name);
        self.hosts_changed |= entry.as_ref().is_some_and(|entry| entry.host().is_some());
        self.worth_keeping |= entry.is_some_and(|entry| !entry.empty() && !entry.unlisted);
        self.subscribe.retain(|waiting| waiting != name);
    }

    /// What must be subscribed to since the last call.
    pub(super) fn take_subscriptions(&mut self) -> Vec<ServiceName> {
        std::mem::take(&mut self.subscribe)
    }

    /// A stream begins: returns everything to subscribe to. What is known stays in use, and the first word on
    /// each service's endpoints must be the whole set.
    pub(super) fn begin_stream(&mut self) -> Vec<ServiceName> {
        self.subscribe.clear();
        for entry in self.services.values_mut() {
            entry.in_step = false;
            // Nonces count within one stream.
            entry.held = entry.held.map(|held| Held { reported: true, ..held });
        }
        let listed = self.services.iter().filter(|(_, entry)| !entry.unlisted);
        listed.map(|(name, _)| name.clone()).collect()
    }

    /// Takes one update in. A bundle and a lease are not the model's and are ignored here.
    ///
    /// # Errors
    /// An update that cannot be applied changes nothing.
    pub(super) fn apply(&mut self, nonce: u64, update: Update, second: u64) -> Result<(), Refused> {
        match update {
            Update::Mesh(raw) => {
                if self.raw_mesh.as_ref() != Some(&raw) {
                    self.mesh = Arc::new(policy::mesh(&raw)?);
                    self.raw_mesh = Some(raw);
                    self.close_unlisted();
                    self.note_change();
                }
                Ok(())
            }
            Update::Inbound(raw) => {
                if self.raw_inbound.as_ref() != Some(&raw) {
                    let mut inbound = policy::inbound(&raw)?;
                    self.ledger.adopt_inbound(&mut inbound);
                    self.inbound = Arc::new(inbound);
                    self.raw_inbound = Some(raw);
                    self.note_change();
                }
                Ok(())
            }
            Update::Service(raw) => self.apply_service(nonce, *raw, second),
            Update::Endpoints(raw) => self.apply_endpoints(raw, second),
            Update::NotFound(raw) => self.apply_not_found(raw),
            Update::Bundle(_) | Update::RateLease(_) => Ok(()),
        }
    }

    fn apply_service(&mut self, nonce: u64, raw: v1::Service, second: u64) -> Result<(), Refused> {
        let name = read_name("service.name", raw.name.clone())?;
        let known = self.services.get(&name);
        let newest = known.and_then(|entry| entry.newest.clone());
        if let (Some(entry), Some(newest)) = (known, &newest)
            && newest.raw == raw
            && !entry.missing
        {
            return Ok(()); // a reconnect repeats what is in use
        }
        let mut compiled = Compiled::read(raw, newest.as_deref())?;
        self.ledger.adopt_ports(&mut compiled.ports);
        self.ledger.adopt_gateway(&mut compiled.gateway);
        let compiled = Arc::new(compiled);
        let unknown: Vec<_> =
            compiled.backends.iter().filter(|b| !self.services.contains_key(*b)).cloned().collect();
        if self.services.len() + unknown.len() + usize::from(known.is_none()) > MAX_SERVICES {
            return Err(Refused::TooMany { service: name, limit: MAX_SERVICES });
        }
        for backend in &unknown {
            self.follow(backend, second);
        }
        let addresses = compiled.external.as_ref().and_then(|it| self.resolved.get(&it.host)).cloned();
        self.hosts_changed |= compiled.external.is_some() || newest.is_some_and(|it| it.external.is_some());
        let entry = self.follow(&name, second);
        entry.newest = Some(compiled);
        entry.resolve(addresses.as_deref());
        entry.missing = false;
        entry.held = Some(Held { nonce, since: second, reported: false });
        self.note_change();
        Ok(())
    }

    fn apply_endpoints(&mut self, raw: v1::Endpoints, second: u64) -> Result<(), Refused> {
        let name = read_name("endpoints.service", raw.service.clone())?;
        let known = self.services.get(&name);
        if !raw.full && !known.is_some_and(|entry| entry.in_step) {
            return Err(Refused::OutOfStep { service: name });
        }
        if known.is_none() && self.services.len() >= MAX_SERVICES {
            return Err(Refused::TooMany { service: name, limit: MAX_SERVICES });
        }
        let whole = raw.full;
        let changed = match policy::endpoints(&raw) {
            Ok(changed) => changed,
            Err(error) => {
                // What the refused change would have removed is still here: ask for the whole set again.
                if !whole {
                    self.subscribe.push(name);
                }
                return Err(error.into());
            }
        };
        let entry = self.follow(&name, second);
        let change = Change { version: raw.version, whole, changed, removed: raw.removed };
        let next = endpoint_set::changed(entry.endpoints.as_deref(), change);
        entry.in_step = true;
        if !entry.endpoints.as_deref().is_some_and(|before| endpoint_set::same(before, &next)) {
            entry.endpoints = Some(Arc::new(next));
            self.note_change();
        }
        Ok(())
    }

    fn note_change(&mut self) {
        self.changed = true;
        self.worth_keeping = true;
    }

    fn apply_not_found(&mut self, raw: v1::NotFound) -> Result<(), Refused> {
        use v1::destination::Destination;
        let Some(Destination::Service(name)) = raw.destination.and_then(|d| d.destination) else {
            return Ok(()); // an address is answered where it was asked for
        };
        let name = read_name("notFound.destination.service", Some(name))?;
        if let Some(entry) = self.services.get_mut(&name) {
            self.worth_keeping |= !entry.empty();
            self.hosts_changed |= entry.host().is_some();
            entry.missing = true;
            entry.newest = None;
            entry.held = None;
            entry.in_step = false;
            self.changed = true;
        }
        Ok(())
    }

    /// Shows what may now be shown. False: there is nothing new to show.
    pub(super) fn settle(&mut self) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        let ready: Vec<ServiceName> = {
            let candidates = self.services.iter().map(|(name, entry)| (name, entry.candidate())).collect();
            visible::ready(&candidates).into_iter().cloned().collect()
        };
        for name in ready {
            let Some(entry) = self.services.get_mut(&name) else { continue };
            if let Some(newest) = entry.newest.clone() {
                entry.show(newest, &name);
                entry.held = None;
            }
        }
        // An older policy whose successor waits still gets its endpoints.
        for (name, entry) in &mut self.services {
            if let Some((compiled, _)) = &entry.shown {
                entry.show(compiled.clone(), name);
            }
        }
        self.hide_missing();
        true
    }

    /// A service that is gone stays for the routes that still lead to it: the update that leads them elsewhere
    /// may be right behind.
    fn hide_missing(&mut self) {
        let alive = self.services.iter().filter(|(_, entry)| !entry.missing && entry.shown.is_some());
        let needed = visible::reachable(alive.map(|(name, _)| name.clone()), |name| {
            let shown = self.services.get(name).and_then(|entry| entry.shown.as_ref());
            shown.map_or_else(Vec::new, |(compiled, _)| compiled.backends.clone())
        });
        for (name, entry) in &mut self.services {
            if entry.missing && !needed.contains(name) {
                entry.shown = None;
                entry.endpoints = None;
                entry.outside = None;
            }
        }
    }

    /// What workers are to see now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let shown = || self.services.iter().filter_map(|(name, entry)| Some((name, entry.shown.as_ref()?)));
        let addresses =
            shown().flat_map(|(name, (compiled, _))| compiled.addresses.iter().map(|ip| (*ip, name.clone())));
        let missing = self.services.iter().filter(|(_, entry)| entry.missing && entry.shown.is_none());
        Snapshot {
            mesh: self.mesh.clone(),
            services: shown().map(|(name, (_, service))| (name.clone(), service.clone())).collect(),
            missing: missing.map(|(name, _)| (name.clone(), ())).collect(),
            addresses: addresses.collect::<HashMap<IpAddr, _>>(),
            hosts: self.hosts(),
            inbound: self.inbound.clone(),
        }
    }

    fn hosts(&self) -> HashMap<Arc<str>, HostServices> {
        let mut hosts: HashMap<Arc<str>, HostServices> = HashMap::new();
        let shown = self.services.iter().filter_map(|(name, entry)| Some((name, entry.shown.as_ref()?)));
        for (name, (compiled, _)) in shown {
            let Some(external) = &compiled.external else { continue };
            let known = hosts.entry(external.host.clone()).or_default();
            if !external.listed {
                known.unlisted.extend(external.ports.iter().map(|port| (port.port, name.clone())));
                continue;
            }
            let rank = |name: &ServiceName| (*name.namespace() != *self.namespace, name.clone());
            if known.listed.as_ref().is_none_or(|other| rank(name) < rank(other)) {
                known.listed = Some(name.clone());
            }
        }
        hosts
    }

    /// The oldest update of this stream that waits for a backend and has not been reported.
    pub(super) fn oldest_held(&self) -> Option<u64> {
        self.unreported().map(|(_, held)| held.nonce).min()
    }

    fn unreported(&self) -> impl Iterator<Item = (&ServiceName, Held)> {
        self.services
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.held?)))
            .filter(|(_, held)| !held.reported)
    }

    /// Updates that have waited for `patience` seconds, each returned once, with what they wait for.
    pub(super) fn overdue(&mut self, second: u64, patience: u64) -> Vec<(u64, Refused)> {
        let late: Vec<_> = self
            .unreported()
            .filter(|(_, held)| held.since + patience <= second)
            .map(|(name, held)| (name.clone(), held.nonce))
            .collect();
        late.into_iter()
            .map(|(service, nonce)| {
                let waits_for = self.lacking(&service);
                if let Some(held) = self.services.get_mut(&service).and_then(|entry| entry.held.as_mut()) {
                    held.reported = true;
                }
                (nonce, Refused::Held { service, waits_for })
            })
            .collect()
    }

    fn lacking(&self, name: &ServiceName) -> String {
        let Some(entry) = self.services.get(name) else { return String::new() };
        if entry.newest.as_ref().is_some_and(|newest| entry.endpoints_of(newest).is_none()) {
            return "its own endpoints".to_owned();
        }
        let lacks = |b: &&ServiceName| self.services.get(*b).is_none_or(|e| e.shown.is_none() && !e.missing);
        let names: Vec<String> = entry.backends().filter(lacks).map(ToString::to_string).collect();
        names.join(", ")
    }

    /// Forgets what nobody used for `idle` seconds, unless a used service leads to it. Returns the names to
    /// unsubscribe from.
    pub(super) fn sweep(&mut self, second: u64, idle: u64) -> Vec<ServiceName> {
        let used = self.services.iter().filter(|(_, e)| e.last_used.load(Ordering::Relaxed) + idle > second);
        let kept = visible::reachable(used.map(|(name, _)| name.clone()), |name| {
            self.services.get(name).map_or_else(Vec::new, |entry| entry.backends().cloned().collect())
        });
        let idle: Vec<ServiceName> =
            self.services.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        let known = |name: &ServiceName| self.services.get(name).is_some_and(|entry| !entry.unlisted);
        let told: Vec<ServiceName> = idle.iter().filter(|name| known(name)).cloned().collect();
        for name in &idle {
            self.forget(name);
        }
        told
    }

    /// The limits of the whole mesh that are in force here.
    pub(super) fn limits_of_mesh(&self) -> Vec<(Arc<str>, Arc<State>)> {
        self.ledger.of_mesh()
    }

    /// Whether the last good policy is another than at the last call.
    pub(super) fn take_worth_keeping(&mut self) -> bool {
        std::mem::take(&mut self.worth_keeping)
    }

    /// The last good policy as messages, for the state directory.
    pub(super) fn messages(&self) -> Vec<v1::ControlMessage> {
        let mesh = self.raw_mesh.iter().cloned().map(Update::Mesh);
        let inbound = self.raw_inbound.iter().cloned().map(Update::Inbound);
        let kept = self.services.values().filter(|entry| !entry.missing && !entry.unlisted);
        let services = kept.filter_map(|entry| entry.shown.as_ref()).flat_map(|(compiled, service)| {
            // A host outside is resolved anew.
            let endpoints = service.external.is_none().then(|| Update::Endpoints(raw_endpoints(service)));
            [Some(Update::Service(Box::new(compiled.raw.clone()))), endpoints].into_iter().flatten()
        });
        // A backend that is known to be missing holds back nobody, in the next life neither.
        let backends: HashSet<&ServiceName> = self.services.values().flat_map(Entry::backends).collect();
        let missing = self.services.iter().filter(|(name, entry)| entry.missing && backends.contains(name));
        let missing = missing.map(|(name, _)| Update::NotFound(raw_not_found(name)));
        mesh.chain(inbound)
            .chain(services)
            .chain(missing)
            .map(|update| v1::ControlMessage { nonce: 0, update: Some(update) })
            .collect()
    }

    /// Takes in what [`Self::messages`] gave in an earlier life. A message that cannot be used any more is
    /// skipped and returned.
    pub(super) fn restore(&mut self, messages: Vec<v1::ControlMessage>) -> Vec<Refused> {
        let updates = messages.into_iter().filter_map(|message| message.update);
        let refused = updates.filter_map(|update| self.apply(0, update, 0).err()).collect();
        // What is still missing then was missing when it was kept, and nobody waits to hear of it.
        for entry in self.services.values_mut() {
            entry.held = entry.held.map(|held| Held { reported: true, ..held });
        }
        refused
    }
}

impl Entry {
    fn candidate(&self) -> Candidate<'_, ServiceName> {
        Candidate {
            complete: self.newest.as_ref().is_some_and(|newest| self.endpoints_of(newest).is_some()),
            settled: self.shown.is_some() || self.missing,
            backends: self.newest.as_ref().map_or(&[], |compiled| &compiled.backends),
        }
    }
}

fn read_name(field: &'static str, name: Option<v1::ServiceName>) -> Result<ServiceName, Refused> {
    let name = name.ok_or(Refused::Absent { field })?;
    ServiceName::try_from(name).map_err(|source| Refused::Name { field, source })
}

fn raw_not_found(name: &ServiceName) -> v1::NotFound {
    let destination = Some(v1::destination::Destination::Service(name.into()));
    v1::NotFound { destination: Some(v1::Destination { destination }) }
}

fn raw_endpoints(service: &Service) -> v1::Endpoints {
    let endpoint = |e: &Arc<crate::snapshot::Endpoint>| v1::Endpoint {
        id: e.id.to_string(),
        address: e.address.to_string(),
        identity: e.identity.to_string(),
        zone: e.zone.to_string(),
        healthy: e.healthy,
        ports: e.ports.iter().copied().map(u32::from).collect(),
    };
    v1::Endpoints {
        service: Some((&service.name).into()),
        version: service.endpoints.version,
        full: true,
        changed: service.endpoints.all.iter().map(endpoint).collect(),
        removed: Vec::new(),
    }
}

#[cfg(test)]
mod tests;

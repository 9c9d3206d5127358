//! What one proxy has, and what it has to be told next.
//!
//! There is no queue of messages that a slow proxy could make long: only the names of what changed are kept, and
//! a message is made from the newest state at the moment when the stream has room for it. Ten changes to one service
//! while a proxy was busy are one message.
//!
//! Besides what a proxy subscribes to it is sent what the routes of that lead to, however far, and always before
//! the route that leads there. What no route leads to any more is forgotten on both sides.
//!
//! Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_api::v1::control_message::Update;
use outrigger_api::v1::destination::Destination as Kind;
use outrigger_api::{NameError, ServiceName, v1};

use super::cache::Cache;
use crate::compile::{Compiled, World, inbound};
use crate::discovery::EndpointSet;
use crate::lease::Lease;
use crate::status::ServiceVersions;

/// Messages that a proxy may leave unacknowledged; then it is sent no more until it says something.
const WINDOW: usize = 1_024;
/// Messages made at a time.
const BATCH: usize = 128;
/// Services that one proxy may subscribe to.
const MAX_SERVICES: usize = 10_000;
/// Addresses that one proxy may subscribe to.
const MAX_ADDRESSES: usize = 4_096;
/// Hosts outside the mesh that one proxy may subscribe to.
const MAX_HOSTS: usize = 4_096;
/// The longest name there is (RFC 1035 section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// Where the newest state is found.
pub(crate) struct Sources<'a> {
    pub(crate) world: World<'a>,
    pub(crate) cache: &'a mut Cache,
    pub(crate) mesh: &'a Arc<v1::MeshSettings>,
    pub(crate) bundle: &'a Arc<v1::TrustBundle>,
    /// What a service without instances has.
    pub(crate) nobody: &'a Arc<EndpointSet>,
}

/// What a message was about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Mesh,
    Bundle,
    Inbound,
    Service(ServiceName),
    Endpoints(ServiceName),
    NotFound(String),
    Lease(Arc<str>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh settings"),
            Self::Bundle => f.write_str("trust bundle"),
            Self::Inbound => f.write_str("inbound ports"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Endpoints(name) => write!(f, "endpoints {name}"),
            Self::NotFound(what) => write!(f, "absence of {what}"),
            Self::Lease(limit) => write!(f, "part of limit {limit}"),
        }
    }
}

/// What the proxy was sent of one service.
#[derive(Debug, Default)]
struct Sent {
    service: Option<Arc<Compiled>>,
    endpoints: Option<Arc<EndpointSet>>,
    missing: bool,
    /// It is to be sent again, whole: the proxy asked for it again, or may have dropped it.
    again: bool,
    versions: ServiceVersions,
}

#[derive(Debug)]
struct Unacknowledged {
    nonce: u64,
    subject: Subject,
    version: u64,
}

/// The messages of one turn, and who has to be woken by which service from now on.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    pub(crate) messages: Vec<v1::ControlMessage>,
    pub(crate) gained: Vec<ServiceName>,
    pub(crate) dropped: Vec<ServiceName>,
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Outbox {
    client_namespace: Arc<str>,
    own: Option<ServiceName>,
    nonce: u64,
    mesh: Option<Arc<v1::MeshSettings>>,
    bundle: Option<Arc<v1::TrustBundle>>,
    inbound: Option<Vec<v1::InboundPort>>,
    /// What the proxy asked for.
    asked: HashSet<ServiceName>,
    /// The addresses that it asked for, and where each leads as far as it was told.
    addresses: HashMap<SocketAddr, Option<ServiceName>>,
    /// The hosts that it asked for, and which service stands for each as far as it was told.
    hosts: HashMap<String, Option<ServiceName>>,
    /// What it has: all that it asked for, and what routes lead to.
    sent: HashMap<ServiceName, Sent>,
    pending: BTreeSet<ServiceName>,
    pending_addresses: BTreeSet<SocketAddr>,
    pending_hosts: BTreeSet<String>,
    pending_unknown: Vec<v1::Destination>,
    pending_leases: BTreeMap<Arc<str>, Lease>,
    unacknowledged: VecDeque<Unacknowledged>,
    refused: BTreeSet<Subject>,
}

impl Outbox {
    /// For a proxy that has nothing yet. `own` is the service of its workload.
    pub(crate) fn new(client_namespace: &str, own: Option<ServiceName>) -> Self {
        Self {
            client_namespace: client_namespace.into(),
            pending: own.iter().cloned().collect(),
            own,
            nonce: 0,
            mesh: None,
            bundle: None,
            inbound: None,
            asked: HashSet::new(),
            addresses: HashMap::new(),
            hosts: HashMap::new(),
            sent: HashMap::new(),
            pending_addresses: BTreeSet::new(),
            pending_hosts: BTreeSet::new(),
            pending_unknown: Vec::new(),
            pending_leases: BTreeMap::new(),
            unacknowledged: VecDeque::new(),
            refused: BTreeSet::new(),
        }
    }

    /// The services whose changes concern this proxy.
    pub(crate) fn interests(&self) -> impl Iterator<Item = &ServiceName> {
        let own = self.own.iter().filter(|own| !self.sent.contains_key(*own));
        self.sent.keys().chain(own)
    }

    /// Whether the proxy has the service, or was told that it does not exist.
    pub(crate) fn has(&self, service: &ServiceName) -> bool {
        self.sent.contains_key(service)
    }

    /// Whether the proxy has said that it uses the service as it was told last, and nothing newer waits.
    pub(crate) fn is_current(&self, service: &ServiceName) -> bool {
        let sent = self.sent.get(service).filter(|sent| !sent.missing && !sent.again);
        let refused = Subject::Service(service.clone());
        !self.pending.contains(service)
            && !self.refused.contains(&refused)
            && !self.unacknowledged.iter().any(|waiting| waiting.subject == refused)
            && sent.is_some_and(|sent| sent.versions.acked == Some(sent.versions.sent))
    }

    /// Adds what the workload calls. What is asked for again is sent again, whole. What is no name, and what is
    /// beyond the bounds, is answered as not found.
    pub(crate) fn subscribe(&mut self, destinations: Vec<v1::Destination>) {
        for destination in destinations {
            let known = match &destination.destination {
                Some(Kind::Service(name)) => self.subscribe_service(name),
                Some(Kind::Address(text)) => self.subscribe_address(text),
                Some(Kind::Host(host)) => self.subscribe_host(host),
                None => true, // a kind of destination from a newer proxy, which cannot be named in an answer
            };
            if !known && self.pending_unknown.len() < WINDOW {
                self.pending_unknown.push(destination);
            }
        }
    }

    fn subscribe_service(&mut self, name: &v1::ServiceName) -> bool {
        let Ok(service) = name_of(name) else { return false };
        if self.asked.len() >= MAX_SERVICES && !self.asked.contains(&service) {
            return false;
        }
        self.asked.insert(service.clone());
        self.resend(service);
        true
    }

    fn subscribe_address(&mut self, text: &str) -> bool {
        let Ok(address) = text.parse::<SocketAddr>() else { return false };
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            return false;
        }
        self.addresses.insert(address, None);
        self.pending_addresses.insert(address);
        true
    }

    /// Callers invent hosts: one that leads nowhere makes room, and may be asked for again.
    fn subscribe_host(&mut self, host: &str) -> bool {
        if host.is_empty() || host.len() > MAX_HOST_BYTES {
            return false;
        }
        if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(host) {
            let nowhere = self.hosts.iter().find(|(_, leads_to)| leads_to.is_none());
            let Some(nowhere) = nowhere.map(|(host, _)| host.clone()) else { return false };
            self.hosts.remove(&nowhere);
        }
        self.hosts.insert(host.to_owned(), None);
        self.pending_hosts.insert(host.to_owned());
        true
    }

    /// Takes services out that the workload does not call any more.
    pub(crate) fn unsubscribe(&mut self, services: &[v1::ServiceName]) {
        for service in services.iter().filter_map(|name| name_of(name).ok()) {
            self.asked.remove(&service);
            self.addresses.retain(|_, leads_to| leads_to.as_ref() != Some(&service));
            self.hosts.retain(|_, leads_to| leads_to.as_ref() != Some(&service));
            // The proxy may have dropped it although a route of another still leads there.
            if self.sent.contains_key(&service) {
                self.resend(service);
            }
        }
    }

    fn resend(&mut self, service: ServiceName) {
        if let Some(sent) = self.sent.get_mut(&service) {
            sent.again = true;
        }
        self.pending.insert(service);
    }

    /// Notes that something about the service changed.
    pub(crate) fn mark(&mut self, service: &ServiceName) {
        self.pending.insert(service.clone());
    }

    /// Notes that something changed for callers of the proxy's own service, if that is one of these. Returns whether it is.
    pub(crate) fn mark_own(&mut self, is_concerned: impl Fn(&ServiceName) -> bool) -> bool {
        let own = self.own.as_ref().filter(|own| is_concerned(own));
        self.pending.extend(own.cloned());
        own.is_some()
    }

    /// Notes that addresses may lead somewhere else now. Returns whether that concerns this proxy.
    pub(crate) fn mark_addresses(&mut self, changed: &BTreeSet<IpAddr>) -> bool {
        let concerned = self.addresses.keys().filter(|address| changed.contains(&address.ip()));
        self.pending_addresses.extend(concerned);
        !self.pending_addresses.is_empty()
    }

    /// Whether the proxy was told to enforce this limit of the whole mesh.
    pub(crate) fn enforces(&self, limit: &str) -> bool {
        let services = || self.sent.values().filter_map(|sent| sent.service.as_ref());
        let gateways = services().filter_map(|compiled| compiled.message.gateway.as_ref());
        let own = self.inbound.iter().flatten().chain(gateways.flat_map(|gateway| &gateway.ports));
        let rules = services().flat_map(|compiled| &compiled.message.ports).flat_map(|port| &port.rules);
        let own = own.flat_map(|port| &port.rate_limits);
        let mut all = own.chain(rules.flat_map(|rule| &rule.rate_limits));
        all.any(|one| one.of_mesh && one.id == limit)
    }

    /// Notes what the proxy's part of a limit is from now on.
    pub(crate) fn lease(&mut self, limit: Arc<str>, lease: Lease) {
        self.pending_leases.insert(limit, lease);
    }

    /// Notes that other services may stand for hosts now. Returns whether that concerns this proxy.
    pub(crate) fn mark_hosts(&mut self, changed: &BTreeSet<String>) -> bool {
        self.pending_hosts.extend(changed.iter().filter(|host| self.hosts.contains_key(*host)).cloned());
        !self.pending_hosts.is_empty()
    }

    /// Whether nothing is unacknowledged, refused or waiting.
    pub(crate) fn is_settled(&self) -> bool {
        self.unacknowledged.is_empty()
            && self.refused.is_empty()
            && self.pending.is_empty()
            && self.pending_addresses.is_empty()
            && self.pending_hosts.is_empty()
            && self.pending_unknown.is_empty()
    }

    /// What was sent and what is in use, by service.
    pub(crate) fn versions(&self) -> BTreeMap<String, ServiceVersions> {
        let there = self.sent.iter().filter(|(_, sent)| !sent.missing);
        there.map(|(name, sent)| (name.to_string(), sent.versions.clone())).collect()
    }

    /// Everything up to `nonce` is in use, but for what was refused.
    pub(crate) fn acknowledge(&mut self, nonce: u64) {
        while self.unacknowledged.front().is_some_and(|first| first.nonce <= nonce) {
            let Some(Unacknowledged { subject, version, .. }) = self.unacknowledged.pop_front() else {
                break;
            };
            self.refused.remove(&subject);
            match &subject {
                Subject::Service(name) => {
                    if let Some(sent) = self.sent.get_mut(name) {
                        sent.versions.acked = Some(version);
                    }
                }
                Subject::Endpoints(name) => {
                    if let Some(sent) = self.sent.get_mut(name) {
                        sent.versions.endpoints_acked = Some(version);
                    }
                }
                _ => {}
            }
        }
    }

    /// The update cannot be applied. It is not sent again until it changes. Returns what it was about.
    pub(crate) fn refuse(&mut self, nonce: u64) -> Option<Subject> {
        let index = self.unacknowledged.iter().position(|one| one.nonce == nonce)?;
        let subject = self.unacknowledged.remove(index)?.subject;
        // What is not there cannot be run in an older version either.
        if !matches!(subject, Subject::NotFound(_)) {
            self.refused.insert(subject.clone());
        }
        Some(subject)
    }

    /// Makes the next messages, at most about [`BATCH`], none while the proxy owes too many acknowledgements.
    pub(crate) fn fill(&mut self, sources: &mut Sources<'_>) -> Filled {
        let mut turn = Turn::default();
        if self.unacknowledged.len() < WINDOW {
            self.fill_settings(sources, &mut turn);
            self.fill_addresses(sources, &mut turn);
            self.fill_hosts(sources, &mut turn);
            self.fill_services(sources, &mut turn);
        }
        let numbered = turn.updates.into_iter().map(|(subject, version, update)| {
            self.nonce += 1;
            self.unacknowledged.push_back(Unacknowledged { nonce: self.nonce, subject, version });
            v1::ControlMessage { nonce: self.nonce, update: Some(update) }
        });
        Filled { messages: numbered.collect(), gained: turn.gained, dropped: turn.dropped }
    }

    fn fill_settings(&mut self, sources: &Sources<'_>, turn: &mut Turn) {
        // The roots first: they decide whether anybody who is named afterwards can be talked to.
        if !self.bundle.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, sources.bundle)) {
            self.bundle = Some(sources.bundle.clone());
            turn.push(Subject::Bundle, 0, Update::Bundle(v1::TrustBundle::clone(sources.bundle)));
        }
        if !self.mesh.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, sources.mesh)) {
            self.mesh = Some(sources.mesh.clone());
            let mesh = v1::MeshSettings::clone(sources.mesh);
            turn.push(Subject::Mesh, mesh.version, Update::Mesh(mesh));
        }
        for (limit, Lease { part, holders }) in std::mem::take(&mut self.pending_leases) {
            let lease = v1::RateLease { limit: limit.to_string(), part, holders };
            turn.push(Subject::Lease(limit), 0, Update::RateLease(lease));
        }
        let Some(own) = self.own.as_ref().filter(|own| self.pending.contains(*own)) else { return };
        let inbound = inbound(sources.world, own);
        if self.inbound.as_ref() != Some(&inbound.ports) {
            self.inbound = Some(inbound.ports.clone());
            turn.push(Subject::Inbound, inbound.version, Update::Inbound(inbound));
        }
    }

    fn fill_addresses(&mut self, sources: &Sources<'_>, turn: &mut Turn) {
        for destination in std::mem::take(&mut self.pending_unknown) {
            turn.not_found(destination);
        }
        for address in std::mem::take(&mut self.pending_addresses) {
            let Some(leads_to) = self.addresses.get_mut(&address) else { continue };
            *leads_to = sources.world.model.service_at(address.ip()).cloned();
            match leads_to.clone() {
                Some(service) => {
                    self.asked.insert(service.clone());
                    self.resend(service);
                }
                None => {
                    let destination = Some(Kind::Address(address.to_string()));
                    turn.not_found(v1::Destination { destination });
                }
            }
        }
    }

    fn fill_hosts(&mut self, sources: &Sources<'_>, turn: &mut Turn) {
        for host in std::mem::take(&mut self.pending_hosts) {
            let Some(leads_to) = self.hosts.get_mut(&host) else { continue };
            *leads_to = sources.world.model.service_for_host(&host, &self.client_namespace).cloned();
            match leads_to.clone() {
                Some(service) => {
                    self.asked.insert(service.clone());
                    self.resend(service);
                }
                None => turn.not_found(v1::Destination { destination: Some(Kind::Host(host)) }),
            }
        }
    }

    fn fill_services(&mut self, sources: &mut Sources<'_>, turn: &mut Turn) {
        if self.pending.is_empty() {
            return; // an acknowledgement, most often
        }
        // What was asked for comes before what routes lead to: a route that leaves a backend is told before the
        // backend's absence, which then concerns nobody.
        let (asked, led_to): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|service| self.asked.contains(service));
        let before: HashSet<ServiceName> = self.interests().cloned().collect();
        let mut waiting = asked.into_iter();
        self.fill_until_full(&mut waiting, sources, turn);
        self.drop_unreachable();
        let is_known = |service: &ServiceName| self.sent.contains_key(service);
        let mut led_to = led_to.into_iter().filter(is_known).collect::<Vec<_>>().into_iter();
        self.fill_until_full(&mut led_to, sources, turn);
        self.pending.extend(waiting.chain(led_to));
        self.drop_unreachable();
        let after: HashSet<ServiceName> = self.interests().cloned().collect();
        turn.gained.extend(after.difference(&before).cloned());
        let touched = std::mem::take(&mut turn.touched);
        turn.dropped.extend(before.into_iter().chain(touched).filter(|service| !after.contains(service)));
    }

    fn fill_until_full(
        &mut self,
        services: &mut impl Iterator<Item = ServiceName>,
        sources: &mut Sources<'_>,
        turn: &mut Turn,
    ) {
        while turn.updates.len() < BATCH {
            let Some(service) = services.next() else { return };
            self.fill_service(&service, sources, turn);
        }
    }

    /// Brings one service up to date, after everything that its rules lead to.
    fn fill_service(&mut self, service: &ServiceName, sources: &mut Sources<'_>, turn: &mut Turn) {
        for (service, compiled) in self.with_backends(service, sources) {
            turn.touched.insert(service.clone());
            let sent = self.sent.entry(service.clone()).or_default();
            match compiled {
                Some(compiled) => {
                    sent.missing = false;
                    sent.fill_endpoints(&service, sources, turn);
                    sent.fill_policy(&service, compiled, turn);
                    sent.again = false;
                }
                None if sent.missing && !sent.again => {}
                None => {
                    *sent = Sent { missing: true, ..Sent::default() };
                    turn.not_found(v1::Destination { destination: Some(Kind::Service((&service).into())) });
                }
            }
        }
    }

    /// The service and everything that its rules lead to, each after what its own rules lead to. Circles are
    /// cut where they close.
    fn with_backends(
        &self,
        service: &ServiceName,
        sources: &mut Sources<'_>,
    ) -> Vec<(ServiceName, Option<Arc<Compiled>>)> {
        enum Step {
            Enter(ServiceName),
            Leave(ServiceName, Arc<Compiled>),
        }
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        let mut steps = vec![Step::Enter(service.clone())];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(service) if !seen.insert(service.clone()) => {}
                Step::Enter(service) => {
                    match sources.cache.get(sources.world, &service, &self.client_namespace) {
                        None => order.push((service, None)),
                        Some(compiled) => {
                            let backends =
                                compiled.backends.iter().cloned().map(Step::Enter).collect::<Vec<_>>();
                            steps.push(Step::Leave(service, compiled));
                            steps.extend(backends);
                        }
                    }
                }
                Step::Leave(service, compiled) => order.push((service, Some(compiled))),
            }
        }
        order
    }

    /// Forgets what was neither asked for nor is led to by a route that was sent.
    fn drop_unreachable(&mut self) {
        let mut reachable: HashSet<ServiceName> = HashSet::new();
        let mut next: Vec<ServiceName> = self.asked.iter().cloned().collect();
        while let Some(service) = next.pop() {
            if let Some(compiled) = self.sent.get(&service).and_then(|sent| sent.service.as_ref()) {
                next.extend(
                    compiled.backends.iter().filter(|backend| !reachable.contains(*backend)).cloned(),
                );
            }
            reachable.insert(service);
        }
        self.sent.retain(|service, _| reachable.contains(service));
        self.refused.retain(|subject| match subject {
            Subject::Service(service) | Subject::Endpoints(service) => reachable.contains(service),
            _ => true,
        });
    }
}

impl Sent {
    fn fill_endpoints(&mut self, service: &ServiceName, sources: &Sources<'_>, turn: &mut Turn) {
        let registered = sources.world.registered.get(service);
        let newest = registered.map_or(sources.nobody, |registered| &registered.endpoints);
        let known = self.endpoints.as_ref().filter(|_| !self.again);
        let (full, (changed, removed)) = match known {
            Some(sent) if Arc::ptr_eq(sent, newest) => return,
            Some(sent) => (false, newest.since(sent)),
            None => (true, newest.since(&EndpointSet::default())),
        };
        self.endpoints = Some(newest.clone());
        if !full && changed.is_empty() && removed.is_empty() {
            return;
        }
        self.versions.endpoints_sent = newest.version;
        let endpoints =
            v1::Endpoints { service: Some(service.into()), version: newest.version, full, changed, removed };
        turn.push(Subject::Endpoints(service.clone()), newest.version, Update::Endpoints(endpoints));
    }

    fn fill_policy(&mut self, service: &ServiceName, compiled: Arc<Compiled>, turn: &mut Turn) {
        let same = |sent: &Arc<Compiled>| Arc::ptr_eq(sent, &compiled) || sent.says_the_same_as(&compiled);
        if !self.again && self.service.as_ref().is_some_and(same) {
            return;
        }
        self.versions.sent = compiled.message.version;
        let message = compiled.message.clone();
        self.service = Some(compiled);
        turn.push(Subject::Service(service.clone()), message.version, Update::Service(Box::new(message)));
    }
}

fn name_of(name: &v1::ServiceName) -> Result<ServiceName, NameError> {
    ServiceName::new(&name.namespace, &name.name)
}

/// What is being said in one turn.
#[derive(Debug, Default)]
struct Turn {
    updates: Vec<(Subject, u64, Update)>,
    gained: Vec<ServiceName>,
    dropped: Vec<ServiceName>,
    /// Looked up, and so in the cache.
    touched: HashSet<ServiceName>,
}

impl Turn {
    fn push(&mut self, subject: Subject, version: u64, update: Update) {
        self.updates.push((subject, version, update));
    }

    fn not_found(&mut self, destination: v1::Destination) {
        let what = match &destination.destination {
            Some(Kind::Service(name)) => format!("{}.{}", name.name, name.namespace),
            Some(Kind::Address(text) | Kind::Host(text)) => text.clone(),
            None => return,
        };
        let not_found = v1::NotFound { destination: Some(destination) };
        self.push(Subject::NotFound(what), 0, Update::NotFound(not_found));
    }
}

#[cfg(test)]
mod tests;

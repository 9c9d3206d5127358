//! The proxies with a stream, and what each says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_api::v1::proxy_message::Message;
use outrigger_api::{ServiceName, v1};
use outrigger_certs::SpiffeId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::State;
use crate::compile::{Served, World};
use crate::discovery::{ProxyId, Registration, RegistrationError};
use crate::lease::{Demand, Lease};
use crate::model::gateway_service;
use crate::push::outbox::{Outbox, Sources};
use crate::status::{EjectedEndpoint, ProxyStatus, Refusal, rfc3339};

/// Proxies at most.
const MAX_PROXIES: usize = 65_536;
/// Proxies whose stream is lost are shown for this long, and no more than so many of them.
const SHOWN_AFTER_LOSS: Duration = Duration::from_secs(600);
const MAX_LOST: usize = 1_024;
/// Endpoints that one proxy may say it leaves alone.
const MAX_EJECTED: usize = 256;
/// Characters of a text from a proxy that are kept.
const MAX_TEXT: usize = 1_024;
/// Limits that a proxy may speak of in one message.
const MAX_LIMITS: usize = 256;

/// One stream's hold on its proxy.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: ProxyId,
    /// Tells this stream from an earlier or later one of the same proxy.
    epoch: u64,
    /// Notified when there may be something to send.
    pub(crate) wake: Arc<Notify>,
    /// Cancelled when the proxy opened another stream.
    pub(crate) replaced: CancellationToken,
}

#[derive(Debug)]
struct Proxy {
    session: Session,
    identity: SpiffeId,
    version: String,
    admin: String,
    registration: Option<Registration>,
    health_detail: String,
    connected_since: SystemTime,
    lost_since: Option<SystemTime>,
    last_refusal: Option<Refusal>,
    ejected: Vec<EjectedEndpoint>,
    /// The gateway that it serves, and for which ports it listens.
    gateway: Option<(ServiceName, BTreeSet<u16>)>,
    outbox: Outbox,
}

/// All proxies, and who uses which service.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    all: BTreeMap<ProxyId, Proxy>,
    users: HashMap<ServiceName, HashSet<ProxyId>>,
    /// Oldest first; an entry whose epoch is not the proxy's is of a stream that was followed by another.
    lost: VecDeque<(Instant, ProxyId, u64)>,
    epochs: u64,
}

impl Proxies {
    /// Something about the service changed: whoever uses it is told.
    pub(super) fn mark(&mut self, service: &ServiceName) {
        for id in self.users.get(service).into_iter().flatten() {
            if let Some(proxy) = self.all.get_mut(id) {
                proxy.outbox.mark(service);
                proxy.session.wake.notify_one();
            }
        }
    }

    /// What holds for callers of these services changed: the proxies beside them are told.
    pub(super) fn mark_own(&mut self, is_concerned: impl Fn(&ServiceName) -> bool) {
        for proxy in self.all.values_mut() {
            if proxy.outbox.mark_own(&is_concerned) {
                proxy.session.wake.notify_one();
            }
        }
    }

    /// Addresses lead somewhere else.
    pub(super) fn mark_addresses(&mut self, addresses: &BTreeSet<IpAddr>) {
        for proxy in self.all.values_mut() {
            if proxy.outbox.mark_addresses(addresses) {
                proxy.session.wake.notify_one();
            }
        }
    }

    /// Other services stand for hosts outside the mesh.
    pub(super) fn mark_hosts(&mut self, hosts: &BTreeSet<String>) {
        for proxy in self.all.values_mut() {
            if proxy.outbox.mark_hosts(hosts) {
                proxy.session.wake.notify_one();
            }
        }
    }

    /// Something that concerns everybody changed.
    pub(super) fn wake_all(&self) {
        for proxy in self.all.values() {
            proxy.session.wake.notify_one();
        }
    }

    /// Whether the proxy was told to enforce this limit of the whole mesh.
    pub(super) fn enforces(&self, id: &ProxyId, limit: &str) -> bool {
        self.all.get(id).is_some_and(|proxy| proxy.outbox.enforces(limit))
    }

    /// Tells a proxy of its part of a limit.
    pub(super) fn lease(&mut self, id: &ProxyId, limit: Arc<str>, lease: Lease) {
        if let Some(proxy) = self.all.get_mut(id) {
            proxy.outbox.lease(limit, lease);
            proxy.session.wake.notify_one();
        }
    }

    /// How many proxies use the service.
    pub(super) fn users(&self, service: &ServiceName) -> usize {
        let ids = self.users.get(service).into_iter().flatten();
        ids.filter(|id| self.all.get(id).is_some_and(|proxy| proxy.outbox.has(service))).count()
    }

    /// Who serves the gateway that is this service.
    pub(super) fn served(&self, service: &ServiceName) -> Served {
        let mut served = Served::default();
        for proxy in self.users.get(service).into_iter().flatten().filter_map(|id| self.all.get(id)) {
            let own = proxy.gateway.as_ref().filter(|(gateway, _)| gateway == service);
            let Some((_, ports)) = own.filter(|_| proxy.lost_since.is_none()) else { continue };
            served.connected = true;
            if proxy.outbox.is_current(service) {
                served.ports.get_or_insert_default().extend(ports);
            }
        }
        served
    }

    pub(super) fn statuses(&self) -> Vec<ProxyStatus> {
        self.all.values().map(Proxy::status).collect()
    }

    fn of(&mut self, session: &Session) -> Option<&mut Proxy> {
        self.all.get_mut(&session.id).filter(|proxy| proxy.session.epoch == session.epoch)
    }

    /// Returns the services that nobody uses any more.
    fn stop_using(
        &mut self,
        id: &ProxyId,
        services: impl IntoIterator<Item = ServiceName>,
    ) -> Vec<ServiceName> {
        let mut unused = Vec::new();
        for service in services {
            let users = self.users.get_mut(&service);
            let is_used = users.is_some_and(|users| {
                users.remove(id);
                !users.is_empty()
            });
            if !is_used {
                self.users.remove(&service);
                unused.push(service);
            }
        }
        unused
    }

    /// Forgets those that were lost long ago, or before too many others.
    pub(super) fn forget_lost(&mut self, now: Instant) {
        while let Some((since, ..)) = self.lost.front() {
            if self.lost.len() <= MAX_LOST && now.duration_since(*since) < SHOWN_AFTER_LOSS {
                return;
            }
            let Some((_, id, epoch)) = self.lost.pop_front() else { return };
            if self.all.get(&id).is_some_and(|proxy| proxy.session.epoch == epoch) {
                self.all.remove(&id);
            }
        }
    }
}

impl Proxy {
    fn status(&self) -> ProxyStatus {
        let registration = self.registration.as_ref();
        ProxyStatus {
            instance: self.session.id.instance().to_owned(),
            identity: self.identity.to_string(),
            service: registration.map(|registration| registration.service.to_string()),
            address: registration.map(|registration| registration.address.to_string()),
            admin: self.admin.clone(),
            version: self.version.clone(),
            zone: registration.map(|registration| registration.zone.clone()).unwrap_or_default(),
            connected: self.lost_since.is_none(),
            connected_since: rfc3339(self.connected_since),
            disconnected_since: self.lost_since.map(rfc3339),
            healthy: registration.map(|registration| registration.healthy),
            health_detail: self.health_detail.clone(),
            up_to_date: self.lost_since.is_none() && self.outbox.is_settled(),
            services: self.outbox.versions(),
            last_refusal: self.last_refusal.clone(),
            ejected: self.ejected.clone(),
        }
    }
}

impl State {
    pub(super) fn hello(
        &mut self,
        identity: &SpiffeId,
        hello: v1::Hello,
        wall: SystemTime,
        now: Instant,
    ) -> Result<Session, RegistrationError> {
        let id = ProxyId::new(identity, &hello.instance)?;
        let registration =
            hello.workload.map(|workload| Registration::new(&workload, identity)).transpose()?;
        if self.proxies.all.len() >= MAX_PROXIES && !self.proxies.all.contains_key(&id) {
            return Err(RegistrationError::Full(MAX_PROXIES));
        }
        match &registration {
            Some(registration) => self.registry.register(&id, registration.clone(), now)?,
            None => self.registry.goodbye(&id, now), // it served something when it was here before
        }
        self.end_stream(&id);
        self.leases.forget_told(&id);
        self.proxies.epochs += 1;
        let session = Session {
            id: id.clone(),
            epoch: self.proxies.epochs,
            wake: Arc::new(Notify::new()),
            replaced: CancellationToken::new(),
        };
        let own = registration.as_ref().map(|registration| registration.service.clone());
        let outbox = Outbox::new(identity.namespace(), own);
        for service in outbox.interests() {
            self.proxies.users.entry(service.clone()).or_default().insert(id.clone());
        }
        let before = self.proxies.all.remove(&id);
        let proxy = Proxy {
            session: session.clone(),
            identity: identity.clone(),
            version: shortened(hello.version),
            admin: shortened(hello.admin_address),
            registration,
            health_detail: String::new(),
            connected_since: wall,
            lost_since: None,
            last_refusal: before.and_then(|before| before.last_refusal),
            ejected: Vec::new(),
            gateway: hello.gateway.and_then(|gateway| {
                let ports = gateway.ports.iter().filter_map(|port| u16::try_from(*port).ok());
                Some((gateway_service(identity.namespace(), &gateway.name)?, ports.collect()))
            }),
            outbox,
        };
        self.proxies.all.insert(id, proxy);
        session.wake.notify_one(); // the settings are waiting
        Ok(session)
    }

    /// Returns whether what others are told may have changed.
    pub(super) fn receive(
        &mut self,
        session: &Session,
        message: Message,
        wall: SystemTime,
        now: Instant,
    ) -> bool {
        let Some(proxy) = self.proxies.of(session) else { return false };
        match message {
            Message::Hello(_) => {} // the first one counts
            Message::Subscribe(subscribe) => {
                proxy.outbox.subscribe(subscribe.destinations);
                session.wake.notify_one();
            }
            Message::Unsubscribe(unsubscribe) => {
                proxy.outbox.unsubscribe(&unsubscribe.services);
                session.wake.notify_one();
            }
            Message::Ack(ack) => {
                proxy.outbox.acknowledge(ack.nonce);
                session.wake.notify_one();
            }
            Message::Nack(nack) => {
                if let Some(subject) = proxy.outbox.refuse(nack.nonce) {
                    let (resource, reason) = (subject.to_string(), shortened(nack.reason));
                    tracing::warn!(proxy = %session.id, resource, reason, "a proxy refused an update");
                    proxy.last_refusal = Some(Refusal { when: rfc3339(wall), resource, reason });
                }
                session.wake.notify_one();
            }
            Message::Health(health) => {
                proxy.health_detail = shortened(health.detail);
                if let Some(registration) = &mut proxy.registration {
                    registration.healthy = health.healthy;
                }
                self.registry.set_healthy(&session.id, health.healthy);
                return true;
            }
            Message::Load(mut report) => {
                let ejections = std::mem::take(&mut report.ejections);
                proxy.ejected = ejections.into_iter().take(MAX_EJECTED).filter_map(ejected).collect();
                let source = match &proxy.registration {
                    Some(registration) => registration.service.to_string(),
                    None => proxy.identity.to_string(),
                };
                self.traffic.report(&session.id, &source, report, now);
            }
            Message::RateDemand(demand) => {
                for said in demand.limits.into_iter().take(MAX_LIMITS) {
                    if !proxy.outbox.enforces(&said.limit) {
                        continue; // not its business, or not any more
                    }
                    let demand = Demand { asked: said.asked, part: said.part, holders: said.holders };
                    self.leases.note(&said.limit, &session.id, demand, now);
                }
                return true;
            }
            Message::Goodbye(_) => {
                self.registry.goodbye(&session.id, now);
                self.leases.left(&session.id, now);
                return true;
            }
        }
        false
    }

    pub(super) fn next_messages(&mut self, session: &Session) -> Vec<v1::ControlMessage> {
        let Self { model, published, nobody, cache, settings, bundle, proxies, .. } = self;
        let Some(proxy) = proxies.of(session) else { return Vec::new() };
        let mut sources =
            Sources { world: World { model, registered: published }, cache, mesh: settings, bundle, nobody };
        let filled = proxy.outbox.fill(&mut sources);
        for service in filled.gained {
            proxies.users.entry(service).or_default().insert(session.id.clone());
        }
        for unused in proxies.stop_using(&session.id, filled.dropped) {
            cache.forget(&unused);
        }
        filled.messages
    }

    pub(super) fn closed(&mut self, session: &Session, wall: SystemTime, now: Instant) {
        let Some(proxy) = self.proxies.of(session) else { return }; // another stream took over
        proxy.lost_since = Some(wall);
        self.registry.lost(&session.id, now);
        self.leases.lost(&session.id, now);
        self.end_stream(&session.id);
        self.proxies.lost.push_back((now, session.id.clone(), session.epoch));
        self.proxies.forget_lost(now);
    }

    /// Whatever stream the proxy has is not to be told anything more.
    fn end_stream(&mut self, id: &ProxyId) {
        let Some(proxy) = self.proxies.all.get(id) else { return };
        proxy.session.replaced.cancel();
        let interests: Vec<ServiceName> = proxy.outbox.interests().cloned().collect();
        for unused in self.proxies.stop_using(id, interests) {
            self.cache.forget(&unused);
        }
    }
}

fn ejected(raw: v1::Ejection) -> Option<EjectedEndpoint> {
    let name = raw.service?;
    Some(EjectedEndpoint {
        service: ServiceName::new(&name.namespace, &name.name).ok()?.to_string(),
        endpoint: shortened(raw.endpoint),
        address: shortened(raw.address),
        reason: shortened(raw.reason),
    })
}

fn shortened(text: String) -> String {
    if text.chars().nth(MAX_TEXT).is_none() { text } else { text.chars().take(MAX_TEXT).collect() }
}

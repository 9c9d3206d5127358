//! The control loop: one task that talks with the control plane on behalf of all workers.
//!
//! It owns the [`Model`] and is the only one to publish snapshots. Everything reaches it as a message (updates
//! from the link, questions from workers, the application's health, load reports), and it never waits for any
//! one of them, so that a control plane that is slow or gone holds up nobody who asks for what is known.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_api::v1::control_message::Update;
use outrigger_api::v1::destination::Destination;
use outrigger_api::v1::proxy_message::Message;
use outrigger_api::{ServiceName, v1};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::counters::Counters;
use super::fleet::{self, Fleet};
use super::keeping::Keeping;
use super::link::{Event, OUTGOING};
use super::lookups::Lookups;
use super::model::{Asked, Model};
use super::readiness::Readiness;
use super::reason::reason;
use super::refused::Refused;
use super::view::Troubles;
use super::waiting::Waiting;
use crate::directory::{Answer, Ask, Unresolved, find_address, find_host, find_name};
use crate::health::Health;
use crate::identity::Identities;
use crate::identity::issue::read_bundle;
use crate::report::Reported;
use crate::snapshot::Snapshots;

/// Updates applied before the snapshot that they lead to is published, and questions taken into one
/// subscription.
const BATCH: usize = 256;
/// A service that nobody called for so long is unsubscribed from, seconds.
const IDLE: u64 = 600;
/// Between two looks for idle services, seconds.
const SWEEP: u64 = 30;
/// A policy may wait for its backends so long before the control plane is told, seconds.
const PATIENCE: u64 = 5;
/// An address that no service has is asked for again after so long, seconds.
const ADDRESS_MISSING: u64 = 30;
/// For the control plane to end a stream that this side has ended.
const FAREWELL: Duration = Duration::from_millis(500);
/// Addresses remembered as no service's.
const MAX_MISSING_ADDRESSES: usize = 1024;
/// A host that no document lists is asked for again after so long, seconds.
const HOST_MISSING: u64 = 30;
/// Hosts remembered as listed by no document.
const MAX_MISSING_HOSTS: usize = 1024;
/// Room in the outgoing queue that reports leave to everything else.
const RESERVED_FOR_OTHERS: usize = OUTGOING / 2;

/// What the handle asks of the loop.
#[derive(Debug)]
pub(super) enum Command {
    /// Take the workload out of the mesh. Answered with the queue to watch until it is empty.
    Goodbye(oneshot::Sender<Option<mpsc::Sender<v1::ProxyMessage>>>),
    /// End the stream, keep the state, stop.
    Stop,
}

/// What reaches the loop.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) health: watch::Receiver<Health>,
    pub(super) reports: mpsc::Receiver<v1::LoadReport>,
    pub(super) commands: mpsc::Receiver<Command>,
}

/// The loop's own.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) model: Model,
    pub(super) snapshots: Snapshots,
    pub(super) identities: Identities,
    pub(super) readiness: Readiness,
    pub(super) counters: Arc<Counters>,
    pub(super) troubles: Arc<ArcSwap<Troubles>>,
    pub(super) reset: Arc<Notify>,
    pub(super) started: Instant,
    /// Said again on every stream, with the health of the moment.
    pub(super) hello: v1::Hello,
    /// Where other proxies reach this one; with an unspecified IP, at that from which the stream is opened.
    pub(super) reached_at: Option<SocketAddr>,
    pub(super) stream: Stream,
    pub(super) names: Waiting<ServiceName>,
    pub(super) addresses: Waiting<SocketAddr>,
    pub(super) missing_addresses: HashMap<SocketAddr, u64>,
    /// Hosts outside the mesh, by port.
    pub(super) hosts: Waiting<(Arc<str>, u16)>,
    pub(super) missing_hosts: HashMap<Arc<str>, u64>,
    pub(super) lookups: Lookups,
    /// Of the questions being taken: names forgotten to make room, and addresses new to the table.
    pub(super) evicted: Vec<ServiceName>,
    pub(super) asked_addresses: Vec<SocketAddr>,
    pub(super) asked_hosts: Vec<Arc<str>>,
    /// The limits of the whole mesh that are enforced here.
    pub(super) fleet: Fleet,
    pub(super) keeping: Keeping,
    /// When idle services were last looked for, seconds since the proxy started.
    pub(super) swept: u64,
    /// Never forgotten, whether anybody calls or not.
    pub(super) gateway: Option<ServiceName>,
}

/// What counts within one stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    outgoing: Option<mpsc::Sender<v1::ProxyMessage>>,
    /// The newest update that was taken in.
    good: u64,
    acknowledged: u64,
    reported: Reported,
}

impl Conversation {
    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut inbox: Inbox) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(fleet::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = inbox.events.recv() => self.take_in(event, &mut inbox.events),
                Some(ask) = inbox.asks.recv() => self.take_asks(ask, &mut inbox.asks),
                Ok(()) = inbox.health.changed() => {
                    let health = inbox.health.borrow_and_update().clone();
                    self.health_changed(health);
                }
                Some(report) = inbox.reports.recv() => self.report(report),
                Some((host, addresses)) = self.lookups.next() => {
                    self.model.resolved(&host, addresses);
                    self.publish();
                }
                command = inbox.commands.recv() => match command {
                    Some(Command::Goodbye(reply)) => self.goodbye(reply),
                    Some(Command::Stop) | None => break,
                },
                _ = ticks.tick() => self.tick(),
                now = looks.tick(), if self.fleet.is_needed() => self.look(now),
            }
        }
        self.stop(&mut inbox.events).await;
    }

    /// Ends the stream and waits until the control plane has seen its end, so that a goodbye is not lost with
    /// the process.
    async fn stop(&mut self, events: &mut mpsc::Receiver<Event>) {
        if self.stream.outgoing.take().is_some() {
            let ended = async {
                while let Some(event) = events.recv().await {
                    if matches!(event, Event::Lost(_)) {
                        break;
                    }
                }
            };
            if timeout(FAREWELL, ended).await.is_err() {
                tracing::warn!("the control plane did not end the stream within {FAREWELL:?}");
            }
        }
        // The link opens no other stream while the policy is written down.
        events.close();
        self.keeping.flush(&self.model).await;
    }

    // ---- updates ------------------------------------------------------------------------------------------

    /// Takes in what has arrived, in order, and publishes what follows from it once.
    fn take_in(&mut self, first: Event, events: &mut mpsc::Receiver<Event>) {
        self.event(first);
        for _ in 1..BATCH {
            match events.try_recv() {
                Ok(event) => self.event(event),
                Err(_) => break,
            }
        }
        self.publish();
        self.acknowledge();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Open { outgoing, local } => self.open(outgoing, local),
            Event::Update(message) => self.update(message),
            Event::Lost(why) => {
                tracing::warn!(
                    reason = why,
                    "no stream to the control plane; what it said last stays in use"
                );
                self.stream = Stream::default();
                self.fleet.lost(Instant::now());
                self.trouble(|troubles| troubles.lost = Some(why));
            }
        }
    }

    fn open(&mut self, outgoing: mpsc::Sender<v1::ProxyMessage>, local: IpAddr) {
        self.stream = Stream { outgoing: Some(outgoing), ..Stream::default() };
        if let (Some(workload), Some(at)) = (&mut self.hello.workload, self.reached_at) {
            let ip = if at.ip().is_unspecified() { local } else { at.ip() };
            workload.address = SocketAddr::new(ip, at.port()).to_string();
        }
        self.send(Message::Hello(self.hello.clone()));
        self.fleet.opened();
        let names = self.model.begin_stream().into_iter().map(|name| Destination::Service((&name).into()));
        let addresses = self.addresses.keys().map(|address| Destination::Address(address.to_string()));
        let mut hosts = self.model.unlisted_hosts();
        hosts.extend(self.hosts.keys().map(|(host, _)| host.clone()));
        let hosts = hosts.into_iter().map(|host| Destination::Host(host.to_string()));
        let all: Vec<Destination> = names.chain(addresses).chain(hosts).collect();
        self.subscribe(all);
    }

    fn update(&mut self, message: v1::ControlMessage) {
        let nonce = message.nonce;
        match self.apply(nonce, message.update) {
            Ok(()) => {
                self.stream.good = self.stream.good.max(nonce);
                Counters::add(&self.counters.updates);
            }
            Err(refused) => self.refuse(nonce, &refused),
        }
    }

    fn apply(&mut self, nonce: u64, update: Option<Update>) -> Result<(), Refused> {
        let update = update.ok_or(Refused::Unknown)?;
        match update {
            Update::Bundle(raw) => {
                let Some(material) = self.identities.current() else { return Ok(()) };
                let bundle = read_bundle(raw, material.id.trust_domain())?;
                Ok(self.identities.install_bundle(bundle)?)
            }
            Update::NotFound(raw) => {
                match raw.destination.as_ref().and_then(|d| d.destination.as_ref()) {
                    Some(Destination::Address(address)) => self.address_missing(address)?,
                    Some(Destination::Host(host)) => self.host_missing(host),
                    Some(Destination::Service(_)) | None => {}
                }
                self.model.apply(nonce, Update::NotFound(raw), self.second())
            }
            Update::RateLease(raw) => {
                self.fleet.lease(&raw, self.started.elapsed());
                Ok(())
            }
            update => self.model.apply(nonce, update, self.second()),
        }
    }

    fn address_missing(&mut self, address: &str) -> Result<(), Refused> {
        let address: SocketAddr = address.parse().map_err(|_| Refused::Address(address.to_owned()))?;
        if self.missing_addresses.len() < MAX_MISSING_ADDRESSES {
            self.missing_addresses.insert(address, self.second());
        }
        self.addresses.answer(|key| (*key == address).then_some(Err(Unresolved::Missing)));
        Ok(())
    }

    /// No document lists the host: whoever waits for it may have it all the same, or not.
    fn host_missing(&mut self, host: &str) {
        let host: Arc<str> = host.into();
        if self.missing_hosts.len() < MAX_MISSING_HOSTS {
            self.missing_hosts.insert(host.clone(), self.second());
        }
        let ports = self.hosts.keys().filter(|(waited_for, _)| *waited_for == host).map(|(_, port)| *port);
        for port in ports.collect::<Vec<_>>() {
            self.go_outside(&host, port);
        }
    }

    fn go_outside(&mut self, host: &Arc<str>, port: u16) {
        let refusal = if self.model.is_inside(host) {
            Unresolved::Missing
        } else if !self.model.allows(host) {
            Unresolved::NotAllowed
        } else if self.model.open(host, port, self.second()) == Asked::Waiting {
            return; // answered when it is resolved
        } else {
            Unresolved::Missing
        };
        self.hosts.answer(|key| (key.0 == *host && key.1 == port).then_some(Err(refusal)));
    }

    fn refuse(&mut self, nonce: u64, refused: &Refused) {
        let why = reason(refused);
        tracing::error!(
            reason = why,
            "an update from the control plane is refused; the last good one stays in use"
        );
        Counters::add(&self.counters.refusals);
        self.trouble(|troubles| troubles.refused = Some(why.clone()));
        self.send(Message::Nack(v1::Nack { nonce, reason: why }));
    }

    fn trouble(&self, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = Troubles::clone(&self.troubles.load());
        change(&mut troubles);
        self.troubles.store(Arc::new(troubles));
    }

    /// Shows workers what changed, and answers those who waited for it.
    pub(super) fn publish(&mut self) {
        let needed = self.model.take_subscriptions();
        self.subscribe(needed.iter().map(|name| Destination::Service(name.into())).collect());
        if let Some(hosts) = self.model.take_hosts() {
            self.lookups.follow(&hosts, Instant::now());
        }
        if !self.model.settle() {
            return;
        }
        self.snapshots.publish(self.model.snapshot());
        self.fleet.follow(self.model.limits_of_mesh());
        let snapshot = self.snapshots.current();
        self.names.answer(|name| find_name(&snapshot, name));
        self.addresses.answer(|address| find_address(&snapshot, *address).map(Ok));
        self.hosts.answer(|(host, port)| find_host(&snapshot, host, *port).map(Ok));
        if self.model.take_worth_keeping() {
            self.keeping.note();
        }
        Counters::set(&self.counters.services, self.model.len());
        if self.model.has_settings() {
            self.readiness.set_policy();
        }
    }

    /// Acknowledges what is in use, up to the first update that still waits for its backends.
    fn acknowledge(&mut self) {
        let before_held = self.model.oldest_held().map_or(u64::MAX, |nonce| nonce.saturating_sub(1));
        let nonce = self.stream.good.min(before_held);
        if nonce > self.stream.acknowledged {
            self.stream.acknowledged = nonce;
            self.send(Message::Ack(v1::Ack { nonce }));
        }
    }

    // ---- what is said -------------------------------------------------------------------------------------

    fn send(&mut self, message: Message) {
        let Some(outgoing) = &self.stream.outgoing else { return };
        match outgoing.try_send(v1::ProxyMessage { message: Some(message) }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => self.stream.outgoing = None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                // A message left out would leave the two sides with different ideas: begin again.
                self.stream.outgoing = None;
                self.reset.notify_waiters();
            }
        }
    }

    fn subscribe(&mut self, destinations: Vec<Destination>) {
        if !destinations.is_empty() {
            let destinations =
                destinations.into_iter().map(|d| v1::Destination { destination: Some(d) }).collect();
            self.send(Message::Subscribe(v1::Subscribe { destinations }));
        }
    }

    fn unsubscribe(&mut self, names: &[ServiceName]) {
        if !names.is_empty() {
            let services = names.iter().map(Into::into).collect();
            self.send(Message::Unsubscribe(v1::Unsubscribe { services }));
        }
    }

    fn health_changed(&mut self, health: Health) {
        let Some(workload) = &mut self.hello.workload else { return };
        workload.healthy = health.healthy;
        let Health { healthy, detail } = health;
        self.send(Message::Health(v1::WorkloadHealth { healthy, detail }));
    }

    fn report(&mut self, report: v1::LoadReport) {
        let Some(outgoing) = &self.stream.outgoing else { return };
        if outgoing.capacity() <= RESERVED_FOR_OTHERS {
            Counters::add(&self.counters.reports_dropped);
            return;
        }
        for message in self.stream.reported.news(report) {
            self.send(Message::Load(message));
        }
    }

    /// From now on, on this stream and on any later one, the proxy serves nothing.
    fn goodbye(&mut self, reply: oneshot::Sender<Option<mpsc::Sender<v1::ProxyMessage>>>) {
        self.hello.workload = None;
        self.send(Message::Goodbye(v1::Goodbye {}));
        let _ = reply.send(self.stream.outgoing.clone());
    }

    // ---- what workers ask ---------------------------------------------------------------------------------

    fn take_asks(&mut self, first: Ask, asks: &mut mpsc::Receiver<Ask>) {
        self.ask(first);
        for _ in 1..BATCH {
            match asks.try_recv() {
                Ok(ask) => self.ask(ask),
                Err(_) => break,
            }
        }
        let evicted = std::mem::take(&mut self.evicted);
        self.unsubscribe(&evicted);
        let addresses = std::mem::take(&mut self.asked_addresses);
        self.subscribe(addresses.iter().map(|address| Destination::Address(address.to_string())).collect());
        let hosts = std::mem::take(&mut self.asked_hosts);
        self.subscribe(hosts.iter().map(|host| Destination::Host(host.to_string())).collect());
        self.publish();
    }

    fn ask(&mut self, ask: Ask) {
        let snapshot = self.snapshots.current();
        let accepted = match ask {
            Ask::Name(name, reply) => match find_name(&snapshot, &name) {
                // The answer may have come while the question was on its way.
                Some(answer) => answered(reply, answer),
                None => self.ask_name(&name) && self.names.add(name, reply),
            },
            Ask::Address(address, reply) => match find_address(&snapshot, address) {
                Some(service) => answered(reply, Ok(service)),
                None => self.ask_address(address, reply),
            },
            Ask::Host(host, port, reply) => match find_host(&snapshot, &host, port) {
                Some(service) => answered(reply, Ok(service)),
                None => self.ask_host(host, port, reply),
            },
        };
        if !accepted {
            Counters::add(&self.counters.asks_refused);
        }
    }

    fn ask_name(&mut self, name: &ServiceName) -> bool {
        let second = self.second();
        if self.model.ask(name, second) == Asked::Waiting {
            return true;
        }
        let Some(evicted) = self.model.evict_missing() else { return false };
        self.evicted.push(evicted);
        self.model.ask(name, second) == Asked::Waiting
    }

    fn ask_address(&mut self, address: SocketAddr, reply: oneshot::Sender<Answer>) -> bool {
        if self.missing_addresses.contains_key(&address) {
            return answered(reply, Err(Unresolved::Missing));
        }
        let new = !self.addresses.contains(&address);
        let waits = self.addresses.add(address, reply);
        if new && waits {
            self.asked_addresses.push(address);
        }
        waits
    }

    fn ask_host(&mut self, host: Arc<str>, port: u16, reply: oneshot::Sender<Answer>) -> bool {
        let new = !self.hosts.keys().any(|(waited_for, _)| *waited_for == host);
        let waits = self.hosts.add((host.clone(), port), reply);
        if waits && self.missing_hosts.contains_key(&host) {
            self.go_outside(&host, port);
        } else if waits && new {
            self.asked_hosts.push(host);
        }
        waits
    }

    // ---- the passing of time ------------------------------------------------------------------------------

    /// Seconds since the proxy started.
    fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    fn tick(&mut self) {
        let second = self.second();
        for (nonce, refused) in self.model.overdue(second, PATIENCE) {
            self.refuse(nonce, &refused);
        }
        self.acknowledge();
        if second >= self.swept + SWEEP {
            self.swept = second;
            self.sweep(second);
        }
        let now = Instant::now();
        self.lookups.start(now);
        self.keeping.write(&self.model, now);
    }

    fn look(&mut self, now: Instant) {
        if let Some(demand) = self.fleet.look(now, now.duration_since(self.started))
            && self.stream.outgoing.is_some()
        {
            self.send(Message::RateDemand(demand));
        }
    }

    /// Has the gateway that the proxy serves followed, if it serves one.
    pub(super) fn follow_gateway(&mut self) {
        if let Some(gateway) = &self.gateway {
            let second = self.second();
            self.model.ask(gateway, second);
        }
    }

    fn sweep(&mut self, second: u64) {
        self.follow_gateway();
        self.names.forget_gone();
        self.addresses.forget_gone();
        self.hosts.forget_gone();
        self.missing_hosts.retain(|_, since| *since + HOST_MISSING > second);
        self.missing_addresses.retain(|_, since| *since + ADDRESS_MISSING > second);
        // Without the control plane what is forgotten could not be had again.
        if self.stream.outgoing.is_some() {
            let idle = self.model.sweep(second, IDLE);
            self.unsubscribe(&idle);
            self.publish();
        }
    }
}

/// One who has stopped waiting needs no answer, but did get one.
fn answered(reply: oneshot::Sender<Answer>, answer: Answer) -> bool {
    let _ = reply.send(answer);
    true
}

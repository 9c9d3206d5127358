//! One worker: a thread with its own runtime, listeners, pools and balancers, which shares nothing while it serves.
//!
//! What workers have in common comes to them as immutable snapshots (policy, certificates) or leaves them over
//! bounded channels (telemetry). Everything here is `Rc` and `Cell` on purpose: a lock would not compile.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::ServiceName;
use outrigger_certs::Clock;
use rand::rngs::SmallRng;
use rustls::ServerConfig;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

use crate::application::Application;
use crate::bulkhead::Bulkhead;
use crate::certificates::Certificates;
use crate::config::ProxyConfig;
use crate::directory::Directory;
use crate::drain::{Drain, Phase};
use crate::exchange::Recorder;
use crate::failure::Side;
use crate::fault::Delayed;
use crate::hash::FastMap;
use crate::identity::Identities;
use crate::jwt::memory::Memory;
use crate::listener::{self, Accepted};
use crate::metrics::{ConnectionKind, Limit, Role, Wire};
use crate::origination::{Originator, Roots};
use crate::peer::Credentials;
use crate::replay::Room;
use crate::revocation::Revocations;
use crate::snapshot::{Service, Snapshots};
use crate::upstream::Upstream;
use crate::{gateway, inbound, mirror, outbound};

/// How often unused connections and services are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Everything that a request needs, reached from one place.
pub(crate) struct Worker {
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) snapshots: Snapshots,
    pub(crate) directory: Directory,
    pub(crate) identities: Identities,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: RefCell<SmallRng>,
    pub(crate) drain: Drain,
    /// For request bodies that are kept for another attempt.
    pub(crate) room: Rc<Room>,
    /// Copies of requests under way.
    pub(crate) mirrors: Bulkhead,
    /// Requests that are held back on purpose.
    pub(crate) delayed: Delayed,
    pub(crate) applications: HashMap<u16, Rc<Application>>,
    originator: Rc<Originator>,
    /// What the rules for them let in, and may have to end.
    pub(crate) revocations: Rc<Revocations>,
    /// Tokens that were good a moment ago.
    pub(crate) tokens: RefCell<Memory>,
    /// In the order of [`ProxyConfig::listens`]; of use where these are a gateway's.
    pub(crate) gateway_tls: Vec<Arc<ServerConfig>>,
    upstreams: RefCell<FastMap<ServiceName, Rc<Upstream>>>,
    connections: Rc<Cell<usize>>,
    /// Connections and tunnels under way.
    tasks: TaskTracker,
    started: Instant,
}

/// The sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) outbound: std::net::TcpListener,
    pub(crate) inbound: std::net::TcpListener,
    /// In the order of [`ProxyConfig::listens`].
    pub(crate) listens: Vec<std::net::TcpListener>,
}

/// What a worker shares with the others.
pub(crate) struct Shared {
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) snapshots: Snapshots,
    pub(crate) directory: Directory,
    pub(crate) identities: Identities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) drain: Drain,
    /// That servers outside the mesh are proved by.
    pub(crate) roots: Roots,
    /// That a gateway proves itself by.
    pub(crate) certificates: Certificates,
}

impl Worker {
    /// A worker that has not served yet.
    pub(crate) fn new(shared: Shared, recorder: Recorder, rng: SmallRng, now: Instant) -> Rc<Self> {
        let Shared { config, snapshots, directory, identities, clock, drain, roots, certificates } = shared;
        let applications = config
            .apps
            .iter()
            .map(|app| (app.port, Application::new(app, &config, recorder.metrics.clone())))
            .collect();
        let gateway_tls = config.listens.iter().filter(|listen| listen.gateway).map(|listen| {
            gateway::tls(snapshots.clone(), certificates.clone(), listen.service.clone(), listen.port)
        });
        Rc::new(Self {
            gateway_tls: gateway_tls.collect(),
            room: Room::new(config.limits.buffered_bytes / config.workers.get()),
            mirrors: Bulkhead::new(mirror::MOST),
            delayed: Delayed::default(),
            config,
            snapshots,
            directory,
            identities,
            recorder,
            clock,
            rng: RefCell::new(rng),
            drain,
            applications,
            originator: Originator::new(roots),
            revocations: Rc::default(),
            tokens: RefCell::default(),
            upstreams: RefCell::default(),
            connections: Rc::default(),
            tasks: TaskTracker::new(),
            started: now,
        })
    }

    /// What a new connection to a peer needs.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials { material: self.identities.current(), originator: self.originator.clone() }
    }

    /// The worker's state for a service, brought up to the snapshot's version of it.
    pub(crate) fn upstream(&self, service: &Service, now: Instant) -> Rc<Upstream> {
        service.touch(now.duration_since(self.started).as_secs());
        if let Some(upstream) = self.upstreams.borrow().get(&service.name) {
            upstream.update(service, now);
            return upstream.clone();
        }
        let upstream = Upstream::new(service, self.recorder.metrics.clone(), now);
        self.upstreams.borrow_mut().insert(service.name.clone(), upstream.clone());
        upstream
    }

    /// How long after the proxy's start `now` is.
    pub(crate) fn since_start(&self, now: Instant) -> Duration {
        now.duration_since(self.started)
    }

    /// Serves until the drain has begun and every connection has ended, or the drain's time is over.
    pub(crate) async fn run(self: Rc<Self>, sockets: Sockets) {
        let sweeper = spawn_local(self.clone().sweep());
        let rules = spawn_local(self.clone().watch_rules());
        let outbound = self.clone().accept(sockets.outbound, Side::Outbound, outbound::serve);
        let inbound = self.clone().accept(sockets.inbound, Side::Inbound, inbound::serve);
        let listens = sockets.listens.into_iter().enumerate().map(|(index, socket)| {
            let serve = move |worker, accepted| outbound::serve_listen(worker, accepted, index);
            self.clone().accept(socket, Side::Outbound, serve)
        });
        let serving = async {
            tokio::join!(outbound, inbound, futures_util::future::join_all(listens));
            self.tasks.close();
            self.tasks.wait().await;
        };
        tokio::select! {
            () = serving => {}
            () = self.drain.reached(Phase::Ended) => {
                tracing::warn!(connections = self.tasks.len(), "the drain's time is over; dropping what is left");
            }
        }
        sweeper.abort();
        rules.abort();
    }

    /// Accepts on one socket; each connection is a task of its own.
    async fn accept<F>(
        self: Rc<Self>,
        socket: std::net::TcpListener,
        side: Side,
        serve: impl Fn(Rc<Self>, Accepted) -> F,
    ) where
        F: Future<Output = ()> + 'static,
    {
        let drain = self.drain.clone();
        listener::accept(socket, drain, |accepted| {
            let Some(place) = self.take_place(side) else { return };
            let connection = serve(self.clone(), accepted);
            self.tasks.spawn_local(async move {
                let _place = place;
                connection.await;
            });
        })
        .await;
    }

    /// Counts a connection. `None` where there are too many: it is closed at once, which a client that has other
    /// addresses understands sooner than silence.
    fn take_place(&self, side: Side) -> Option<Place> {
        let most = self.config.limits.connections / self.config.workers.get();
        if self.connections.get() >= most.max(1) {
            self.recorder.metrics.limit_reached(side, Limit::Connections);
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        Some(Place(self.connections.clone()))
    }

    /// Counts an accepted connection in the metrics until the guard is dropped.
    pub(crate) fn count_accepted(
        &self,
        side: Side,
        wire: Wire,
        mtls: bool,
    ) -> crate::metrics::OpenConnection {
        self.recorder.metrics.connection_opened(ConnectionKind { side, role: Role::Accepted, wire, mtls })
    }

    async fn sweep(self: Rc<Self>) {
        let mut ticks = interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let snapshot = self.snapshots.current();
            self.delayed.sweep();
            self.upstreams.borrow_mut().retain(|name, upstream| {
                upstream.sweep(now);
                snapshot.services.contains_key(name)
            });
            for application in self.applications.values() {
                application.sweep(now);
            }
        }
    }

    /// Tells whatever is under way when the rules for the workload's own ports change, or those of its gateway.
    async fn watch_rules(self: Rc<Self>) {
        let mut changes = self.snapshots.changes();
        let gateway = self.config.gateway();
        let rules = || {
            let snapshot = self.snapshots.current();
            let gateway = gateway.and_then(|gateway| snapshot.services.get(gateway)?.gateway.clone());
            (snapshot.inbound.clone(), gateway)
        };
        let mut known = rules();
        while changes.changed().await.is_ok() {
            let newest = rules();
            let same = match (&known.1, &newest.1) {
                (Some(known), Some(newest)) => Arc::ptr_eq(known, newest),
                (known, newest) => known.is_none() && newest.is_none(),
            };
            if !same || !Arc::ptr_eq(&known.0, &newest.0) {
                known = newest;
                self.revocations.announce();
            }
        }
    }

    /// Runs what outlives its connection's own task: the tunnel after an upgrade. A drain waits for it.
    pub(crate) fn detach(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(tunnel);
    }
}

struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

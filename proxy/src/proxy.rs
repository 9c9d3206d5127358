//! A whole proxy: started, made ready, drained.
//!
//! One thread each for the workers, which serve, and one for everything that is not on a request's path: the control
//! stream, certificates, spans, the admin server, and the drain, which this module conducts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use futures_util::future::OptionFuture;
use outrigger_certs::{Clock, SystemClock};
use rand::SeedableRng;
use rand::rngs::{SmallRng, StdRng, SysRng};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::access_log::{AccessLog, AccessLogEnd, AccessLogError};
use crate::admin::Admin;
use crate::certificates::Certificates;
use crate::config::ProxyConfig;
use crate::control::{self, ControlHandle, ControlInputs, WorkloadInputs};
use crate::drain::{self, Drain, Drainer, Phase};
use crate::exchange::Recorder;
use crate::listener::{self, ListenError};
use crate::metrics::{Collector, Metrics, ProxyFacts, WorkerQuery, answer_queries, worker_queries};
use crate::origination::{Roots, RootsError};
use crate::snapshot::Snapshots;
use crate::span::{SpanExport, SpanSource, Spans};
use crate::state::{StateError, StateSettings};
use crate::worker::{Shared, Sockets, Worker};

/// Idle connections are closed this long after the drain has begun: time for answers to say `connection: close`.
const LINGER: Duration = Duration::from_secs(1);

/// How often the collector's address is compared with the mesh's settings.
const WATCH_SETTINGS: Duration = Duration::from_millis(500);

/// For the lines of the access log that are still on their way.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// A proxy that serves.
///
/// Dropping it leaves the proxy running until the process ends; [`Running::drain`] ends it well.
#[derive(Debug)]
pub struct Running {
    /// Where the workload's own calls come in.
    pub outbound: SocketAddr,
    /// Where other proxies come in.
    pub inbound: SocketAddr,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// Local ports that lead to one service port, in the order of the configuration.
    pub listens: Vec<SocketAddr>,
    ready: watch::Receiver<bool>,
    drain: mpsc::Sender<()>,
    ended: watch::Receiver<bool>,
    threads: Vec<JoinHandle<()>>,
    log: AccessLogEnd,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log cannot be written.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file of `--outside-roots` cannot be used.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The machine gives no thread or no randomness.
    #[error("the operating system does not let the proxy start: {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The data plane as a library.
#[derive(Debug)]
pub struct Proxy;

impl Proxy {
    /// Starts a proxy on threads of its own, and returns when it listens. See [`Running::ready`].
    ///
    /// # Errors
    /// An address, file or directory of the configuration cannot be used.
    pub async fn start(config: ProxyConfig) -> Result<Running, StartError> {
        raise_descriptor_limit();
        let config = Arc::new(config);
        let certificates = Certificates::default();
        if let Some(directory) = &config.certificates {
            certificates.look(directory);
        }
        let roots = Roots::new(config.outside_roots.as_deref())?;
        let count = config.workers.get();
        let (outbound, outbound_sockets) = listener::bind(config.outbound, count, "outbound")?;
        let (inbound, inbound_sockets) = listener::bind(config.inbound, count, "inbound")?;
        let (admin, mut admin_sockets) = listener::bind(config.admin, 1, "admin")?;
        let mut sockets: Vec<Sockets> = outbound_sockets
            .into_iter()
            .zip(inbound_sockets)
            .map(|(outbound, inbound)| Sockets { outbound, inbound, listens: Vec::new() })
            .collect();
        let mut listens = Vec::new();
        for listen in &config.listens {
            let (address, own) = listener::bind(listen.address, count, "listen")?;
            listens.push(address);
            for (worker, socket) in sockets.iter_mut().zip(own) {
                worker.listens.push(socket);
            }
        }
        let (log, log_end) = AccessLog::start(&config.access_log)?;
        let mut rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|source| StartError::System { what: "randomness", source: io::Error::other(source) })?;
        let source = SpanSource {
            name: config.telemetry_name().to_owned(),
            namespace: config.namespace.clone(),
            instance: format!("{:016x}", rand::RngExt::random::<u64>(&mut rng)),
        };
        let (spans, export) = Spans::new(&source);
        let (queries, answers): (Vec<_>, Vec<_>) = (0..count).map(|_| worker_queries()).unzip();
        let (drainer, drain) = drain::channel();
        let (drain_requests, drain_requested) = mpsc::channel(1);
        let (working, all_worked) = mpsc::channel(1);
        let (ended_sender, ended) = watch::channel(false);
        let (started, starting) = oneshot::channel();
        let conductor = Conductor {
            inbound,
            config: config.clone(),
            admin_address: admin,
            admin_socket: admin_sockets.remove(0),
            office: Office {
                config: config.clone(),
                collector: Collector::new(queries),
                log: log.clone(),
                spans: spans.clone(),
                drain: drain.clone(),
                drain_requests: drain_requests.clone(),
            },
            certificates: certificates.clone(),
            export,
            drainer,
            drain_requested,
            all_worked,
            ended: ended_sender,
            rng: StdRng::from_rng(&mut rng),
        };
        let mut threads = vec![spawn("control", move || conductor.run(started))?];
        let parts = starting.await.unwrap_or_else(|_| {
            Err(StartError::System {
                what: "a thread for the control stream",
                source: io::ErrorKind::Interrupted.into(),
            })
        })?;
        for (index, (sockets, queries)) in sockets.into_iter().zip(answers).enumerate() {
            let bench = Bench {
                shared: Shared {
                    config: config.clone(),
                    snapshots: parts.snapshots.clone(),
                    directory: parts.directory.clone(),
                    identities: parts.identities.clone(),
                    clock: Arc::new(SystemClock),
                    drain: drain.clone(),
                    roots: roots.clone(),
                    certificates: certificates.clone(),
                },
                log: log.clone(),
                spans: spans.clone(),
                queries,
                sockets,
                rng: SmallRng::from_rng(&mut rng),
                started: parts.started,
                _working: working.clone(),
            };
            threads.push(spawn(&format!("worker-{index}"), move || bench.run())?);
        }
        let (ready, drain) = (parts.ready, drain_requests);
        Ok(Running { outbound, inbound, admin, listens, ready, drain, ended, threads, log: log_end })
    }
}

impl Running {
    /// Waits until the proxy has an identity and policy; from then on `/ready` says 200.
    pub async fn ready(&self) {
        // The sender lives as long as the proxy; if it has ended, waiting would be for ever.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Takes the workload out of the mesh, finishes what is under way, within the configured time, and ends the
    /// proxy's threads.
    pub async fn drain(mut self) {
        // A full queue means that somebody else has asked already.
        let _ = self.drain.try_send(());
        self.wait().await;
        let threads = std::mem::take(&mut self.threads);
        let log = self.log;
        let joining = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the proxy panicked");
                }
            }
            log.wait(LOG_PATIENCE);
        });
        if joining.await.is_err() {
            tracing::error!("the proxy's threads could not be joined");
        }
    }

    /// Waits until the proxy has drained, whoever asked for it.
    pub async fn wait(&mut self) {
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| StartError::System { what: "a thread", source })
}

/// What the workers get from the control thread.
struct Parts {
    snapshots: Snapshots,
    directory: crate::directory::Directory,
    identities: crate::identity::Identities,
    ready: watch::Receiver<bool>,
    started: Instant,
}

/// The control thread's work.
struct Conductor {
    config: Arc<ProxyConfig>,
    inbound: SocketAddr,
    admin_address: SocketAddr,
    admin_socket: std::net::TcpListener,
    office: Office,
    certificates: Certificates,
    export: SpanExport,
    drainer: Drainer,
    drain_requested: mpsc::Receiver<()>,
    /// Ends when all workers have.
    all_worked: mpsc::Receiver<()>,
    ended: watch::Sender<bool>,
    rng: StdRng,
}

impl Conductor {
    fn run(self, started: oneshot::Sender<Result<Parts, StartError>>) {
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(self.conduct(started));
                // A resolver that does not answer must not hold up the end of the process.
                runtime.shutdown_background();
            }
            Err(source) => {
                let _ = started.send(Err(StartError::System { what: "an event loop", source }));
            }
        }
    }

    async fn conduct(mut self, started: oneshot::Sender<Result<Parts, StartError>>) {
        let snapshots = Snapshots::default();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let now = Instant::now();
        let control = match control::start(self.inputs(&snapshots, clock.clone(), now)) {
            Ok(control) => control,
            Err(error) => {
                let _ = started.send(Err(error.into()));
                return;
            }
        };
        let (ready_sender, ready) = watch::channel(false);
        let parts = Parts {
            snapshots: snapshots.clone(),
            directory: control.directory.clone(),
            identities: control.identities.clone(),
            ready: ready.clone(),
            started: now,
        };
        if started.send(Ok(parts)).is_err() {
            return; // nobody waits for this proxy any more
        }
        let (endpoint, endpoints) = watch::channel(self.config.otlp_endpoint.clone());
        let spans_stop = CancellationToken::new();
        let exporting = tokio::spawn(self.export.run(endpoints, spans_stop.clone()));
        let following = self.config.certificates.clone().map(|directory| {
            AbortOnDropHandle::new(tokio::spawn(self.certificates.clone().follow(directory)))
        });
        let serving_stop = CancellationToken::new();
        let serving = match TcpListener::from_std(self.admin_socket) {
            Ok(listener) => {
                let admin = self.office.admin(&control, ready, clock.now());
                Some(tokio::spawn(admin.serve(listener, serving_stop.clone())))
            }
            Err(error) => {
                tracing::error!(%error, "the admin server cannot be started");
                None
            }
        };
        let watching = watch_settings(snapshots, self.config.otlp_endpoint.clone(), endpoint);
        tokio::select! {
            () = announce(&control, &ready_sender) => {}
            () = watching => {}
            _ = self.drain_requested.recv() => {}
        }
        ready_sender.send_replace(false);
        leave(&control, &self.drainer, &mut self.all_worked, self.config.drain_timeout).await;
        spans_stop.cancel();
        if let Err(error) = exporting.await {
            tracing::error!(%error, "span export failed");
        }
        control.stop().await;
        serving_stop.cancel();
        drop(following);
        if let Some(Err(error)) = OptionFuture::from(serving).await {
            tracing::error!(%error, "the admin server failed");
        }
        self.ended.send_replace(true);
    }

    fn inputs(&mut self, snapshots: &Snapshots, clock: Arc<dyn Clock>, now: Instant) -> ControlInputs {
        let config = &self.config;
        ControlInputs {
            gateway: self
                .config
                .gateway()
                .cloned()
                .map(|gateway| (gateway, self.config.gateway_listens().map(|listen| listen.port).collect())),
            control_plane: config.control_plane.clone(),
            namespace: config.namespace.clone(),
            service_account: config.service_account.clone(),
            join_token_file: config.join_token_file.clone(),
            state: config
                .state_dir
                .clone()
                .map(|directory| StateSettings { directory, persist_identity: config.persist_identity }),
            workload: config.service.clone().filter(|_| !config.apps.is_empty()).map(|service| {
                WorkloadInputs {
                    service,
                    advertise: config.advertise,
                    inbound: self.inbound,
                    zone: config.zone.clone(),
                    ports: config.apps.iter().map(|app| (app.port, app.protocol)).collect(),
                }
            }),
            admin_address: self.admin_address.to_string(),
            checks: config.apps.iter().map(crate::config::AppPort::check).collect(),
            snapshots: snapshots.clone(),
            clock,
            started: now,
            rng: StdRng::from_rng(&mut self.rng),
            load: self.office.collector.load_source(),
            dns: config.dns,
        }
    }
}

/// What the admin server shows and does.
struct Office {
    config: Arc<ProxyConfig>,
    collector: Collector,
    log: AccessLog,
    spans: Spans,
    drain: Drain,
    drain_requests: mpsc::Sender<()>,
}

impl Office {
    fn admin(&self, control: &ControlHandle, ready: watch::Receiver<bool>, started: SystemTime) -> Admin {
        let (identities, view, workers) =
            (control.identities.clone(), control.view.clone(), self.config.workers.get());
        let (spans, log, counted) = (self.spans.clone(), self.log.clone(), control.view.clone());
        let (config, drain) = (self.config.clone(), self.drain.clone());
        Admin {
            collector: self.collector.clone(),
            facts: Box::new(move || ProxyFacts {
                started,
                workers,
                certificate_expiry: identities.current().map(|material| material.not_after),
                control: counted.counters().into(),
                spans: spans.counts(),
                log: log.counts(),
            }),
            describe: Box::new(move || json!({ "proxy": config.describe(), "mesh": view.describe() })),
            ready,
            draining: Box::new(move || drain.has_begun()),
            drain: self.drain_requests.clone(),
        }
    }
}

/// Passes the control side's readiness on; ends only with it.
async fn announce(control: &ControlHandle, ready: &watch::Sender<bool>) {
    let mut control = control.ready.clone();
    loop {
        ready.send_replace(*control.borrow_and_update());
        if control.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the exporter's collector the one that the mesh, or else the configuration, names.
async fn watch_settings(snapshots: Snapshots, own: Option<String>, endpoint: watch::Sender<Option<String>>) {
    let mut ticks = interval(WATCH_SETTINGS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = snapshots.current().mesh.otlp_endpoint.clone().or_else(|| own.clone());
        endpoint.send_if_modified(|now| {
            let changed = *now != wanted;
            if changed {
                *now = wanted;
            }
            changed
        });
    }
}

/// Says goodbye, and moves the drain on until the workers have ended.
async fn leave(
    control: &ControlHandle,
    drainer: &Drainer,
    all_worked: &mut mpsc::Receiver<()>,
    patience: Duration,
) {
    tracing::info!(seconds = patience.as_secs_f64(), "draining");
    control.goodbye().await;
    drainer.enter(Phase::Leaving);
    let phases = async {
        sleep(LINGER.min(patience)).await;
        drainer.enter(Phase::Closing);
        sleep(patience.saturating_sub(LINGER)).await;
        drainer.enter(Phase::Ended);
        std::future::pending::<()>().await
    };
    tokio::select! {
        _ = all_worked.recv() => {}
        () = phases => {}
    }
}

/// One worker's thread.
struct Bench {
    shared: Shared,
    log: AccessLog,
    spans: Spans,
    queries: mpsc::Receiver<WorkerQuery>,
    sockets: Sockets,
    rng: SmallRng,
    started: Instant,
    _working: mpsc::Sender<()>,
}

impl Bench {
    fn run(self) {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker has no event loop"),
        };
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, async move {
            let metrics = Metrics::default();
            let log = self.log.worker();
            let recorder = Recorder { metrics: metrics.clone(), log: log.clone(), spans: self.spans };
            spawn_local(answer_queries(metrics, self.queries));
            spawn_local(log.clone().run());
            Worker::new(self.shared, recorder, self.rng, self.started).run(self.sockets).await;
            log.flush();
        });
    }
}

/// A proxy needs two descriptors a connection; the usual soft limit is far under the hard one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

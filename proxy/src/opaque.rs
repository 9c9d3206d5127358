//! Connections that the proxy does not read: to a service through mutual TLS, or on to where they were going.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::ServiceName;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::cluster::Aim;
use crate::failure::{Failure, Side};
use crate::outbound;
use crate::outside;
use crate::peer::{self, Transport};
use crate::retry::Outcome;
use crate::route::choose_backend;
use crate::snapshot::{Expected, Service, Snapshot, Target};
use crate::stream::Stream;
use crate::tunnel::{self, Carried};
use crate::upstream::{Engagement, Upstream};
use crate::worker::Worker;

/// So many endpoints are tried before the caller's connection is closed.
const TRIES: usize = 3;

/// For connections that leave the mesh.
const CONNECT: Duration = Duration::from_secs(5);

/// How an answered connection counts for the endpoint.
const CONNECTED: Outcome = Outcome::Status { code: http::StatusCode::OK, grpc: None, retry_after: None };

/// Carries a connection to a service's port, through the proxy beside one of its endpoints. `encrypted`: the caller
/// speaks TLS itself, and whoever is outside the mesh needs no other.
pub(crate) async fn carry_to_service(
    worker: &Rc<Worker>,
    caller: Stream,
    name: ServiceName,
    port: u16,
    encrypted: bool,
) {
    let began = Instant::now();
    let (known, label_port, reached) = match outbound::lookup(worker, &name).await {
        Ok((snapshot, service)) => {
            let reached = match destined(worker, &snapshot, &service, port) {
                Ok((backend, port)) => {
                    let upstream = worker.upstream(backend, began);
                    reach(worker, backend, &upstream, port, encrypted).await
                }
                Err(failure) => Err(failure),
            };
            (Some(outside::label(&service).clone()), outside::port_label(&service, port), reached)
        }
        Err(failure) => (None, port, Err(failure)),
    };
    let known = known.as_ref();
    let metrics = &worker.recorder.metrics;
    match reached {
        Ok((far, mut engagement)) => {
            let identity = engagement.endpoint().identity.clone();
            let proved = identity.is_proved() && (identity.workload().is_some() || !encrypted);
            let counted = metrics.tcp_opened(Side::Outbound, known, label_port, identity.workload(), proved);
            let now = Instant::now();
            engagement.answered(&CONNECTED, began, now);
            let mut carried = Carried::default();
            let ended = tunnel::carry(caller, far, worker.config.limits.tcp_idle, None, &mut carried).await;
            counted.read(carried.up);
            counted.written(carried.down);
            let now = Instant::now();
            counted.closed(now.duration_since(began), ended.as_ref().err().map(|_| Failure::UpstreamReset));
            engagement.end(&CONNECTED, now);
            log(&name, port, now.duration_since(began), carried, ended.err());
        }
        Err(failure) => {
            let counted = metrics.tcp_opened(Side::Outbound, known, label_port, None, false);
            counted.closed(began.elapsed(), Some(failure));
            tracing::info!(service = %name, port, error = failure.name(), "closed a connection");
        }
    }
}

fn log(name: &ServiceName, port: u16, duration: Duration, carried: Carried, error: Option<std::io::Error>) {
    tracing::debug!(
        service = %name,
        port,
        seconds = duration.as_secs_f64(),
        up = carried.up,
        down = carried.down,
        error = error.map(tracing::field::display),
        "opaque connection ended"
    );
}

/// Whose endpoints carry a connection to a port of a service, and at which of their ports: the service's own, or those
/// of the backend that the dice chose, once for the whole connection.
///
/// # Errors
/// [`Failure::InvalidBackend`]: the chosen one is not there, or there is none to choose.
fn destined<'a>(
    worker: &Worker,
    snapshot: &'a Snapshot,
    service: &'a Arc<Service>,
    port: u16,
) -> Result<(&'a Arc<Service>, u16), Failure> {
    let backends = service.port(port).map_or(&[][..], |port| &port.tcp_backends);
    if backends.is_empty() {
        return Ok((service, port));
    }
    let chosen = choose_backend(backends, &mut *worker.rng.borrow_mut());
    let Some(Target::Service { name, port }) = chosen.map(|backend| &backend.target) else {
        return Err(Failure::InvalidBackend);
    };
    Ok((snapshot.services.get(name).ok_or(Failure::InvalidBackend)?, *port))
}

/// Connects to an endpoint; where that fails, to others. Nothing of the caller's has been sent by then.
async fn reach(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    upstream: &Rc<Upstream>,
    port: u16,
    encrypted: bool,
) -> Result<(Stream, Engagement), Failure> {
    let mut tried: SmallVec<[Arc<str>; 4]> = SmallVec::new();
    let mut last = Failure::NoEndpoints;
    let credentials = worker.credentials();
    for _ in 0..TRIES {
        let now = Instant::now();
        let aim = Aim { tried: &tried, ..Aim::new(port, &worker.config.zone) };
        let engagement = match upstream.engage(&aim, now, &mut *worker.rng.borrow_mut()) {
            Ok(engagement) => engagement,
            Err(failure) => return Err(if tried.is_empty() { failure } else { last }),
        };
        let endpoint = engagement.endpoint().clone();
        tried.push(endpoint.id.clone());
        let (name, policy) = (&upstream.name, &service.policy);
        let dialed = match &endpoint.identity {
            Expected::Server(_) if encrypted => peer::open(&endpoint, policy).await.map(Stream::from),
            _ => peer::dial(&credentials, &endpoint, name, port, Transport::Opaque, policy).await,
        };
        match dialed {
            Ok(stream) => return Ok((stream, engagement)),
            Err(failure) => {
                peer::count_failure(&worker.recorder.metrics, failure);
                engagement.end(&Outcome::Failed(failure), Instant::now());
                last = failure;
            }
        }
    }
    Err(last)
}

/// Carries a redirected connection on to where it was going, which is nothing that the mesh knows.
pub(crate) async fn pass(worker: &Rc<Worker>, caller: Stream, destination: SocketAddr) {
    let began = Instant::now();
    let counted = worker.recorder.metrics.tcp_opened(Side::Outbound, None, destination.port(), None, false);
    match peer::connect(destination, CONNECT).await {
        Ok(far) => {
            let mut carried = Carried::default();
            let ended =
                tunnel::carry(caller, far.into(), worker.config.limits.tcp_idle, None, &mut carried).await;
            counted.read(carried.up);
            counted.written(carried.down);
            counted.closed(began.elapsed(), ended.err().map(|_| Failure::UpstreamReset));
        }
        Err(failure) => {
            counted.closed(began.elapsed(), Some(failure));
            tracing::info!(%destination, error = failure.name(), "closed a connection that leaves the mesh");
        }
    }
}

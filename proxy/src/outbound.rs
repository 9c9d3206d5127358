//! The caller's side: from a request of the workload to the answer of a peer.
//!
//! ```text
//! serve -> detect -> forward: destination -> route -> filter -> deadline -> bulkhead -> attempts
//!                             (balancer, breaker -> connection -> peer) -> filter -> answer
//! ```

mod call;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use h2::ext::Protocol as ConnectProtocol;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Uri, header, request};
use outrigger_api::ServiceName;
use tokio::time::{Instant, timeout_at};

use crate::access::Shown;
use crate::body::Body;
use crate::deadline::Deadline;
use crate::detect::{Detected, Sniff, detect};
use crate::directory::Unresolved;
use crate::drain::Phase;
use crate::exchange::Exchange;
use crate::failure::{Failure, Side};
use crate::flight::{Arrival, Flight, Tracked};
use crate::hash_key::Keyed;
use crate::incoming::Incoming;
use crate::listener::Accepted;
use crate::metrics::Wire;
use crate::notable::Notable;
use crate::persistence::{Session as ClientSession, SessionPolicy};
use crate::plan::{self, Effects, Passing, Plan, Resumed};
use crate::replay::Replay;
use crate::retry::{Outcome, is_grpc};
use crate::session::{self, Destination, Session};
use crate::snapshot::{Backend, Protocol, Service, Snapshot, Target};
use crate::stream::Stream;
use crate::trace::TraceContext;
use crate::upgrade::{Offer, Stay};
use crate::upstream::Engagement;
use crate::worker::Worker;
use crate::{destination, fault, gateway, headers, opaque, outside, path, rate_limit, upgrade};
use call::{Call, give_up};

/// Serves a connection of the workload.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let stream = Stream::from(accepted.io);
    let Some(original) = accepted.original else {
        return serve_named(worker, accepted.peer, stream).await;
    };
    match worker.directory.resolve_address(original).await {
        Ok(service) => {
            let name = service.name.clone();
            Box::pin(serve_fixed(worker, accepted.peer, stream, name, original.port(), false)).await;
        }
        Err(_) => Box::pin(outside::serve(worker, accepted.peer, stream, original)).await,
    }
}

/// Serves a connection on the local port that leads to one service (`--listen`).
pub(crate) async fn serve_listen(worker: Rc<Worker>, accepted: Accepted, index: usize) {
    let target = &worker.config.listens[index];
    if target.gateway {
        return Box::pin(gateway::serve(worker, accepted, index)).await;
    }
    let (service, port) = (target.service.clone(), target.port);
    Box::pin(serve_fixed(worker, accepted.peer, accepted.io.into(), service, port, false)).await;
}

/// Requests that name their destination can only be HTTP.
async fn serve_named(worker: Rc<Worker>, client: std::net::SocketAddr, mut stream: Stream) {
    let limits = &worker.config.limits;
    // A caller may connect long before it has something to say; once it speaks, it must not dawdle.
    let first = tokio::select! {
        biased;
        first = timeout_at(Instant::now() + limits.stream_idle, stream.fill()) => first,
        // One that has said nothing loses nothing, and must not hold up the end.
        () = worker.drain.reached(Phase::Closing) => return,
    };
    if !matches!(first, Ok(Ok(1..))) {
        return;
    }
    let session = Session::new(Side::Outbound, client, Destination::Named);
    let detected = match stream.seen().first() {
        Some(b'P') => detect(&mut stream, limits.head_timeout).await.ok(),
        Some(0x16) => Some(Detected::Known(Sniff::Tls)),
        _ => None,
    };
    match detected {
        Some(Detected::Known(Sniff::Http2)) => session::serve_http2(worker, session, stream).await,
        Some(Detected::Known(Sniff::Tls)) => tracing::info!(
            %client,
            "closed a TLS connection: it names no destination that the proxy can read; speak plain HTTP to the \
             outbound port, use CONNECT, or give the service a port of its own with --listen"
        ),
        _ => session::serve_http1(worker, session, stream).await,
    }
}

/// Serves a connection whose destination is known: redirected, tunnelled, or on a port of its own.
pub(crate) async fn serve_fixed(
    worker: Rc<Worker>,
    client: std::net::SocketAddr,
    mut stream: Stream,
    service: ServiceName,
    port: u16,
    tunnelled: bool,
) {
    let protocol = match lookup(&worker, &service).await {
        Ok((_, found)) => found.port(port).map_or(Protocol::Detect, |port| port.protocol),
        Err(failure) => {
            return tracing::info!(%client, %service, port, error = failure.name(), "closed a connection");
        }
    };
    let spoken = match protocol {
        Protocol::Http1 => Sniff::Http1,
        Protocol::Http2 => Sniff::Http2,
        Protocol::Tcp => Sniff::Opaque,
        Protocol::Detect => match detect(&mut stream, worker.config.limits.detect_timeout).await {
            Ok(Detected::Known(sniff)) => sniff,
            Ok(Detected::TimedOut) => {
                worker.recorder.metrics.detect_timeout(Side::Outbound);
                Sniff::Opaque
            }
            Ok(Detected::Closed) | Err(_) => return,
        },
    };
    let destination = Destination::Fixed(service.clone(), port);
    let session = Session { tunnelled, ..Session::new(Side::Outbound, client, destination) };
    match spoken {
        Sniff::Http1 => session::serve_http1(worker, session, stream).await,
        Sniff::Http2 => session::serve_http2(worker, session, stream).await,
        Sniff::Tls | Sniff::Opaque | Sniff::More => {
            let _open = worker.count_accepted(Side::Outbound, Wire::Tcp, false);
            opaque::carry_to_service(&worker, stream, service, port, spoken == Sniff::Tls).await;
        }
    }
}

/// The snapshot that knows the service, and the service; asks the control plane for it the first time.
///
/// # Errors
/// [`Failure::NoRoute`]: there is no such service. [`Failure::NoEndpoints`]: nobody can be asked.
pub(crate) async fn lookup(
    worker: &Worker,
    name: &ServiceName,
) -> Result<(Arc<Snapshot>, Arc<Service>), Failure> {
    let snapshot = worker.snapshots.current();
    if let Some(service) = snapshot.services.get(name).cloned() {
        return Ok((snapshot, service));
    }
    Box::pin(worker.directory.resolve(name)).await.map_err(|unresolved| match unresolved {
        Unresolved::Missing | Unresolved::NotAllowed => Failure::NoRoute,
        Unresolved::Unavailable => Failure::NoEndpoints,
    })?;
    let snapshot = worker.snapshots.current();
    let service = snapshot.services.get(name).cloned().ok_or(Failure::NoRoute)?;
    Ok((snapshot, service))
}

/// Serves one request, from its head to the head of its answer.
///
/// If the future is dropped (the caller went away) the stream to the peer is reset and the request is recorded.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let there = Notable::of(&head.headers);
    let mut flight = begin(worker, session, &mut head, there);
    let replay = Replay::new(body, worker.room.clone());
    match deliver(worker, session, &mut flight, &mut head, there, &replay).await {
        Ok(Delivered::Answer(arrival, deadline)) => {
            flight.begun = Some(session.answering.begin());
            Tracked::response(flight, *arrival, &head.method, worker.config.limits.stream_idle, deadline)
        }
        Ok(Delivered::Switched(response)) => {
            flight.exchange().status = response.status().as_u16();
            response
        }
        Ok(Delivered::Own(response)) => flight.reply(*response),
        Err(failure) => flight.refuse(failure),
    }
}

/// How a request was served.
enum Delivered {
    Answer(Box<Arrival>, Option<Deadline>),
    Switched(Response<Body>),
    /// By the proxy itself, as the policy says.
    Own(Box<Response<Body>>),
}

/// Opens the record of a request and gives it its trace and its id.
fn begin(worker: &Rc<Worker>, session: &Session, head: &mut request::Parts, there: Notable) -> Flight {
    let snapshot = worker.snapshots.current();
    let trace = {
        let rng = &mut *worker.rng.borrow_mut();
        let ratio = worker.config.sampling.unwrap_or(snapshot.mesh.sampling_ratio);
        TraceContext::extract_from(&head.headers, there, ratio, rng)
    };
    if there.has(Notable::PROXY_ONLY.or(Notable::ERROR).or(Notable::UNDERSCORE)) {
        headers::strip_untrusted_request(&mut head.headers);
    }
    if let Some(entry) = &session.gateway {
        headers::forwarded(&mut head.headers, session.client.ip(), entry.scheme());
    }
    let id = head.headers.entry(headers::REQUEST_ID).or_insert_with(|| trace.trace_id.to_value());
    let mut exchange = Exchange::new(Side::Outbound, trace, Instant::now(), worker.clock.now());
    exchange.request_id = Some(id.clone());
    exchange.version = head.version;
    exchange.method = head.method.clone();
    exchange.uri = head.uri.clone();
    exchange.authority = head.headers.get(header::HOST).cloned();
    exchange.client = Some(session.client);
    let grpc = there.has(Notable::CONTENT_TYPE) && is_grpc(&head.headers);
    Flight::new(worker.clone(), exchange, snapshot.mesh.access_log, grpc)
}

async fn deliver(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    flight: &mut Flight,
    head: &mut request::Parts,
    mut there: Notable,
    replay: &Replay,
) -> Result<Delivered, Failure> {
    let (mut authority, (snapshot, service), port) = match &session.destination {
        Destination::Fixed(name, port) => {
            (destination::authority_at(head, name, *port)?, lookup(worker, name).await?, *port)
        }
        _ => {
            destination::scheme(&head.uri, head.version)?;
            let authority = destination::authority(&head.method, &head.uri, head.version, &head.headers)?;
            let (found, port) = find(worker, &head.uri, &authority).await?;
            (authority, found, port)
        }
    };
    flight.exchange().service = Some(outside::label(&service).clone());
    flight.exchange().port = outside::port_label(&service, port);
    if head.method == Method::CONNECT && head.extensions.get::<ConnectProtocol>().is_none() {
        return connect(worker, session, head, &service, port).map(Delivered::Switched);
    }
    if snapshot.mesh.normalize_paths {
        path::normalize(&mut head.uri)?;
    }
    let (mut lane, mut asks_only) = (port, false);
    if let Some(entry) = &session.gateway {
        gateway::Entered { lane, asks_only } =
            gateway::enter(worker, session, entry, &service, head, &authority, flight)?;
        there = Notable::of(&head.headers);
    }
    let resume = |policy: &SessionPolicy, backends| resume(worker, &snapshot, policy, backends, head);
    let ready = |name: &ServiceName, port| is_ready(worker, &snapshot, name, port);
    let plan = Plan::of(&service, lane, head, resume, ready, &mut *worker.rng.borrow_mut())?;
    flight.exchange().route = plan.route();
    let filtered = plan.has_filters();
    if filtered {
        flight.page = plan.page(head).map(Box::new);
    }
    if let Some(limits) = plan.rate_limits() {
        rate_limit::enforce(limits, worker, session, head, Shown::default(), flight)?;
    }
    let mut asked = None;
    if there.has(Notable::HOP_BY_HOP) {
        asked = headers::upgrade_of(head.version, &head.headers).cloned();
        headers::strip_hop_by_hop(&mut head.headers);
    }
    let mut effects = Effects::default();
    if filtered {
        let mut called = plan::called(authority, port);
        if let Some(entry) = &session.gateway {
            called.scheme = entry.scheme().into();
        }
        let mut passing = Passing { head, called: &mut called, now: worker.clock.now() };
        effects = plan.filter_request(&mut passing, &mut *worker.rng.borrow_mut())?;
        authority = called.authority;
        there = Notable::of(&head.headers);
    }
    let started = flight.exchange().started;
    let deadline =
        Deadline::of(&head.headers, there, plan.request_timeout, started).map_err(|_| Failure::BadRequest)?;
    if !effects.faults.is_empty() {
        Box::pin(fault::inject(worker, flight, &effects.faults, deadline)).await?;
    }
    if let Some(mut answer) = effects.answer {
        plan.filter_response(effects.origin.as_ref(), answer.headers_mut());
        return Ok(Delivered::Own(answer));
    }
    if asks_only {
        return Err(Failure::Unauthenticated); // another filter has taken from it what made it a question
    }
    let (backend, port) = plan.target()?;
    let backend = snapshot.services.get(backend).ok_or(Failure::InvalidBackend)?;
    let upstream = worker.upstream(backend, started);
    let keyed = match &backend.policy.hash {
        Some(hash) => hash.key.of(head, session.client, &mut *worker.rng.borrow_mut()),
        None => Keyed::default(),
    };
    flight.permit = Some(upstream.admit()?);
    let outside = backend.external.as_deref().and_then(|external| external.port(port));
    let authority = outside.map_or(authority, |port| port.authority.clone());
    let caller = Offer::take(&mut head.extensions);
    let switching = asked.is_some() || head.extensions.get::<ConnectProtocol>().is_some();
    let head = &*head;
    let call = Call {
        worker,
        snapshot: &snapshot,
        backend,
        port,
        upstream,
        plan: &plan,
        outside,
        authority,
        head,
        there,
        asked,
        deadline,
        key: keyed.key,
        mirrors: Cell::new(effects.mirrors),
    };
    let mut arrival = match call.attempts(flight, replay).await {
        Ok(arrival) => arrival,
        Err(failure) => match plan.fallback(failure, ready).filter(|_| !call.is_grpc()) {
            Some(fallback) => {
                worker.recorder.metrics.fell_back(failure);
                let mut answer = fallback.answer();
                plan.filter_response(effects.origin.as_ref(), answer.headers_mut());
                return Ok(Delivered::Own(Box::new(answer)));
            }
            None => return Err(failure),
        },
    };
    if let Some(cookie) = keyed.cookie {
        arrival.head.headers.append(header::SET_COOKIE, cookie);
    }
    if let Some(session) = plan.session {
        keep_session(session, plan.resumed, &mut arrival, worker.clock.now());
    }
    if switching
        && upgrade::agreed(&head.method, &arrival.head)
        && let Some(caller) = caller
    {
        plan.filter_response(effects.origin.as_ref(), &mut arrival.head.headers);
        let Arrival { head, hold, .. } = *arrival;
        let stay = Stay::outbound(flight);
        return Ok(Delivered::Switched(upgrade::switch(worker, session, caller, head, hold, stay)));
    }
    if arrival.head.status == StatusCode::SWITCHING_PROTOCOLS {
        give_up(Ok(arrival), &Outcome::Failed(Failure::UpstreamProtocol), Instant::now());
        return Err(Failure::UpstreamProtocol); // nobody asked for it, or for this
    }
    if arrival.there.has(Notable::HOP_BY_HOP) {
        headers::strip_hop_by_hop(&mut arrival.head.headers);
    }
    plan.filter_response(effects.origin.as_ref(), &mut arrival.head.headers);
    Ok(Delivered::Answer(arrival, deadline))
}

/// The session that a request belongs to, if the endpoint that it is with is still one of the rule's and not out.
fn resume<'a>(
    worker: &Worker,
    snapshot: &Snapshot,
    policy: &SessionPolicy,
    backends: &'a [Backend],
    head: &request::Parts,
) -> Resumed<'a> {
    let session = policy.of(&head.headers, worker.clock.now())?;
    if backends.is_empty() {
        return Some((session, None));
    }
    let now = Instant::now();
    let has_it = |backend: &&Backend| {
        let Target::Service { name, port } = &backend.target else { return false };
        let Some(service) = snapshot.services.get(name) else { return false };
        let upstream = worker.upstream(service, now);
        upstream.cluster.borrow_mut().can_hold(session.mark, *port, &worker.config.zone, now)
    };
    Some((session, Some(backends.iter().find(has_it)?)))
}

/// Has the client come back to the endpoint that answered.
fn keep_session(
    policy: &SessionPolicy,
    resumed: Option<ClientSession>,
    arrival: &mut Arrival,
    now: SystemTime,
) {
    let Some(endpoint) = arrival.engagement.as_ref().map(Engagement::endpoint) else { return };
    if let Some((name, value)) = policy.carry(resumed, &endpoint.id, now) {
        if name == header::SET_COOKIE {
            arrival.head.headers.append(name, value);
        } else {
            arrival.head.headers.insert(name, value);
        }
    }
}

/// The service that an authority names, and its port: one of the mesh, or else one that stands for a host outside.
async fn find(
    worker: &Worker,
    uri: &Uri,
    authority: &Authority,
) -> Result<((Arc<Snapshot>, Arc<Service>), u16), Failure> {
    let own = &worker.config.namespace;
    match destination::service(authority, own) {
        Ok((name, port)) => match lookup(worker, &name).await {
            // What is not there of the workload's own namespace is more likely misspelt than a host.
            Err(Failure::NoRoute) if name.namespace() != own => {}
            found => return found.map(|found| (found, port)),
        },
        Err(Failure::NoRoute) => {}
        Err(failure) => return Err(failure),
    }
    Box::pin(outside::named(worker, uri, authority)).await
}

/// Whether an endpoint of a service's port could be used now.
fn is_ready(worker: &Worker, snapshot: &Snapshot, name: &ServiceName, port: u16) -> bool {
    let Some(service) = snapshot.services.get(name) else { return false };
    let now = Instant::now();
    worker.upstream(service, now).readiness(port, &worker.config.zone, now).is_ok()
}

/// Opens a tunnel to a port of a service (RFC 9110 section 9.3.6). What comes through it is treated like a
/// connection that was redirected there.
fn connect(
    worker: &Rc<Worker>,
    session: &Session,
    head: &mut request::Parts,
    service: &Service,
    port: u16,
) -> Result<Response<Body>, Failure> {
    if session.gateway.is_some() {
        return Err(Failure::BadRequest); // a gateway is no forward proxy
    }
    service.port(port).ok_or(Failure::NoRoute)?;
    let caller = Offer::take(&mut head.extensions).filter(|_| !session.tunnelled);
    let caller = caller.ok_or(Failure::BadRequest)?;
    if let Some(strict) = &session.strict {
        strict.pass_through();
    }
    let (detached, client, name) = (worker.clone(), session.client, service.name.clone());
    worker.detach(async move {
        match caller.accept().await {
            Ok(stream) => {
                let serving = serve_fixed(detached, client, stream, name, port, true);
                Box::pin(serving).await;
            }
            Err(error) => tracing::debug!(%error, "a CONNECT did not come about"),
        }
    });
    Ok(Response::new(Body::Empty))
}

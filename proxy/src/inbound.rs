//! The application's side: from a peer's connection to the answer of the application.
//!
//! ```text
//! serve -> TLS, identity, port -> forward: deadline -> headers -> connection -> application -> answer
//! ```

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use h2::ext::Protocol as ConnectProtocol;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use outrigger_certs::{SpiffeId, tls};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::alpn;
use crate::answer;
use crate::application::Application;
use crate::attempt::{Answer, exclusive_request, multiplexed_request, outcome_of, outcome_of_send};
use crate::body::Body;
use crate::concurrency::{ConcurrencyPolicy, Place};
use crate::deadline::Deadline;
use crate::detect::{Detected, Sniff, detect};
use crate::exchange::Exchange;
use crate::failure::{Failure, Side};
use crate::flight::{Arrival, Flight, Hold, Tracked};
use crate::gate::Admission;
use crate::incoming::Incoming;
use crate::listener::Accepted;
use crate::metrics::Limit;
use crate::notable::Notable;
use crate::peer_name;
use crate::retry::{Outcome, is_grpc};
use crate::session::{self, Destination, Session};
use crate::snapshot::Protocol;
use crate::stream::Stream;
use crate::trace::TraceContext;
use crate::upgrade::{Offer, Stay};
use crate::wide::Wide;
use crate::worker::Worker;
use crate::{destination, gate, headers, path, unread, upgrade};

/// The caller's proxy gives its own caller the answer at the deadline; this one stops the application a little
/// later, so that the two answers do not race.
const GRACE: Duration = Duration::from_millis(20);

/// The type of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves a connection from outside the workload.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { io, peer: client, original } = accepted;
    let mut first = [0];
    match timeout(worker.config.limits.handshake_timeout, io.peek(&mut first)).await {
        Ok(Ok(0) | Err(_)) => {}
        Ok(Ok(_)) if first == [TLS_HANDSHAKE] => serve_tls(worker, client, io).await,
        Ok(Ok(_)) => serve_plaintext(worker, client, original, io.into()).await,
        Err(_) => worker.recorder.metrics.limit_reached(Side::Inbound, Limit::HandshakeTime),
    }
}

/// What the handshake settled.
struct Caller {
    identity: SpiffeId,
    port: u16,
    alpn: Option<Vec<u8>>,
}

async fn serve_tls(worker: Rc<Worker>, client: SocketAddr, io: TcpStream) {
    let Some(material) = worker.identities.current() else { return };
    let handshake = TlsAcceptor::from(material.server.clone()).accept(Wide::from(io));
    let stream = match timeout(worker.config.limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let identity = tls::is_identity_error(&error);
            let failure = if identity { Failure::TlsIdentity } else { Failure::TlsHandshake };
            worker.recorder.metrics.tls_refused(Side::Inbound, failure);
            return tracing::info!(%client, error = failure.name(), cause = %error, "refused a connection");
        }
        Err(_) => return worker.recorder.metrics.limit_reached(Side::Inbound, Limit::HandshakeTime),
    };
    let caller = match identify(&worker, stream.get_ref().1) {
        Ok(caller) => caller,
        Err(reason) => {
            worker.recorder.metrics.tls_refused(Side::Inbound, Failure::TlsIdentity);
            let error = Failure::TlsIdentity.name();
            return tracing::info!(%client, error, reason, "refused a connection");
        }
    };
    let stream = Stream::from(tokio_rustls::TlsStream::Server(stream));
    let session = Session {
        client_cert: Some(headers::client_cert(&caller.identity)),
        identity: Some(caller.identity),
        ..Session::new(Side::Inbound, client, Destination::Own(caller.port))
    };
    match caller.alpn.as_deref() {
        Some(alpn::TCP) => unread::serve(worker, session, stream).await,
        Some(alpn::HTTP1) => session::serve_http1(worker, session, stream).await,
        _ => session::serve_http2(worker, session, stream).await,
    }
}

/// Who calls, and which port of the workload.
fn identify(worker: &Worker, connection: &rustls::ServerConnection) -> Result<Caller, &'static str> {
    let identity = tls::peer_identity(connection.peer_certificates())
        .ok_or("the certificate proves no SPIFFE identity")?;
    let named = connection.server_name().and_then(peer_name::parse_server_name);
    let (service, port) = named.ok_or("the server name is not that of a service port")?;
    if Some(&service) != worker.config.service.as_ref() {
        return Err("the server name is that of another service");
    }
    if !worker.applications.contains_key(&port) {
        return Err("the service has no such port here");
    }
    Ok(Caller { identity, port, alpn: connection.alpn_protocol().map(<[u8]>::to_vec) })
}

/// Plaintext is refused, unless the mesh is permissive.
async fn serve_plaintext(
    worker: Rc<Worker>,
    client: SocketAddr,
    original: Option<SocketAddr>,
    mut stream: Stream,
) {
    let sniff = match detect(&mut stream, worker.config.limits.detect_timeout).await {
        Ok(Detected::Known(sniff)) => sniff,
        Ok(Detected::TimedOut) => {
            worker.recorder.metrics.detect_timeout(Side::Inbound);
            Sniff::Opaque
        }
        Ok(Detected::Closed) | Err(_) => return,
    };
    let permissive = worker.snapshots.current().mesh.permissive_mtls;
    let port = if permissive { plaintext_port(&worker, original) } else { None };
    let Some(port) = port else {
        worker.recorder.metrics.tls_refused(Side::Inbound, Failure::Denied);
        tracing::info!(%client, error = Failure::Denied.name(), "refused a connection without mutual TLS");
        if sniff == Sniff::Http1 {
            // Whoever it is speaks HTTP, and may understand why.
            let _ = stream.write_all(&answer::raw_http1(Failure::Denied, Side::Inbound)).await;
            let _ = stream.shutdown().await;
        }
        return;
    };
    let destination = Destination::Own(port);
    let session = Session::new(Side::Inbound, client, destination);
    match sniff {
        Sniff::Http1 => session::serve_http1(worker, session, stream).await,
        Sniff::Http2 => session::serve_http2(worker, session, stream).await,
        Sniff::Tls | Sniff::Opaque | Sniff::More => unread::serve(worker, session, stream).await,
    }
}

/// The port that a plaintext caller means: the one that it was redirected from, or the only one.
fn plaintext_port(worker: &Worker, original: Option<SocketAddr>) -> Option<u16> {
    let mut applications = worker.applications.values();
    if let Some(original) = original {
        return applications.find(|app| app.address.port() == original.port()).map(|app| app.port);
    }
    let only = applications.next().map(|app| app.port);
    only.filter(|_| applications.next().is_none())
}

/// Serves one request, from its head to the head of the application's answer.
///
/// If the future is dropped (the caller went away) the connection to the application is closed or its stream reset,
/// and the request is recorded.
pub(crate) async fn forward(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let there = Notable::of(&head.headers);
    let mut flight = begin(worker, session, &mut head, there);
    match deliver(worker, session, &mut flight, &mut head, there, body).await {
        Ok(Delivered::Answer(arrival, deadline)) => {
            flight.begun = Some(session.answering.begin());
            Tracked::response(flight, *arrival, &head.method, worker.config.limits.stream_idle, deadline)
        }
        Ok(Delivered::Switched(response)) => {
            flight.exchange().status = response.status().as_u16();
            response
        }
        Err(failure) => flight.refuse(failure),
    }
}

enum Delivered {
    Answer(Box<Arrival>, Option<Deadline>),
    Switched(Response<Body>),
}

/// Opens the record of a request.
fn begin(worker: &Rc<Worker>, session: &Session, head: &mut request::Parts, there: Notable) -> Flight {
    let mesh = worker.snapshots.current().mesh.clone();
    let ratio = worker.config.sampling.unwrap_or(mesh.sampling_ratio);
    let trace = {
        let rng = &mut *worker.rng.borrow_mut();
        TraceContext::extract_from(&head.headers, there, ratio, rng)
    };
    let id = head.headers.entry(headers::REQUEST_ID).or_insert_with(|| trace.trace_id.to_value());
    let mut exchange = Exchange::new(Side::Inbound, trace, Instant::now(), worker.clock.now());
    exchange.request_id = Some(id.clone());
    exchange.service = worker.config.service.clone();
    if let Destination::Own(port) = session.destination {
        exchange.port = worker.applications.get(&port).map_or(0, |application| application.port);
    }
    exchange.peer = session.identity.clone();
    exchange.mtls = session.identity.is_some();
    exchange.version = if there.has(Notable::PROXY_ONLY) { spoken(head) } else { head.version };
    exchange.method = head.method.clone();
    exchange.uri = head.uri.clone();
    exchange.authority = head.headers.get(header::HOST).cloned();
    exchange.client = Some(session.client);
    let grpc = there.has(Notable::CONTENT_TYPE) && is_grpc(&head.headers);
    Flight::new(worker.clone(), exchange, mesh.access_log, grpc)
}

/// What the caller itself spoke, as its proxy says; a caller without a proxy speaks for itself.
fn spoken(head: &request::Parts) -> Version {
    match head.headers.get(headers::CALLER_PROTOCOL).map(HeaderValue::as_bytes) {
        Some(b"http/1.1") => Version::HTTP_11,
        Some(b"h2") => Version::HTTP_2,
        _ => head.version,
    }
}

async fn deliver(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    flight: &mut Flight,
    head: &mut request::Parts,
    there: Notable,
    body: Incoming,
) -> Result<Delivered, Failure> {
    let Destination::Own(port) = session.destination else { return Err(Failure::NoRoute) };
    let application = worker.applications.get(&port).ok_or(Failure::NoRoute)?;
    let snapshot = worker.snapshots.current();
    let authority = destination::authority(&head.method, &head.uri, head.version, &head.headers)?;
    if snapshot.mesh.normalize_paths && path::normalize(&mut head.uri)? {
        flight.exchange().uri = head.uri.clone();
    }
    let rules = snapshot.inbound.port(port);
    match rules {
        Some(rules) => gate::enter(worker, session, rules, head, &authority, flight)?,
        None => flight.admission = Some(Admission::new(worker, session, port, None)),
    }
    let protocol = flight.exchange().version;
    let mut asked = None;
    if there.has(Notable::HOP_BY_HOP) {
        asked = headers::upgrade_of(head.version, &head.headers).cloned();
        headers::strip_hop_by_hop(&mut head.headers);
    }
    stamp(&mut head.headers, there, session);
    let started = flight.exchange().started;
    let deadline = Deadline::of(&head.headers, there, None, started).map_err(|_| Failure::BadRequest)?;
    if let Some(deadline) = deadline {
        deadline.write(&mut head.headers, there, started)?;
    }
    flight.exchange().trace.inject(&mut head.headers, &snapshot.mesh.trace_formats, there);
    let deadline = deadline.map(|deadline| Deadline { at: deadline.at + GRACE, ..deadline });
    let caller = Offer::take(&mut head.extensions);
    let extended = head.extensions.get::<ConnectProtocol>().is_some();
    let switching = asked.is_some() || extended;
    // Tunnels come as opaque connections. To an application that speaks HTTP/1 an extended CONNECT would look like one,
    // too, and what follows would reach it unseen.
    if head.method == Method::CONNECT && !(extended && multiplexed(application, protocol)) {
        return Err(Failure::BadRequest);
    }
    let method = head.method.clone();
    let multiplexed = multiplexed(application, protocol);
    let call = Call { application, authority, head, asked, multiplexed, body };
    let concurrency = rules.and_then(|own| own.concurrency.as_ref());
    let started = Instant::now();
    if let Some(policy) = concurrency {
        flight.place = Some(take_turn(worker, application, policy, started)?);
    }
    let sent = {
        let mut sending = pin!(call.send());
        let mut sending = pin!(in_time(deadline, sending.as_mut()));
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Pending if flight.poll_revoked(cx) => Poll::Ready(Err(Failure::Denied)),
            sent => sent,
        })
        .await
    };
    let took = started.elapsed();
    flight.exchange().upstream += took;
    if let Some(policy) = concurrency {
        note_turn(worker, application, policy, &sent, took);
    }
    let answer = sent?;
    let Answer { mut head, there, body, hold, .. } = answer;
    if there.has(Notable::ERROR) {
        head.headers.remove(headers::ERROR); // only a proxy may say it
    }
    if switching
        && upgrade::agreed(&method, &head)
        && let Some(caller) = caller
    {
        return Ok(Delivered::Switched(upgrade::switch(
            worker,
            session,
            caller,
            head,
            hold,
            Stay::of(flight),
        )));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::UpstreamProtocol); // nobody asked for it, or for this
    }
    if there.has(Notable::HOP_BY_HOP) {
        headers::strip_hop_by_hop(&mut head.headers);
    }
    let arrival = Arrival { head, there, body, hold, engagement: None, at: Instant::now() };
    Ok(Delivered::Answer(Box::new(arrival), deadline))
}

/// A place at the application, if it is not busy enough with others.
#[cold]
fn take_turn(
    worker: &Worker,
    application: &Application,
    policy: &ConcurrencyPolicy,
    now: Instant,
) -> Result<Place, Failure> {
    application.gate.enter(policy, now).ok_or_else(|| {
        worker.recorder.metrics.limit_reached(Side::Inbound, Limit::Concurrency);
        Failure::Overloaded
    })
}

/// Notes how long the application took.
#[cold]
fn note_turn(
    worker: &Worker,
    application: &Application,
    policy: &ConcurrencyPolicy,
    sent: &Result<Answer, Failure>,
    took: Duration,
) {
    // What failed at once says nothing of how long work takes; what was given up says that it takes too long.
    let telling = match sent {
        Ok(answer) => !answer.head.status.is_server_error(),
        Err(failure) => failure.facts().status == StatusCode::GATEWAY_TIMEOUT,
    };
    if telling {
        let limit = application.gate.answered(took, policy, Instant::now());
        worker.recorder.metrics.concurrency_limit(application.port, limit);
    }
}

/// Whether the application is spoken to in HTTP/2: as its port declares, or as the caller spoke.
fn multiplexed(application: &Application, caller: Version) -> bool {
    match application.protocol {
        Protocol::Http2 => true,
        Protocol::Http1 => false,
        Protocol::Detect | Protocol::Tcp => caller == Version::HTTP_2,
    }
}

/// Tells the application who calls, and nobody else may.
fn stamp(fields: &mut HeaderMap, there: Notable, session: &Session) {
    if there.has(Notable::PROXY_ONLY) {
        fields.remove(headers::CALLER_PROTOCOL);
    }
    if there.has(Notable::ERROR) {
        fields.remove(headers::ERROR);
    }
    if there.has(Notable::UNDERSCORE) {
        headers::strip_lookalikes(fields);
    }
    match &session.client_cert {
        Some(value) => {
            fields.insert(headers::CLIENT_CERT, value.clone());
        }
        None if there.has(Notable::PROXY_ONLY) => {
            fields.remove(headers::CLIENT_CERT);
            fields.remove(headers::ATTEMPT);
        }
        None => {}
    }
}

/// One request to the application.
struct Call<'a> {
    application: &'a Application,
    authority: Authority,
    head: &'a mut request::Parts,
    asked: Option<HeaderValue>,
    multiplexed: bool,
    body: Incoming,
}

impl Call<'_> {
    async fn send(self) -> Result<Answer, Failure> {
        let Self { application, authority, head, asked, multiplexed, body } = self;
        let mut fields = std::mem::take(&mut head.headers);
        if multiplexed && asked.is_none() {
            let stake = application.stake().await?;
            let mut request = multiplexed_request(head, &authority, fields, Body::Once(body))?;
            request.headers_mut().remove(headers::CALLER_PROTOCOL);
            let sent = Instant::now();
            return match stake.client().send(request, || stake.clone()).await {
                Ok(response) => Ok(Answer::new(response, Hold::Shared { _stake: stake }, sent)),
                Err(error) => Err(failure_of(&outcome_of_send(&error))),
            };
        }
        if let Some(protocol) = asked {
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, protocol);
        }
        let path = head.uri.path_and_query();
        let request = exclusive_request(&head.method, path, &authority, fields, Body::Once(body))?;
        send_exclusive(application, request).await
    }
}

/// Waits for what is `sending` until its time is over.
async fn in_time(
    deadline: Option<Deadline>,
    sending: Pin<&mut impl Future<Output = Result<Answer, Failure>>>,
) -> Result<Answer, Failure> {
    match deadline {
        None => sending.await,
        Some(Deadline { at, failure }) => timeout_at(at, sending).await.unwrap_or(Err(failure)),
    }
}

/// Sends over a kept connection; where the application has just closed it, over a new one, if that is safe.
async fn send_exclusive(application: &Application, request: Request<Body>) -> Result<Answer, Failure> {
    let bare = http_body::Body::is_end_stream(request.body()) && request.method().is_idempotent();
    let copy = bare.then(|| copy(&request));
    let mut loan = application.loan().await?;
    let (sent, reused) = (Instant::now(), loan.is_reused());
    let again = match loan.sender().try_send_request(request).await {
        Ok(response) => {
            return Ok(Answer::new(response.map(Incoming::from), Hold::Lent { _loan: loan }, sent));
        }
        Err(mut error) => {
            let unsent = error.take_message();
            let stale = reused && error.error().is_incomplete_message();
            match unsent.or(copy.filter(|_| stale)) {
                Some(request) => request,
                None => return Err(failure_of(&outcome_of(false, error.error()))),
            }
        }
    };
    drop(loan);
    let mut loan = application.fresh_loan().await?;
    let sent = Instant::now();
    match loan.sender().try_send_request(again).await {
        Ok(response) => Ok(Answer::new(response.map(Incoming::from), Hold::Lent { _loan: loan }, sent)),
        Err(mut error) => Err(failure_of(&outcome_of(error.take_message().is_some(), error.error()))),
    }
}

fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn failure_of(outcome: &Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => *failure,
        // The application was not reached: the caller's proxy may try another endpoint.
        Outcome::NotProcessed => Failure::ConnectRefused,
        Outcome::StaleConnection | Outcome::Status { .. } => Failure::UpstreamReset,
    }
}

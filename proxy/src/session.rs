//! What is known of one accepted connection, and the HTTP server that is run on it.
//!
//! Both directions share this: bytes are checked before hyper reads them ([`crate::strict`], [`crate::flood`]), each
//! request goes to [`crate::outbound`] or [`crate::inbound`], and a drain ends the connection without losing a
//! request.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::{HeaderValue, Request, Response, Version, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_api::ServiceName;
use outrigger_certs::SpiffeId;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::answer;
use crate::body::Body;
use crate::drain::Phase;
use crate::failure::{Failure, Side};
use crate::flood::Flood;
use crate::gateway::Entry;
use crate::http2::server;
use crate::incoming::Incoming;
use crate::metrics::{Limit, Wire};
use crate::stream::Stream;
use crate::strict::{Late, MAX_HEAD_BYTES, Pace, Strict, StrictHandle};
use crate::worker::Worker;
use crate::{inbound, outbound};

/// How long a caller that is refused may take to read why.
const EXPLAINING: std::time::Duration = std::time::Duration::from_secs(5);

/// One connection, as its requests see it.
pub(crate) struct Session {
    pub(crate) side: Side,
    pub(crate) client: SocketAddr,
    /// The caller's verified identity (inbound).
    pub(crate) identity: Option<SpiffeId>,
    /// The same, as the application is told.
    pub(crate) client_cert: Option<HeaderValue>,
    pub(crate) destination: Destination,
    /// Lets an upgrade take the connection over.
    pub(crate) strict: Option<StrictHandle>,
    /// The stream is itself inside a tunnel; another one inside it is refused.
    pub(crate) tunnelled: bool,
    /// It came in from outside the mesh, so.
    pub(crate) gateway: Option<Entry>,
    /// Answers of HTTP/1 that have begun and not ended: nothing else may be written meanwhile.
    pub(crate) answering: Answering,
}

/// Counts the answers that are being given on one connection. Clones share the count.
#[derive(Clone, Default)]
pub(crate) struct Answering(Rc<Cell<u32>>);

/// One of them, until it is dropped.
pub(crate) struct Begun(Rc<Cell<u32>>);

impl Answering {
    /// An answer begins.
    pub(crate) fn begin(&self) -> Begun {
        self.0.set(self.0.get() + 1);
        Begun(self.0.clone())
    }

    fn is_under_way(&self) -> bool {
        self.0.get() > 0
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Where the requests of a connection go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Where each names.
    Named,
    /// To this port of this service, whatever they name (outbound).
    Fixed(ServiceName, u16),
    /// To the workload's own port (inbound).
    Own(u16),
}

impl Session {
    /// A connection from `client`, of which nothing but its destination is known.
    pub(crate) fn new(side: Side, client: SocketAddr, destination: Destination) -> Self {
        Self {
            side,
            client,
            identity: None,
            client_cert: None,
            destination,
            strict: None,
            tunnelled: false,
            gateway: None,
            answering: Answering::default(),
        }
    }

    async fn handle(self: Rc<Self>, worker: Rc<Worker>, request: Request<Incoming>) -> Response<Body> {
        let version = request.version();
        let mut response = match self.side {
            Side::Outbound => Box::pin(outbound::forward(&worker, &self, request)).await,
            Side::Inbound => Box::pin(inbound::forward(&worker, &self, request)).await,
        };
        if version < Version::HTTP_2 && worker.drain.has_begun() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Serves HTTP/1 until the caller, an error or the drain ends it.
pub(crate) async fn serve_http1(worker: Rc<Worker>, mut session: Session, stream: Stream) {
    let _open = worker.count_accepted(session.side, Wire::Http1, session.identity.is_some());
    let limits = &worker.config.limits;
    let io = Strict::new(stream, Pace::new(limits.head_timeout, limits.stream_idle));
    let handle = io.handle();
    session.strict = Some(handle.clone());
    let session = Rc::new(session);
    let (side, answering) = (session.side, session.answering.clone());
    let service = {
        let worker = worker.clone();
        service_fn(move |request: Request<_>| {
            let (session, worker) = (session.clone(), worker.clone());
            let request = request.map(Incoming::Http1);
            async move { Ok::<_, std::convert::Infallible>(session.handle(worker, request).await) }
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None) // Strict has its own, which does not run while the connection is idle
        // Strict refuses first, and explains; of fields, hyper accepts as many as Strict.
        .max_buf_size(MAX_HEAD_BYTES + 8192)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let ended = {
        let mut closing = pin!(worker.drain.reached(Phase::Closing));
        tokio::select! {
            biased;
            ended = &mut connection => ended,
            () = &mut closing => {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        }
    };
    let Some(violation) = handle.violation() else {
        if let Err(error) = ended {
            note_end(&worker, side, &error);
        }
        return;
    };
    let failure = violation.failure();
    worker.recorder.metrics.request_refused(side, failure);
    if failure == Failure::HeadTooLarge {
        worker.recorder.metrics.limit_reached(side, Limit::Head);
    }
    tracing::info!(error = failure.name(), %side, cause = %violation, "refused a message");
    if answering.is_under_way() {
        return; // the explanation would be taken for a part of that answer
    }
    if let Some(parts) = connection.into_parts() {
        let mut io = parts.io.into_inner();
        let explain = async {
            io.write_all(&answer::raw_http1(failure, side)).await?;
            io.shutdown().await
        };
        // The caller may be gone already, or not care to read; there is nobody else to tell.
        let _ = timeout(EXPLAINING, explain).await;
    }
}

/// Notes why an HTTP/1 connection ended early.
fn note_end(worker: &Worker, side: Side, error: &hyper::Error) {
    let late = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let late = late.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<Late>());
    match late {
        Some(Late::Head) => worker.recorder.metrics.limit_reached(side, Limit::HeadTime),
        Some(Late::Idle) => worker.recorder.metrics.limit_reached(side, Limit::IdleTime),
        None => {}
    }
    tracing::debug!(%error, %side, "HTTP/1 connection ended");
}

/// Serves HTTP/2 until the caller, an error or the drain ends it.
pub(crate) async fn serve_http2(worker: Rc<Worker>, session: Session, stream: Stream) {
    let _open = worker.count_accepted(session.side, Wire::Http2, session.identity.is_some());
    let limits = &worker.config.limits;
    let limits = server::Limits { streams: limits.http2_streams, resets: limits.http2_resets };
    let session = Rc::new(session);
    let side = session.side;
    let respond = {
        let worker = worker.clone();
        move |request| session.clone().handle(worker.clone(), request)
    };
    let leaving = worker.drain.reached(Phase::Leaving);
    if let Err(error) = server::serve(Flood::new(stream), limits, leaving, respond).await {
        if is_abuse(&error) {
            worker.recorder.metrics.limit_reached(side, Limit::Resets);
        }
        tracing::debug!(%error, %side, "HTTP/2 connection ended");
    }
}

/// The library closed the connection because the caller sent too much of something.
fn is_abuse(error: &h2::Error) -> bool {
    error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
}

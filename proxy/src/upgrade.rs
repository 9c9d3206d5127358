//! Switching protocols: WebSocket and whatever else an HTTP connection turns into (RFC 9110 section 7.8, RFC 8441).
//!
//! Once both sides have agreed, the proxy carries bytes and reads none of them.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use http::{Extensions, Method, Response, StatusCode, header, response};
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::body::Body;
use crate::bulkhead::Permit;
use crate::exchange::Exchange;
use crate::flight::{Flight, Hold};
use crate::gate::{self, Admission};
use crate::headers;
use crate::http2::Tunnel;
use crate::session::Session;
use crate::stream::Stream;
use crate::tunnel::{self, Carried};
use crate::worker::Worker;

/// What an exchange may turn into: a byte stream, once both sides have agreed.
pub(crate) enum Offer {
    /// The whole connection.
    Http1(OnUpgrade),
    /// One stream of it.
    Http2(oneshot::Receiver<Tunnel>),
}

/// The way of an offer through a message's extensions, which want to be cloned and sent.
#[derive(Clone)]
struct Http2Offer(Arc<Mutex<Option<oneshot::Receiver<Tunnel>>>>);

/// Why the other side did not switch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSwitched {
    /// The connection failed.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// The stream did.
    #[error("the stream ended before it was switched")]
    Http2(#[from] oneshot::error::RecvError),
}

impl Offer {
    /// Puts the offer of a stream beside a message.
    pub(crate) fn put(extensions: &mut Extensions, offer: oneshot::Receiver<Tunnel>) {
        extensions.insert(Http2Offer(Arc::new(Mutex::new(Some(offer)))));
    }

    /// Takes the offer that came with a message.
    pub(crate) fn take(extensions: &mut Extensions) -> Option<Self> {
        if let Some(Http2Offer(offer)) = extensions.remove() {
            return offer.lock().ok()?.take().map(Self::Http2);
        }
        extensions.remove::<OnUpgrade>().map(Self::Http1)
    }

    /// The byte stream, when the answer that agrees to it has gone.
    ///
    /// # Errors
    /// The connection ended before.
    pub(crate) async fn accept(self) -> Result<Stream, NotSwitched> {
        match self {
            Self::Http1(upgrade) => Ok(upgrade.await?.into()),
            Self::Http2(tunnel) => Ok(tunnel.await?.into()),
        }
    }
}

/// What an upgraded stream keeps, for as long as it goes on.
pub(crate) enum Stay {
    /// The request's place in its service's bulkhead.
    Outbound { _permit: Option<Permit> },
    /// What lets it stay with the application, or in the mesh, and the request that it came by.
    Admitted { admission: Admission, exchange: Box<Exchange>, _permit: Option<Permit> },
    /// Nothing.
    Free,
}

impl Stay {
    /// Takes what lets an inbound request stay.
    pub(crate) fn of(flight: &mut Flight) -> Self {
        let exchange = Box::new(flight.exchange().clone());
        let admitted = |admission| Self::Admitted { admission, exchange, _permit: None };
        flight.admission.take().map_or(Self::Free, admitted)
    }

    /// The same of an outbound one: at a gateway, the rules for those who come in.
    pub(crate) fn outbound(flight: &mut Flight) -> Self {
        let permit = flight.permit.take();
        match flight.admission.take() {
            Some(admission) => {
                Self::Admitted { admission, exchange: Box::new(flight.exchange().clone()), _permit: permit }
            }
            None => Self::Outbound { _permit: permit },
        }
    }

    /// Ends when it may not stay any longer.
    async fn refused(&mut self, worker: &Worker, session: &Session) {
        let Self::Admitted { admission, exchange, .. } = self else { return std::future::pending().await };
        let policy = admission.refused(worker, Some(exchange)).await;
        gate::tell_revoked(worker, session, exchange.port, &policy);
    }
}

/// Whether an answer to `method` agrees to switch, to what may be passed on.
pub(crate) fn agreed(method: &Method, answer: &response::Parts) -> bool {
    if method == Method::CONNECT {
        return answer.status.is_success();
    }
    let named = answer.headers.contains_key(header::UPGRADE);
    answer.status == StatusCode::SWITCHING_PROTOCOLS
        && (!named || headers::switch_to(&answer.headers).is_some())
}

/// Passes the agreement on, and carries what follows in a task of its own, which keeps what it needs to `stay`.
pub(crate) fn switch(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    caller: Offer,
    mut head: response::Parts,
    hold: Hold,
    mut stay: Stay,
) -> Response<Body> {
    if let Some(strict) = &session.strict {
        strict.pass_through(); // what follows is no longer HTTP
    }
    if let Some(upstream) = Offer::take(&mut head.extensions) {
        let idle = worker.config.limits.tcp_idle;
        let began = Instant::now();
        let (own, session) = (worker.clone(), session.clone());
        worker.detach(async move {
            let _held = hold;
            let (caller, upstream) = match both(caller, upstream).await {
                Ok(streams) => streams,
                Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
            };
            let mut carried = Carried::default();
            let ended = tokio::select! {
                ended = tunnel::carry(caller, upstream, idle, None, &mut carried) => ended,
                () = stay.refused(&own, &session) => Ok(()),
            };
            tracing::debug!(
                up = carried.up,
                down = carried.down,
                seconds = began.elapsed().as_secs_f64(),
                error = ended.err().map(tracing::field::display),
                "upgraded connection ended"
            );
        });
    }
    Response::from_parts(head, Body::Empty)
}

async fn both(caller: Offer, upstream: Offer) -> Result<(Stream, Stream), NotSwitched> {
    // The upstream has switched already; the caller does when the answer has been written.
    tokio::try_join!(caller.accept(), upstream.accept())
}

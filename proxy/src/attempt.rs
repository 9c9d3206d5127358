//! One try: a request sent to one endpoint, up to the head of its answer.
//!
//! What is called for each request returns a future instead of being an `async fn`: that would keep every argument twice,
//! as it came and as it is used, and a request is big.

use std::error::Error;
use std::rc::Rc;

use h2::ext::Protocol as ConnectProtocol;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header, request, response};
use tokio::time::Instant;

use crate::body::Body;
use crate::failure::{Failure, Reached};
use crate::flight::Hold;
use crate::headers;
use crate::http2::client::SendError;
use crate::incoming::Incoming;
use crate::notable::Notable;
use crate::peer::{self, Transport};
use crate::pool::{Pool, Turn};
use crate::read_ahead::ReadAhead;
use crate::retry::Outcome;
use crate::snapshot::{BackendPolicy, Endpoint};
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Where an attempt goes.
pub(crate) struct Way<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) upstream: &'a Rc<Upstream>,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) port: u16,
    pub(crate) policy: &'a BackendPolicy,
}

/// An answer's head, the rest of it still to come.
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    /// What the head holds.
    pub(crate) there: Notable,
    pub(crate) body: ReadAhead,
    pub(crate) hold: Hold,
    /// When the request was given to the connection.
    pub(crate) sent: Instant,
    /// The gRPC status in the trailers, if they were read ahead.
    pub(crate) trailing: Option<u8>,
}

impl Answer {
    /// The answer to what was `sent` then, over the connection that `hold` keeps.
    pub(crate) fn new(response: Response<Incoming>, hold: Hold, sent: Instant) -> Self {
        let (head, body) = response.into_parts();
        let there = Notable::of(&head.headers);
        Self { head, there, body: body.into(), hold, sent, trailing: None }
    }

    /// The same answer, its trailers known to say `status`.
    pub(crate) fn with_grpc_status(self, status: Option<u8>) -> Self {
        Self { trailing: status, ..self }
    }
}

impl Way<'_> {
    /// Sends over a shared HTTP/2 connection.
    ///
    /// Dropping the future resets the stream.
    ///
    /// # Errors
    /// How the attempt ended without an answer.
    pub(crate) fn send_multiplexed(
        &self,
        pool: &Rc<Pool>,
        request: Request<Body>,
        now: Instant,
    ) -> impl Future<Output = Result<Answer, Outcome>> {
        let ready = pool.ready_stake(now);
        async move {
            let (stake, sent) = match ready {
                Some(stake) => (stake, now),
                None => {
                    let _waiting = self.upstream.wait().map_err(Outcome::Failed)?;
                    let stake = Box::pin(pool.stake(|| self.dial(Transport::Multiplexed)));
                    (stake.await.map_err(Outcome::Failed)?, Instant::now())
                }
            };
            match stake.client().send(request, || stake.clone()).await {
                Ok(response) => Ok(Answer::new(response, Hold::Shared { _stake: stake }, sent)),
                Err(error) => Err(outcome_of_send(&error)),
            }
        }
    }

    /// Sends over an HTTP/1 connection of its own: without a `turn`, a new one, for an upgrade uses it up.
    ///
    /// # Errors
    /// As [`Way::send_multiplexed`].
    pub(crate) fn send_exclusive(
        &self,
        pool: &Rc<Pool>,
        request: Request<Body>,
        turn: Option<Turn>,
        now: Instant,
    ) -> impl Future<Output = Result<Answer, Outcome>> {
        let dials = turn.is_none() || !pool.keeps_idle();
        async move {
            let mut loan = {
                let _waiting = dials.then(|| self.upstream.wait()).transpose().map_err(Outcome::Failed)?;
                let dial = || self.dial(Transport::Exclusive);
                let loan = match turn {
                    Some(turn) => pool.loan(turn, dial).await,
                    None => Box::pin(pool.fresh_loan(pool.turn(), dial())).await,
                };
                loan.map_err(Outcome::Failed)?
            };
            let sent = if dials { Instant::now() } else { now };
            match loan.sender().try_send_request(request).await {
                Ok(response) => {
                    Ok(Answer::new(response.map(Incoming::from), Hold::Lent { _loan: loan }, sent))
                }
                Err(error) => Err(outcome_of(error.message().is_some(), error.error())),
            }
        }
    }

    fn dial(
        &self,
        transport: Transport,
    ) -> impl Future<Output = Result<crate::stream::Stream, Failure>> + 'static {
        let credentials = self.worker.credentials();
        let metrics = self.worker.recorder.metrics.clone();
        let (endpoint, service) = (self.endpoint.clone(), self.upstream.name.clone());
        let (port, policy) = (self.port, self.policy.clone());
        async move {
            let dialed = peer::dial(&credentials, &endpoint, &service, port, transport, &policy).await;
            if let Err(failure) = dialed {
                peer::count_failure(&metrics, failure);
            }
            dialed
        }
    }
}

/// The request as it goes to a peer: HTTP/2, whatever the caller spoke.
pub(crate) fn multiplexed_request(
    head: &request::Parts,
    authority: &Authority,
    fields: HeaderMap,
    body: Body,
) -> Result<Request<Body>, Failure> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = absolute(authority, head.uri.path_and_query())?;
    *request.headers_mut() = fields;
    request.headers_mut().remove(header::HOST); // the authority says it
    if head.version != Version::HTTP_2 {
        request.headers_mut().insert(headers::CALLER_PROTOCOL, HeaderValue::from_static("http/1.1"));
    }
    if let Some(protocol) = head.extensions.get::<ConnectProtocol>() {
        request.extensions_mut().insert(protocol.clone());
    }
    Ok(request)
}

/// The request as it goes over HTTP/1: origin form and a Host field (RFC 9112 section 3.2).
pub(crate) fn exclusive_request(
    method: &Method,
    path: Option<&PathAndQuery>,
    authority: &Authority,
    mut fields: HeaderMap,
    body: Body,
) -> Result<Request<Body>, Failure> {
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::BadRequest)?;
    fields.insert(header::HOST, host);
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = Uri::from(path.cloned().unwrap_or(PathAndQuery::from_static("/")));
    *request.headers_mut() = fields;
    Ok(request)
}

fn absolute(authority: &Authority, path: Option<&PathAndQuery>) -> Result<Uri, Failure> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query = Some(path.cloned().unwrap_or(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).map_err(|_| Failure::BadRequest)
}

/// How an attempt ended that has no answer. `unsent`: the library gave the request back untouched.
pub(crate) fn outcome_of(unsent: bool, error: &hyper::Error) -> Outcome {
    tracing::debug!(%error, cause = error.source().map(tracing::field::display), unsent, "no answer");
    if unsent {
        return Outcome::NotProcessed;
    }
    let source = error.source();
    if error.is_parse() {
        return Outcome::Failed(Failure::UpstreamProtocol);
    }
    // The whole connection went, before a byte of the answer: the peer was stopped or killed.
    let gone = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    if gone || source.is_some_and(|source| source.is::<std::io::Error>()) {
        Outcome::StaleConnection
    } else {
        Outcome::Failed(Failure::UpstreamReset)
    }
}

/// The same of a request over HTTP/2.
pub(crate) fn outcome_of_send(error: &SendError) -> Outcome {
    match error {
        SendError::Unsent(error) => {
            tracing::debug!(%error, "not sent");
            Outcome::NotProcessed
        }
        SendError::Lost(error) => {
            tracing::debug!(%error, "no answer");
            outcome_of_http2(error)
        }
    }
}

/// RFC 9113 section 8.7 names what was not processed: REFUSED_STREAM, and streams above the last one of a GOAWAY,
/// which are the only ones that the library ends with the peer's GOAWAY.
fn outcome_of_http2(error: &h2::Error) -> Outcome {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        Outcome::NotProcessed
    } else if error.is_io() {
        // The whole connection went, before a byte of the answer: the peer was stopped or killed.
        Outcome::StaleConnection
    } else if error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR) {
        Outcome::Failed(Failure::UpstreamProtocol)
    } else {
        Outcome::Failed(Failure::UpstreamReset)
    }
}

/// What an answer's head says of the attempt: usually its status, but where the far proxy had no answer of the
/// application to give, why.
pub(crate) fn outcome_of_answer(head: &response::Parts, there: Notable, trailing: Option<u8>) -> Outcome {
    if !there.has(Notable::ERROR.or(Notable::VERDICT)) {
        return Outcome::Status { code: head.status, grpc: trailing, retry_after: None };
    }
    let named = head.headers.get(headers::ERROR).and_then(|value| value.to_str().ok());
    let failure = named.and_then(|text| text.split(';').next()).and_then(Failure::from_name);
    match failure.filter(|failure| failure.facts().reached != Reached::Final) {
        Some(failure) => Outcome::Failed(failure),
        None => match Outcome::answer(head.status, &head.headers) {
            Outcome::Status { code, grpc, retry_after } => {
                Outcome::Status { code, grpc: grpc.or(trailing), retry_after }
            }
            other => other,
        },
    }
}

//! One request from its head to the end of its answer, recorded exactly once however it ends.
//!
//! A [`Flight`] is owned by whoever drives the request at the moment: first the function that forwards it, then the
//! response body. Wherever it is dropped, by completion, by failure or because the caller went away, the exchange is
//! recorded.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::response;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::answer;
use crate::body::{Body, BodyError};
use crate::bulkhead::Permit;
use crate::concurrency::Place;
use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::gate::{Admission, Challenge};
use crate::headers;
use crate::incoming::IncomingError;
use crate::metrics::{ActiveRequest, Limit};
use crate::notable::Notable;
use crate::plan::Page;
use crate::pool::{Loan, Stake};
use crate::rate_limit::Standing;
use crate::read_ahead::ReadAhead;
use crate::replay::Replay;
use crate::retry::Outcome;
use crate::session::Begun;
use crate::upstream::Engagement;
use crate::worker::Worker;

/// A request under way.
pub(crate) struct Flight {
    worker: Rc<Worker>,
    exchange: Option<Box<Exchange>>,
    mesh_log: bool,
    grpc: bool,
    /// The caller's body, to know its size at the end.
    pub(crate) request_body: Option<Replay>,
    /// The request's place in its service's bulkhead.
    pub(crate) permit: Option<Permit>,
    /// The request's place at the application.
    pub(crate) place: Option<Place>,
    /// What the answer says of rate limits.
    pub(crate) standing: Option<Box<Standing>>,
    /// What lets it stay (inbound).
    pub(crate) admission: Option<Admission>,
    /// What a caller without a good token is asked for.
    pub(crate) challenge: Option<HeaderValue>,
    /// The page that reads the answer, also where that is a failure: without its fields a browser would tell it nothing.
    pub(crate) page: Option<Box<Page>>,
    /// Set when the answer begins, for the connection to know.
    pub(crate) begun: Option<Begun>,
    /// When the answer ended, if somebody has looked.
    ended: Option<Instant>,
    _active: ActiveRequest,
}

impl Flight {
    /// Starts the record.
    pub(crate) fn new(worker: Rc<Worker>, exchange: Exchange, mesh_log: bool, grpc: bool) -> Self {
        let active = worker.recorder.metrics.request_started(exchange.side);
        Self {
            worker,
            exchange: Some(Box::new(exchange)),
            mesh_log,
            grpc,
            request_body: None,
            permit: None,
            place: None,
            standing: None,
            admission: None,
            challenge: None,
            page: None,
            begun: None,
            ended: None,
            _active: active,
        }
    }

    /// The record so far.
    pub(crate) fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("taken only when dropped")
    }

    /// Notes what the caller is asked for, and why.
    pub(crate) fn challenge(&mut self, challenge: Challenge) -> Failure {
        self.exchange().policy = Some(challenge.reason);
        self.challenge = Some(challenge.field);
        Failure::Unauthenticated
    }

    /// Whether the rules that let it in have changed and refuse it now; otherwise the task is woken when they do.
    pub(crate) fn poll_revoked(&mut self, cx: &Context<'_>) -> bool {
        let Some(admission) = &mut self.admission else { return false };
        let policy = admission.poll_refusal(&self.worker, self.exchange.as_deref(), cx);
        self.note_refusal(policy)
    }

    fn is_revoked(&mut self) -> bool {
        let (Some(admission), Some(exchange)) = (&mut self.admission, &self.exchange) else { return false };
        let policy = admission.refusal_if_changed(&self.worker, exchange);
        self.note_refusal(policy)
    }

    fn note_refusal(&mut self, policy: Option<Arc<str>>) -> bool {
        let Some(policy) = policy else { return false };
        self.worker.recorder.metrics.access(&policy, false, false);
        self.exchange().policy = Some(policy);
        true
    }

    /// An answer that the policy has the proxy make itself; it ends the flight.
    pub(crate) fn reply(mut self, mut response: Response<Body>) -> Response<Body> {
        let exchange = self.exchange();
        if exchange.method == Method::HEAD {
            *response.body_mut() = Body::Empty;
        }
        exchange.status = response.status().as_u16();
        exchange.response_bytes = http_body::Body::size_hint(response.body()).exact().unwrap_or_default();
        response
    }

    /// The answer that the proxy makes because of a failure; it ends the flight.
    pub(crate) fn refuse(mut self, failure: Failure) -> Response<Body> {
        let grpc = self.grpc;
        let exchange = self.exchange();
        exchange.failure = Some(failure);
        let id = exchange.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        let mut response = answer::refuse(failure, exchange.side, grpc, id);
        if exchange.method == Method::HEAD {
            // RFC 9110 section 9.3.2. HTTP/1 would leave the body out by itself; over HTTP/2 it is an error.
            *response.body_mut() = Body::Empty;
        }
        exchange.status = response.status().as_u16();
        if let Some(challenge) = self.challenge.take() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        let exchange = self.exchange();
        if grpc {
            exchange.grpc_status = Some(failure.facts().grpc);
        }
        if let Some(standing) = &self.standing {
            standing.write(response.headers_mut());
        }
        if let Some(page) = &self.page {
            page.answer(response.headers_mut());
        }
        response
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        let ended = self.ended.unwrap_or_else(Instant::now);
        exchange.duration = ended.duration_since(exchange.started);
        if let Some(body) = &self.request_body {
            exchange.request_bytes = body.bytes();
        }
        self.worker.recorder.finish(*exchange, self.mesh_log);
    }
}

/// The connection that an answer comes on, held until its end.
pub(crate) enum Hold {
    /// Shared.
    Shared { _stake: Stake },
    /// Lent.
    Lent { _loan: Loan },
}

/// An upstream's answer, its head read.
pub(crate) struct Arrival {
    pub(crate) head: response::Parts,
    /// What the head held when it came.
    pub(crate) there: Notable,
    pub(crate) body: ReadAhead,
    pub(crate) hold: Hold,
    /// The endpoint's account of this attempt (outbound).
    pub(crate) engagement: Option<Engagement>,
    /// When the head came.
    pub(crate) at: Instant,
}

/// The body of an answer, on its way to the caller.
pub(crate) struct Tracked {
    inner: ReadAhead,
    flight: Flight,
    engagement: Option<Engagement>,
    outcome: Outcome,
    /// Body bytes that Content-Length promises.
    expected: Option<u64>,
    idle: Duration,
    deadline: Option<Deadline>,
    /// When the head came: from here on, too, the upstream has the turn.
    answered: Instant,
    /// Exists only while the upstream keeps us waiting.
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
    // Dropped last: the connection is free only when the body is done with.
    _hold: Hold,
}

impl Tracked {
    /// Makes the response that the caller gets. `idle` bounds each wait for more of the body, `deadline` all of it.
    pub(crate) fn response(
        mut flight: Flight,
        arrival: Arrival,
        method: &Method,
        idle: Duration,
        deadline: Option<Deadline>,
    ) -> Response<Body> {
        let Arrival { mut head, there, body, hold, engagement, at } = arrival;
        let outcome = if there.has(Notable::VERDICT) {
            Outcome::answer(head.status, &head.headers)
        } else {
            Outcome::Status { code: head.status, grpc: None, retry_after: None }
        };
        if let Some(standing) = &flight.standing {
            standing.write(&mut head.headers);
        }
        let exchange = flight.exchange();
        exchange.status = head.status.as_u16();
        if flight.grpc && there.has(Notable::VERDICT) {
            flight.exchange().grpc_status = headers::grpc_status(&head.headers);
        }
        let bodiless = headers::never_has_body(method, head.status);
        let expected = if bodiless { Some(0) } else { content_length(&head.headers) };
        let tracked = Self {
            ended: body.is_end_stream(),
            inner: body,
            flight,
            engagement,
            outcome,
            expected,
            idle,
            deadline,
            answered: at,
            timer: None,
            _hold: hold,
        };
        Response::from_parts(head, Body::Tracked(Box::new(tracked)))
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.inner.poll_frame(cx) {
            Poll::Ready(Some(_)) if self.flight.is_revoked() => Poll::Ready(Some(Err(self.revoke()))),
            Poll::Ready(frame) => {
                self.timer = None;
                Poll::Ready(self.note(frame))
            }
            Poll::Pending if self.flight.poll_revoked(cx) => Poll::Ready(Some(Err(self.revoke()))),
            Poll::Pending => self.poll_patience(cx).map(Some).map(|error| error.map(Err)),
        }
    }

    fn note(
        &mut self,
        frame: Option<Result<Frame<Bytes>, IncomingError>>,
    ) -> Option<Result<Frame<Bytes>, BodyError>> {
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.flight.exchange().response_bytes += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.note_trailers(trailers);
                }
                self.ended |= self.inner.is_end_stream();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                // The upstream cannot go on with a body that the caller did not finish: not its failure.
                let broken = self.flight.request_body.as_ref().is_some_and(Replay::is_broken);
                self.fail(if broken { Failure::BadRequest } else { Failure::UpstreamReset });
                Some(Err(BodyError::Upstream(error)))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    fn note_trailers(&mut self, trailers: &HeaderMap) {
        self.ended = true;
        if let (true, Some(code)) = (self.flight.grpc, headers::grpc_status(trailers)) {
            self.flight.exchange().grpc_status = Some(code);
            if let Some(attempt) = self.flight.exchange().attempts.last_mut() {
                attempt.grpc_status = Some(code);
            }
            if let Outcome::Status { grpc, .. } = &mut self.outcome {
                *grpc = Some(code);
            }
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.ended = true;
        self.outcome = Outcome::Failed(failure);
        let exchange = self.flight.exchange();
        exchange.failure = Some(failure);
        if let Some(attempt) = exchange.attempts.last_mut() {
            attempt.failure = Some(failure);
        }
    }

    fn revoke(&mut self) -> BodyError {
        self.fail(Failure::Denied);
        BodyError::Revoked
    }

    /// Waits at most until the deadline, and at most the idle time.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let (idle, deadline) = (self.idle, self.deadline);
        let timer = self.timer.get_or_insert_with(|| {
            let idle = Instant::now() + idle;
            Box::pin(sleep_until(deadline.map_or(idle, |deadline| deadline.at.min(idle))))
        });
        std::task::ready!(timer.as_mut().poll(cx));
        match deadline.filter(|deadline| deadline.at <= Instant::now()) {
            Some(deadline) => {
                self.fail(deadline.failure);
                Poll::Ready(BodyError::TimedOut)
            }
            None => {
                let side = self.flight.exchange().side;
                self.flight.worker.recorder.metrics.limit_reached(side, Limit::IdleTime);
                self.fail(Failure::UpstreamReset);
                Poll::Ready(BodyError::Idle)
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended && self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }

    /// Whether the caller has all of it, though nobody polled for the end: a server stops when Content-Length is
    /// reached or where no body may be.
    fn is_whole(&mut self) -> bool {
        self.ended || self.expected == Some(self.flight.exchange().response_bytes)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let now = Instant::now();
        let whole = self.is_whole();
        let answered = self.answered;
        self.flight.ended = Some(now);
        let exchange = self.flight.exchange();
        exchange.upstream += now.duration_since(answered);
        if let Some(attempt) = exchange.attempts.last_mut() {
            attempt.duration = now.duration_since(attempt.started);
        }
        let Some(engagement) = self.engagement.take() else { return };
        if whole {
            engagement.end(&self.outcome, now);
        } // else the caller left; that says nothing of the endpoint
    }
}

fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

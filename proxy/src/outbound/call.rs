//! One request on its way to a backend: its attempts, until there is an answer to give.

mod race;

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use h2::ext::Protocol as ConnectProtocol;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Version, header, request};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep, timeout_at};

use crate::attempt::{Answer, Way, exclusive_request, multiplexed_request, outcome_of_answer};
use crate::body::Body;
use crate::cluster::Aim;
use crate::deadline::Deadline;
use crate::exchange;
use crate::failure::Failure;
use crate::flight::{Arrival, Flight};
use crate::mirror::Likeness;
use crate::notable::Notable;
use crate::plan::Plan;
use crate::pool::{Pool, Turn};
use crate::replay::{self, Replay};
use crate::retry::{Attempts, Outcome, RequestFacts, Verdict, is_grpc};
use crate::snapshot::{Endpoint, ExternalPort, Protocol, Service, Snapshot};
use crate::strict::MAX_FIELDS;
use crate::trace::TraceContext;
use crate::upstream::{Engagement, Upstream};
use crate::worker::Worker;
use crate::{headers, outside};

/// How one attempt ended, and when.
struct Tried {
    result: Result<Box<Arrival>, Failure>,
    outcome: Outcome,
    /// Over a connection of its own.
    was_alone: bool,
    at: Instant,
}

/// How one attempt is sent to the peer.
enum Shape {
    /// In HTTP/2, beside others.
    Multiplexed,
    /// In HTTP/1.1, on a connection that is kept for later.
    Exclusive(Turn),
    /// In HTTP/1.1, on a new connection, which it may use up.
    Upgrade,
}

/// So many fields leave room for what proxies add, within what a peer accepts over HTTP/1.
const FEW_FIELDS: usize = MAX_FIELDS / 2;

/// An attempt that has an endpoint, and has not been sent.
struct Parcel {
    endpoint: Arc<Endpoint>,
    pool: Rc<Pool>,
    shape: Shape,
    request: Request<Body>,
    limit: Option<Deadline>,
    at: Instant,
}

/// What is kept of an attempt while it is under way.
struct Launched {
    engagement: Engagement,
    /// Its place among the exchange's attempts.
    record: usize,
    was_alone: bool,
}

/// One request with everything decided but the endpoint.
pub(super) struct Call<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) backend: &'a Service,
    /// Which of its ports.
    pub(super) port: u16,
    pub(super) upstream: Rc<Upstream>,
    pub(super) plan: &'a Plan<'a>,
    /// What stands behind the port, if that is outside the mesh.
    pub(super) outside: Option<&'a ExternalPort>,
    pub(super) authority: Authority,
    pub(super) head: &'a request::Parts,
    /// What the head holds.
    pub(super) there: Notable,
    /// The protocol to switch to.
    pub(super) asked: Option<HeaderValue>,
    pub(super) deadline: Option<Deadline>,
    /// What it is hashed to, if that is how the service's endpoints are chosen.
    pub(super) key: Option<u64>,
    /// Who is sent the same, until they have been.
    pub(super) mirrors: Cell<Vec<Likeness<'a>>>,
}

impl Call<'_> {
    /// Tries until there is an answer to give, or none will come.
    pub(super) async fn attempts(
        &self,
        flight: &mut Flight,
        replay: &Replay,
    ) -> Result<Box<Arrival>, Failure> {
        flight.request_body = Some(replay.clone());
        // Where the protocol is switched, what follows is no request.
        for likeness in self.mirrors.take().into_iter().filter(|_| self.asked.is_none()) {
            let trace = flight.exchange().trace.child(&mut *self.worker.rng.borrow_mut());
            likeness.send(self.worker, self.snapshot, replay.copy(), trace);
        }
        let mut alone = true;
        let mut attempts = Attempts::new(self.plan.retry.cloned(), RequestFacts::new(self.head, true));
        let mut tried: SmallVec<[Arc<str>; 4]> = SmallVec::new();
        self.upstream.deposit(flight.exchange().started);
        let hedged = self.plan.hedging.is_some() && self.may_be_hedged();
        loop {
            if !attempts.may_retry() && !hedged {
                replay.settle();
            }
            let Tried { result, outcome, was_alone, at: now } =
                self.attempt(flight, replay, attempts.number(), alone, hedged, &mut tried).await?;
            if was_alone && matches!(outcome, Outcome::StaleConnection | Outcome::NotProcessed) {
                // The kept connection was just being closed. On a shared one the peer would have said so in time;
                // that this one did not is no reason to spend a retry.
                alone = false;
                tried.pop();
                continue;
            }
            attempts.set_replayable(replay.is_replayable());
            let verdict =
                self.upstream.after(&mut attempts, &outcome, now, &mut *self.worker.rng.borrow_mut());
            let wait = match verdict {
                // There would be no time left for another attempt: the caller gets what there is.
                Verdict::Again(wait) if self.deadline.is_some_and(|deadline| deadline.at <= now + wait) => {
                    None
                }
                Verdict::Again(wait) => Some(wait),
                Verdict::Done => None,
                Verdict::BudgetSpent => {
                    give_up(result, &outcome, now);
                    replay.stop();
                    return Err(Failure::RetryBudget);
                }
            };
            let Some(wait) = wait else {
                replay.settle();
                return result;
            };
            give_up(result, &outcome, now);
            sleep(wait).await;
        }
    }

    /// One try, or where it is late and may be hedged, several. The end is reported to the endpoint's account, except for
    /// an answer, which reports its own.
    ///
    /// # Errors
    /// Nothing was tried: there is no endpoint, or no time.
    async fn attempt(
        &self,
        flight: &mut Flight,
        replay: &Replay,
        number: u32,
        may_be_alone: bool,
        hedged: bool,
        tried: &mut SmallVec<[Arc<str>; 4]>,
    ) -> Result<Tried, Failure> {
        let now = Instant::now();
        let engagement = self.engage(tried, now)?;
        let body = replay.attempt();
        let (launched, parcel) = self.launch(flight, engagement, replay, body, number, may_be_alone)?;
        tried.push(parcel.endpoint.id.clone());
        let result = if hedged {
            Box::pin(self.race(flight, replay, (launched, parcel), number, tried)).await
        } else {
            let sent = in_time(parcel.limit, pin!(self.send(parcel))).await;
            self.land(flight, replay, launched, sent)
        };
        flight.exchange().upstream += result.at.duration_since(now);
        Ok(result)
    }

    /// An endpoint for an attempt.
    ///
    /// # Errors
    /// There is none.
    fn engage(&self, tried: &[Arc<str>], now: Instant) -> Result<Engagement, Failure> {
        let held = self.plan.resumed.map(|session| session.mark);
        let aim = Aim { tried, key: self.key, held, ..Aim::new(self.port, &self.worker.config.zone) };
        self.upstream.engage(&aim, now, &mut *self.worker.rng.borrow_mut())
    }

    /// Makes an attempt ready, and opens its record.
    ///
    /// # Errors
    /// There is no time left for it.
    fn launch(
        &self,
        flight: &mut Flight,
        engagement: Engagement,
        replay: &Replay,
        body: replay::Attempt,
        number: u32,
        may_be_alone: bool,
    ) -> Result<(Launched, Parcel), Failure> {
        let now = engagement.began();
        let limit = Deadline::of_attempt(self.deadline, self.plan.attempt_timeout, now);
        let trace = flight.exchange().trace.child(&mut *self.worker.rng.borrow_mut());
        let endpoint = engagement.endpoint().clone();
        let pool = self.upstream.pool(&endpoint, self.port);
        let shape = match self.outside {
            None => self.shape(replay, &pool, may_be_alone, now),
            Some(_) => self.shape_outside(&pool, may_be_alone && number == 1),
        };
        let was_alone = matches!(shape, Shape::Exclusive(_)) && self.is_simple(replay);
        let request = self.request(&trace, number, &shape, Body::Attempt(body), now)?;
        let exchange = flight.exchange();
        exchange.peer = endpoint.identity.workload().cloned();
        exchange.mtls = endpoint.identity.is_proved();
        exchange.attempts.push(exchange::Attempt {
            span_id: trace.span_id,
            started: now,
            duration: std::time::Duration::ZERO,
            endpoint: Some(endpoint.address),
            peer: endpoint.identity.workload().cloned(),
            status: None,
            grpc_status: None,
            failure: None,
        });
        let launched = Launched { engagement, record: exchange.attempts.len() - 1, was_alone };
        Ok((launched, Parcel { endpoint, pool, shape, request, limit, at: now }))
    }

    /// Takes in how an attempt ended.
    fn land(
        &self,
        flight: &mut Flight,
        replay: &Replay,
        launched: Launched,
        sent: Result<Answer, Outcome>,
    ) -> Tried {
        let Launched { mut engagement, record, was_alone } = launched;
        let now = Instant::now();
        let attempt = &mut flight.exchange().attempts[record];
        attempt.duration = now.duration_since(attempt.started);
        match sent {
            Ok(Answer { mut head, mut there, body, hold, sent, trailing }) => {
                if self.outside.is_some() && there.has(Notable::ERROR) {
                    outside::arrive(&mut head.headers);
                    there = Notable::of(&head.headers);
                }
                let outcome = outcome_of_answer(&head, there, trailing);
                attempt.status = Some(head.status.as_u16());
                if let Outcome::Status { grpc, .. } = &outcome {
                    attempt.grpc_status = *grpc;
                }
                engagement.answered(&outcome, sent, now);
                let arrival = Arrival { head, there, body, hold, engagement: Some(engagement), at: now };
                Tried { result: Ok(Box::new(arrival)), outcome, was_alone, at: now }
            }
            Err(outcome) => {
                // Where the caller's own body ended in an error, that says nothing of the endpoint.
                let broken = replay.is_broken();
                let outcome = if broken { Outcome::Failed(Failure::BadRequest) } else { outcome };
                let failure = failure_of(&outcome);
                attempt.failure = Some(failure);
                engagement.end(&outcome, now);
                Tried { result: Err(failure), outcome, was_alone, at: now }
            }
        }
    }

    /// How the next attempt is sent.
    ///
    /// Only what may be sent twice goes over a connection that the peer might be closing at this moment (RFC 9112
    /// section 9.3.1), and only what HTTP/1.1 says as well as HTTP/2 does.
    fn shape(&self, replay: &Replay, pool: &Pool, may_be_alone: bool, now: Instant) -> Shape {
        if self.asked.is_some() {
            return Shape::Upgrade;
        }
        let simple = may_be_alone
            && self.head.version < Version::HTTP_2
            && self.head.headers.len() <= FEW_FIELDS
            && self.is_simple(replay);
        match simple.then(|| pool.alone(now)).flatten() {
            Some(turn) => Shape::Exclusive(turn),
            None => Shape::Multiplexed,
        }
    }

    /// How the next attempt is sent to a host outside: in HTTP/2 only where that is declared, or gRPC needs it. The
    /// first may go over a kept connection, whatever it is: that the host closes it at the same moment is rare, and
    /// reported as a reset where the request may not be sent twice.
    fn shape_outside(&self, pool: &Pool, may_reuse: bool) -> Shape {
        let multiplexed = self.backend.port(self.port).is_some_and(|port| port.protocol == Protocol::Http2)
            || self.is_grpc()
            || self.head.extensions.get::<ConnectProtocol>().is_some();
        if self.asked.is_none() && multiplexed {
            Shape::Multiplexed
        } else if self.asked.is_none() && may_reuse {
            Shape::Exclusive(pool.turn())
        } else {
            Shape::Upgrade
        }
    }

    /// May be sent twice, and all of it is here.
    fn is_simple(&self, replay: &Replay) -> bool {
        self.head.method.is_idempotent() && replay.is_empty()
    }

    /// The request for one attempt, with what the next hop is told.
    fn request(
        &self,
        trace: &TraceContext,
        number: u32,
        shape: &Shape,
        body: Body,
        now: Instant,
    ) -> Result<Request<Body>, Failure> {
        let mut fields = self.head.headers.clone();
        if let Some(deadline) = self.deadline {
            deadline.write(&mut fields, self.there, now)?;
        }
        trace.inject(&mut fields, &self.snapshot.mesh.trace_formats, self.there);
        fields.insert(headers::ATTEMPT, HeaderValue::from(number));
        let mut request = self.shaped_request(shape, fields, body)?;
        if let Some(port) = self.outside {
            outside::leave(&mut request, port)?;
        }
        Ok(request)
    }

    fn shaped_request(
        &self,
        shape: &Shape,
        mut fields: HeaderMap,
        body: Body,
    ) -> Result<Request<Body>, Failure> {
        if matches!(shape, Shape::Multiplexed) {
            return multiplexed_request(self.head, &self.authority, fields, body);
        }
        if let Some(protocol) = &self.asked {
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, protocol.clone());
        }
        exclusive_request(&self.head.method, self.head.uri.path_and_query(), &self.authority, fields, body)
    }

    /// Whether the request may be under way twice at the same time.
    fn may_be_hedged(&self) -> bool {
        let switching = self.asked.is_some() || self.head.extensions.get::<ConnectProtocol>().is_some();
        let repeatable = self.plan.retry.is_some_and(|retry| retry.non_idempotent);
        !switching && (repeatable || self.head.method.is_idempotent())
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.there.has(Notable::CONTENT_TYPE) && is_grpc(&self.head.headers)
    }

    /// Whether the status in an answer's trailers may ask for another attempt.
    fn retries_grpc_codes(&self) -> bool {
        self.plan.retry.is_some_and(|retry| !retry.grpc.is_empty()) && self.is_grpc()
    }

    /// Sends an attempt, and waits for the head of its answer.
    fn send(&self, parcel: Parcel) -> impl Future<Output = Result<Answer, Outcome>> {
        let Parcel { endpoint, pool, shape, request, limit: _, at: now } = parcel;
        async move {
            let way = Way {
                worker: self.worker,
                upstream: &self.upstream,
                endpoint: &endpoint,
                port: self.port,
                policy: &self.backend.policy,
            };
            let mut answer = match shape {
                Shape::Multiplexed => way.send_multiplexed(&pool, request, now).await?,
                Shape::Exclusive(turn) => way.send_exclusive(&pool, request, Some(turn), now).await?,
                Shape::Upgrade => return way.send_exclusive(&pool, request, None, now).await,
            };
            if !self.retries_grpc_codes() {
                return Ok(answer);
            }
            let status = answer.body.grpc_status().await;
            Ok(answer.with_grpc_status(status))
        }
    }
}

/// Waits for what is `sending` until its time is over.
async fn in_time(
    limit: Option<Deadline>,
    sending: Pin<&mut impl Future<Output = Result<Answer, Outcome>>>,
) -> Result<Answer, Outcome> {
    match limit {
        None => sending.await,
        Some(Deadline { at, failure }) => {
            timeout_at(at, sending).await.unwrap_or(Err(Outcome::Failed(failure)))
        }
    }
}

/// An answer that the caller does not get still counts for its endpoint.
pub(super) fn give_up(result: Result<Box<Arrival>, Failure>, outcome: &Outcome, now: Instant) {
    if let Some(engagement) = result.ok().and_then(|arrival| arrival.engagement) {
        engagement.end(outcome, now);
    }
}

/// What the caller is told of an attempt without an answer.
fn failure_of(outcome: &Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => *failure,
        Outcome::StaleConnection | Outcome::NotProcessed | Outcome::Status { .. } => Failure::UpstreamReset,
    }
}

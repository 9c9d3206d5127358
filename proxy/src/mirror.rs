//! Copies of requests, sent to one more place on the side.
//!
//! A copy never delays its request and never changes what becomes of it: it is a task of its own, sent to exactly one
//! endpoint, once, its answer read and thrown away within bounds. Its body is what has passed of the request's own; one
//! that is bigger than what is kept of any body, or that never comes whole, is not copied. How many are under way is
//! bounded, too, and whatever becomes of a copy is counted.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderValue, Request, request};
use tokio::time::{Instant, timeout};

use crate::attempt::{Answer, Way, multiplexed_request, outcome_of_answer};
use crate::body::Body;
use crate::cluster::Aim;
use crate::deadline::DEADLINE_MS;
use crate::filter::Mirror;
use crate::headers;
use crate::metrics::Mirrored;
use crate::notable::Notable;
use crate::replay::Copied;
use crate::retry::Outcome;
use crate::snapshot::Snapshot;
use crate::trace::TraceContext;
use crate::worker::Worker;

/// So many copies of one worker are under way at once; over it none is made.
pub(crate) const MOST: u32 = 256;

/// A copy's body and answer may take this long together.
const PATIENCE: Duration = Duration::from_secs(30);

/// So much of an answer is read before its stream is reset.
const MOST_ANSWER_BYTES: usize = 1 << 20;

/// A request as it was when its mirror was met among the filters.
#[derive(Debug)]
pub(crate) struct Likeness<'a> {
    mirror: &'a Mirror,
    head: request::Parts,
    authority: Authority,
}

impl<'a> Likeness<'a> {
    /// Takes down what the mirror is to be told.
    pub(crate) fn of(mirror: &'a Mirror, head: &request::Parts, authority: &Authority) -> Self {
        // Without what comes along with the caller's connection.
        let (mut copy, ()) = Request::new(()).into_parts();
        copy.method = head.method.clone();
        copy.uri = head.uri.clone();
        copy.version = head.version;
        copy.headers = head.headers.clone();
        Self { mirror, head: copy, authority: authority.clone() }
    }

    /// Sends the copy as soon as its body is there; returns at once.
    pub(crate) fn send(
        self,
        worker: &Rc<Worker>,
        snapshot: &Arc<Snapshot>,
        body: Copied,
        trace: TraceContext,
    ) {
        let metrics = worker.recorder.metrics.clone();
        let Some(place) = worker.mirrors.admit() else { return metrics.mirrored(Mirrored::Busy) };
        let Self { mirror, mut head, authority } = self;
        let mirror = mirror.clone();
        head.headers.remove(DEADLINE_MS); // nobody waits for the answer
        let (from, snapshot) = (worker.clone(), snapshot.clone());
        worker.detach(async move {
            let _place = place;
            let copy = Copy { worker: &from, snapshot: &snapshot, mirror, head, authority, trace };
            metrics.mirrored(timeout(PATIENCE, copy.deliver(body)).await.unwrap_or(Mirrored::Failed));
        });
    }
}

struct Copy<'w> {
    worker: &'w Rc<Worker>,
    snapshot: &'w Snapshot,
    mirror: Mirror,
    head: request::Parts,
    authority: Authority,
    trace: TraceContext,
}

impl Copy<'_> {
    async fn deliver(self, body: Copied) -> Mirrored {
        let Some(body) = body.whole().await else { return Mirrored::Body };
        let Some(service) = self.snapshot.services.get(&self.mirror.service) else {
            return Mirrored::Unready;
        };
        if service.external.is_some() {
            return Mirrored::Unready; // what requests of the mesh say is nothing for hosts outside
        }
        let now = Instant::now();
        let upstream = self.worker.upstream(service, now);
        let Ok(_permit) = upstream.admit() else { return Mirrored::Busy };
        let aim = Aim::new(self.mirror.port, &self.worker.config.zone);
        let engaged = upstream.engage(&aim, now, &mut *self.worker.rng.borrow_mut());
        let Ok(mut engagement) = engaged else { return Mirrored::Unready };
        let endpoint = engagement.endpoint().clone();
        let way = Way {
            worker: self.worker,
            upstream: &upstream,
            endpoint: &endpoint,
            port: self.mirror.port,
            policy: &service.policy,
        };
        let mut fields = self.head.headers.clone();
        let there = Notable::of(&fields);
        self.trace.inject(&mut fields, &self.snapshot.mesh.trace_formats, there);
        fields.insert(headers::ATTEMPT, HeaderValue::from(1));
        let body = Body::Attempt(body.attempt());
        let Ok(request) = multiplexed_request(&self.head, &self.authority, fields, body) else {
            return Mirrored::Failed;
        };
        match way.send_multiplexed(&upstream.pool(&endpoint, self.mirror.port), request, now).await {
            Ok(Answer { head, there, mut body, hold: _hold, sent, trailing }) => {
                let outcome = outcome_of_answer(&head, there, trailing);
                engagement.answered(&outcome, sent, Instant::now());
                let mut left = MOST_ANSWER_BYTES;
                while let Some(Ok(frame)) = poll_fn(|cx| body.poll_frame(cx)).await {
                    let read = frame.data_ref().map_or(0, bytes::Bytes::len);
                    match left.checked_sub(read) {
                        Some(rest) => left = rest,
                        None => break,
                    }
                }
                engagement.end(&outcome, Instant::now());
                if matches!(outcome, Outcome::Status { .. }) { Mirrored::Answered } else { Mirrored::Failed }
            }
            Err(outcome) => {
                engagement.end(&outcome, Instant::now());
                Mirrored::Failed
            }
        }
    }
}

//! Whether a failed attempt is followed by another.
//!
//! Another attempt is made only when it is safe (the application provably never saw the request, or the method
//! may be repeated, or the policy says that it may), possible (the body can be sent again), wanted (the route
//! lists the outcome), and affordable (tries are left and the [`Budget`] has room). Without a policy only what
//! is provably safe is tried again, at most [`DEFAULT_RETRIES`] times.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode, request};
use rand::Rng;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::budget::Budget;
use crate::failure::{Failure, Reached};
use crate::headers::grpc_status;

/// Extra tries where no policy says otherwise.
pub const DEFAULT_RETRIES: u32 = 2;

/// An upstream that asks for a longer pause gets no retry: its answer, `retry-after` included, goes to the
/// caller, who can wait without holding anything here.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);

/// What a route or a service says of retries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// Extra tries after the first.
    pub attempts: u32,
    /// The wait before each.
    pub backoff: Backoff,
    /// HTTP statuses worth another try.
    pub status: Vec<StatusCode>,
    /// gRPC statuses worth another try. A call whose status is listed is retried although gRPC always uses
    /// POST: naming the code is the permission.
    pub grpc: Vec<u8>,
    /// Methods that are not idempotent are retried, too.
    pub non_idempotent: bool,
}

/// What decides whether the request may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method may be repeated (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// The body can be sent again from its first byte: none of it has been sent, or all that was sent is kept.
    pub replayable: bool,
    /// A gRPC call.
    pub grpc: bool,
}

impl RequestFacts {
    /// Reads them from the head. `replayable` is what the caller knows of the body.
    pub fn new(head: &request::Parts, replayable: bool) -> Self {
        Self { idempotent: head.method.is_idempotent(), replayable, grpc: is_grpc(&head.headers) }
    }
}

/// Whether the fields say that the message is gRPC (`application/grpc`, `application/grpc+proto`, ...).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(value) = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) else { return false };
    value.len() >= GRPC.len()
        && value[..GRPC.len()].eq_ignore_ascii_case(GRPC)
        && matches!(value.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream answered.
    Status {
        /// With this HTTP status.
        code: StatusCode,
        /// And this gRPC status, where it is known by now.
        grpc: Option<u8>,
        /// The pause that it asks for.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or not a whole one.
    Failed(Failure),
    /// A kept-alive connection closed before a byte of the answer: most likely the upstream had closed it as
    /// idle before it saw the request.
    StaleConnection,
    /// The upstream said that it did not process the request (REFUSED_STREAM, GOAWAY below the stream,
    /// RFC 9113 §8.7).
    NotProcessed,
}

/// What an outcome says of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// It did its work.
    Good,
    /// It failed, or took longer than anybody waits.
    Bad,
    /// Nothing: the request or this proxy was at fault.
    Neutral,
}

impl Outcome {
    /// An answer, read from its status and fields.
    pub fn answer(code: StatusCode, headers: &HeaderMap) -> Self {
        Self::Status { code, grpc: grpc_status(headers), retry_after: retry_after(headers) }
    }

    /// What the outcome says of the endpoint, for its breaker and its share of the load.
    ///
    /// gRPC codes that are the server's fault, as the gRPC specification words them, count like 5xx: UNKNOWN,
    /// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    pub fn showing(&self) -> Showing {
        match self {
            Self::Status { grpc: Some(2 | 4 | 13 | 14 | 15), .. } => Showing::Bad,
            Self::Status { code, .. } if code.is_server_error() => Showing::Bad,
            Self::Status { .. } => Showing::Good,
            // Both are how an orderly upstream ends a connection; what follows on a new one will tell.
            Self::StaleConnection | Self::NotProcessed => Showing::Neutral,
            Self::Failed(failure) => match failure {
                Failure::UpstreamReset
                | Failure::UpstreamProtocol
                | Failure::ConnectRefused
                | Failure::ConnectTimeout
                | Failure::TlsHandshake
                | Failure::TlsIdentity
                | Failure::TryTimeout
                | Failure::RequestTimeout
                | Failure::Deadline => Showing::Bad,
                Failure::BadRequest
                | Failure::HeadTooLarge
                | Failure::Unauthenticated
                | Failure::Denied
                | Failure::Misdirected
                | Failure::NoRoute
                | Failure::InvalidBackend
                | Failure::NoEndpoints
                | Failure::BreakerOpen
                | Failure::Overloaded
                | Failure::RetryBudget
                | Failure::RateLimited
                | Failure::FaultInjected(_)
                | Failure::Draining => Showing::Neutral,
            },
        }
    }
}

/// The pause in `retry-after`, where it is given in seconds; a date is ignored, since nothing here tells the
/// wall time and upstreams that shed load send seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.parse::<u32>().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The outcome is the answer.
    Done,
    /// Try once more after this wait.
    Again(Duration),
    /// One more try would have been made, and the service's retry budget is spent.
    BudgetSpent,
}

/// The tries of one request.
#[derive(Debug)]
pub struct Attempts {
    policy: Option<Arc<RetryPolicy>>,
    facts: RequestFacts,
    /// Tries again that were granted.
    retries: u32,
}

impl Attempts {
    /// A request that is about to be sent for the first time.
    pub fn new(policy: Option<Arc<RetryPolicy>>, facts: RequestFacts) -> Self {
        Self { policy, facts, retries: 0 }
    }

    /// Which try is under way, counted from 1: the value of `outrigger-attempt`.
    pub fn number(&self) -> u32 {
        self.retries + 1
    }

    /// Whether another try may follow this one, so that the body is worth keeping.
    pub fn may_retry(&self) -> bool {
        self.retries < self.limit()
    }

    /// Notes what has become of the body, which may have grown beyond what is kept since the request began.
    pub fn set_replayable(&mut self, replayable: bool) {
        self.facts.replayable = replayable;
    }

    /// Decides after an attempt ended. A retry that is granted is charged to `budget`.
    pub fn after(
        &mut self,
        outcome: &Outcome,
        now: Instant,
        budget: &mut Budget,
        rng: &mut impl Rng,
    ) -> Verdict {
        if !self.may_retry() || !self.facts.replayable || !self.wanted(outcome) {
            return Verdict::Done;
        }
        let Some(wait) = self.wait(outcome, rng) else { return Verdict::Done };
        if !budget.withdraw(now) {
            return Verdict::BudgetSpent;
        }
        self.retries += 1;
        Verdict::Again(wait)
    }

    fn limit(&self) -> u32 {
        self.policy.as_ref().map_or(DEFAULT_RETRIES, |policy| policy.attempts)
    }

    /// Whether the outcome is one that another try may better, and the request one that may be repeated.
    fn wanted(&self, outcome: &Outcome) -> bool {
        let policy = self.policy.as_deref();
        let repeatable = self.facts.idempotent || policy.is_some_and(|policy| policy.non_idempotent);
        let listed = |code: u8| policy.is_some_and(|policy| policy.grpc.contains(&code));
        match *outcome {
            Outcome::NotProcessed => true,
            Outcome::StaleConnection => repeatable,
            Outcome::Status { code, grpc, .. } => {
                grpc.is_some_and(listed)
                    || repeatable && policy.is_some_and(|policy| policy.status.contains(&code))
            }
            Outcome::Failed(failure) => {
                let facts = failure.facts();
                match facts.reached {
                    Reached::Never => true,
                    Reached::Perhaps => {
                        policy.is_some() && repeatable || self.facts.grpc && listed(facts.grpc)
                    }
                    Reached::Final => false,
                }
            }
        }
    }

    /// The wait before the next try. `None`: longer than a request should be held.
    fn wait(&self, outcome: &Outcome, rng: &mut impl Rng) -> Option<Duration> {
        match *outcome {
            // The upstream is well, only the connection was not: nothing is gained by waiting.
            Outcome::StaleConnection | Outcome::NotProcessed if self.retries == 0 => Some(Duration::ZERO),
            Outcome::Status { retry_after: Some(pause), .. } if pause > LONGEST_RETRY_AFTER => None,
            // The jitter on top: everybody was told the same.
            Outcome::Status { retry_after: Some(pause), .. } => Some(pause + self.backoff(rng)),
            // Without a policy the first retry goes to another endpoint, at once.
            Outcome::Failed(_) if self.policy.is_none() && self.retries == 0 => Some(Duration::ZERO),
            _ => Some(self.backoff(rng)),
        }
    }

    fn backoff(&self, rng: &mut impl Rng) -> Duration {
        let backoff = self.policy.as_ref().map_or(Backoff::default(), |policy| policy.backoff);
        backoff.wait(self.retries, rng)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::budget::Allowance;

    const SAFE: RequestFacts = RequestFacts { idempotent: true, replayable: true, grpc: false };
    const POST: RequestFacts = RequestFacts { idempotent: false, replayable: true, grpc: false };
    const CALL: RequestFacts = RequestFacts { idempotent: false, replayable: true, grpc: true };

    fn status(code: u16) -> Outcome {
        Outcome::Status { code: StatusCode::from_u16(code).unwrap(), grpc: None, retry_after: None }
    }

    fn grpc(code: u8) -> Outcome {
        Outcome::Status { code: StatusCode::OK, grpc: Some(code), retry_after: None }
    }

    fn policy(attempts: u32) -> RetryPolicy {
        RetryPolicy { attempts, status: vec![StatusCode::SERVICE_UNAVAILABLE], ..Default::default() }
    }

    /// The verdicts on the same outcome, again and again, with a budget that never ends.
    fn verdicts(policy: Option<RetryPolicy>, facts: RequestFacts, outcome: Outcome) -> Vec<Verdict> {
        let now = Instant::now();
        let mut budget = Budget::new(Allowance::a_second(0, 1000), now);
        let mut rng = StdRng::seed_from_u64(7);
        let mut attempts = Attempts::new(policy.map(Arc::new), facts);
        let mut verdicts = Vec::new();
        loop {
            verdicts.push(attempts.after(&outcome, now, &mut budget, &mut rng));
            if !matches!(verdicts.last(), Some(Verdict::Again(_))) {
                return verdicts;
            }
        }
    }

    fn retries(policy: Option<RetryPolicy>, facts: RequestFacts, outcome: Outcome) -> usize {
        verdicts(policy, facts, outcome).len() - 1
    }

    #[test]
    fn without_a_policy_only_what_never_arrived_is_retried_twice() {
        for outcome in [
            Outcome::Failed(Failure::ConnectRefused),
            Outcome::Failed(Failure::ConnectTimeout),
            Outcome::Failed(Failure::TlsHandshake),
            Outcome::Failed(Failure::Draining),
            Outcome::NotProcessed,
        ] {
            assert_eq!(retries(None, POST, outcome), 2, "{outcome:?}");
        }
        assert_eq!(retries(None, SAFE, Outcome::StaleConnection), 2);
        assert_eq!(retries(None, POST, Outcome::StaleConnection), 0);
        for outcome in [
            status(503),
            grpc(14),
            Outcome::Failed(Failure::UpstreamReset),
            Outcome::Failed(Failure::TryTimeout),
            Outcome::Failed(Failure::NoEndpoints),
            Outcome::Failed(Failure::RequestTimeout),
        ] {
            assert_eq!(retries(None, SAFE, outcome), 0, "{outcome:?}");
        }
    }

    #[test]
    fn a_policy_retries_what_it_lists_and_resets_and_try_timeouts() {
        for outcome in
            [status(503), Outcome::Failed(Failure::UpstreamReset), Outcome::Failed(Failure::TryTimeout)]
        {
            assert_eq!(retries(Some(policy(3)), SAFE, outcome), 3, "{outcome:?}");
            assert_eq!(retries(Some(policy(3)), POST, outcome), 0, "{outcome:?}");
            let asked = RetryPolicy { non_idempotent: true, ..policy(3) };
            assert_eq!(retries(Some(asked), POST, outcome), 3, "{outcome:?}");
        }
        assert_eq!(retries(Some(policy(3)), SAFE, status(500)), 0, "not listed");
        assert_eq!(retries(Some(policy(3)), SAFE, Outcome::Failed(Failure::RequestTimeout)), 0);
        assert_eq!(retries(Some(policy(3)), POST, Outcome::Failed(Failure::ConnectRefused)), 3);
    }

    #[test]
    fn grpc_codes_are_retried_where_listed_although_calls_are_posts() {
        let listed = || Some(RetryPolicy { grpc: vec![14], ..policy(2) });
        assert_eq!(retries(listed(), CALL, grpc(14)), 2);
        assert_eq!(retries(listed(), CALL, Outcome::Failed(Failure::UpstreamReset)), 2, "UNAVAILABLE");
        assert_eq!(retries(listed(), CALL, Outcome::Failed(Failure::TryTimeout)), 0, "DEADLINE_EXCEEDED");
        assert_eq!(retries(listed(), CALL, grpc(13)), 0);
        assert_eq!(retries(Some(policy(2)), CALL, grpc(14)), 0);
    }

    #[test]
    fn a_body_that_is_gone_is_never_retried() {
        let gone = RequestFacts { replayable: false, ..SAFE };
        assert_eq!(retries(Some(policy(3)), gone, Outcome::Failed(Failure::ConnectRefused)), 0);
    }

    #[test]
    fn the_backoff_is_a_minimum_and_retry_after_is_respected_within_reason() {
        let waits = |outcome| verdicts(Some(policy(1)), SAFE, outcome)[0];
        let asking = |seconds| Outcome::Status {
            code: StatusCode::SERVICE_UNAVAILABLE,
            grpc: None,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert!(matches!(waits(status(503)), Verdict::Again(wait) if wait >= Backoff::DEFAULT_FIRST));
        assert!(matches!(waits(asking(2)), Verdict::Again(wait) if wait > Duration::from_secs(2)));
        assert_eq!(waits(asking(60)), Verdict::Done);
    }

    #[test]
    fn a_spent_budget_says_so_only_where_a_retry_was_due() {
        let now = Instant::now();
        let mut budget = Budget::new(Allowance::a_second(0, 0), now);
        let mut rng = StdRng::seed_from_u64(7);
        let mut attempts = Attempts::new(Some(Arc::new(policy(3))), SAFE);
        assert_eq!(attempts.after(&status(503), now, &mut budget, &mut rng), Verdict::BudgetSpent);
        assert_eq!(attempts.after(&status(200), now, &mut budget, &mut rng), Verdict::Done);
        assert_eq!(attempts.number(), 1);
    }

    #[test]
    fn facts_come_from_the_head() {
        let head = |method: &str, content: &str| {
            Request::builder().method(method).header("content-type", content).body(()).unwrap().into_parts().0
        };
        assert_eq!(RequestFacts::new(&head("GET", "text/plain"), true), SAFE);
        assert_eq!(RequestFacts::new(&head("POST", "application/grpcish"), true), POST);
        assert_eq!(RequestFacts::new(&head("POST", "application/grpc+proto"), true), CALL);
        assert_eq!(RequestFacts::new(&head("POST", "application/grpc"), true), CALL);
    }

    #[test]
    fn an_answer_is_read_from_its_fields() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "14".parse().unwrap());
        headers.insert("retry-after", "3".parse().unwrap());
        let answer = Outcome::answer(StatusCode::OK, &headers);
        let retry_after = Some(Duration::from_secs(3));
        assert_eq!(answer, Outcome::Status { code: StatusCode::OK, grpc: Some(14), retry_after });
        assert_eq!(answer.showing(), Showing::Bad);
        headers.insert("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT".parse().unwrap());
        headers.insert("grpc-status", "none".parse().unwrap());
        assert_eq!(Outcome::answer(StatusCode::OK, &headers), status(200));
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (100u16..600).prop_map(status),
            (0u8..17).prop_map(grpc),
            prop::sample::select(Failure::ALL.to_vec()).prop_map(Outcome::Failed),
            Just(Outcome::StaleConnection),
            Just(Outcome::NotProcessed),
        ]
    }

    proptest! {
        #[test]
        fn tries_never_exceed_the_policy_nor_the_budget(
            attempts in 0u32..5,
            per_second in 0u32..5,
            outcomes in prop::collection::vec(any_outcome(), 0..20),
        ) {
            let now = Instant::now();
            let mut budget = Budget::new(Allowance::a_second(0, per_second), now);
            let mut rng = StdRng::seed_from_u64(7);
            let mut tries = Attempts::new(Some(Arc::new(policy(attempts))), SAFE);
            let granted = outcomes
                .iter()
                .filter(|outcome| matches!(tries.after(outcome, now, &mut budget, &mut rng), Verdict::Again(_)))
                .count() as u32;
            prop_assert!(granted <= attempts.min(per_second));
            prop_assert_eq!(tries.number(), granted + 1);
        }
    }
}

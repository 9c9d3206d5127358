//! When to leave an endpoint alone.
//!
//! An endpoint that fails every request costs each caller a try, and trouble there often heals faster without
//! traffic. A breaker that is *closed* lets requests through; after a number of failures in a row it is *open* and
//! lets none through; after a while it is *half-open* and lets exactly one through, whose result closes it or opens
//! it again for twice as long.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::snapshot::BreakerPolicy;

/// The breaker of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Counts state changes, so that the late result of a request which an earlier state admitted is ignored.
    generation: u64,
    /// How long it was open last. Kept when it closes, until it stayed closed for as long as that.
    last_open: Option<Duration>,
}

/// ```text
///             n failures in a row
///   Closed ------------------------> Open <---.
///      ^                              |        |
///      | the probe succeeds   time up |        | the probe fails
///      |                              v        |
///      '-------------------------- HalfOpen ---'
/// ```
///
/// Invariant: `HalfOpen` means that exactly one request, the probe, is under way.
#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32, since: Instant },
    Open { until: Instant },
    HalfOpen { since: Instant },
}

/// Leave to send one request, to be given back with [`Breaker::succeeded`], [`Breaker::failed`] or
/// [`Breaker::abandon`].
#[derive(Debug)]
#[must_use = "a permit is given back with `succeeded`, `failed` or `abandon`"]
pub struct Permit {
    generation: u64,
    probe: bool,
    /// Chance, drawn when the request began: decides the jitter, should its failure open the breaker.
    chance: f64,
}

impl Permit {
    /// Whether the request is the one that a half-open breaker lets through.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

/// How much longer the breaker stays open; zero while a probe is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFor(pub Duration);

/// What a breaker does at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It lets requests through.
    Closed,
    /// It lets nothing through.
    Open,
    /// It would let one request through, and turn half-open.
    Due,
    /// Its probe is under way.
    HalfOpen,
}

/// A change that an operator wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It opened, for this long.
    Opened(Duration),
    /// It closed.
    Closed,
}

/// Why a breaker is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Failures in a row.
    Failures,
    /// Far fewer successes than its peers have.
    SuccessRate,
    /// The probe failed as well.
    Probe,
}

impl Cause {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures in a row",
            Self::SuccessRate => "far fewer successes than its peers",
            Self::Probe => "the probe failed, too",
        }
    }
}

/// A probe that has not ended after this long is given up and another is allowed: it may hang on a connection
/// that leads nowhere.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed { failures: 0, since: now }, generation: 0, last_open: None }
    }

    /// What [`Self::admit`] would do.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.state {
            State::Closed { .. } => Standing::Closed,
            State::Open { until } if now < until => Standing::Open,
            State::HalfOpen { since } if now < since + PROBE_PATIENCE => Standing::HalfOpen,
            State::Open { .. } | State::HalfOpen { .. } => Standing::Due,
        }
    }

    /// Whether the breaker is closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// When [`Self::standing`] will be another though nothing happens. `None`: it stays as it is.
    pub(crate) fn changes_at(&self, now: Instant) -> Option<Instant> {
        let at = match self.state {
            State::Closed { .. } => None,
            State::Open { until } => Some(until),
            State::HalfOpen { since } => Some(since + PROBE_PATIENCE),
        };
        at.filter(|at| now < *at)
    }

    /// Counts the changes that were not of time alone.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks to send one request at `now`.
    ///
    /// # Errors
    /// The breaker is open, and says for how much longer.
    pub fn admit(&mut self, now: Instant, rng: &mut impl Rng) -> Result<Permit, OpenFor> {
        let probe = match (self.standing(now), self.state) {
            (Standing::Closed, _) => false,
            (Standing::Due, _) => {
                self.enter(State::HalfOpen { since: now });
                true
            }
            (_, State::Open { until }) => return Err(OpenFor(until.saturating_duration_since(now))),
            (_, _) => return Err(OpenFor(Duration::ZERO)),
        };
        Ok(Permit { generation: self.generation, probe, chance: rng.random() })
    }

    /// Reports that the admitted request succeeded.
    pub fn succeeded(&mut self, permit: Permit, now: Instant) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed { failures, .. } => {
                *failures = 0;
                None
            }
            State::HalfOpen { .. } => {
                self.enter(State::Closed { failures: 0, since: now });
                Some(Transition::Closed)
            }
            State::Open { .. } => None,
        }
    }

    /// Reports that the admitted request failed.
    ///
    /// `may_open` says whether the service can do without the endpoint; `outlier` that it fails far more often than
    /// its peers, which opens the breaker whatever the number of failures in a row.
    pub fn failed(
        &mut self,
        permit: Permit,
        policy: &BreakerPolicy,
        may_open: bool,
        outlier: bool,
        now: Instant,
    ) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed { failures, since } => {
                *failures = failures.saturating_add(1);
                let since = *since;
                if !may_open || *failures < policy.consecutive_failures && !outlier {
                    return None;
                }
                // It was well for as long as it was out: the past is forgotten.
                if self.last_open.is_some_and(|last| now >= since + last) {
                    self.last_open = None;
                }
            }
            State::HalfOpen { .. } => {}
            State::Open { .. } => return None,
        }
        Some(self.open(policy, permit.chance, now))
    }

    /// Gives back a permit whose request ended without showing anything: it was cancelled, or this proxy could not
    /// send it. The next request may then be the probe.
    pub fn abandon(&mut self, permit: Permit) {
        if permit.generation == self.generation
            && let State::HalfOpen { since } = self.state
        {
            self.enter(State::Open { until: since });
        }
    }

    fn open(&mut self, policy: &BreakerPolicy, chance: f64, now: Instant) -> Transition {
        let least = match self.last_open {
            Some(last) => last.saturating_mul(2),
            None => policy.min_open,
        };
        let least = least.clamp(policy.min_open, policy.max_open.max(policy.min_open));
        self.last_open = Some(least);
        // Up to a quarter longer, so that endpoints which failed together are not probed together.
        let open_for = least.mul_f64(1.0 + 0.25 * chance);
        self.enter(State::Open { until: now + open_for });
        Transition::Opened(open_for)
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        breaker: Breaker,
        policy: BreakerPolicy,
        now: Instant,
        rng: StdRng,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let breaker = Breaker::new(now);
            Self { breaker, policy: BreakerPolicy::default(), now, rng: StdRng::seed_from_u64(5) }
        }

        fn admit(&mut self) -> Result<Permit, OpenFor> {
            self.breaker.admit(self.now, &mut self.rng)
        }

        fn fail(&mut self, permit: Permit) -> Option<Transition> {
            self.breaker.failed(permit, &self.policy, true, false, self.now)
        }

        fn succeed(&mut self, permit: Permit) -> Option<Transition> {
            self.breaker.succeeded(permit, self.now)
        }

        /// Fails until it opens; how often that was, and for how long it is open.
        fn trip(&mut self) -> (u32, Duration) {
            for failures in 1.. {
                let permit = self.admit().unwrap();
                if let Some(Transition::Opened(time)) = self.fail(permit) {
                    return (failures, time);
                }
            }
            unreachable!()
        }
    }

    #[test]
    fn seven_failures_in_a_row_open_it_and_a_success_starts_the_count_again() {
        let mut bench = Bench::new();
        for _ in 0..6 {
            let permit = bench.admit().unwrap();
            assert_eq!(bench.fail(permit), None);
        }
        let permit = bench.admit().unwrap();
        assert_eq!(bench.succeed(permit), None);
        let (failures, time) = bench.trip();
        assert_eq!(failures, 7);
        assert!((SECOND..=SECOND * 5 / 4).contains(&time), "{time:?}");
        assert_eq!(bench.admit().unwrap_err(), OpenFor(time));
    }

    #[test]
    fn half_open_admits_exactly_one_and_its_success_closes() {
        let mut bench = Bench::new();
        let (_, time) = bench.trip();
        bench.now += time - Duration::from_nanos(1);
        assert!(bench.admit().is_err());
        bench.now += Duration::from_nanos(1);
        assert_eq!(bench.breaker.standing(bench.now), Standing::Due);
        let probe = bench.admit().unwrap();
        assert!(probe.is_probe());
        assert_eq!(bench.admit().unwrap_err(), OpenFor(Duration::ZERO));
        assert_eq!(bench.breaker.standing(bench.now), Standing::HalfOpen);
        assert_eq!(bench.succeed(probe), Some(Transition::Closed));
        assert!(!bench.admit().unwrap().is_probe());
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_the_longest() {
        let mut bench = Bench::new();
        let mut time = bench.trip().1;
        let mut times = Vec::new();
        for _ in 0..8 {
            bench.now += time;
            let probe = bench.admit().unwrap();
            let Some(Transition::Opened(next)) = bench.fail(probe) else { panic!("a failed probe reopens") };
            time = next;
            times.push(next.as_secs_f64());
        }
        for (time, least) in times.iter().zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
            assert!((least..=least * 1.25).contains(time), "{times:?}");
        }
    }

    #[test]
    fn an_endpoint_that_fails_again_at_once_stays_out_longer_and_a_well_one_is_forgiven() {
        let mut bench = Bench::new();
        for (well_for, expected) in [(Duration::ZERO, 1), (Duration::ZERO, 2), (SECOND, 4), (4 * SECOND, 1)] {
            bench.now += well_for;
            let (_, time) = bench.trip();
            let expected = SECOND * expected;
            assert!((expected..=expected * 5 / 4).contains(&time), "{time:?} after {well_for:?} of health");
            bench.now += time;
            let probe = bench.admit().unwrap();
            bench.succeed(probe);
        }
    }

    #[test]
    fn an_abandoned_probe_makes_room_for_the_next() {
        let mut bench = Bench::new();
        let (_, time) = bench.trip();
        bench.now += time;
        let probe = bench.admit().unwrap();
        bench.breaker.abandon(probe);
        assert!(bench.admit().unwrap().is_probe());
        assert!(bench.admit().is_err());
    }

    #[test]
    fn a_probe_that_never_ends_is_given_up() {
        let mut bench = Bench::new();
        let (_, time) = bench.trip();
        bench.now += time;
        let lost = bench.admit().unwrap();
        bench.now += PROBE_PATIENCE;
        let next = bench.admit().unwrap();
        assert!(next.is_probe());
        assert_eq!(bench.fail(lost), None, "its result comes too late to count");
        assert_eq!(bench.succeed(next), Some(Transition::Closed));
    }

    #[test]
    fn late_results_of_an_earlier_state_change_nothing() {
        let mut bench = Bench::new();
        let (early_good, early_bad) = (bench.admit().unwrap(), bench.admit().unwrap());
        let (_, time) = bench.trip();
        assert_eq!(bench.succeed(early_good), None);
        bench.now += time;
        let probe = bench.admit().unwrap();
        assert_eq!(bench.fail(early_bad), None);
        assert_eq!(bench.succeed(probe), Some(Transition::Closed));
    }

    #[test]
    fn it_stays_closed_where_the_service_cannot_do_without() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            let permit = bench.admit().unwrap();
            assert_eq!(bench.breaker.failed(permit, &bench.policy, false, true, bench.now), None);
        }
        assert_eq!(bench.trip().0, 1, "and opens with the next failure once it can");
    }

    #[test]
    fn an_outlier_is_out_at_once() {
        let mut bench = Bench::new();
        let permit = bench.admit().unwrap();
        let opened = bench.breaker.failed(permit, &bench.policy, true, true, bench.now);
        assert!(matches!(opened, Some(Transition::Opened(_))));
    }

    proptest! {
        /// Whatever happens, no second probe is under way, and nothing is admitted before the open time is over.
        #[test]
        fn never_two_probes_and_nothing_through_an_open_breaker(
            steps in prop::collection::vec((0u8..5, 0u64..2_000), 1..200),
        ) {
            let mut bench = Bench::new();
            let mut out: Vec<Permit> = Vec::new();
            let mut open_until = bench.now;
            for (step, pause) in steps {
                match step {
                    0 | 1 => {
                        if let Ok(permit) = bench.admit() {
                            prop_assert!(bench.now >= open_until);
                            prop_assert!(!permit.is_probe() || out.iter().all(|other| !other.is_probe()
                                || other.generation != permit.generation));
                            out.push(permit);
                        }
                    }
                    2 if !out.is_empty() => {
                        let permit = out.remove(0);
                        if let Some(Transition::Opened(time)) = bench.fail(permit) {
                            open_until = bench.now + time;
                        }
                    }
                    3 if !out.is_empty() => { let permit = out.remove(0); bench.succeed(permit); }
                    4 if !out.is_empty() => { let permit = out.remove(0); bench.breaker.abandon(permit); }
                    _ => bench.now += Duration::from_millis(pause),
                }
            }
        }
    }
}

//! One service as one worker knows it: its endpoints, what became of the requests sent to each, and what may
//! still be sent.
//!
//! Policy and endpoint sets are shared and immutable; everything learned from traffic (latency, breakers, retry
//! budget, requests under way) belongs to the worker and lives here, without a lock. An update keeps what was
//! learned of endpoints that stay.

mod choice;
mod roll;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::balancer::{Balancer, Load};
use crate::breaker::{Breaker, Cause, Permit, Standing, Transition};
use crate::budget::{Allowance, Budget};
use crate::bulkhead::Bulkhead;
use crate::failure::Failure;
use crate::load::{Ewma, PeakEwma};
use crate::outlier::OutlierPolicy;
use crate::outlier::Tally;
use crate::persistence::mark;
use crate::quantile::Quantile;
use crate::retry::{Outcome, Showing};
use crate::ring::Ring;
use crate::snapshot::{BackendPolicy, BalancerKind, Endpoint, Endpoints, Service};
use choice::Choice;
use roll::{Rolls, gather};

/// A failure counts as a request that took this many times as long as is typical, twice that if the one before
/// failed too, and so on: one failure among many moves little traffic, and an endpoint that answers every request
/// with an error in no time looks slower than any that works.
const FAILURE_FACTOR: u32 = 10;

/// After this many in a row a failure weighs no more than the one before; by then the breaker has opened, or may not.
const FAILURE_DOUBLINGS: u32 = 6;

/// The rules that lead to a service rarely ask for more than one; what is asked for beyond is not known.
const MAX_QUANTILES: usize = 4;

/// What is typical where nothing has succeeded yet.
const TYPICAL: Duration = Duration::from_millis(100);

/// The worker's state of one service.
#[derive(Debug)]
pub struct Cluster {
    endpoints: Arc<Endpoints>,
    policy: Arc<BackendPolicy>,
    members: Vec<Member>,
    balancer: Balancer,
    /// Whose each key is, where keys are what counts.
    ring: Option<Ring>,
    /// Latency of what succeeds, over all endpoints.
    typical: Ewma,
    /// Who can be chosen.
    rolls: Rolls,
    /// How often a breaker of one of the endpoints has changed.
    changes: Rc<Cell<u64>>,
    /// Kept between picks so that none allocates.
    candidates: Vec<usize>,
    /// What hedging has asked for, few.
    quantiles: Vec<Quantile>,
    /// What may be spent on retries.
    pub budget: Budget,
    /// Connections to all endpoints together.
    pub connections: Bulkhead,
    /// Requests that wait for a connection.
    pub pending: Bulkhead,
    /// Requests under way.
    pub active: Bulkhead,
}

/// One endpoint and what was learned of it.
#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    /// What sessions call it.
    mark: u64,
    learned: Rc<Learned>,
}

/// Shared with the picks that are under way, so that they can be dropped at any time and in any place.
#[derive(Debug)]
struct Learned {
    in_flight: Cell<u32>,
    latency: Cell<PeakEwma>,
    /// Failures in a row.
    streak: Cell<u32>,
    tally: Cell<Tally>,
    breaker: RefCell<Breaker>,
    /// Why that opened last.
    cause: Cell<Option<Cause>>,
    /// When it came, or came back, to others that were there before.
    since: Cell<Option<Instant>>,
    /// Of the whole cluster.
    changes: Rc<Cell<u64>>,
}

impl Learned {
    fn new(changes: &Rc<Cell<u64>>, since: Option<Instant>, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            in_flight: Cell::new(0),
            latency: Cell::new(PeakEwma::UNKNOWN),
            streak: Cell::new(0),
            tally: Cell::new(Tally::new(now)),
            breaker: RefCell::new(Breaker::new(now)),
            cause: Cell::new(None),
            since: Cell::new(since),
            changes: Rc::clone(changes),
        })
    }

    /// Everything that may change the breaker goes through here.
    fn with_breaker<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.borrow_mut();
        let before = breaker.generation();
        let result = act(&mut breaker);
        if breaker.generation() != before {
            self.changes.set(self.changes.get() + 1);
        }
        result
    }

    fn load(&self) -> Load {
        Load { latency: self.latency.get(), in_flight: self.in_flight.get() }
    }

    fn observe(&self, latency: Duration, now: Instant) {
        let mut average = self.latency.get();
        average.observe(latency, now);
        self.latency.set(average);
    }

    /// Begins anew, as if nothing had been sent there before; what is under way stays counted.
    fn forget(&self, now: Instant) {
        self.latency.set(PeakEwma::UNKNOWN);
        self.streak.set(0);
        self.tally.set(Tally::new(now));
    }

    fn count(&self, good: bool, policy: Option<&OutlierPolicy>, now: Instant) {
        if let Some(policy) = policy {
            let mut tally = self.tally.get();
            tally.count(good, policy, now);
            self.tally.set(tally);
        }
        self.streak.set(if good { 0 } else { self.streak.get().saturating_add(1) });
    }
}

/// What one attempt is for.
#[derive(Debug, Clone, Copy)]
pub struct Aim<'a> {
    /// The service's port.
    pub port: u16,
    /// The caller's zone; empty: unknown.
    pub zone: &'a str,
    /// The ids of the endpoints that the request was sent to before.
    pub tried: &'a [Arc<str>],
    /// What the request is hashed to, with the balancer that hashes.
    pub key: Option<u64>,
    /// The mark of the endpoint that its session is with.
    pub held: Option<u64>,
}

impl<'a> Aim<'a> {
    /// A first attempt at a port, for a caller in `zone`.
    pub fn new(port: u16, zone: &'a str) -> Self {
        Self { port, zone, tried: &[], key: None, held: None }
    }
}

/// An endpoint chosen for one attempt.
///
/// To be given back with [`Cluster::finish`], or with [`Cluster::abandon`] when the caller goes away. One that is
/// simply dropped counts neither for nor against the endpoint; nothing leaks.
#[derive(Debug)]
#[must_use = "a pick is given back with `Cluster::finish`"]
pub struct Pick {
    /// Where to send the attempt.
    pub endpoint: Arc<Endpoint>,
    learned: Rc<Learned>,
    /// `None`: the breaker was passed over, or has been told already.
    permit: Option<Permit>,
    /// The latency has been taken in already.
    measured: bool,
}

impl Pick {
    /// Whether this is the one request that the endpoint's half-open breaker lets through.
    pub fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_probe)
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.learned.in_flight.set(self.learned.in_flight.get() - 1);
        if let Some(permit) = self.permit.take() {
            self.learned.with_breaker(|breaker| breaker.abandon(permit));
        }
    }
}

/// A breaker opened or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerTransition {
    /// Whose breaker.
    pub endpoint: Arc<Endpoint>,
    /// What it did.
    pub to: Transition,
}

/// What is known of one endpoint, for showing it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// Requests under way.
    pub in_flight: u32,
    /// The peak of the moving average. `None`: never measured.
    pub latency_seconds: Option<f64>,
    /// What its breaker does.
    pub breaker: Standing,
    /// Why it does not let everything through.
    pub cause: Option<Cause>,
}

/// Which endpoints are considered.
#[derive(Debug, Clone, Copy)]
struct Wish<'a> {
    port: u16,
    /// Only there.
    zone: Option<&'a str>,
    /// None of these.
    tried: &'a [Arc<str>],
    /// Breakers are passed over.
    panic: bool,
}

impl Cluster {
    /// The state of a service that the worker has not called yet.
    pub fn new(service: &Service, now: Instant) -> Self {
        let policy = Arc::clone(&service.policy);
        let mut cluster = Self {
            endpoints: Arc::default(),
            members: Vec::new(),
            balancer: Balancer::new(policy.balancer),
            ring: None,
            typical: Ewma::UNKNOWN,
            rolls: Rolls::default(),
            changes: Rc::default(),
            candidates: Vec::new(),
            quantiles: Vec::new(),
            budget: Budget::new(Allowance::of(&policy), now),
            connections: Bulkhead::new(policy.max_connections),
            pending: Bulkhead::new(policy.max_pending),
            active: Bulkhead::new(policy.max_active),
            policy,
        };
        cluster.replace_endpoints(&service.endpoints, now);
        cluster
    }

    /// Takes over a newer policy and endpoint set; costs two comparisons where both are the same as before.
    ///
    /// What was learned of an endpoint is kept as long as its id and address stay.
    pub fn update(&mut self, endpoints: &Arc<Endpoints>, policy: &Arc<BackendPolicy>, now: Instant) {
        if !Arc::ptr_eq(&self.policy, policy) {
            self.replace_policy(policy, now);
        }
        if !Arc::ptr_eq(&self.endpoints, endpoints) {
            self.replace_endpoints(endpoints, now);
        }
    }

    fn replace_policy(&mut self, policy: &Arc<BackendPolicy>, now: Instant) {
        self.balancer.set_kind(policy.balancer);
        self.budget.configure(Allowance::of(policy), now);
        self.connections.set_limit(policy.max_connections);
        self.pending.set_limit(policy.max_pending);
        self.active.set_limit(policy.max_active);
        if policy.breaker.is_none() {
            for member in &self.members {
                member.learned.breaker.replace(Breaker::new(now));
            }
        }
        self.policy = Arc::clone(policy);
        self.rolls.clear();
        self.make_ring();
    }

    fn replace_endpoints(&mut self, endpoints: &Arc<Endpoints>, now: Instant) {
        let mut known: HashMap<Arc<str>, Member> =
            self.members.drain(..).map(|member| (Arc::clone(&member.endpoint.id), member)).collect();
        // Where there was nobody, the first ones have to do all the work from the start.
        let since = known.values().any(|member| member.endpoint.healthy).then_some(now);
        self.members.extend(endpoints.all.iter().map(|endpoint| {
            let (mark, learned) = match known.remove(&endpoint.id) {
                Some(member) if member.endpoint.address == endpoint.address => {
                    if endpoint.healthy && !member.endpoint.healthy {
                        member.learned.since.set(since);
                    }
                    (member.mark, member.learned)
                }
                _ => (mark(&endpoint.id), Learned::new(&self.changes, since, now)),
            };
            Member { endpoint: Arc::clone(endpoint), mark, learned }
        }));
        self.rolls.clear();
        self.endpoints = Arc::clone(endpoints);
        self.make_ring();
    }

    fn make_ring(&mut self) {
        let addresses = || self.members.iter().map(|member| member.endpoint.address);
        self.ring = (self.policy.balancer == BalancerKind::Hash).then(|| Ring::new(addresses()));
    }

    /// Chooses an endpoint for one attempt.
    ///
    /// Only endpoints that are healthy and serve the port are considered; of these, first those in the caller's zone
    /// while enough of them can be used, if the policy prefers it; those not yet tried before those that were.
    /// An endpoint whose breaker is open is passed over, unless so many of those that serve the port are out that the
    /// policy would rather use all (panic). One whose breaker is due for a probe is taken first, by a request that has
    /// not failed elsewhere before and, where requests have keys, whose key is its own. Before all of that, the endpoint
    /// of the request's session is taken if it can be used.
    ///
    /// # Errors
    /// `NoEndpoints`, or `BreakerOpen` where the breakers of all that there are let nothing through.
    pub fn pick(&mut self, aim: &Aim<'_>, now: Instant, rng: &mut impl Rng) -> Result<Pick, Failure> {
        let Aim { port, zone: own_zone, tried, .. } = *aim;
        let roll = self.rolls.roll(port, own_zone, self.changes.get(), now, &self.members, &self.policy);
        if roll.serving == 0 {
            return Err(Failure::NoEndpoints);
        }
        let zone = roll.prefers_zone.then_some(own_zone);
        let anywhere = Wish { port, zone: None, tried: &[], panic: roll.panic };
        if let Some(mark) = aim.held
            && let Some(index) = held(&self.members, mark, Wish { tried, ..anywhere }, now)
        {
            return Ok(self.take(index, now, rng));
        }
        let (candidates, first_try) = match tried {
            [] => (Some(&roll.candidates), true),
            _ => (roll.without(tried, &self.members, &mut self.candidates), false),
        };
        let first = candidates.and_then(|candidates| {
            let choice = Choice {
                candidates,
                due: roll.due,
                first_try,
                warming: roll.warming,
                key: aim.key,
                members: &self.members,
                policy: &self.policy,
                active: self.active.used(),
                now,
            };
            choice.make(&mut self.balancer, self.ring.as_ref(), rng)
        });
        if let Some(index) = first {
            return Ok(self.take(index, now, rng));
        }
        let wishes = [
            Wish { zone, tried, ..anywhere },
            Wish { tried, ..anywhere },
            Wish { zone, ..anywhere },
            anywhere,
        ];
        let index = wishes
            .into_iter()
            .find_map(|wish| self.choose_wished(wish, aim, now, rng))
            .ok_or(Failure::BreakerOpen)?;
        Ok(self.take(index, now, rng))
    }

    /// Whether the endpoint with this mark is here, and a request of its session could be sent to it.
    pub fn can_hold(&mut self, mark: u64, port: u16, own_zone: &str, now: Instant) -> bool {
        let roll = self.rolls.roll(port, own_zone, self.changes.get(), now, &self.members, &self.policy);
        let anywhere = Wish { port, zone: None, tried: &[], panic: roll.panic };
        held(&self.members, mark, anywhere, now).is_some()
    }

    /// The time in which so many of a hundred requests have been answered lately. `None`: that is not known yet; from
    /// now on it is measured.
    pub fn quantile(&mut self, percentile: u8, now: Instant) -> Option<Duration> {
        if let Some(quantile) = self.quantiles.iter().find(|quantile| quantile.percentile() == percentile) {
            return quantile.known();
        }
        if self.quantiles.len() < MAX_QUANTILES {
            self.quantiles.push(Quantile::new(percentile, now));
        }
        None
    }

    /// Whether a request that was not tried before could be given an endpoint, as [`Cluster::pick`] would.
    ///
    /// # Errors
    /// As [`Cluster::pick`].
    pub fn readiness(&mut self, port: u16, own_zone: &str, now: Instant) -> Result<(), Failure> {
        let roll = self.rolls.roll(port, own_zone, self.changes.get(), now, &self.members, &self.policy);
        if roll.serving == 0 {
            Err(Failure::NoEndpoints)
        } else if roll.candidates.is_empty() && roll.due.is_none() {
            Err(Failure::BreakerOpen)
        } else {
            Ok(())
        }
    }

    /// Takes in that the answer to the pick's attempt began, `latency` after it was sent. Optional, and worth it for
    /// answers that may go on for long: the endpoint's latency is known, and its probe has ended, before the body
    /// has.
    pub fn answered(
        &mut self,
        pick: &mut Pick,
        outcome: &Outcome,
        latency: Duration,
        now: Instant,
    ) -> Option<BreakerTransition> {
        if outcome.showing() != Showing::Good {
            return None;
        }
        let probe = pick.permit.take_if(|permit| permit.is_probe());
        let transition = probe.and_then(|permit| self.succeeded(pick, permit, now));
        self.measure(pick, latency, now);
        transition
    }

    /// Takes in how the pick's attempt ended. `latency` is the time from sending it to the head of the answer, or
    /// to the failure; connecting is better left out, since it says little of the next request.
    pub fn finish(
        &mut self,
        mut pick: Pick,
        outcome: &Outcome,
        latency: Duration,
        now: Instant,
    ) -> Option<BreakerTransition> {
        let permit = pick.permit.take();
        match outcome.showing() {
            Showing::Good => {
                let transition = permit.and_then(|permit| self.succeeded(&pick, permit, now));
                pick.learned.count(true, self.outlier_policy(), now);
                self.measure(&mut pick, latency, now);
                transition
            }
            Showing::Bad => {
                pick.learned.count(false, self.outlier_policy(), now);
                pick.learned.observe(latency.max(self.penalty(&pick)), now);
                permit.and_then(|permit| self.failed(&pick, permit, now))
            }
            Showing::Neutral => {
                pick.permit = permit; // its drop gives it back
                None
            }
        }
    }

    /// Takes in that the caller went away after it had waited `waited` for the head of the answer. That is no failure
    /// of the endpoint, but it is at least so slow: otherwise one that hangs, and whose callers give up, would look
    /// like one that is idle.
    pub fn abandon(&mut self, pick: Pick, waited: Duration, now: Instant) {
        if !pick.measured {
            pick.learned.observe(waited, now);
        }
    }

    /// Every endpoint as it looks from here.
    pub fn view(&self, now: Instant) -> impl Iterator<Item = EndpointView> {
        self.members.iter().map(move |Member { endpoint, learned, .. }| {
            let breaker = learned.breaker.borrow().standing(now);
            EndpointView {
                endpoint: Arc::clone(endpoint),
                in_flight: learned.in_flight.get(),
                latency_seconds: learned.latency.get().seconds(now),
                breaker,
                cause: learned.cause.get().filter(|_| breaker != Standing::Closed),
            }
        })
    }

    fn outlier_policy(&self) -> Option<&OutlierPolicy> {
        self.policy.breaker.as_ref()?.outlier.as_ref()
    }

    fn measure(&mut self, pick: &mut Pick, latency: Duration, now: Instant) {
        if !pick.measured {
            pick.measured = true;
            pick.learned.observe(latency, now);
            self.typical.observe(latency);
            for quantile in &mut self.quantiles {
                quantile.observe(latency, now);
            }
        }
    }

    /// The latency that a failure counts as.
    fn penalty(&self, pick: &Pick) -> Duration {
        let doublings = pick.learned.streak.get().saturating_sub(1).min(FAILURE_DOUBLINGS);
        self.typical.typical().unwrap_or(TYPICAL).saturating_mul(FAILURE_FACTOR << doublings)
    }

    fn succeeded(&self, pick: &Pick, permit: Permit, now: Instant) -> Option<BreakerTransition> {
        let transition = pick.learned.with_breaker(|breaker| breaker.succeeded(permit, now))?;
        // What it looked like while it was broken says nothing of it now.
        pick.learned.forget(now);
        Some(BreakerTransition { endpoint: Arc::clone(&pick.endpoint), to: transition })
    }

    fn failed(&self, pick: &Pick, permit: Permit, now: Instant) -> Option<BreakerTransition> {
        let policy = self.policy.breaker.as_ref()?;
        let healthy = || self.members.iter().filter(|member| member.endpoint.healthy);
        let out = healthy().filter(|member| !member.learned.breaker.borrow().is_closed()).count();
        let may_open = out < most_out(&self.policy, healthy().count());
        let peers = healthy()
            .filter(|member| !Rc::ptr_eq(&member.learned, &pick.learned))
            .map(|member| member.learned.tally.get());
        let tally = pick.learned.tally.get();
        let outlier = may_open && policy.outlier.is_some_and(|policy| tally.is_outlier(peers, &policy, now));
        let cause = match (permit.is_probe(), outlier) {
            (true, _) => Cause::Probe,
            (false, true) => Cause::SuccessRate,
            (false, false) => Cause::Failures,
        };
        let to =
            pick.learned.with_breaker(|breaker| breaker.failed(permit, policy, may_open, outlier, now))?;
        pick.learned.cause.set(Some(cause));
        Some(BreakerTransition { endpoint: Arc::clone(&pick.endpoint), to })
    }

    /// Chooses among those that the wish allows, or one that is due for a probe.
    fn choose_wished(
        &mut self,
        wish: Wish<'_>,
        aim: &Aim<'_>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let due = gather(&self.members, wish, now, &mut self.candidates);
        let choice = Choice {
            candidates: &self.candidates,
            due,
            first_try: aim.tried.is_empty(),
            warming: self.policy.slow_start.is_some(),
            key: aim.key,
            members: &self.members,
            policy: &self.policy,
            active: self.active.used(),
            now,
        };
        choice.make(&mut self.balancer, self.ring.as_ref(), rng)
    }

    fn take(&self, index: usize, now: Instant, rng: &mut impl Rng) -> Pick {
        let Member { endpoint, learned, .. } = &self.members[index];
        learned.in_flight.set(learned.in_flight.get() + 1);
        // In a panic the breaker may refuse, and is passed over.
        let permit = learned.with_breaker(|breaker| breaker.admit(now, rng)).ok();
        Pick { endpoint: Arc::clone(endpoint), learned: Rc::clone(learned), permit, measured: false }
    }
}

/// The endpoint with this mark, if the wish allows it and it is not out.
fn held(members: &[Member], mark: u64, wish: Wish<'_>, now: Instant) -> Option<usize> {
    let index = members.iter().position(|member| member.mark == mark)?;
    let Member { endpoint, learned, .. } = &members[index];
    let standing = learned.breaker.borrow().standing(now);
    let lets_through = wish.panic || matches!(standing, Standing::Closed | Standing::Due);
    (lets_through && wish.allows(endpoint)).then_some(index)
}

/// How many of `healthy` endpoints may be out at once.
fn most_out(policy: &BackendPolicy, healthy: usize) -> usize {
    let percent = policy.breaker.as_ref().map_or(100, |policy| policy.max_ejected_percent.min(100));
    healthy * percent as usize / 100
}

/// Whether so many of `serving` endpoints are out that all are to be used.
fn is_panic(policy: &BackendPolicy, serving: usize, out: usize) -> bool {
    let percent = policy.breaker.as_ref().map_or(0, |policy| policy.panic_percent.min(100));
    (serving - out) * 100 < serving * percent as usize
}

impl Wish<'_> {
    fn allows(&self, endpoint: &Endpoint) -> bool {
        endpoint.healthy
            && endpoint.ports.contains(&self.port)
            && self.zone.is_none_or(|zone| *endpoint.zone == *zone)
            && !self.tried.contains(&endpoint.id)
    }
}

#[cfg(test)]
mod tests;

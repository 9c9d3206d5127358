//! One choice among the endpoints that can be chosen.
//!
//! Mostly that is the balancer's. What has a key goes where the ring says; and an endpoint that is new gets its share of
//! what would come to it by and by, so that caches fill and code warms up before it bears a full load.

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::{Learned, Member};
use crate::balancer::Balancer;
use crate::ring::{self, Ring};
use crate::snapshot::BackendPolicy;

/// A new endpoint begins with this share of what is due to it: with less it would never be measured.
const FIRST_SHARE: f64 = 0.1;

/// What is chosen from.
pub(super) struct Choice<'a> {
    /// Indexes, ascending.
    pub(super) candidates: &'a [usize],
    /// One whose breaker would let a probe through.
    pub(super) due: Option<usize>,
    /// The request has not failed elsewhere before.
    pub(super) first_try: bool,
    /// Some candidates may be new.
    pub(super) warming: bool,
    pub(super) key: Option<u64>,
    pub(super) members: &'a [Member],
    pub(super) policy: &'a BackendPolicy,
    /// Requests of the service under way, this one included.
    pub(super) active: u32,
    pub(super) now: Instant,
}

impl Choice<'_> {
    /// One of the candidates or, first of all or last of all, the one that is due for a probe.
    pub(super) fn make(
        &self,
        balancer: &mut Balancer,
        ring: Option<&Ring>,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        if let (Some(ring), Some(key)) = (ring, self.key) {
            return self.owner(ring, key);
        }
        match self.due {
            Some(due) if self.first_try || self.candidates.is_empty() => Some(due),
            _ if self.warming => self.warmed(balancer, rng),
            _ => self.balanced(balancer, self.candidates, rng),
        }
    }

    fn balanced(&self, balancer: &mut Balancer, candidates: &[usize], rng: &mut impl Rng) -> Option<usize> {
        balancer.pick(candidates, |index| self.members[index].learned.load(), self.now, rng)
    }

    /// The balancer's choice; one that is not warm is passed over as often as it is cold, for one that is warmer.
    fn warmed(&self, balancer: &mut Balancer, rng: &mut impl Rng) -> Option<usize> {
        let mut chosen = self.balanced(balancer, self.candidates, rng)?;
        let mut share = self.share(chosen);
        while share < 1.0 && rng.random::<f64>() >= share {
            let warmer = self.candidates.iter().copied().filter(|index| self.share(*index) > share);
            let warmer: Vec<usize> = warmer.collect();
            let Some(other) = self.balanced(balancer, &warmer, rng) else { break };
            (chosen, share) = (other, self.share(other));
        }
        Some(chosen)
    }

    /// Whose the key is. One that has as much under way as it may, or is too new for this key, is passed over, unless
    /// they all are.
    fn owner(&self, ring: &Ring, key: u64) -> Option<usize> {
        let probe = self.due.filter(|_| self.first_try || self.candidates.is_empty());
        let usable = |index: usize| self.candidates.binary_search(&index).is_ok() || probe == Some(index);
        let chance = ring::chance(key);
        let is_warm = |index: usize| !self.warming || self.share(index) > chance;
        let most = self.most_under_way();
        let has_room =
            |index: usize| most.is_none_or(|most| self.members[index].learned.in_flight.get() < most);
        ring.owner(key, |index| usable(index) && is_warm(index) && has_room(index))
            .or_else(|| ring.owner(key, usable))
    }

    /// How much one endpoint may have under way: its even share of everything, and so much more.
    fn most_under_way(&self) -> Option<u32> {
        let percent = u64::from(self.policy.hash.as_ref()?.max_load_percent?);
        let even = u64::from(self.active.max(1)) * percent;
        let most = even.div_ceil(100 * self.candidates.len().max(1) as u64);
        Some(u32::try_from(most).unwrap_or(u32::MAX))
    }

    fn share(&self, index: usize) -> f64 {
        self.members[index].learned.share(self.policy, self.now)
    }
}

impl Learned {
    /// When the endpoint will get all that is due to it. `None`: it does.
    pub(super) fn warm_at(&self, policy: &BackendPolicy) -> Option<Instant> {
        Some(self.since.get()? + policy.slow_start?)
    }

    /// How much of what is due to it the endpoint gets, up to 1.
    fn share(&self, policy: &BackendPolicy, now: Instant) -> f64 {
        let Some((since, window)) = self.since.get().zip(policy.slow_start) else { return 1.0 };
        let passed = now.saturating_duration_since(since).as_secs_f64() / window.as_secs_f64();
        passed.clamp(FIRST_SHARE, 1.0)
    }
}

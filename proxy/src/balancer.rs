//! Which of several endpoints gets a request.
//!
//! Two endpoints drawn by chance and the better of the two taken (power of two choices) comes close to taking the
//! best of all, and unlike that does not send everybody to the same one at once. What is better is latency times
//! requests under way ([`BalancerKind::PeakEwma`], the default) or requests under way alone
//! ([`BalancerKind::LeastRequest`]). What has a key and is to be hashed ([`BalancerKind::Hash`]) is not chosen here but on
//! the [`Ring`](crate::ring::Ring).

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::load::PeakEwma;
use crate::snapshot::BalancerKind;

/// What the balancer knows of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Latency as measured.
    pub latency: PeakEwma,
    /// Requests under way.
    pub in_flight: u32,
}

/// An endpoint that was never measured looks as good as new to one request, and as slow as this to a second
/// before the first is answered: otherwise a newcomer gets everything at once.
const UNMEASURED_SECONDS: f64 = 1.0;

impl Load {
    /// An endpoint that nothing is known of.
    pub const UNKNOWN: Self = Self { latency: PeakEwma::UNKNOWN, in_flight: 0 };

    /// What one more request would cost there: less is better.
    fn cost(&self, kind: BalancerKind, now: Instant) -> f64 {
        let waiting = f64::from(self.in_flight);
        match (kind, self.latency.seconds(now)) {
            (BalancerKind::LeastRequest | BalancerKind::RoundRobin, _) => waiting,
            (BalancerKind::PeakEwma | BalancerKind::Hash, Some(seconds)) => seconds * (waiting + 1.0),
            (BalancerKind::PeakEwma | BalancerKind::Hash, None) => waiting * UNMEASURED_SECONDS,
        }
    }
}

/// Chooses among candidates.
#[derive(Debug)]
pub struct Balancer {
    kind: BalancerKind,
    /// Whose turn it is; begins by chance, so that not every proxy begins with the same endpoint.
    turn: Option<usize>,
}

impl Balancer {
    /// A balancer of this kind.
    pub fn new(kind: BalancerKind) -> Self {
        Self { kind, turn: None }
    }

    /// Changes how it chooses.
    pub fn set_kind(&mut self, kind: BalancerKind) {
        self.kind = kind;
    }

    /// Chooses one of `candidates`, whose loads `load` knows. `None` only if there are none.
    pub fn pick(
        &mut self,
        candidates: &[usize],
        load: impl Fn(usize) -> Load,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let count = candidates.len();
        match (self.kind, candidates) {
            (_, []) => None,
            (_, [only]) => Some(*only),
            (BalancerKind::RoundRobin, _) => {
                let turn = self.turn.map_or_else(|| rng.random_range(0..count), |turn| turn.wrapping_add(1));
                self.turn = Some(turn);
                Some(candidates[turn % count])
            }
            (kind @ (BalancerKind::PeakEwma | BalancerKind::LeastRequest | BalancerKind::Hash), _) => {
                let first = rng.random_range(0..count);
                // Uniform over the others, so that the two always differ.
                let second = (first + rng.random_range(1..count)) % count;
                let (first, second) = (candidates[first], candidates[second]);
                let worse = load(second).cost(kind, now) < load(first).cost(kind, now);
                Some(if worse { second } else { first })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn measured(milliseconds: u64, in_flight: u32, now: Instant) -> Load {
        let mut latency = PeakEwma::UNKNOWN;
        latency.observe(Duration::from_millis(milliseconds), now);
        Load { latency, in_flight }
    }

    fn shares(kind: BalancerKind, loads: &[Load], now: Instant) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(11);
        let mut balancer = Balancer::new(kind);
        let candidates: Vec<usize> = (0..loads.len()).collect();
        let mut shares = vec![0; loads.len()];
        for _ in 0..3000 {
            shares[balancer.pick(&candidates, |i| loads[i], now, &mut rng).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn the_faster_is_preferred_and_the_slowest_of_all_is_never_taken() {
        let now = Instant::now();
        let loads = [measured(10, 0, now), measured(100, 0, now), measured(20, 0, now)];
        let shares = shares(BalancerKind::PeakEwma, &loads, now);
        assert_eq!(shares[1], 0, "{shares:?}");
        assert!(shares[0] > shares[2], "{shares:?}");
    }

    #[test]
    fn requests_under_way_outweigh_latency() {
        let now = Instant::now();
        let shares = shares(BalancerKind::PeakEwma, &[measured(10, 9, now), measured(20, 0, now)], now);
        assert_eq!(shares, [0, 3000]);
    }

    #[test]
    fn a_newcomer_is_tried_once_before_it_gets_more() {
        let now = Instant::now();
        let busy = Load { in_flight: 1, ..Load::UNKNOWN };
        assert_eq!(shares(BalancerKind::PeakEwma, &[measured(10, 0, now), Load::UNKNOWN], now), [0, 3000]);
        assert_eq!(shares(BalancerKind::PeakEwma, &[measured(10, 0, now), busy], now), [3000, 0]);
    }

    #[test]
    fn least_request_looks_at_requests_alone() {
        let now = Instant::now();
        let shares = shares(BalancerKind::LeastRequest, &[measured(1, 2, now), measured(900, 1, now)], now);
        assert_eq!(shares, [0, 3000]);
    }

    #[test]
    fn equals_share_equally() {
        let now = Instant::now();
        for kind in [BalancerKind::PeakEwma, BalancerKind::LeastRequest, BalancerKind::RoundRobin] {
            let shares = shares(kind, &[measured(10, 0, now); 3], now);
            assert!(shares.iter().all(|share| (900..=1100).contains(share)), "{kind:?} {shares:?}");
        }
    }

    #[test]
    fn round_robin_takes_turns() {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(11);
        let mut balancer = Balancer::new(BalancerKind::RoundRobin);
        let mut next = || balancer.pick(&[4, 5, 6], |_| Load::UNKNOWN, now, &mut rng).unwrap();
        let taken: Vec<usize> = (0..6).map(|_| next()).collect();
        assert_eq!(taken[..3], taken[3..]);
        let mut round = taken[..3].to_vec();
        round.sort_unstable();
        assert_eq!(round, [4, 5, 6]);
    }

    proptest! {
        #[test]
        fn the_choice_is_always_a_candidate(
            candidates in prop::collection::vec(0usize..100, 0..10), turns in 1usize..20, seed: u64, kind in 0usize..3,
        ) {
            let kind = [BalancerKind::PeakEwma, BalancerKind::LeastRequest, BalancerKind::RoundRobin][kind];
            let mut balancer = Balancer::new(kind);
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..turns {
                let choice = balancer.pick(&candidates, |_| Load::UNKNOWN, Instant::now(), &mut rng);
                prop_assert_eq!(choice.is_some(), !candidates.is_empty());
                prop_assert!(choice.is_none_or(|choice| candidates.contains(&choice)));
            }
        }
    }
}

//! How long to wait before the next try.
//!
//! Failures come in crowds: everybody who was refused together would come back together. So the wait doubles
//! with each try, and as much again is added by chance (full jitter). The configured wait is a minimum, as
//! Gateway API asks of `retry.backoff`.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Doubling waits with full jitter on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// The wait where nobody chose one.
    pub const DEFAULT_FIRST: Duration = Duration::from_millis(25);
    /// No wait grows over this, unless the first is already longer.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// Waits at least `first` before the first try again, and at most [`Self::LONGEST`] plus jitter later on.
    pub fn new(first: Duration) -> Self {
        Self::within(first, Self::LONGEST)
    }

    /// Waits from `first`, doubling up to `longest` (before the jitter).
    pub fn within(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first) }
    }

    /// The wait before try again number `retry`, counted from 0: `d` to `2 d`, where `d` is the first wait
    /// doubled `retry` times.
    pub fn wait(&self, retry: u32, rng: &mut impl Rng) -> Duration {
        let factor = 1u32.checked_shl(retry).unwrap_or(u32::MAX);
        let least = self.first.saturating_mul(factor).min(self.longest);
        least.saturating_add(least.mul_f64(rng.random::<f64>()))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Self::DEFAULT_FIRST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_never_under_the_configured_nor_over_twice_the_longest(
            first in 0u64..100_000, retry in 0u32..100, seed: u64,
        ) {
            let first = Duration::from_millis(first);
            let wait = Backoff::new(first).wait(retry, &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait >= first, "{wait:?} < {first:?}");
            prop_assert!(wait <= 2 * first.max(Backoff::LONGEST), "{wait:?}");
        }
    }

    #[test]
    fn waits_double_and_differ_by_chance() {
        let mut rng = StdRng::seed_from_u64(1);
        let backoff = Backoff::default();
        for retry in 0..4 {
            let least = Backoff::DEFAULT_FIRST * 2u32.pow(retry);
            let waits: Vec<_> = (0..50).map(|_| backoff.wait(retry, &mut rng)).collect();
            assert!(waits.iter().all(|w| (least..=2 * least).contains(w)), "{retry}: {waits:?}");
            assert!(waits.iter().any(|w| *w != waits[0]), "no jitter");
        }
    }
}

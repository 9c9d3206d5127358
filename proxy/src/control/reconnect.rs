//! How long to wait before the control plane is tried again.
//!
//! When a control plane restarts, every proxy of the mesh loses its stream in the same instant. Exponential
//! growth keeps a long outage cheap; full jitter keeps the return of a thousand proxies from being one burst.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Counts failures in a row and turns them into waits.
#[derive(Debug, Clone)]
pub(crate) struct Reconnect {
    min: Duration,
    max: Duration,
    failures: u32,
}

/// A connection that lasted this long was a success, and the next failure counts as the first. A shorter one
/// may be a peer that accepts and falls over, which must not be called back at once for ever.
const LASTING: Duration = Duration::from_secs(5);

/// No wait is shorter, whatever the dice say: a refused connection costs less than a timer tick.
const FLOOR: Duration = Duration::from_millis(10);

impl Reconnect {
    /// Waits are drawn from nought to `min`, then twice that with every failure, up to `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// The wait after a connection that held for `lasted`, nought if there was none.
    pub(crate) fn after(&mut self, lasted: Duration, rng: &mut impl Rng) -> Duration {
        if lasted >= LASTING {
            self.failures = 0;
        }
        let ceiling = self.min.saturating_mul(1_u32 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.random_range(0.0..1.0)).max(FLOOR)
    }

    /// Forgets all failures: the last attempt did what it was for.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn waits_grow_to_the_maximum_and_fill_the_whole_range() {
        let mut rng = StdRng::seed_from_u64(7);
        for (failures, ceiling) in [(0, 100), (1, 200), (3, 800), (6, 6_400), (7, 10_000), (400, 10_000)] {
            let ceiling = Duration::from_millis(ceiling);
            let waits: Vec<_> = (0..500)
                .map(|_| Reconnect { min: MIN, max: MAX, failures }.after(Duration::ZERO, &mut rng))
                .collect();
            assert!(waits.iter().all(|w| (FLOOR..=ceiling).contains(w)), "{failures} failures");
            assert!(
                waits.iter().any(|w| *w > ceiling.mul_f64(0.9)),
                "{failures} failures: never near the ceiling"
            );
            assert!(
                waits.iter().any(|w| *w < ceiling.mul_f64(0.2)),
                "{failures} failures: never near the floor"
            );
        }
    }

    #[test]
    fn only_a_connection_that_lasted_forgets_the_failures_before() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut reconnect = Reconnect::new(MIN, MAX);
        for _ in 0..10 {
            reconnect.after(Duration::from_secs(1), &mut rng);
        }
        assert_eq!(reconnect.failures, 10, "short-lived connections are failures");
        let wait = reconnect.after(Duration::from_secs(60), &mut rng);
        assert!(wait <= MIN, "{wait:?} after a connection of a minute");
    }
}

//! One more place that requests are sent to, whose answers nobody gets (Gateway API `HTTPRequestMirrorFilter`).

use std::num::NonZeroU32;

use outrigger_api::ServiceName;
use rand::{Rng, RngExt};

/// Where copies go, and of how many requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The service whose endpoints get them.
    pub service: ServiceName,
    /// Which of its ports.
    pub port: u16,
    /// So many requests are copied, of `denominator`.
    pub numerator: u32,
    /// Of how many.
    pub denominator: NonZeroU32,
}

impl Mirror {
    /// Whether the next request is copied.
    pub fn wants(&self, rng: &mut impl Rng) -> bool {
        self.numerator >= self.denominator.get()
            || self.numerator > 0 && rng.random_range(0..self.denominator.get()) < self.numerator
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_share_of_requests_is_the_fraction() {
        let mut rng = StdRng::seed_from_u64(7);
        for (numerator, denominator, expected) in
            [(0, 100, 0.0), (100, 100, 1.0), (1, 1, 1.0), (25, 100, 0.25), (1, 1000, 0.001)]
        {
            let mirror = Mirror {
                service: "pay.shop".parse().unwrap(),
                port: 80,
                numerator,
                denominator: NonZeroU32::new(denominator).unwrap(),
            };
            let copied = (0..20_000).filter(|_| mirror.wants(&mut rng)).count() as f64 / 20_000.0;
            assert!((copied - expected).abs() < 0.02, "{numerator}/{denominator}: {copied}");
            assert!(copied == expected || expected.fract() > 0.0, "all or nothing is exact");
        }
    }
}

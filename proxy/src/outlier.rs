//! Whether an endpoint fails far more often than its peers.
//!
//! Failures in a row find the endpoint that is dead. One that fails two requests of three may never fail seven in a
//! row, and is found by comparing: its success rate over the last seconds against that of its peers. Where all fail
//! alike, none is an outlier, and the trouble is the service's own.

use std::time::Duration;

use tokio::time::Instant;

/// Who counts as an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// One that succeeds less than this percentage as often as its peers.
    pub percent_of_peers: u32,
    /// Requests are counted for one to two times as long as this.
    pub window: Duration,
    /// Fewer requests than this prove nothing.
    pub min_requests: u32,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self { percent_of_peers: 50, window: Duration::from_secs(10), min_requests: 20 }
    }
}

/// What became of an endpoint's requests lately.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    began: Instant,
    now: Counts,
    before: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    good: u32,
    bad: u32,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(now: Instant) -> Self {
        Self { began: now, now: Counts::default(), before: Counts::default() }
    }

    /// Counts one request.
    pub fn count(&mut self, good: bool, policy: &OutlierPolicy, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age >= policy.window {
            self.before = if age < 2 * policy.window { self.now } else { Counts::default() };
            self.now = Counts::default();
            self.began = now;
        }
        let counter = if good { &mut self.now.good } else { &mut self.now.bad };
        *counter = counter.saturating_add(1);
    }

    /// The share that succeeded, 0 to 1. `None`: too few requests, or too long ago.
    pub fn success_rate(&self, policy: &OutlierPolicy, now: Instant) -> Option<f64> {
        if now.saturating_duration_since(self.began) >= 2 * policy.window {
            return None;
        }
        let good = self.now.good.saturating_add(self.before.good);
        let all = good.saturating_add(self.now.bad).saturating_add(self.before.bad);
        (all >= policy.min_requests.max(1)).then(|| f64::from(good) / f64::from(all))
    }

    /// Whether this endpoint succeeds far less often than `peers` do on average.
    pub fn is_outlier(
        &self,
        peers: impl Iterator<Item = Self>,
        policy: &OutlierPolicy,
        now: Instant,
    ) -> bool {
        let far_under = f64::from(policy.percent_of_peers) / 100.0;
        // Peers cannot do better than always: whoever is not far under that need not be compared.
        let Some(own) = self.success_rate(policy, now).filter(|own| *own < far_under) else { return false };
        let (mut sum, mut count) = (0.0, 0u32);
        for rate in peers.filter_map(|peer| peer.success_rate(policy, now)) {
            sum += rate;
            count += 1;
        }
        count > 0 && own < far_under * sum / f64::from(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &OutlierPolicy = &OutlierPolicy { percent_of_peers: 50, window: WINDOW, min_requests: 20 };
    const WINDOW: Duration = Duration::from_secs(10);

    fn tally(good: u32, bad: u32, now: Instant) -> Tally {
        let mut tally = Tally::new(now);
        (0..good).for_each(|_| tally.count(true, POLICY, now));
        (0..bad).for_each(|_| tally.count(false, POLICY, now));
        tally
    }

    #[test]
    fn far_under_its_peers_is_an_outlier_and_a_little_under_is_not() {
        let now = Instant::now();
        let peers = || [tally(100, 0, now), tally(90, 10, now)].into_iter();
        assert!(tally(10, 20, now).is_outlier(peers(), POLICY, now));
        assert!(!tally(60, 40, now).is_outlier(peers(), POLICY, now));
    }

    #[test]
    fn where_all_fail_alike_nobody_is_an_outlier() {
        let now = Instant::now();
        assert!(!tally(0, 100, now).is_outlier([tally(0, 100, now); 3].into_iter(), POLICY, now));
        assert!(!tally(30, 70, now).is_outlier([tally(35, 65, now); 3].into_iter(), POLICY, now));
    }

    #[test]
    fn too_few_requests_or_peers_prove_nothing() {
        let now = Instant::now();
        assert!(!tally(0, 19, now).is_outlier([tally(100, 0, now)].into_iter(), POLICY, now));
        assert!(!tally(0, 100, now).is_outlier([tally(19, 0, now)].into_iter(), POLICY, now));
        assert!(!tally(0, 100, now).is_outlier([].into_iter(), POLICY, now));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let now = Instant::now();
        let mut tally = tally(0, 100, now);
        tally.count(true, POLICY, now + WINDOW);
        assert!(tally.success_rate(POLICY, now + WINDOW).unwrap() < 0.1);
        (0..20).for_each(|_| tally.count(true, POLICY, now + 2 * WINDOW));
        assert_eq!(tally.success_rate(POLICY, now + 2 * WINDOW), Some(1.0));
        assert_eq!(tally.success_rate(POLICY, now + 4 * WINDOW), None);
    }

    #[test]
    fn how_far_and_how_many_is_what_the_policy_says() {
        let now = Instant::now();
        let peers = || [tally(100, 0, now)].into_iter();
        let strict = OutlierPolicy { percent_of_peers: 90, min_requests: 5, ..*POLICY };
        assert!(tally(4, 1, now).is_outlier(peers(), &strict, now));
        assert!(!tally(4, 0, now).is_outlier(peers(), &strict, now));
        let never = OutlierPolicy { percent_of_peers: 0, ..*POLICY };
        assert!(!tally(0, 100, now).is_outlier(peers(), &never, now));
    }
}

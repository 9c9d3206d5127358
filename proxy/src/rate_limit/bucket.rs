//! One token bucket, told by a single number: the moment at which it is full again.
//!
//! This is the generic cell rate algorithm. A request moves that moment on by the time in which the rate grants one
//! request; it is admitted as long as the moment stays within the time that a whole burst takes. An empty bucket, a
//! full one and all between are the same eight bytes, so that workers share it without a lock, and one that is full
//! is as good as one that was never used.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast a bucket fills, and how much it holds. Times are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time in which one request is granted.
    interval: u64,
    /// The time in which an empty bucket fills.
    depth: u64,
}

/// An admitted request's view of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    /// Requests that would be admitted now.
    pub(super) left: u64,
    /// Until the bucket is full, nanoseconds.
    pub(super) full_in: u64,
}

impl Rate {
    /// `requests` in every `per`, and up to `burst` at once. None of them may be zero.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        // Rounded up, so that the rate is never exceeded; an interval is 1 us at least, which makes that 0.1 %.
        let interval = nanos(per).div_ceil(u64::from(requests.max(1))).max(1);
        Self { interval, depth: interval.saturating_mul(u64::from(burst.max(1))) }
    }

    /// This part of the rate and of the burst, but no less than one request at once.
    pub fn part(self, part: f64) -> Self {
        let interval = (self.interval as f64 / part.max(f64::MIN_POSITIVE)).ceil() as u64; // saturates
        // A part of the burst at a part of the rate takes the same time.
        Self { interval, depth: self.depth.max(interval) }
    }

    /// Requests a second.
    pub(super) fn per_second(self) -> f64 {
        1e9 / self.interval as f64
    }

    /// Where the bucket that is full at `full_at` is after one request at `now`.
    ///
    /// # Errors
    /// There is no token; how long until there is one.
    fn admit(self, full_at: u64, now: u64) -> Result<u64, u64> {
        let after = full_at.max(now).saturating_add(self.interval);
        match (after - now).checked_sub(self.depth) {
            None | Some(0) => Ok(after),
            Some(wait) => Err(wait),
        }
    }

    fn level(self, full_at: u64, now: u64) -> Level {
        let full_in = full_at.saturating_sub(now);
        Level { left: self.depth.saturating_sub(full_in) / self.interval, full_in }
    }

    /// Where the bucket is after its rate became `new`: it holds as many tokens as before, as far as there is room.
    fn carry_over(self, new: Self, full_at: u64, now: u64) -> u64 {
        let lacking = full_at.saturating_sub(now).min(self.depth);
        let tokens = (self.depth - lacking) as f64 / self.interval as f64;
        let filled = (tokens * new.interval as f64) as u64;
        now + new.depth.saturating_sub(filled)
    }
}

/// A duration in nanoseconds; what does not fit is as good as for ever.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A bucket that workers share. New, it is full.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token, `now` nanoseconds after the proxy started.
    ///
    /// # Errors
    /// There is none; how long until there is one, in nanoseconds.
    pub(super) fn take(&self, rate: Rate, now: u64) -> Result<Level, u64> {
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            let after = rate.admit(full_at, now)?;
            match self.0.compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(rate.level(after, now)),
                Err(newer) => full_at = newer,
            }
        }
    }

    /// Puts a token back that was taken for nothing.
    pub(super) fn give_back(&self, rate: Rate) {
        // Relaxed everywhere: the number itself is all that is shared.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            Some(full_at.saturating_sub(rate.interval))
        });
    }

    /// Whether it is full, and so like new.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }

    /// Goes on at another rate, without a token more.
    pub(super) fn carry_over(&self, old: Rate, new: Rate, now: u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            Some(old.carry_over(new, full_at, now))
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, per: u64, burst: u32) -> Rate {
        Rate::new(requests, Duration::from_secs(per), burst)
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_request_an_interval() {
        let (rate, bucket) = (rate(10, 1, 3), Bucket::default());
        let now = 5 * SECOND;
        let left: Vec<_> = (0..3).map(|_| bucket.take(rate, now).unwrap().left).collect();
        assert_eq!(left, [2, 1, 0]);
        assert_eq!(bucket.take(rate, now), Err(SECOND / 10), "and it says how long to wait");
        assert_eq!(bucket.take(rate, now + SECOND / 10 - 1), Err(1));
        assert!(bucket.take(rate, now + SECOND / 10).is_ok());
        assert_eq!(bucket.take(rate, now + SECOND / 10), Err(SECOND / 10));
    }

    #[test]
    fn a_token_given_back_can_be_taken_again() {
        let (rate, bucket) = (rate(1, 3600, 1), Bucket::default());
        assert!(bucket.take(rate, SECOND).is_ok());
        assert!(bucket.take(rate, SECOND).is_err());
        bucket.give_back(rate);
        assert!(bucket.take(rate, SECOND).is_ok());
    }

    #[test]
    fn however_small_a_part_one_request_passes() {
        let small = rate(10, 1, 10).part(0.001);
        let bucket = Bucket::default();
        assert!(bucket.take(small, SECOND).is_ok());
        assert_eq!(bucket.take(small, SECOND), Err(100 * SECOND));
    }

    #[test]
    fn another_rate_adds_no_token() {
        let whole = rate(100, 1, 100);
        let (small, large) = (whole.part(0.1), whole.part(0.9));
        let bucket = Bucket::default();
        let now = SECOND;
        for _ in 0..10 {
            bucket.take(small, now).unwrap();
        }
        bucket.carry_over(small, large, now);
        assert!(bucket.take(large, now).is_err(), "it was empty, and is");
        let later = now + SECOND / 2;
        let left = bucket.take(large, later).unwrap().left;
        assert!((43..=45).contains(&left), "it fills at the new rate: {left}");
        bucket.carry_over(large, small, later);
        assert!(bucket.take(small, later).unwrap().left <= 9, "what does not fit is gone");
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_the_rate_grants(
            requests in 1u32..2000,
            per in 1u64..100,
            burst in 1u32..500,
            gaps in prop::collection::vec(0u64..50_000_000, 1..400),
        ) {
            let (rate, bucket) = (rate(requests, per, burst), Bucket::default());
            let start = SECOND;
            let (mut now, mut admitted) = (start, 0u64);
            for gap in gaps {
                now += gap;
                admitted += u64::from(bucket.take(rate, now).is_ok());
                let granted = u128::from(now - start) * u128::from(requests) / u128::from(per * SECOND);
                prop_assert!(u128::from(admitted) <= u128::from(burst) + granted, "{admitted} of {burst} + {granted}");
            }
        }

        #[test]
        fn constant_demand_above_the_rate_gets_the_rate(requests in 1u32..1000, over in 2u64..10) {
            let (rate, bucket) = (rate(requests, 1, 1), Bucket::default());
            let step = SECOND / (u64::from(requests) * over);
            let seconds = 20;
            let asked = seconds * u64::from(requests) * over;
            let admitted = (1..=asked).filter(|n| bucket.take(rate, SECOND + n * step).is_ok()).count() as f64;
            let granted = (seconds * u64::from(requests)) as f64;
            // A token is waited for until the next request comes, which is at most half an interval late.
            prop_assert!(admitted >= granted * 0.66 && admitted <= granted + 1.0, "{admitted} of {granted}");
        }

        #[test]
        fn changing_parts_never_add_up_to_more_than_the_whole(
            parts in prop::collection::vec(0.05f64..0.95, 2..30),
        ) {
            // Two holders of one budget, both asking all the time, whose parts change every 100 ms.
            let whole = rate(1000, 1, 200);
            let buckets = [Bucket::default(), Bucket::default()];
            let start = SECOND;
            let (mut now, mut admitted, mut before) = (start, 0u64, [0.5, 0.5]);
            for part in parts {
                let after = [part, 1.0 - part];
                for ((bucket, old), new) in buckets.iter().zip(before).zip(after) {
                    bucket.carry_over(whole.part(old), whole.part(new), now);
                }
                before = after;
                for _ in 0..1000 {
                    now += 100_000;
                    for (bucket, part) in buckets.iter().zip(after) {
                        admitted += u64::from(bucket.take(whole.part(part), now).is_ok());
                    }
                }
            }
            let granted = (now - start) / 1_000_000;
            prop_assert!(admitted <= 200 + granted + 2, "{admitted} of 200 + {granted}");
            prop_assert!(admitted as f64 >= granted as f64 * 0.95, "{admitted} of 200 + {granted}");
        }
    }
}

//! How many retries a service can bear.
//!
//! Retries help against the odd failure and hurt against an outage: when everything fails, three tries a
//! request are three times the load on a service that is already down, and it stays down. A budget makes that
//! impossible. Retries may be a share of the requests of the last ten seconds, plus a small number a second so
//! that a quiet service can retry at all. Every retry is charged, whatever its reason.

use std::time::Duration;

use tokio::time::Instant;

/// The share is counted over the last this many seconds.
const WINDOW: usize = 10;
/// Each slot of the window counts this long.
const SLOT: Duration = Duration::from_secs(1);

/// What one slot of the window saw.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u64,
    /// Retries that were charged to the share (and not to the reserve).
    retries: u64,
}

/// Requests pay in, retries draw out.
///
/// Law: however requests and retries fall, `n` requests over `t` seconds allow at most
/// `n * percent / 100 + per_second * (t + 1)` retries.
#[derive(Debug)]
pub struct Budget {
    percent: u32,
    per_second: u32,
    slots: [Slot; WINDOW],
    /// The sums over `slots`.
    total: Slot,
    /// The slot that counts now, and when it began.
    current: usize,
    began: Instant,
    /// When it gives way to the next: all that a request has to look at.
    ends: Instant,
    /// Retries left of those always allowed: refills at `per_second`, holds one second's worth.
    reserve: f64,
    refilled: Instant,
}

impl Budget {
    /// Allows retries up to `percent` of the requests in a window of 10 s, plus `per_second` a second.
    pub fn new(percent: u32, per_second: u32, now: Instant) -> Self {
        Self {
            percent,
            per_second,
            slots: [Slot::default(); WINDOW],
            total: Slot::default(),
            current: 0,
            began: now,
            ends: now + SLOT,
            reserve: f64::from(per_second),
            refilled: now,
        }
    }

    /// Changes the limits and keeps what was counted.
    pub fn configure(&mut self, percent: u32, per_second: u32) {
        self.percent = percent;
        self.per_second = per_second;
        self.reserve = self.reserve.min(f64::from(per_second));
    }

    /// Counts a request (once, not for each of its tries).
    pub fn deposit(&mut self, now: Instant) {
        self.advance(now);
        self.slots[self.current].requests += 1;
        self.total.requests += 1;
    }

    /// Asks for one retry; `false` when the budget is spent.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.advance(now);
        self.refill(now);
        // The reserve first: it comes back within a second, the share only with new requests.
        if self.reserve >= 1.0 {
            self.reserve -= 1.0;
            return true;
        }
        if (self.total.retries + 1) * 100 <= self.total.requests * u64::from(self.percent) {
            self.slots[self.current].retries += 1;
            self.total.retries += 1;
            return true;
        }
        false
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled).as_secs_f64();
        let per_second = f64::from(self.per_second);
        self.reserve = (self.reserve + since * per_second).min(per_second);
        self.refilled = self.refilled.max(now);
    }

    /// Lets go of the slots that are out of the window.
    fn advance(&mut self, now: Instant) {
        if now < self.ends {
            return;
        }
        let passed = now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs();
        for _ in 0..passed.min(WINDOW as u64) {
            self.current = (self.current + 1) % WINDOW;
            let old = std::mem::take(&mut self.slots[self.current]);
            self.total.requests -= old.requests;
            self.total.retries -= old.retries;
        }
        self.began += Duration::from_secs(passed);
        self.ends = self.began + SLOT;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(budget: &mut Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_and_ten_a_second() {
        let now = Instant::now();
        let mut budget = Budget::new(20, 10, now);
        for _ in 0..100 {
            budget.deposit(now);
        }
        assert_eq!(drain(&mut budget, now), 10 + 20);
        assert_eq!(drain(&mut budget, now + Duration::from_millis(500)), 5);
        assert_eq!(drain(&mut budget, now + Duration::from_secs(3)), 10, "the reserve does not pile up");
    }

    #[test]
    fn requests_of_long_ago_pay_for_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new(20, 0, now);
        for _ in 0..100 {
            budget.deposit(now);
        }
        assert_eq!(drain(&mut budget, now + Duration::from_secs(11)), 0);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new(0, 0, now);
        (0..1000).for_each(|_| budget.deposit(now));
        assert!(!budget.withdraw(now));
    }

    #[test]
    fn new_limits_keep_what_was_counted() {
        let now = Instant::now();
        let mut budget = Budget::new(0, 0, now);
        (0..100).for_each(|_| budget.deposit(now));
        budget.configure(50, 0);
        assert_eq!(drain(&mut budget, now), 50);
        budget.configure(20, 0);
        assert_eq!(drain(&mut budget, now), 0);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_budget(
            percent in 0u32..200,
            per_second in 0u32..20,
            steps in prop::collection::vec((0u64..3_000, 0u64..50, 0u64..50), 1..80),
        ) {
            let start = Instant::now();
            let mut budget = Budget::new(percent, per_second, start);
            let (mut now, mut requests, mut retries) = (start, 0, 0);
            for (pause, deposits, withdrawals) in steps {
                now += Duration::from_millis(pause);
                (0..deposits).for_each(|_| budget.deposit(now));
                requests += deposits;
                retries += (0..withdrawals).filter(|_| budget.withdraw(now)).count();
                let seconds = (now - start).as_secs_f64();
                let allowed = requests as f64 * f64::from(percent) / 100.0
                    + f64::from(per_second) * (seconds + 1.0);
                prop_assert!(retries as f64 <= allowed + 1e-6, "{retries} > {allowed}");
            }
        }
    }
}

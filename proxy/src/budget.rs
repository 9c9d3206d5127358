//! How many retries a service can bear.
//!
//! Retries help against the odd failure and hurt against an outage: when everything fails, three tries a
//! request are three times the load on a service that is already down, and it stays down. A budget makes that
//! impossible. Retries may be a share of the requests of the last ten seconds, plus a small number a second so
//! that a quiet service can retry at all; either time may be set otherwise. Every retry is charged, whatever its reason.

use std::time::Duration;

use tokio::time::Instant;

use crate::snapshot::BackendPolicy;

/// The share is one of the requests of so long, where nothing else is said.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
/// What is always allowed is allowed in each of these, where nothing else is said.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The window is counted in so many slots: it moves on by a tenth of itself.
const SLOTS: usize = 10;

/// How much a budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Retries on top of the requests of the last `window`, percent.
    pub percent: u32,
    /// How long requests count.
    pub window: Duration,
    /// Retries always allowed in each `interval`.
    pub count: u32,
    /// The interval of these.
    pub interval: Duration,
}

impl Allowance {
    /// What a service's policy says.
    pub fn of(policy: &BackendPolicy) -> Self {
        Self {
            percent: policy.retry_budget_percent,
            window: policy.retry_budget_window,
            count: policy.retry_budget_per_second,
            interval: policy.retry_budget_interval,
        }
    }

    /// So many percent of the last ten seconds' requests, and so many a second.
    pub fn a_second(percent: u32, per_second: u32) -> Self {
        Self { percent, window: DEFAULT_WINDOW, count: per_second, interval: DEFAULT_INTERVAL }
    }

    fn slot(&self) -> Duration {
        // A message that says less than a tenth of a microsecond is none that a control plane sends.
        (self.window / SLOTS as u32).max(Duration::from_nanos(1))
    }
}

/// What one slot of the window saw.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u64,
    /// Retries that were charged to the share (and not to the reserve).
    retries: u64,
}

/// Requests pay in, retries draw out.
///
/// Law: however requests and retries fall, `n` requests over `t` intervals allow at most
/// `n * percent / 100 + count * (t + 1)` retries.
#[derive(Debug)]
pub struct Budget {
    allowance: Allowance,
    slot: Duration,
    slots: [Slot; SLOTS],
    /// The sums over `slots`.
    total: Slot,
    /// The slot that counts now, and when it began.
    current: usize,
    began: Instant,
    /// When it gives way to the next: all that a request has to look at.
    ends: Instant,
    /// Retries left of those always allowed: refills at `count` an interval, holds one interval's worth.
    reserve: f64,
    refilled: Instant,
}

impl Budget {
    /// Allows so many retries.
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        let slot = allowance.slot();
        Self {
            allowance,
            slot,
            slots: [Slot::default(); SLOTS],
            total: Slot::default(),
            current: 0,
            began: now,
            ends: now + slot,
            reserve: f64::from(allowance.count),
            refilled: now,
        }
    }

    /// Changes the limits and keeps what was counted. Only where the window is another, counting begins anew: what the
    /// old one saw says nothing of the new one's slots.
    pub fn configure(&mut self, allowance: Allowance, now: Instant) {
        let reserve = self.reserve.min(f64::from(allowance.count));
        if allowance.window != self.allowance.window {
            *self = Self::new(allowance, now);
        }
        self.allowance = allowance;
        self.reserve = reserve;
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
        // The reserve first: it comes back by itself, the share only with new requests.
        if self.reserve >= 1.0 {
            self.reserve -= 1.0;
            return true;
        }
        if (self.total.retries + 1) * 100 <= self.total.requests * u64::from(self.allowance.percent) {
            self.slots[self.current].retries += 1;
            self.total.retries += 1;
            return true;
        }
        false
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled).as_secs_f64();
        let count = f64::from(self.allowance.count);
        let intervals = since / self.allowance.interval.as_secs_f64();
        self.reserve = (self.reserve + intervals * count).min(count);
        self.refilled = self.refilled.max(now);
    }

    /// Lets go of the slots that are out of the window.
    fn advance(&mut self, now: Instant) {
        if now < self.ends {
            return;
        }
        let passed = now.saturating_duration_since(self.began).as_nanos() / self.slot.as_nanos();
        for _ in 0..passed.min(SLOTS as u128) {
            self.current = (self.current + 1) % SLOTS;
            let old = std::mem::take(&mut self.slots[self.current]);
            self.total.requests -= old.requests;
            self.total.retries -= old.retries;
        }
        // After a long rest the slots are all empty, and begin wherever they like.
        let within = now.saturating_duration_since(self.began).as_nanos() % self.slot.as_nanos();
        self.began = now - Duration::from_nanos(u64::try_from(within).unwrap_or(0));
        self.ends = self.began + self.slot;
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
        let mut budget = Budget::new(Allowance::a_second(20, 10), now);
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
        let mut budget = Budget::new(Allowance::a_second(20, 0), now);
        for _ in 0..100 {
            budget.deposit(now);
        }
        assert_eq!(drain(&mut budget, now + Duration::from_secs(11)), 0);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new(Allowance::a_second(0, 0), now);
        (0..1000).for_each(|_| budget.deposit(now));
        assert!(!budget.withdraw(now));
    }

    #[test]
    fn new_limits_keep_what_was_counted() {
        let now = Instant::now();
        let mut budget = Budget::new(Allowance::a_second(0, 0), now);
        (0..100).for_each(|_| budget.deposit(now));
        budget.configure(Allowance::a_second(50, 0), now);
        assert_eq!(drain(&mut budget, now), 50);
        budget.configure(Allowance::a_second(20, 0), now);
        assert_eq!(drain(&mut budget, now), 0);
    }

    #[test]
    fn both_times_may_be_other_ones() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let mut budget =
            Budget::new(Allowance { percent: 20, window: minute, count: 3, interval: minute }, now);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(drain(&mut budget, now + Duration::from_secs(1)), 3 + 20);
        (0..100).for_each(|_| budget.deposit(now + Duration::from_secs(1)));
        assert_eq!(drain(&mut budget, now + Duration::from_secs(50)), 2 + 20, "the window is not over yet");
        assert_eq!(drain(&mut budget, now + Duration::from_secs(70)), 1, "those requests are of long ago");
    }

    #[test]
    fn another_window_begins_anew() {
        let now = Instant::now();
        let mut budget = Budget::new(Allowance::a_second(20, 0), now);
        (0..100).for_each(|_| budget.deposit(now));
        let other = Allowance { window: Duration::from_secs(1), ..Allowance::a_second(20, 0) };
        budget.configure(other, now);
        assert_eq!(drain(&mut budget, now), 0);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(drain(&mut budget, now), 20);
        assert_eq!(drain(&mut budget, now + Duration::from_secs(2)), 0);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_budget(
            percent in 0u32..200,
            per_second in 0u32..20,
            window in 1u64..4_000,
            interval in 1u64..4_000,
            steps in prop::collection::vec((0u64..3_000, 0u64..50, 0u64..50), 1..80),
        ) {
            let start = Instant::now();
            let (window, interval) = (Duration::from_millis(window), Duration::from_millis(interval));
            let mut budget = Budget::new(Allowance { percent, window, count: per_second, interval }, start);
            let (mut now, mut requests, mut retries) = (start, 0, 0);
            for (pause, deposits, withdrawals) in steps {
                now += Duration::from_millis(pause);
                (0..deposits).for_each(|_| budget.deposit(now));
                requests += deposits;
                retries += (0..withdrawals).filter(|_| budget.withdraw(now)).count();
                let intervals = (now - start).as_secs_f64() / interval.as_secs_f64();
                let allowed = requests as f64 * f64::from(percent) / 100.0
                    + f64::from(per_second) * (intervals + 1.0);
                prop_assert!(retries as f64 <= allowed + 1e-6, "{retries} > {allowed}");
            }
        }
    }
}

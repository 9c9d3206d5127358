//! How many requests the application may have at once, found out from how long it takes.
//!
//! A server that is given more than it can work on does not finish more of it; it only takes longer, and at some
//! point everybody's deadline passes while all of them wait. So the proxy beside it watches the time to the
//! application's answer. As long as that stays near what it is without a queue the limit grows; where it grows, a
//! queue has formed, and the limit shrinks by as much. What is over the limit is refused at once, before the
//! application has seen it, so that a caller can go elsewhere.
//!
//! This is the gradient of Netflix's concurrency-limits and of Envoy's adaptive concurrency. The time without a queue
//! is the least median of late. Where there has been load all the time there is none to be seen; then the limit is
//! halved for one window, which drains the queue, instead of closing the door to almost everybody for a while.
//!
//! [`Gradient`] decides and does no I/O. Each worker has its own, for its own part of the traffic.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// What the limit may become, and how soon.
#[derive(Debug, Clone, PartialEq)]
pub struct ConcurrencyPolicy {
    /// Never less.
    pub min_limit: u32,
    /// Never more.
    pub max_limit: u32,
    /// So much longer than without a queue is as good as that, percent.
    pub tolerance_percent: u32,
    /// The time without a queue is looked for again after this long.
    pub recalibrate: Duration,
}

/// The limit before anything is known.
const FIRST_LIMIT: f64 = 20.0;
/// A window is this long at least.
const WINDOW: Duration = Duration::from_millis(100);
/// And has so many answers at least.
const FEWEST: usize = 10;
/// And considers no more than so many: their median is as good as that of all.
const MOST: usize = 256;
/// Windows without enough answers end all the same, without a verdict.
const LONGEST_WINDOW: Duration = Duration::from_secs(5);

/// A limit and what it follows from.
#[derive(Debug)]
pub struct Gradient {
    limit: f64,
    /// Of the present window.
    samples: Vec<Duration>,
    busiest: u32,
    began: Instant,
    /// The least medians of the present and of the last period, each with when its period began.
    baselines: VecDeque<(Instant, Duration)>,
    /// When the queue was last seen to be empty.
    relaxed: Instant,
    /// The limit to go back to after a window with half of it.
    draining: Option<f64>,
}

impl Gradient {
    /// Nothing is known yet.
    pub fn new(policy: &ConcurrencyPolicy, now: Instant) -> Self {
        let limit = FIRST_LIMIT.clamp(policy.min_limit.into(), policy.max_limit.into());
        Self {
            limit,
            samples: Vec::new(),
            busiest: 0,
            began: now,
            baselines: VecDeque::new(),
            relaxed: now,
            draining: None,
        }
    }

    /// How many may be under way now.
    pub fn limit(&self, policy: &ConcurrencyPolicy) -> u32 {
        let (least, most) = (f64::from(policy.min_limit), f64::from(policy.max_limit));
        self.limit.clamp(least, most) as u32
    }

    /// Notes an answer that took `latency`, when `under_way` requests were, itself included.
    pub fn record(&mut self, latency: Duration, under_way: u32, policy: &ConcurrencyPolicy, now: Instant) {
        self.busiest = self.busiest.max(under_way);
        if self.samples.len() < MOST {
            self.samples.push(latency);
        }
        let length = now.duration_since(self.began);
        if length >= WINDOW && self.samples.len() >= FEWEST {
            self.conclude(policy, now);
        } else if length >= LONGEST_WINDOW {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.samples.clear();
        self.busiest = 0;
        self.began = now;
    }

    fn conclude(&mut self, policy: &ConcurrencyPolicy, now: Instant) {
        let middle = self.samples.len() / 2;
        let (_, median, _) = self.samples.select_nth_unstable(middle);
        let (median, busiest) = (*median, f64::from(self.busiest));
        self.begin(now);
        let baseline = self.note_baseline(median, policy, now);
        if let Some(limit) = self.draining.take() {
            // The queue was to drain; what was measured meanwhile says nothing of the limit before.
            self.limit = limit;
            self.relaxed = now;
            return;
        }
        if busiest < self.limit / 2.0 {
            self.relaxed = now; // there was no queue, and nothing to learn for the limit
            return;
        }
        let tolerated = baseline.as_secs_f64() * (1.0 + f64::from(policy.tolerance_percent) / 100.0);
        let gradient = (tolerated / median.as_secs_f64().max(1e-9)).clamp(0.5, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        self.limit = next.clamp(policy.min_limit.into(), policy.max_limit.into());
        if now.duration_since(self.relaxed) >= policy.recalibrate {
            self.draining = Some(self.limit);
            self.limit = (self.limit / 2.0).max(policy.min_limit.into());
        }
    }

    /// The least median of late, this one included.
    fn note_baseline(&mut self, median: Duration, policy: &ConcurrencyPolicy, now: Instant) -> Duration {
        match self.baselines.back_mut() {
            Some((since, least)) if now.duration_since(*since) < policy.recalibrate => {
                *least = median.min(*least);
            }
            _ => self.baselines.push_back((now, median)),
        }
        if self.baselines.len() > 2 {
            self.baselines.pop_front();
        }
        self.baselines.iter().map(|(_, least)| *least).min().unwrap_or(median)
    }
}

/// The limit of one port, and what is under way there.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    gradient: RefCell<Option<Gradient>>,
    under_way: Cell<u32>,
}

/// A request's place at the application, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Rc<Gate>);

impl Gate {
    /// Lets one more in. `None`: there are as many as there may be.
    pub(crate) fn enter(self: &Rc<Self>, policy: &ConcurrencyPolicy, now: Instant) -> Option<Place> {
        let mut gradient = self.gradient.borrow_mut();
        let limit = gradient.get_or_insert_with(|| Gradient::new(policy, now)).limit(policy);
        if self.under_way.get() >= limit {
            return None;
        }
        self.under_way.set(self.under_way.get() + 1);
        Some(Place(self.clone()))
    }

    /// Notes an answer that took `latency`; returns the limit that follows from it.
    pub(crate) fn answered(&self, latency: Duration, policy: &ConcurrencyPolicy, now: Instant) -> u32 {
        let mut gradient = self.gradient.borrow_mut();
        let gradient = gradient.get_or_insert_with(|| Gradient::new(policy, now));
        gradient.record(latency, self.under_way.get(), policy, now);
        gradient.limit(policy)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;

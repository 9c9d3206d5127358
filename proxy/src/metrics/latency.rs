//! One distribution of times.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use crate::exchange::Exchange;
use crate::trace::{SpanId, TraceId};

/// Two significant digits keep a value within 1 % and a histogram of a fast service within a few KiB.
const DIGITS: u8 = 2;
/// Longer times count as this, in microseconds: the sum stays exact, the table bounded.
const LONGEST: u64 = 4_000 * 1_000_000;

/// Upper bounds of the buckets that are shown, in microseconds, and as they are printed in seconds.
pub(super) const BUCKETS: [(u64, &str); 20] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1.0"),
    (2_500_000, "2.5"),
    (5_000_000, "5.0"),
    (10_000_000, "10.0"),
    (30_000_000, "30.0"),
    (60_000_000, "60.0"),
    (600_000_000, "600.0"),
    (3_600_000_000, "3600.0"),
];

/// A distribution, its exact sum, and one recent trace per bucket.
#[derive(Debug, Clone)]
pub(super) struct Latency {
    pub(super) histogram: Histogram<u64>,
    pub(super) sum: Duration,
    /// One more than the buckets, for what is longer. Made when the first sampled request comes.
    exemplars: Option<Box<[Option<Exemplar>; BUCKETS.len() + 1]>>,
}

/// A request that fell into a bucket, so that a person can go from a slow bucket to its trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exemplar {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) value: Duration,
    pub(super) at: SystemTime,
}

impl Exemplar {
    /// Of a request with `value`, if its trace is kept.
    pub(super) fn of(exchange: &Exchange, value: Duration) -> Option<Self> {
        exchange.trace.sampled.then(|| Self {
            trace_id: exchange.trace.trace_id,
            span_id: exchange.trace.span_id,
            value,
            at: exchange.started_at + exchange.duration,
        })
    }
}

impl Default for Latency {
    fn default() -> Self {
        // Auto-resizing: a table grows to the longest time it has seen, which is mostly short.
        let histogram = Histogram::new(DIGITS).expect("two digits are within bounds");
        Self { histogram, sum: Duration::ZERO, exemplars: None }
    }
}

impl Latency {
    pub(super) fn record(&mut self, value: Duration, exemplar: Option<Exemplar>) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        let recorded = self.histogram.record(micros);
        debug_assert!(recorded.is_ok(), "a clamped time fits");
        self.sum = self.sum.saturating_add(value);
        if let Some(exemplar) = exemplar {
            let exemplars = self.exemplars.get_or_insert_default();
            exemplars[BUCKETS.partition_point(|(bound, _)| *bound < micros)] = Some(exemplar);
        }
    }

    /// Adds another worker's.
    pub(super) fn merge(&mut self, other: &Self) {
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "both resize");
        self.sum = self.sum.saturating_add(other.sum);
        let Some(theirs) = &other.exemplars else { return };
        let ours = self.exemplars.get_or_insert_default();
        for (our, their) in ours.iter_mut().zip(theirs.iter()) {
            let newer = their.is_some_and(|t| our.is_none_or(|o| o.at < t.at));
            if newer {
                *our = *their;
            }
        }
    }

    /// The newest exemplar of each bucket, the last one without a bound.
    pub(super) fn exemplar(&self, bucket: usize) -> Option<&Exemplar> {
        self.exemplars.as_ref()?.get(bucket)?.as_ref()
    }

    /// How many values are at most each of [`BUCKETS`], in their order.
    ///
    /// The histogram's own steps are finer than 1 %, and a step counts where it begins, so that a value that is
    /// exactly a bound is never above it.
    pub(super) fn cumulative(&self) -> [u64; BUCKETS.len()] {
        let mut counts = [0; BUCKETS.len()];
        for step in self.histogram.iter_recorded() {
            let least = self.histogram.lowest_equivalent(step.value_iterated_to());
            let bucket = BUCKETS.partition_point(|(bound, _)| *bound < least);
            if let Some(count) = counts.get_mut(bucket) {
                *count += step.count_since_last_iteration();
            }
        }
        let mut total = 0;
        counts.map(|count| {
            total += count;
            total
        })
    }
}

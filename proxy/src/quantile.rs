//! In what time most requests have been answered lately.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// What is counted in one such time holds for the next.
const WINDOW: Duration = Duration::from_secs(10);

/// Fewer requests than this tell nothing.
const MIN_REQUESTS: u64 = 20;

/// Microseconds, to a tenth: up to a minute, beyond which all are the same.
const LONGEST_MICROS: u64 = 60_000_000;

/// One quantile of a service's latency.
#[derive(Debug)]
pub struct Quantile {
    percentile: u8,
    counts: Histogram<u32>,
    began: Instant,
    known: Option<Duration>,
}

impl Quantile {
    /// Nothing counted yet. The percentile is 1 to 99.
    pub fn new(percentile: u8, now: Instant) -> Self {
        let counts = Histogram::new_with_bounds(1, LONGEST_MICROS, 1).expect("the bounds are in order");
        Self { percentile, counts, began: now, known: None }
    }

    /// Which one.
    pub fn percentile(&self) -> u8 {
        self.percentile
    }

    /// Counts one request. Costs a division or two; once in ten seconds a walk over the histogram.
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts.saturating_record(micros.max(1));
        let is_over = self.known.is_none() || now.saturating_duration_since(self.began) >= WINDOW;
        if is_over && self.counts.len() >= MIN_REQUESTS {
            let micros = self.counts.value_at_percentile(self.percentile.into());
            self.known = Some(Duration::from_micros(micros));
            self.counts.clear();
            self.began = now;
        }
    }

    /// The time in which so many were answered. `None`: too little is known.
    pub fn known(&self) -> Option<Duration> {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn it_is_known_after_twenty_requests_and_follows() {
        let mut now = Instant::now();
        let mut quantile = Quantile::new(90, now);
        (1..20).for_each(|_| quantile.observe(ms(10), now));
        assert_eq!(quantile.known(), None);
        quantile.observe(ms(10), now);
        let known = quantile.known().unwrap();
        assert!((ms(9)..=ms(11)).contains(&known), "{known:?}");
        (0..100).for_each(|number| quantile.observe(ms(if number % 5 == 0 { 500 } else { 10 }), now));
        now += WINDOW;
        quantile.observe(ms(500), now);
        let known = quantile.known().unwrap();
        assert!((ms(450)..=ms(550)).contains(&known), "a fifth are slow: {known:?}");
    }

    #[test]
    fn a_quiet_time_changes_nothing() {
        let mut now = Instant::now();
        let mut quantile = Quantile::new(50, now);
        (0..20).for_each(|_| quantile.observe(ms(10), now));
        now += 10 * WINDOW;
        quantile.observe(ms(5000), now);
        assert!(quantile.known().unwrap() < ms(12));
    }
}

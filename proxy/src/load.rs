//! How loaded an endpoint looks from here: the peak of the moving average of its latency.
//!
//! An average learns slowly that an endpoint has become slow. The peak (Finagle's peak-EWMA) believes bad news at
//! once and good news by and by: a sample over the average replaces it, and time lets it fade, so that an endpoint
//! which was slow is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// An average loses all but 37 % of what it remembers in this time.
const DECAY: Duration = Duration::from_secs(10);

/// A moving average that jumps up and glides down.
#[derive(Debug, Clone, Copy)]
pub struct PeakEwma {
    /// Seconds, and when that was true. `None`: nothing was ever measured.
    average: Option<(f64, Instant)>,
}

impl PeakEwma {
    /// Nothing measured yet.
    pub const UNKNOWN: Self = Self { average: None };

    /// Takes in that a request took `latency`, at `now`.
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        // What has faded below the sample is replaced by it. What has not goes on fading, which moves it towards
        // the samples: to average them in as well would count the time since the last one twice.
        let faded = self.seconds(now).unwrap_or_default();
        self.average = Some((latency.as_secs_f64().max(faded), now));
    }

    /// The average in seconds, faded since the last sample. `None`: nothing was ever measured.
    pub fn seconds(&self, now: Instant) -> Option<f64> {
        self.average.map(|(average, at)| average * kept(at, now))
    }
}

/// An ordinary moving average: what is typical, without the peaks.
#[derive(Debug, Clone, Copy)]
pub struct Ewma {
    average: Option<f64>,
}

impl Ewma {
    /// Nothing measured yet.
    pub const UNKNOWN: Self = Self { average: None };

    /// The share of each sample.
    const WEIGHT: f64 = 0.02;

    /// Takes in that a request took `latency`.
    pub fn observe(&mut self, latency: Duration) {
        let latency = latency.as_secs_f64();
        self.average =
            Some(self.average.map_or(latency, |average| average + (latency - average) * Self::WEIGHT));
    }

    /// The average, once there is one.
    pub fn typical(&self) -> Option<Duration> {
        self.average.map(Duration::from_secs_f64)
    }
}

/// The share of an average taken at `at` that is still worth something at `now`.
fn kept(at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn bad_news_counts_at_once_and_good_news_by_and_by() {
        let mut now = Instant::now();
        let mut load = PeakEwma::UNKNOWN;
        assert_eq!(load.seconds(now), None);
        load.observe(ms(10), now);
        load.observe(ms(200), now);
        assert_eq!(load.seconds(now), Some(0.2));
        for _ in 0..10 {
            now += ms(100);
            load.observe(ms(10), now);
        }
        let after_a_second = load.seconds(now).unwrap();
        assert!((0.15..0.2).contains(&after_a_second), "{after_a_second}");
        for _ in 0..1000 {
            now += ms(100);
            load.observe(ms(10), now);
        }
        let in_the_end = load.seconds(now).unwrap();
        assert!((0.009..0.011).contains(&in_the_end), "{in_the_end}");
    }

    #[test]
    fn what_is_not_measured_fades() {
        let now = Instant::now();
        let mut load = PeakEwma::UNKNOWN;
        load.observe(ms(1000), now);
        let faded = load.seconds(now + DECAY).unwrap();
        assert!((0.36..0.37).contains(&faded), "{faded}");
    }

    #[test]
    fn a_peak_is_not_typical() {
        let mut typical = Ewma::UNKNOWN;
        (0..100).for_each(|_| typical.observe(ms(10)));
        typical.observe(ms(100));
        assert!(typical.typical().unwrap() < ms(13));
    }
}

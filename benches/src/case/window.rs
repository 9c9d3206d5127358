//! A load watched for a while.
//!
//! The counters of the load and the CPU time of the proxies are read when the warm-up is over and again when the window
//! is; what lies between is what counts. The latencies are those of the requests that ended in between.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::load::{Load, Tally};
use crate::procfs::{CpuTime, Memory};
use crate::report::metric::{Counted, Figures, Metric};
use crate::subject::Proxy;

/// How often it is looked at whether the load goes on and, where it is wanted, at the memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// After a load, so that the closing of its connections is not charged to what comes next.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// What was seen of a load and of the proxies that carried it.
#[derive(Debug)]
pub(super) struct Seen {
    /// Requests, connections or bytes, in the window.
    done: u64,
    /// The same before the window.
    warmed_up: u64,
    took: Duration,
    tally: Tally,
    /// Of each proxy, the caller's first.
    cpu: Vec<CpuTime>,
}

/// Lets the load warm up and watches it for the window.
///
/// # Errors
/// The load failed, or nothing was done: then there is nothing to divide by.
pub(super) fn watch(load: Load, proxies: &[Proxy], warm_up: Duration, window: Duration) -> Result<Seen> {
    watch_also(load, proxies, warm_up, window, &mut |_| Ok(()))
}

/// The same, with the most memory that all proxies together had meanwhile.
pub(super) fn watch_memory(
    load: Load,
    proxies: &[Proxy],
    warm_up: Duration,
    window: Duration,
) -> Result<Memory> {
    let mut most = Memory::default();
    watch_also(load, proxies, warm_up, window, &mut |ends| {
        while Instant::now() < ends {
            most = most.max(memory_of(proxies)?);
            sleep(SAMPLE_EVERY);
        }
        Ok(())
    })?;
    Ok(most)
}

fn watch_also(
    load: Load,
    proxies: &[Proxy],
    warm_up: Duration,
    window: Duration,
    meanwhile: &mut dyn FnMut(Instant) -> Result<()>,
) -> Result<Seen> {
    wait(&load, Instant::now() + warm_up);
    load.measure();
    let (began, done_before) = (Instant::now(), load.done());
    let cpu_before = cpu_of(proxies)?;
    meanwhile(began + window)?;
    wait(&load, began + window);
    let (took, done) = (began.elapsed(), load.done() - done_before);
    let cpu = cpu_of(proxies)?.into_iter().zip(cpu_before).map(|(after, before)| after.since(before));
    let cpu = cpu.collect();
    let tally = load.stop()?;
    if done == 0 {
        bail!("nothing was done in {window:?}");
    }
    sleep(AFTERWARDS);
    Ok(Seen { done, warmed_up: done_before, took, tally, cpu })
}

/// Until then, or until the load has ended: there is nothing to wait for with one that failed.
fn wait(load: &Load, until: Instant) {
    while Instant::now() < until && !load.has_ended() {
        sleep(SAMPLE_EVERY.min(until.saturating_duration_since(Instant::now())));
    }
}

/// The CPU time of each.
pub(super) fn cpu_of(proxies: &[Proxy]) -> Result<Vec<CpuTime>> {
    proxies.iter().map(|proxy| CpuTime::of(proxy.pid).with_context(|| gone(proxy))).collect()
}

/// The memory of all together.
pub(super) fn memory_of(proxies: &[Proxy]) -> Result<Memory> {
    proxies.iter().try_fold(Memory::default(), |sum, proxy| {
        let one = Memory::of(proxy.pid).with_context(|| gone(proxy))?;
        Ok(Memory {
            resident_bytes: sum.resident_bytes + one.resident_bytes,
            anonymous_bytes: sum.anonymous_bytes + one.anonymous_bytes,
        })
    })
}

fn gone(proxy: &Proxy) -> String {
    format!("the {}'s proxy is gone", proxy.name)
}

/// CPU time in microseconds.
pub(super) fn micros(time: &CpuTime) -> f64 {
    (time.user + time.system).as_secs_f64() * 1e6
}

impl Seen {
    /// What was done until the window ended, the warm-up included.
    pub(super) fn done_since_start(&self) -> u64 {
        self.warmed_up + self.done
    }

    /// CPU time of all proxies for each of what was done, microseconds.
    pub(super) fn cpu_each(&self) -> f64 {
        self.cpu.iter().map(micros).sum::<f64>() / self.done as f64
    }

    /// Everything that is known of it.
    pub(super) fn figures(&self, counted: Counted) -> Figures {
        // Of bulk bytes, what is counted is a gigabit, and CPU time is in milliseconds.
        let (number, scale) = match counted {
            Counted::Requests | Counted::Connections => (self.done as f64, 1.0),
            Counted::Gigabits => (self.done as f64 * 8.0 / 1e9, 1e3),
        };
        let mut figures = Figures::from([(Metric::PerSecond, number / self.took.as_secs_f64())]);
        let each = |time: f64| time / scale / number;
        if let [caller, service] = &self.cpu[..] {
            let system = (caller.system + service.system).as_secs_f64() * 1e6;
            figures.extend([
                (Metric::Cpu, each(micros(caller) + micros(service))),
                (Metric::CpuCaller, each(micros(caller))),
                (Metric::CpuService, each(micros(service))),
                (Metric::CpuSystem, each(system)),
            ]);
        }
        let latency = [(Metric::P50, 0.5), (Metric::P99, 0.99), (Metric::P999, 0.999)];
        figures.extend(quantiles(&self.tally.latency, &latency));
        figures.extend(quantiles(&self.tally.lateness, &[(Metric::LateP50, 0.5), (Metric::LateP99, 0.99)]));
        figures
    }
}

/// Microseconds at these quantiles; nothing of what was not recorded.
fn quantiles(nanos: &Histogram<u64>, wanted: &[(Metric, f64)]) -> Vec<(Metric, f64)> {
    if nanos.is_empty() {
        return Vec::new();
    }
    wanted.iter().map(|&(metric, q)| (metric, nanos.value_at_quantile(q) as f64 / 1e3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(nanos: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for nanos in nanos {
            histogram.record(nanos).unwrap();
        }
        histogram
    }

    fn seen(done: u64, milliseconds: [u64; 2]) -> Seen {
        let cpu = milliseconds.map(|ms| {
            let mut time = CpuTime::default();
            (time.user, time.system) = (Duration::from_micros(ms * 500), Duration::from_micros(ms * 500));
            time
        });
        let latency = histogram((1..=1000).map(|micros| micros * 1000));
        let tally = Tally { latency, lateness: histogram([]) };
        Seen { done, warmed_up: 0, took: Duration::from_secs(2), tally, cpu: cpu.into() }
    }

    #[test]
    fn cpu_time_is_divided_by_what_was_done_and_the_rate_by_the_time_it_took() {
        let figures = seen(1000, [30, 10]).figures(Counted::Requests);
        assert_eq!(figures[&Metric::PerSecond], 500.0);
        assert_eq!((figures[&Metric::Cpu], figures[&Metric::CpuCaller]), (40.0, 30.0));
        assert_eq!((figures[&Metric::CpuService], figures[&Metric::CpuSystem]), (10.0, 20.0));
    }

    #[test]
    fn bytes_become_gigabits_and_their_cpu_time_milliseconds() {
        let figures = seen(1_000_000_000, [600, 200]).figures(Counted::Gigabits);
        assert_eq!((figures[&Metric::PerSecond], figures[&Metric::Cpu]), (4.0, 100.0));
    }

    #[test]
    fn quantiles_are_of_what_was_recorded_and_of_nothing_else() {
        let figures = seen(1000, [1, 1]).figures(Counted::Requests);
        let near =
            |metric, micros: f64| assert!((figures[&metric] / micros - 1.0).abs() < 0.002, "{metric:?}");
        near(Metric::P50, 500.0);
        near(Metric::P99, 990.0);
        near(Metric::P999, 999.0);
        assert!(!figures.contains_key(&Metric::LateP99), "a closed loop is never late");
        let without_proxies = Seen { cpu: Vec::new(), ..seen(1000, [1, 1]) };
        assert!(!without_proxies.figures(Counted::Requests).contains_key(&Metric::Cpu));
    }
}

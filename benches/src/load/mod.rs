//! The load generator: requests, bytes and connections, counted and timed.
//!
//! A load runs on one thread of its own until it is stopped. It is written for this purpose, since a client library
//! would cost as much as what is measured: it shares the machine with the proxies, and whatever it uses is missing
//! there. There is one file for each kind of load:
//!
//! - [`http1`]: connections that are never idle, each with one HTTP/1.1 request under way (closed loop);
//! - [`open`]: HTTP/1.1 requests at a fixed rate, sent when they are due and not when the last one is answered;
//! - [`http2`]: streams that are never idle on a few HTTP/2 connections, shaped like gRPC (closed loop);
//! - [`bulk`]: two opaque TCP streams, one each way, as fast as they go;
//! - [`churn`]: TCP connections that live for one short exchange;
//! - [`held`]: HTTP/1.1 connections that have been used once and are kept;
//! - [`lockstep`]: a number of requests and no more, for counting what they cost.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

pub(crate) mod bulk;
pub(crate) mod churn;
pub(crate) mod held;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod lockstep;
pub(crate) mod open;

/// An answer that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest time that a histogram tells from longer ones, nanoseconds.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// A load that runs until it is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Tally>>,
}

/// What the thread of a load and its owner tell each other.
#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    measuring: AtomicBool,
    stop: AtomicBool,
}

/// How it went, while it was measured.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Nanoseconds that each request took: of an open loop from when it was due, else from when it was sent. Empty
    /// for loads without requests.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds by which requests were sent after they were due although a connection was free: the fault
    /// of the generator itself. Empty for closed loops, where nothing is due.
    pub(crate) lateness: Histogram<u64>,
}

impl Load {
    /// Runs `generate` on a thread with a runtime of its own.
    fn start<F, G>(generate: G) -> Result<Self>
    where
        F: Future<Output = Result<()>>,
        G: FnOnce(Rc<Recorder>) -> F + Send + 'static,
    {
        let shared = Arc::<Shared>::default();
        let thread = thread::Builder::new().name("load".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let recorder = Rc::new(Recorder::new(shared)?);
                LocalSet::new().block_on(&runtime, generate(Rc::clone(&recorder)))?;
                Ok(recorder.tally())
            }
        })?;
        Ok(Self { shared, thread })
    }

    /// Requests answered, connections served or bytes moved so far, since the start.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// From now on latencies are recorded.
    pub(crate) fn measure(&self) {
        self.shared.measuring.store(true, Ordering::Relaxed);
    }

    /// Whether it has ended before it was stopped, which is a failure that [`stop`](Self::stop) names.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets everything under way come to its end, and counts.
    ///
    /// # Errors
    /// Something failed since the start: then the numbers mean nothing.
    pub(crate) fn stop(self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Ok(tally) = self.thread.join() else { bail!("the load generator panicked") };
        tally
    }
}

/// Where the tasks of a load write down what they did.
#[derive(Debug)]
struct Recorder {
    shared: Arc<Shared>,
    latency: RefCell<Histogram<u64>>,
    lateness: RefCell<Histogram<u64>>,
}

impl Recorder {
    fn new(shared: Arc<Shared>) -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NANOS, 3).context("a histogram");
        Ok(Self { shared, latency: RefCell::new(histogram()?), lateness: RefCell::new(histogram()?) })
    }

    /// Whether nothing more is to be begun.
    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// That many more requests, connections or bytes.
    fn add(&self, amount: u64) {
        self.shared.done.fetch_add(amount, Ordering::Relaxed);
    }

    /// One more, which took from `began` to `ended`.
    fn answered(&self, began: Instant, ended: Instant) {
        self.add(1);
        self.record(&self.latency, began, ended);
    }

    /// Something that was due then was begun now.
    fn begun(&self, due: Instant, now: Instant) {
        self.record(&self.lateness, due, now);
    }

    fn record(&self, histogram: &RefCell<Histogram<u64>>, from: Instant, to: Instant) {
        if self.shared.measuring.load(Ordering::Relaxed) {
            let nanos = u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX);
            histogram.borrow_mut().saturating_record(nanos.max(1));
        }
    }

    fn tally(&self) -> Tally {
        Tally { latency: self.latency.borrow().clone(), lateness: self.lateness.borrow().clone() }
    }
}

/// Waits for all of them.
///
/// # Errors
/// One failed: the first is quoted, the others are counted.
async fn all(mut running: JoinSet<io::Result<()>>, what: &str) -> Result<()> {
    let number = running.len();
    let mut failures = Vec::new();
    while let Some(ended) = running.join_next().await {
        failures.extend(ended.map_err(io::Error::other).flatten().err());
    }
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(anyhow!("{} of {number} {what} failed, the first: {first}", failures.len())),
    }
}

/// Lets this process open as many files as it may: generator and server hold both ends of every connection in it.
///
/// # Errors
/// The limit cannot be set.
pub(crate) fn raise_file_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_recorded_before_it_is_measured_but_everything_is_counted() {
        let recorder = Recorder::new(Arc::default()).unwrap();
        let began = Instant::now();
        let ended = began + Duration::from_micros(250);
        recorder.answered(began, ended);
        recorder.shared.measuring.store(true, Ordering::Relaxed);
        recorder.answered(began, ended);
        recorder.begun(began, began);
        let tally = recorder.tally();
        assert_eq!((recorder.shared.done.load(Ordering::Relaxed), tally.latency.len()), (2, 1));
        assert_eq!(tally.latency.max() / 1000, 250, "microseconds, to three digits");
        assert_eq!(
            (tally.lateness.len(), tally.lateness.max()),
            (1, 1),
            "never nought, which no histogram holds"
        );
    }
}

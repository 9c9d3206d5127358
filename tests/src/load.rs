//! Steady traffic in the background, with every outcome accounted for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::app::http::empty;
use crate::client::{Answer, Client, request};

/// Traffic that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    task: JoinHandle<Tally>,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests sent; every one of them ended.
    pub sent: u64,
    /// Answers with status 200.
    pub succeeded: u64,
    /// What happened to the others, and when after the start.
    pub failures: Vec<(Duration, String)>,
    /// Of the successful ones, in order of their end.
    pub latencies: Vec<Duration>,
    /// Which instance answered, in order of the end, with the time after the start.
    pub instances: Vec<(Duration, String)>,
}

impl Tally {
    /// Asserts that the caller lost nothing, and sent enough for that to mean something.
    #[track_caller]
    pub fn assert_nothing_lost(&self, at_least: u64) {
        assert!(self.sent >= at_least, "only {} requests were sent, {at_least} wanted", self.sent);
        assert!(
            self.failures.is_empty(),
            "{} of {} requests failed, first: {:?}",
            self.failures.len(),
            self.sent,
            &self.failures[..self.failures.len().min(5)]
        );
    }

    /// The latency that this share of the successful requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).copied().unwrap_or_default()
    }
}

impl Load {
    /// GETs of the URL at this rate, however long each takes.
    pub fn start(client: &Client, url: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(run(
            client.clone(),
            url.to_owned(),
            per_second,
            Arc::clone(&stop),
            Arc::clone(&sent),
        ));
        Self { stop, sent, task }
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Sends no more, waits for the answers and counts them.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("the load does not panic")
    }
}

async fn run(
    client: Client,
    url: String,
    per_second: u32,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> Tally {
    let started = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    // A test machine that pauses must not be followed by a burst that the test did not ask for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = JoinSet::new();
    let mut tally = Tally::default();
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        sent.fetch_add(1, Ordering::SeqCst);
        let (client, url) = (client.clone(), url.clone());
        requests.spawn(async move {
            let begun = Instant::now();
            let result = client.send(request("GET", &url, &[], empty())).await;
            (result.map_err(|lost| lost.to_string()), begun.elapsed())
        });
        while let Some(done) = requests.try_join_next() {
            tally.add(done.expect("a request does not panic"), started.elapsed());
        }
    }
    while let Some(done) = requests.join_next().await {
        tally.add(done.expect("a request does not panic"), started.elapsed());
    }
    tally.sent = sent.load(Ordering::SeqCst);
    tally
}

impl Tally {
    fn add(&mut self, (result, took): (Result<Answer, String>, Duration), at: Duration) {
        match result {
            Ok(answer) if answer.status == 200 => {
                self.succeeded += 1;
                self.latencies.push(took);
                self.instances.push((at, answer.instance().to_owned()));
            }
            Ok(answer) => {
                let why =
                    format!("{} {:?} after {took:?}: {}", answer.status, answer.failure(), answer.text());
                self.failures.push((at, why));
            }
            Err(lost) => self.failures.push((at, format!("{lost} after {took:?}"))),
        }
    }
}

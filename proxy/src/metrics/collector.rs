//! How a scrape gets a copy of what every worker counted.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_api::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Metrics, MetricsSnapshot};
use crate::report::LoadSource;

/// A question to a worker: send a copy here.
pub type WorkerQuery = oneshot::Sender<MetricsSnapshot>;

/// Scrapes and reports that may wait for one worker at once.
const QUEUE: usize = 8;
/// A worker that does not answer in this time is left out of the scrape, and the scrape says so.
const PATIENCE: Duration = Duration::from_secs(2);

/// The queue on which a worker gets its questions; the worker serves it with [`answer_queries`].
pub fn worker_queries() -> (mpsc::Sender<WorkerQuery>, mpsc::Receiver<WorkerQuery>) {
    mpsc::channel(QUEUE)
}

/// Answers questions for as long as anybody can ask. A worker runs this beside its listeners.
pub async fn answer_queries(metrics: Metrics, mut queries: mpsc::Receiver<WorkerQuery>) {
    while let Some(query) = queries.recv().await {
        // The asker may have lost its patience.
        let _ = query.send(metrics.snapshot());
    }
}

/// Asks all workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Collector {
    workers: Vec<mpsc::Sender<WorkerQuery>>,
    patience: Duration,
}

impl Collector {
    /// Of these workers.
    pub fn new(workers: Vec<mpsc::Sender<WorkerQuery>>) -> Self {
        Self { workers, patience: PATIENCE }
    }

    /// With another patience than two seconds.
    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The sum of what all workers counted, and how many workers did not answer in two seconds.
    pub async fn collect(&self) -> (MetricsSnapshot, usize) {
        let answers: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (query, answer) = oneshot::channel();
                // A full queue means that earlier questions wait, too: this worker will not answer in time.
                worker.try_send(query).ok().map(|()| answer)
            })
            .collect();
        let all = futures_util::future::join_all(
            answers.into_iter().map(|answer| async { timeout(self.patience, answer?).await.ok()?.ok() }),
        );
        let mut sum = MetricsSnapshot::default();
        let mut silent = 0;
        for answer in all.await {
            match answer {
                Some(snapshot) => sum.merge(snapshot),
                None => silent += 1,
            }
        }
        (sum, silent)
    }

    /// The load report for the control plane. While a worker does not answer, the last whole report goes again,
    /// because totals must not seem to fall.
    pub fn load_source(&self) -> LoadSource {
        let collector = self.clone();
        let last = Arc::new(ArcSwap::from_pointee(v1::LoadReport::default()));
        Arc::new(move || {
            let (collector, last) = (collector.clone(), last.clone());
            Box::pin(async move {
                let (sum, silent) = collector.collect().await;
                if silent == 0 {
                    last.store(Arc::new(sum.load_report()));
                }
                v1::LoadReport::clone(&last.load())
            })
        })
    }
}

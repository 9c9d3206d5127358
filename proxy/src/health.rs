//! Whether the proxy's own application can take traffic.
//!
//! Callers elsewhere learn of an endpoint before its application listens, and keep it after the application
//! hangs. So the proxy asks its application itself, over TCP, HTTP or gRPC, and tells the control plane when
//! the answer changes. A workload starts unhealthy: it gets no traffic until its application has accepted once.

mod probe;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// One question that the application must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Where the application listens.
    pub address: SocketAddr,
    /// What counts as an answer.
    pub kind: CheckKind,
}

/// What counts as healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// The application accepts a connection.
    Tcp,
    /// A GET of this path is answered with a status from 200 to 399.
    Http {
        /// Path and query, beginning with `/`.
        path: String,
    },
    /// `grpc.health.v1.Health/Check` of the whole server says SERVING.
    Grpc,
}

/// What all checks together say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Every check passes.
    pub healthy: bool,
    /// What fails, empty if nothing does.
    pub detail: String,
}

/// How often to ask while all is well.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often to ask while it is not, so that a recovery is seen soon and one lost answer is soon confirmed.
const INTERVAL_FAILING: Duration = Duration::from_secs(1);
/// The first wait of an application that starts beside the proxy; it doubles up to [`INTERVAL_FAILING`].
const INTERVAL_STARTING: Duration = Duration::from_millis(100);
/// An answer that takes longer is none.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Failures in a row after which a healthy application is unhealthy.
const FAILURES: u32 = 2;

/// One check's verdict over time.
///
/// ```text
///             ok                 FAILURES in a row
/// starting ─────────▶ healthy ──────────────────────▶ unhealthy
///                        ▲                                 │ ok
///                        └─────────────────────────────────┘
/// ```
#[derive(Debug)]
struct Tracker {
    healthy: bool,
    seen_healthy: bool,
    failures: u32,
}

impl Tracker {
    fn new() -> Self {
        Self { healthy: false, seen_healthy: false, failures: 0 }
    }

    /// Takes one answer and says how long to wait before the next question.
    fn record(&mut self, passed: bool) -> Duration {
        if passed {
            *self = Self { healthy: true, seen_healthy: true, failures: 0 };
            return INTERVAL;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.healthy = false;
        }
        if self.seen_healthy {
            INTERVAL_FAILING
        } else {
            INTERVAL_STARTING.saturating_mul(1 << (self.failures - 1).min(10)).min(INTERVAL_FAILING)
        }
    }
}

/// Runs the checks for as long as the returned set lives. Without checks the workload counts as healthy.
pub(crate) fn watch(checks: Vec<Check>) -> (watch::Receiver<Health>, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let verdicts: Vec<Option<String>> = vec![Some("not yet checked".to_owned()); checks.len()];
    let (sender, receiver) = watch::channel(summary(&checks, &verdicts));
    if checks.is_empty() {
        return (receiver, tasks);
    }
    let board = std::sync::Arc::new(Board { sender, checks, verdicts: std::sync::Mutex::new(verdicts) });
    for index in 0..board.checks.len() {
        tasks.spawn(keep_asking(board.clone(), index));
    }
    (receiver, tasks)
}

/// The verdicts of all checks side by side; `None` is a pass.
struct Board {
    sender: watch::Sender<Health>,
    checks: Vec<Check>,
    verdicts: std::sync::Mutex<Vec<Option<String>>>,
}

impl Board {
    fn report(&self, index: usize, verdict: Option<String>) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        verdicts[index] = verdict;
        let health = summary(&self.checks, &verdicts);
        self.sender.send_if_modified(|seen| {
            let changed = seen.healthy != health.healthy;
            if changed {
                tracing::info!(
                    healthy = health.healthy,
                    detail = health.detail,
                    "the application's health changed"
                );
            }
            *seen = health;
            changed
        });
    }
}

fn summary(checks: &[Check], verdicts: &[Option<String>]) -> Health {
    let failing: Vec<String> = checks
        .iter()
        .zip(verdicts)
        .filter_map(|(check, verdict)| verdict.as_ref().map(|why| format!("{}: {why}", check.address)))
        .collect();
    Health { healthy: failing.is_empty(), detail: failing.join("; ") }
}

async fn keep_asking(board: std::sync::Arc<Board>, index: usize) {
    let mut tracker = Tracker::new();
    loop {
        let answer = tokio::time::timeout(TIMEOUT, probe::ask(&board.checks[index]))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        let wait = tracker.record(answer.is_ok());
        match answer {
            Err(why) if !tracker.healthy => board.report(index, Some(why)),
            Err(why) => {
                tracing::debug!(address = %board.checks[index].address, why, "one health check failed")
            }
            Ok(()) => board.report(index, None),
        }
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests;

//! What the proxy says of itself, beside what its workers counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::access_log::LogCounts;
use crate::control::Counters;
use crate::span::SpanCounts;

/// State of the whole process, as of one scrape.
#[derive(Debug, Clone)]
pub struct ProxyFacts {
    /// When the process started.
    pub started: SystemTime,
    /// Threads that serve requests.
    pub workers: usize,
    /// When the workload's certificate ends; `None` while there is none.
    pub certificate_expiry: Option<SystemTime>,
    /// Of the control thread.
    pub control: ControlFacts,
    /// Of the exporter.
    pub spans: SpanCounts,
    /// Of the access log.
    pub log: LogCounts,
}

/// What the control thread counted, at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ControlFacts {
    pub(super) connected: bool,
    pub(super) streams: u64,
    pub(super) updates: u64,
    pub(super) refusals: u64,
    pub(super) certificates: u64,
    pub(super) certificate_failures: u64,
    pub(super) asks_refused: u64,
    pub(super) reports_dropped: u64,
    pub(super) services: u64,
}

impl From<&Counters> for ControlFacts {
    fn from(counters: &Counters) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            connected: counters.connected.load(Ordering::Relaxed),
            streams: read(&counters.streams),
            updates: read(&counters.updates),
            refusals: read(&counters.refusals),
            certificates: read(&counters.certificates),
            certificate_failures: read(&counters.certificate_failures),
            asks_refused: read(&counters.asks_refused),
            reports_dropped: read(&counters.reports_dropped),
            services: read(&counters.services),
        }
    }
}

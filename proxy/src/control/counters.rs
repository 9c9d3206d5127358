//! What happened on the control thread, counted for `/metrics`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the proxy started. Written by the control thread, read by anybody.
#[derive(Debug, Default)]
pub struct Counters {
    /// A stream to the control plane stands.
    pub connected: AtomicBool,
    /// Streams begun.
    pub streams: AtomicU64,
    /// Updates that are in use.
    pub updates: AtomicU64,
    /// Updates refused.
    pub refusals: AtomicU64,
    /// Certificates taken into use.
    pub certificates: AtomicU64,
    /// Times that no certificate could be had.
    pub certificate_failures: AtomicU64,
    /// Questions for a service that were turned away because a table or queue was full.
    pub asks_refused: AtomicU64,
    /// Load reports not sent because the stream was full.
    pub reports_dropped: AtomicU64,
    /// Services in the table.
    pub services: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set(gauge: &AtomicU64, value: usize) {
        gauge.store(value as u64, Ordering::Relaxed);
    }
}

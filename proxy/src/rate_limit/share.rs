//! The part of a limit of the whole mesh that is this proxy's.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a proxy may use that was never told how many others there are.
const UNTOLD: f64 = 0.05;

/// A part of a limit, and how often it was asked for. Workers read and count, the control thread sets.
#[derive(Debug)]
pub struct Share {
    /// The bits of a number over 0, 1 at most.
    part: AtomicU64,
    asked: AtomicU64,
}

impl Default for Share {
    fn default() -> Self {
        Self { part: AtomicU64::new(UNTOLD.to_bits()), asked: AtomicU64::new(0) }
    }
}

impl Share {
    /// The part, over 0 and at most 1.
    pub fn part(&self) -> f64 {
        f64::from_bits(self.part.load(Ordering::Relaxed))
    }

    pub(super) fn set_part(&self, part: f64) {
        self.part.store(part.clamp(f64::EPSILON, 1.0).to_bits(), Ordering::Relaxed);
    }

    /// Counts a request, whatever becomes of it.
    pub(super) fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests since the start.
    pub fn total(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

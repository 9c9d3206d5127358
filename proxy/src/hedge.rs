//! When a second attempt is sent though the first has not failed.
//!
//! Of many requests a few take far longer than the rest, for reasons that have nothing to do with them: a pause of the
//! collector, a cold cache, a busy neighbour. Asking a second endpoint once the first is late gets most of these an
//! answer in ordinary time, for a few requests more. A service that is slow as a whole would be asked twice for
//! everything: so each such attempt is charged to the retry budget, and none is made when that is spent.

use std::time::Duration;

/// What a route or a service says of hedging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HedgePolicy {
    /// When an attempt is late.
    pub after: HedgeAfter,
    /// Attempts beside the first, each after the one before is late.
    pub max_extra: u32,
}

/// When an attempt is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeAfter {
    /// After this time.
    Delay(Duration),
    /// After the time in which this many of a hundred requests have been answered lately.
    Percentile(u8),
}

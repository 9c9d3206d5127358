//! The time until a pair serves.

use anyhow::{Context as _, Result};

use super::{Bench, USUAL};
use crate::report::metric::{Figures, Metric};
use crate::report::spread::Spread;
use crate::subject::Subject;

/// Starts a few pairs, one after the other, and takes the median.
///
/// # Errors
/// One does not start.
pub(super) fn measure(subject: Subject, bench: &Bench) -> Result<Figures> {
    let start = |_| Ok(bench.start(subject, &USUAL)?.ready_in.as_secs_f64() * 1e3);
    let times = (0..bench.pace.starts).map(start).collect::<Result<Vec<_>>>()?;
    let median = Spread::of(times).context("no start to measure")?.median;
    Ok([(Metric::ReadyIn, median)].into())
}

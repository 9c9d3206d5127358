//! The mesh compared with itself, set up in another way.
//!
//! What is looked for is a few percent, and a machine drifts by more in a minute. So both pairs are started, and the
//! windows are taken as usual, changed, changed, usual: what drifts evenly is the same in both sums.

use anyhow::Result;

use super::{Bench, SMALL, USUAL, requests, window};
use crate::load::http1::closed;
use crate::report::metric::{Figures, Metric};
use crate::subject::{Running, Setup, Subject};

/// Compares CPU time a request with this many busy connections.
///
/// # Errors
/// A pair does not start or does not serve.
pub(super) fn measure(connections: usize, setup: &Setup, subject: Subject, bench: &Bench) -> Result<Figures> {
    let (usual, changed) = (bench.start(subject, &USUAL)?, bench.start(subject, setup)?);
    let watch = |pair: &Running| {
        let load = closed(requests(&pair.http1, SMALL), connections)?;
        window::watch(load, &pair.proxies, bench.pace.warm_up, bench.pace.window)
    };
    let first = watch(&usual)?.cpu_each();
    let (begun, spans_before) = (watch(&changed)?, changed.spans());
    let ended = watch(&changed)?;
    // Between the ends of two windows, so that what is exported late is made up for by what was then.
    let spans = changed.spans().zip(spans_before).map(|(after, before)| after - before);
    let mut figures = figures([first, begun.cpu_each(), ended.cpu_each(), watch(&usual)?.cpu_each()]);
    if let Some(spans) = spans {
        figures.insert(Metric::Spans, spans as f64 / ended.done_since_start() as f64);
    }
    Ok(figures)
}

fn figures([usual, changed, changed_again, usual_again]: [f64; 4]) -> Figures {
    let (usual, changed) = (f64::midpoint(usual, usual_again), f64::midpoint(changed, changed_again));
    [(Metric::CpuUsual, usual), (Metric::CpuChanged, changed), (Metric::Change, changed / usual)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drifts_evenly_is_no_change() {
        assert_eq!(figures([40.0, 42.0, 44.0, 46.0])[&Metric::Change], 1.0);
        assert_eq!(figures([40.0, 52.5, 54.5, 45.6])[&Metric::Change], 1.25);
    }
}

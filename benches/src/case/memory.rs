//! Memory: of a pair that has just been started, and of what connections add to it.
//!
//! Each has a pair of its own, since memory remembers what came before.

use std::thread::sleep;

use anyhow::Result;
use tokio::time::Instant;

use super::window::{cpu_of, memory_of, micros, watch_memory};
use super::{Bench, SMALL, USUAL, requests};
use crate::load::held::Held;
use crate::load::http1::closed;
use crate::procfs::Memory;
use crate::report::metric::{Figures, Metric};
use crate::subject::{Running, Subject};

/// What the pair does while it is looked at.
#[derive(Debug)]
pub(super) enum Doing {
    /// It is at rest.
    Nothing,
    /// It has that many connections that were used once.
    Holding(usize),
    /// It has that many connections that are never idle: then the most counts.
    Serving(usize),
}

/// Starts a pair and looks at its memory.
///
/// # Errors
/// It does not start, or does not do what it should.
pub(super) fn measure(doing: &Doing, subject: Subject, bench: &Bench) -> Result<Figures> {
    let pair = bench.start(subject, &USUAL)?;
    match *doing {
        Doing::Nothing => at_rest(&pair, bench),
        Doing::Holding(number) => {
            let held = Held::open(&requests(&pair.http1, SMALL), number)?;
            sleep(bench.pace.settle);
            let memory = memory_of(&pair.proxies)?;
            held.all_open()?;
            Ok(figures(memory))
        }
        Doing::Serving(number) => {
            let load = closed(requests(&pair.http1, SMALL), number)?;
            watch_memory(load, &pair.proxies, bench.pace.warm_up, bench.pace.window).map(figures)
        }
    }
}

fn at_rest(pair: &Running, bench: &Bench) -> Result<Figures> {
    sleep(bench.pace.settle);
    let (before, began) = (cpu_of(&pair.proxies)?, Instant::now());
    sleep(bench.pace.settle);
    let used =
        cpu_of(&pair.proxies)?.into_iter().zip(before).map(|(after, before)| micros(&after.since(before)));
    let mut figures = figures(memory_of(&pair.proxies)?);
    figures.insert(Metric::IdleCpu, used.sum::<f64>() / began.elapsed().as_secs_f64());
    Ok(figures)
}

fn figures(memory: Memory) -> Figures {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    [(Metric::Resident, mib(memory.resident_bytes)), (Metric::Anonymous, mib(memory.anonymous_bytes))].into()
}

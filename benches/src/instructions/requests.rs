//! What a request costs in each of the two release proxies.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::callgrind::{Callgrind, Counters, take_all};
use super::{Measured, progress};
use crate::load::lockstep::Lockstep;
use crate::subject::{Entry, Running, Setup, Subject, Tools};
use crate::upstream::Upstream;

/// The mesh is started so often: how the allocator's memory lies makes up to 3 % of a figure, and stays for the life
/// of a process.
const STARTS: usize = 2;
/// Each figure is the least of so many runs after each start.
const RUNS: usize = 4;
/// The path with an answer of a hundred bytes.
const PATH: &str = "/bytes/100";

/// How requests come.
struct Case {
    name: &'static str,
    /// At a time: connections of HTTP/1.1, or streams on one connection of HTTP/2.
    at_once: usize,
    http2: bool,
    /// In one run: enough for its length not to matter, few enough not to wait for.
    requests: usize,
}

const CASES: [Case; 3] = [
    Case { name: "http1-1", at_once: 1, http2: false, requests: 200 },
    Case { name: "http1-16", at_once: 16, http2: false, requests: 640 },
    Case { name: "http2-16", at_once: 16, http2: true, requests: 640 },
];

// One stream of HTTP/2 alone is not counted: whether a proxy finds the parts of a message together depends on the
// machine's load, and makes 3 % of the figure.

/// Both proxies, as a figure names them.
const SIDES: [&str; 2] = ["caller", "service"];

/// The figures of the cases that are wanted.
pub(super) fn measure(
    callgrind: &Callgrind,
    programs: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Measured>> {
    let is_wanted = |case: &&Case| SIDES.iter().any(|side| wanted(&figure(case, side)));
    let cases: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let wrapped = callgrind.wrap(programs, &["outrigger", "outrigger-proxy"], "outrigger-proxy")?;
    let tools = Tools::find(&wrapped, &[Subject::Outrigger])?;
    let upstream = Upstream::start()?;
    let mut figures: Vec<(String, Vec<f64>)> =
        cases.iter().flat_map(|case| SIDES.map(|side| (figure(case, side), Vec::new()))).collect();
    for _ in 0..STARTS {
        progress("start of the mesh");
        let running = Subject::Outrigger.start(&Setup::default(), &upstream.addresses(), &tools)?;
        let mut proxies: Vec<Counters<'_>> =
            running.proxies.iter().map(|proxy| callgrind.counters(&proxy.name, proxy.pid)).collect();
        for (case, figures) in cases.iter().zip(figures.chunks_mut(SIDES.len())) {
            progress(case.name);
            for _ in 0..RUNS {
                let run = count(case, &running, &mut proxies).with_context(|| case.name)?;
                figures.iter_mut().zip(run).for_each(|((_, runs), figure)| runs.push(figure));
            }
        }
    }
    let figures = figures.into_iter().filter(|(case, _)| wanted(case));
    Ok(figures.map(|(case, runs)| Measured::least(case, &runs)).collect())
}

fn figure(case: &Case, side: &str) -> String {
    format!("{side}/{}", case.name)
}

/// Instructions a request, for each proxy, over new connections.
fn count(case: &Case, running: &Running, proxies: &mut [Counters<'_>]) -> Result<Vec<f64>> {
    let mut load = open(case, running)?;
    let requests = case.requests / load.at_once() * load.at_once();
    // Connections between the proxies, buffers and tables reach the size that they keep.
    load.ask(requests / 2)?;
    take_all(proxies, "before")?;
    load.ask(requests)?;
    let counts = take_all(proxies, case.name)?;
    Ok(counts.into_iter().map(|count| count as f64 / requests as f64).collect())
}

fn open(case: &Case, running: &Running) -> Result<Lockstep> {
    if case.http2 {
        return Lockstep::http2(&running.http2, case.at_once);
    }
    let Entry { address, authority } = &running.http1;
    let host = authority.first().context("the entry has an authority")?;
    Lockstep::http1(*address, host, PATH, case.at_once)
}

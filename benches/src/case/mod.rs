//! The cases: what is done to a subject, and what is measured of it.
//!
//! Most cases load a pair of proxies that runs for a whole round and watch it for a window, after a warm-up that does
//! not count ([`window`]). Cases about memory and about starting have a pair of their own, since what came before shows
//! in both ([`memory`], [`startup`]); so have those that set the mesh up in another way and compare it with itself
//! ([`change`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Error, Result};

use crate::load::http1::{self, Target};
use crate::load::{Load, bulk, churn, http2, open};
use crate::report::metric::{Counted, Figures};
use crate::subject::{Entry, Running, Setup, Subject, Tools};
use crate::upstream::Upstream;

mod change;
mod memory;
mod startup;
mod window;

/// What most requests are for: an answer of 100 bytes.
const SMALL: &str = "/bytes/100";
/// Connections in the making at any moment of `mtls-connections`.
const CHURNING: usize = 16;

/// One thing to measure.
#[derive(Debug)]
pub(crate) struct Case {
    /// As in the results and on the command line.
    pub(crate) name: &'static str,
    /// In a line.
    pub(crate) about: &'static str,
    /// What its rate and its CPU time are of.
    pub(crate) counted: Counted,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Closed { connections: usize, path: &'static str },
    Open { per_second: NonZeroU32 },
    Streams { connections: usize, streams: usize },
    Bulk,
    Connections,
    Memory(memory::Doing),
    Change { connections: usize, setup: Setup },
    Startup,
}

/// What all cases of a run are measured with.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) upstream: Upstream,
    pub(crate) tools: Tools,
    pub(crate) pace: Pace,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Of a load, before it counts.
    pub(crate) warm_up: Duration,
    /// Of a load, while it counts.
    pub(crate) window: Duration,
    /// After a start or the last request, until what is idle is at rest.
    pub(crate) settle: Duration,
    /// Starts of which the median is taken.
    pub(crate) starts: usize,
}

const fn closed(connections: usize) -> Kind {
    Kind::Closed { connections, path: SMALL }
}

const fn open(per_second: u32) -> Kind {
    match NonZeroU32::new(per_second) {
        Some(per_second) => Kind::Open { per_second },
        None => panic!("a rate of nothing"),
    }
}

const fn streams(connections: usize, streams: usize) -> Kind {
    Kind::Streams { connections, streams }
}

const USUAL: Setup = Setup { workers: 1, sampling: 0.01, services_known: 1, services_used: 1 };

const fn case(name: &'static str, counted: Counted, kind: Kind, about: &'static str) -> Case {
    Case { name, about, counted, kind }
}

/// All cases, in the order in which they are measured.
pub(crate) static CASES: [Case; 20] = {
    use Counted::{Connections, Gigabits, Requests};
    use memory::Doing;
    let all_spans = Setup { sampling: 1.0, ..USUAL };
    let many_services = Setup { services_known: 1000, services_used: 50, ..USUAL };
    let two_workers = Setup { workers: 2, ..USUAL };
    [
        case("startup", Requests, Kind::Startup, "from exec until both proxies serve"),
        case("memory-idle", Requests, Kind::Memory(Doing::Nothing), "memory and CPU time of an idle pair"),
        case(
            "memory-idle-1000",
            Requests,
            Kind::Memory(Doing::Holding(1000)),
            "memory, 1,000 idle connections",
        ),
        case(
            "memory-256",
            Requests,
            Kind::Memory(Doing::Serving(256)),
            "most memory with 256 busy connections",
        ),
        case("h1-c1", Requests, closed(1), "HTTP/1.1, 1 connection, never idle; 100-byte answers"),
        case("h1-c16", Requests, closed(16), "HTTP/1.1, 16 connections, never idle; 100-byte answers"),
        case("h1-c64", Requests, closed(64), "HTTP/1.1, 64 connections, never idle; 100-byte answers"),
        case("h1-c256", Requests, closed(256), "HTTP/1.1, 256 connections, never idle; 100-byte answers"),
        case(
            "body-10k",
            Requests,
            Kind::Closed { connections: 64, path: "/bytes/10240" },
            "HTTP/1.1, 64 connections, never idle; 10 KiB answers",
        ),
        case("open-200", Requests, open(200), "HTTP/1.1 at 200 requests a second, open loop"),
        case("open-1000", Requests, open(1000), "HTTP/1.1 at 1,000 requests a second, open loop"),
        case("open-4000", Requests, open(4000), "HTTP/1.1 at 4,000 requests a second, open loop"),
        case("h2-1x1", Requests, streams(1, 1), "HTTP/2 like gRPC, 1 connection of 1 stream, never idle"),
        case(
            "h2-16x4",
            Requests,
            streams(16, 4),
            "HTTP/2 like gRPC, 16 connections of 4 streams, never idle",
        ),
        case(
            "h2-64x4",
            Requests,
            streams(64, 4),
            "HTTP/2 like gRPC, 64 connections of 4 streams, never idle",
        ),
        case("tcp-bulk", Gigabits, Kind::Bulk, "opaque TCP, one stream each way"),
        case(
            "mtls-connections",
            Connections,
            Kind::Connections,
            "opaque TCP, new connections that live for one echo",
        ),
        case(
            "spans-100",
            Requests,
            Kind::Change { connections: 16, setup: all_spans },
            "every request a span, instead of 1 %",
        ),
        case(
            "services-1000",
            Requests,
            Kind::Change { connections: 16, setup: many_services },
            "1,000 services known and 50 used, instead of 1",
        ),
        case(
            "workers-2",
            Requests,
            Kind::Change { connections: 64, setup: two_workers },
            "two workers instead of one",
        ),
    ]
};

impl Case {
    /// Whether it says something about this subject.
    pub(crate) fn concerns(&self, subject: Subject) -> bool {
        match &self.kind {
            Kind::Closed { .. } | Kind::Open { .. } | Kind::Bulk => true,
            // Calls in HTTP/2 are HTTP/2 between the proxies in any case: one of each peer is enough.
            Kind::Streams { .. } => !matches!(subject, Subject::EnvoyHttp1 | Subject::HaproxyHttp2),
            // Without proxies there is no mTLS, no memory and nothing to start.
            Kind::Connections | Kind::Memory(_) | Kind::Startup => subject != Subject::None,
            Kind::Change { setup, .. } => subject == Subject::Outrigger && subject.supports(setup),
        }
    }

    /// Whether it is measured on the pair that runs through the round.
    pub(crate) fn shares_pair(&self) -> bool {
        !matches!(self.kind, Kind::Startup | Kind::Memory(_) | Kind::Change { .. })
    }

    /// Measures the subject.
    ///
    /// # Errors
    /// Something was refused, broken or late: then there is no figure that means anything.
    pub(crate) fn measure(&self, subject: Subject, pairs: &mut Pairs<'_>) -> Result<Figures> {
        let bench = pairs.bench;
        let load: &dyn Fn(&Running) -> Result<Load> = match &self.kind {
            Kind::Startup => return startup::measure(subject, bench),
            Kind::Memory(doing) => return memory::measure(doing, subject, bench),
            Kind::Change { connections, setup } => {
                return change::measure(*connections, setup, subject, bench);
            }
            Kind::Closed { connections, path } => {
                &|pair| http1::closed(requests(&pair.http1, path), *connections)
            }
            Kind::Open { per_second } => &|pair| open::open(requests(&pair.http1, SMALL), *per_second),
            Kind::Streams { connections, streams } => {
                &|pair| http2::closed(&pair.http2, *connections, *streams)
            }
            Kind::Bulk => &|pair| bulk::bulk(pair.tcp),
            Kind::Connections => &|pair| churn::churn(pair.tcp, CHURNING),
        };
        let pair = pairs.get(subject)?;
        let seen = window::watch(load(pair)?, &pair.proxies, bench.pace.warm_up, self.window(&bench.pace))?;
        Ok(seen.figures(self.counted))
    }

    /// How long it takes for one subject, roughly.
    pub(crate) fn expected(&self, pace: &Pace) -> Duration {
        let start = Duration::from_millis(500);
        match &self.kind {
            Kind::Startup => start * u32::try_from(pace.starts).unwrap_or(u32::MAX),
            Kind::Memory(memory::Doing::Nothing) => start + pace.settle * 2,
            Kind::Memory(memory::Doing::Holding(_)) => start + pace.settle,
            Kind::Memory(memory::Doing::Serving(_)) => start + pace.warm_up + pace.window,
            Kind::Change { .. } => (start + pace.warm_up + pace.window) * 4,
            _ => pace.warm_up + self.window(pace),
        }
    }

    /// A slow rate needs longer for as many requests.
    fn window(&self, pace: &Pace) -> Duration {
        match self.kind {
            Kind::Open { per_second } if per_second.get() < 500 => pace.window * 2,
            _ => pace.window,
        }
    }
}

/// Requests for this path, of every authority in turn.
fn requests(entry: &Entry, path: &str) -> Target {
    Target::new(entry.address, &entry.authority, path)
}

/// The pairs that run through a round, side by side; those that are not measured are idle.
#[derive(Debug)]
pub(crate) struct Pairs<'a> {
    bench: &'a Bench,
    running: BTreeMap<Subject, Running>,
}

impl<'a> Pairs<'a> {
    /// None yet.
    pub(crate) fn new(bench: &'a Bench) -> Self {
        Self { bench, running: BTreeMap::new() }
    }

    /// The one of this subject, started if it does not run.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn get(&mut self, subject: Subject) -> Result<&Running> {
        match self.running.entry(subject) {
            Place::Occupied(entry) => Ok(entry.into_mut()),
            Place::Vacant(entry) => Ok(entry.insert(self.bench.start(subject, &USUAL)?)),
        }
    }

    /// Ends the one of this subject, after something failed on it; if its processes had ended, that is why.
    pub(crate) fn give_up(&mut self, subject: Subject, error: Error) -> Error {
        match self.running.remove(&subject).map(|mut running| running.check()) {
            Some(Err(ended)) => error.context(format!("{ended:#}")),
            None | Some(Ok(())) => error,
        }
    }
}

impl Bench {
    fn start(&self, subject: Subject, setup: &Setup) -> Result<Running> {
        subject.start(setup, &self.upstream.addresses(), &self.tools)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_proxies_is_not_asked_for_theirs() {
        let concerns = |subject: Subject| -> Vec<&str> {
            CASES.iter().filter(|case| case.concerns(subject)).map(|case| case.name).collect()
        };
        assert_eq!(concerns(Subject::None).len(), 12, "{:?}", concerns(Subject::None));
        assert!(!concerns(Subject::None).contains(&"mtls-connections"));
        assert_eq!(concerns(Subject::Outrigger).len(), CASES.len());
        assert_eq!(
            concerns(Subject::Haproxy).len(),
            CASES.len() - 3,
            "the mesh alone is compared with itself"
        );
    }

    #[test]
    fn a_trickle_is_watched_for_longer() {
        let second = Duration::from_secs(1);
        let pace = Pace { warm_up: second, window: second, settle: second, starts: 1 };
        let window = |name| CASES.iter().find(|case| case.name == name).unwrap().window(&pace);
        assert_eq!((window("open-200"), window("open-1000")), (2 * second, second));
    }
}

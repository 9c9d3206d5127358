//! What is measured: a pair of proxies between load and upstream, or nothing at all.
//!
//! Every subject is entered at three addresses, one for each kind of traffic, and is told where the upstream of
//! each kind is. Whatever is in between is its own affair: the cases see addresses, process ids and the time it
//! took until both proxies served.

mod collector;
mod envoy;
mod haproxy;
mod outrigger;
mod pki;
mod ready;
mod tools;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use collector::Collector;
pub(crate) use tools::Tools;

use crate::process::Process;

/// What is measured: a pair of proxies between load and upstream, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// The load goes straight to the upstream: what the ground allows.
    None,
    /// The release binaries of this repository, with their control plane.
    Outrigger,
    /// Two Envoys; calls in HTTP/1.1 are HTTP/1.1 between them, too.
    #[value(name = "envoy-h1")]
    #[serde(rename = "envoy-h1")]
    EnvoyHttp1,
    /// Two Envoys with HTTP/2 between them whatever is called.
    #[value(name = "envoy-h2")]
    #[serde(rename = "envoy-h2")]
    EnvoyHttp2,
    /// Two HAProxies, as most people run them: calls in HTTP/1.1 are HTTP/1.1 between them, too.
    Haproxy,
    /// Two HAProxies with HTTP/2 between them whatever is called.
    #[value(name = "haproxy-h2")]
    #[serde(rename = "haproxy-h2")]
    HaproxyHttp2,
}

/// What the two of a pair speak to each other where the caller speaks HTTP/1.1. Calls in HTTP/2 stay
/// HTTP/2 in any case: gRPC's trailers would be lost on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// A connection for each request under way, kept for the next.
    Http1,
    /// All requests on one connection.
    Http2,
}

impl Between {
    /// Its name in TLS.
    fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// How a subject is set up. The default is what all cases but a few measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Setup {
    /// Worker threads of each proxy.
    pub(crate) workers: usize,
    /// The share of requests that become spans, 0 to 1.
    pub(crate) sampling: f64,
    /// Services that exist in the mesh.
    pub(crate) services_known: usize,
    /// Of those, how many the load calls: one authority each.
    pub(crate) services_used: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { workers: 1, sampling: 0.01, services_known: 1, services_used: 1 }
    }
}

/// Where the applications behind the subject are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstreams {
    /// An HTTP/1.1 server.
    pub(crate) http1: SocketAddr,
    /// An HTTP/2 server, without TLS and by prior knowledge.
    pub(crate) http2: SocketAddr,
    /// A server of bytes: see `upstream`.
    pub(crate) tcp: SocketAddr,
}

/// A running subject. Dropping it stops its processes.
#[derive(Debug)]
pub(crate) struct Running {
    /// HTTP/1.1 in, HTTP/1.1 to the upstream.
    pub(crate) http1: Entry,
    /// HTTP/2 by prior knowledge in, HTTP/2 to the upstream.
    pub(crate) http2: Entry,
    /// Opaque bytes; every connection in makes one new mTLS connection between the proxies.
    pub(crate) tcp: SocketAddr,
    /// The caller's and the service's, in this order; none for [`Subject::None`].
    pub(crate) proxies: Vec<Proxy>,
    /// From making the service's proxy, over making the caller's once the first listens, until a request through
    /// both was answered.
    pub(crate) ready_in: Duration,
    held: Held,
}

/// What lives as long as the subject, and ends in this order.
#[derive(Debug)]
struct Held {
    /// The caller's and the service's proxy, and whatever else there is.
    processes: Vec<Process>,
    /// For subjects that make spans.
    collector: Option<Collector>,
    /// Configuration, keys and logs.
    directory: Option<TempDir>,
}

impl Running {
    /// How many spans both proxies have exported so far; `None` where the subject makes none.
    pub(crate) fn spans(&self) -> Option<u64> {
        self.held.collector.as_ref().map(Collector::spans)
    }

    /// Where its configuration, keys and logs are, as long as it runs.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.held.directory.as_ref().map(TempDir::path)
    }

    /// That all its processes are still there.
    ///
    /// # Errors
    /// One has ended; with the last lines that it wrote.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.held.processes.iter_mut().try_for_each(Process::check)
    }

    /// With what a request through both of them tells: that they serve, and since when.
    fn pair(entries: Entries, caller: Process, service: Process, mut held: Held) -> Result<Self> {
        let proxy = |name: &str, process: &Process| Proxy { name: name.to_owned(), pid: process.pid() };
        let proxies = vec![proxy("caller", &caller), proxy("service", &service)];
        held.processes.splice(0..0, [caller, service]);
        let Entries { http1, http2, tcp, since } = entries;
        let mut running = Self { http1, http2, tcp, proxies, ready_in: Duration::ZERO, held };
        running.ready_in = ready::wait(&mut running, since)?;
        Ok(running)
    }

    /// The last lines of everything that the processes wrote.
    fn explain(&self, what: &str) -> anyhow::Error {
        self.held.processes.iter().fold(anyhow::anyhow!("{what}"), |all, process| {
            anyhow::anyhow!("{all}\n{}", process.failure("wrote"))
        })
    }
}

/// Where a pair is entered, before it is known to serve.
struct Entries {
    http1: Entry,
    http2: Entry,
    tcp: SocketAddr,
    /// When the first proxy's process was made.
    since: tokio::time::Instant,
}

/// Where load of one kind goes in.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// The authorities to ask for in turn, one for each used service; at least one.
    pub(crate) authority: Vec<String>,
}

/// One process whose CPU time and memory are measured, its children included.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// As the report names it: `caller` or `service`.
    pub(crate) name: String,
    /// Its process id.
    pub(crate) pid: u32,
}

impl Subject {
    /// Whether it can be set up like this.
    pub(crate) fn supports(self, setup: &Setup) -> bool {
        let same = |sampling, workers| Setup { sampling, workers, ..Setup::default() };
        match self {
            Self::Outrigger => true,
            // There is nothing to set up.
            Self::None => *setup == Setup::default(),
            Self::EnvoyHttp1 | Self::EnvoyHttp2 => *setup == same(setup.sampling, setup.workers),
            // It makes no spans: nought of them is what it does at the usual ratio.
            Self::Haproxy | Self::HaproxyHttp2 => *setup == same(Setup::default().sampling, setup.workers),
        }
    }

    /// Starts it before these upstreams, and returns once all its entries have answered.
    ///
    /// # Errors
    /// A process did not start or did not serve in time, with what it said.
    pub(crate) fn start(self, setup: &Setup, upstreams: &Upstreams, tools: &Tools) -> Result<Running> {
        let started = match self {
            Self::None => Ok(Running {
                http1: entry(upstreams.http1),
                http2: entry(upstreams.http2),
                tcp: upstreams.tcp,
                proxies: Vec::new(),
                ready_in: Duration::ZERO,
                held: Held { processes: Vec::new(), collector: None, directory: None },
            }),
            Self::Outrigger => outrigger::start(setup, upstreams, tools),
            Self::EnvoyHttp1 => envoy::start(&tools.peer(self)?, Between::Http1, setup, upstreams),
            Self::EnvoyHttp2 => envoy::start(&tools.peer(self)?, Between::Http2, setup, upstreams),
            Self::Haproxy => haproxy::start(&tools.peer(self)?, Between::Http1, setup, upstreams),
            Self::HaproxyHttp2 => haproxy::start(&tools.peer(self)?, Between::Http2, setup, upstreams),
        };
        started.with_context(|| format!("{self:?} cannot be started"))
    }
}

/// Where everybody but Outrigger is entered: there is one service.
fn entry(address: SocketAddr) -> Entry {
    Entry { address, authority: vec![pki::SERVICE.dns.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_that_a_subject_cannot_have_is_not_measured_as_if_it_had_it() {
        let all = [Subject::None, Subject::Outrigger, Subject::EnvoyHttp2, Subject::Haproxy];
        let who = |setup: Setup| all.map(|subject| subject.supports(&setup));
        assert_eq!(who(Setup::default()), [true; 4]);
        assert_eq!(who(Setup { workers: 2, ..Setup::default() }), [false, true, true, true]);
        assert_eq!(who(Setup { sampling: 1.0, ..Setup::default() }), [false, true, true, false]);
        assert_eq!(who(Setup { services_used: 50, ..Setup::default() }), [false, true, false, false]);
    }
}

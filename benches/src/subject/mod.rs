//! What is measured: a pair of proxies between load and upstream, or nothing at all.
//!
//! Every subject is entered at three addresses, one for each kind of traffic, and is told where the upstream of
//! each kind is. Whatever is in between is its own affair: the cases see addresses, process ids and the time it
//! took until both proxies served.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;

/// What is measured: a pair of proxies between load and upstream, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// The load goes straight to the upstream: what the ground allows.
    None,
    /// The release binaries of this repository, with their control plane.
    Outrigger,
    /// Two Envoys with HTTP/1.1 between them.
    #[value(name = "envoy-h1")]
    #[serde(rename = "envoy-h1")]
    EnvoyHttp1,
    /// Two Envoys with HTTP/2 between them.
    #[value(name = "envoy-h2")]
    #[serde(rename = "envoy-h2")]
    EnvoyHttp2,
    /// Two HAProxies.
    Haproxy,
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
    /// From making the first proxy's process until both served.
    pub(crate) ready_in: Duration,
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

/// The programs that the subjects consist of.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Where `outrigger` and `outrigger-proxy` are.
    pub(crate) binaries: PathBuf,
}

impl Tools {
    /// Finds what these subjects need, and installs what can be installed without privileges.
    ///
    /// # Errors
    /// The binaries of this repository are missing. A missing peer is no error: see [`missing`](Self::missing).
    pub(crate) fn find(binaries: &Path, _subjects: &[Subject]) -> Result<Self> {
        Ok(Self { binaries: binaries.to_owned() })
    }

    /// Why this subject cannot be measured here, and what would help, if so.
    pub(crate) fn missing(&self, subject: Subject) -> Option<String> {
        match subject {
            Subject::None => None,
            Subject::Outrigger | Subject::EnvoyHttp1 | Subject::EnvoyHttp2 | Subject::Haproxy => {
                Some("this build cannot start it".to_owned())
            }
        }
    }

    /// The version of what the subject runs, as the program itself says.
    pub(crate) fn version(&self, _subject: Subject) -> Option<String> {
        None
    }
}

impl Subject {
    /// Whether it can be set up like this.
    pub(crate) fn supports(self, setup: &Setup) -> bool {
        self == Self::Outrigger || *setup == Setup::default()
    }

    /// Starts it before these upstreams, and returns once all its entries have answered.
    ///
    /// # Errors
    /// A process did not start or did not serve in time, with what it said.
    pub(crate) fn start(self, _setup: &Setup, upstreams: &Upstreams, tools: &Tools) -> Result<Running> {
        if let Some(why) = tools.missing(self) {
            bail!("{why}");
        }
        let entry = |address| Entry { address, authority: vec!["bench".to_owned()] };
        Ok(Running {
            http1: entry(upstreams.http1),
            http2: entry(upstreams.http2),
            tcp: upstreams.tcp,
            proxies: Vec::new(),
            ready_in: Duration::ZERO,
        })
    }
}

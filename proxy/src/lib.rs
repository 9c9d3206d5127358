//! Outrigger's data plane: the proxy beside every service.
//!
//! The life of a request, in the order of the modules:
//!
//! 1. [`listener`] accepts a connection of the workload; `detect` tells what it speaks.
//! 2. [`strict`] and [`flood`] check its bytes before the HTTP library reads them; `session` serves HTTP on it.
//! 3. `outbound` forwards: `destination` names the service, [`snapshot`] is the policy that holds for this request,
//!    [`route`], [`filter`] and [`persistence`] make of it a `plan`, [`deadline`] says by when.
//! 4. [`cluster`] chooses an endpoint ([`balancer`], [`ring`], [`breaker`]) within its limits ([`bulkhead`]); [`retry`] decides
//!    what follows a failed `attempt` ([`budget`], [`backoff`]), [`hedge`] what follows a late one.
//! 5. `pool` has a connection or makes one; `peer` proves that it leads to who was meant. What is `outside` the mesh is
//!    proved by [`origination`], or not at all.
//! 6. The other side's `inbound` knows the caller by its certificate; the `gate` asks the rules ([`access`]) whether it
//!    may pass to the `application`.
//! 7. `flight` carries the answer back and records the request once, as an [`exchange`]: in [`metrics`],
//!    [`access_log`] and [`span`] alike.
//!
//! Beside the request path, on one thread: [`control`] (policy), [`identity`] (certificates), [`health`] (of the
//! application), [`admin`], and [`proxy`], which starts and drains all of it. [`failure`] is every way in which the
//! proxy says no.
//!
//! What the crate never does: share mutable state between workers; wait for the control plane on a request's path
//! once a service is known; read a document that people write (the control plane compiles those); keep a private key
//! on disk unasked.

pub mod access;
pub mod access_log;
pub mod admin;
pub mod alpn;
mod answer;
pub mod api_key;
mod application;
pub mod args;
mod attempt;
pub mod backoff;
pub mod balancer;
mod body;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
mod certificates;
pub mod cluster;
pub mod concurrency;
pub mod config;
pub mod control;
pub mod cookie;
pub mod deadline;
mod destination;
pub mod detect;
pub mod directory;
mod drain;
pub mod exchange;
pub mod failure;
pub mod fallback;
mod fault;
pub mod filter;
mod flight;
pub mod flood;
mod gate;
pub mod gateway;
pub mod hash;
pub mod hash_key;
mod headers;
pub mod health;
pub mod hedge;
pub mod hello;
mod http2;
pub mod identity;
mod inbound;
mod incoming;
pub mod jwt;
pub mod listener;
pub mod load;
pub mod log;
pub mod metrics;
mod mirror;
pub mod notable;
mod opaque;
pub mod origination;
mod outbound;
pub mod outlier;
mod outside;
mod path;
mod peer;
pub mod peer_name;
pub mod persistence;
mod plan;
pub mod policy;
mod pool;
pub mod proxy;
pub mod quantile;
pub mod rate_limit;
mod read_ahead;
mod replay;
pub mod report;
mod resolver;
pub mod retry;
mod revocation;
pub mod ring;
pub mod route;
mod run;
mod session;
pub mod snapshot;
pub mod span;
pub mod state;
mod stream;
pub mod strict;
mod suspicion;
pub mod trace;
mod tunnel;
mod unread;
mod upgrade;
mod upstream;
mod wide;
mod worker;

pub use args::ProxyArgs;
pub use config::ProxyConfig;
pub use proxy::{Proxy, Running, StartError};
pub use run::run;

/// Whether a request with this head would pass the rules, from whomever it comes; public to be fuzzed.
#[doc(hidden)]
pub fn would_pass(access: &access::Access, mut head: http::request::Parts) -> bool {
    let Ok(authority) = destination::authority(&head.method, &head.uri, head.version, &head.headers) else {
        return false;
    };
    if path::normalize(&mut head.uri).is_err() {
        return false;
    }
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let decision = access.decide_request(None, address, &head, &authority, access::Shown::default());
    decision.is_ok_and(|decision| decision.allowed)
}

/// What `headers` does at a hop to the fields of a message that belong to one connection; public to be measured alone.
#[doc(hidden)]
pub fn strip_hop_by_hop(fields: &mut http::HeaderMap) {
    headers::strip_hop_by_hop(fields);
}

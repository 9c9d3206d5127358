//! The mesh seen from outside: a harness that starts a whole mesh on free ports, and applications and clients
//! that know nothing of it.
//!
//! A test reads like a story and takes five lines:
//!
//! ```no_run
//! # async fn story() {
//! use outrigger_tests::{Mesh, app};
//!
//! let mesh = Mesh::builder().service("api", app::http::saying("hello")).client("web").start().await;
//! let answer = mesh.client("web").get("http://api/").await;
//! assert_eq!(answer.text(), "hello", "{}", mesh.explain().await);
//! # }
//! ```
//!
//! Nothing is simulated: the control plane and the proxies are the product's own, over real sockets on
//! loopback. They run in the test's process, each on threads of its own, which makes a mesh start in
//! milliseconds; [`Builder::processes`] runs the real binaries instead, for signals, `kill -9`, exit status and
//! memory. Applications ([`app`]) are real servers on hyper, tonic and tungstenite that record what reached
//! them; [`client::Client`] is a workload without mesh code; [`collector`] is an OTLP receiver; [`raw`] writes
//! what no library would.
//!
//! The behaviours are in `behaviour/`, one file an area, one test a promise. No test sleeps for luck: it waits
//! for a condition with a deadline ([`wait`]). Tests run at once in one process, so a test shares the machine
//! with others: a bound on time is there to catch what hangs, not to measure, unless the test says otherwise.

pub mod app;
pub mod client;
pub mod collector;
pub mod credentials;
pub mod dns;
pub mod host;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod port;
pub mod process;
pub mod raw;
pub mod skip;
pub mod tls_front;
pub mod wait;

pub use client::{Answer, Client, request};
pub use load::{Load, Tally};
pub use mesh::{Builder, Mesh};
pub use skip::skip;
pub use wait::{eventually, soon, within};

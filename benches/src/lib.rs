//! What the mesh costs, measured on the release binaries as anybody can run them.
//!
//! ```text
//! cargo run --release -p outrigger-benches -- mesh --quick
//! cargo run --release -p outrigger-benches -- mesh --out-dir benches/results
//! cargo run --release -p outrigger-benches -- footprint -o json > benches/results/DATE-footprint.json
//! cargo run --release -p outrigger-benches -- instructions
//! ```
//!
//! **[`comparison`]** is the mesh beside its peers. One upstream and one load generator, both in this process, are
//! put around one pair of proxies after the other:
//!
//! ```text
//! comparison   what is asked for, and where the result goes
//!   rounds     every subject once in every case, again and again; ratios are taken within a round
//!     case     what is done and what is measured: a load watched for a window, memory, a start
//!       load      requests, bytes and connections, counted and timed
//!       subject   none, Outrigger, Envoy, HAProxy
//!       upstream  what answers
//!   report     medians and spreads; the targets, met or missed
//! calibration  the generator beside wrk and h2load
//! ```
//!
//! **[`footprint`]** is what a sidecar costs that has not been tuned for anything: the time until it serves, its
//! memory, its CPU time a request. It starts a real control plane and two real proxies as processes, with a small
//! HTTP server and a load generator in its own process, all on loopback:
//!
//! ```text
//! load, 256 connections -> proxy of the caller =mTLS=> proxy of the service -> HTTP server
//! ```
//!
//! **[`instructions`]** is what CI watches: how many of them a request takes in each proxy, beside what it took before.
//! Single steps of a request, timed, are `outrigger-micro` in the folder `micro`.
//!
//! **What the numbers mean.** The time until ready goes from just before the process is made to the ready line
//! on its standard output. *Resident* is `VmRSS`, which counts the pages of the binary that were touched,
//! although all proxies of a machine share them; *anonymous* is `RssAnon`, what one more proxy really adds.
//! Memory under load is the greatest of the samples taken every 100 ms. A closed load sends the next request of a
//! connection when the last one is answered, so requests a second are what this machine can do with generator, server
//! and both proxies on the same cores, and latency is mostly time in a queue. An open load sends at a fixed rate, and
//! its latency counts from when the request was due: that is what a caller sees. CPU time a request is what the
//! kernel charged to the process between the first and the last request counted, divided by the requests; it is
//! comparable between machines of one kind, requests a second are not. The same load straight to the server,
//! without any proxy, is the baseline.
//!
//! **To reduce noise**, let nothing else run, and look at `load average before` in the result: a run that
//! starts above 0.3 a core measures its neighbours too. Time until ready and latency suffer first, CPU time a
//! little (caches), memory hardly. Fix the clock of the CPU (`cpupower frequency-set -g performance`), and
//! compare runs of one machine only. Children get an empty environment; `--env MALLOC_ARENA_MAX=1` and the like
//! try something out.
//!
//! Results are kept by date in `benches/results`, each with the commit and the machine.

mod calibration;
mod case;
pub mod chart;
pub mod comparison;
pub mod footprint;
pub mod instructions;
mod kept;
mod load;
mod mesh;
pub mod pair;
mod process;
mod procfs;
mod report;
mod rounds;
mod subject;
pub mod table;
mod upstream;

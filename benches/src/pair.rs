//! One subject, kept running: for wrk, h2load, perf and strace, or to look at its configuration.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::load::raise_file_limit;
use crate::subject::{Entry, Setup, Subject, Tools};
use crate::upstream::Upstream;

/// What to start.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
One line of JSON says where it is entered and which processes it is. It runs until standard input ends: press
Ctrl-D, or Ctrl-C, which may leave a temporary directory behind.

Examples:
  cargo run --release -p outrigger-benches -- pair outrigger
  cargo run --release -p outrigger-benches -- pair envoy-h2 --workers 2
  wrk -c 64 -t 1 -d 5 -H 'Host: app.bench' http://ADDRESS-OF-HTTP1/")]
pub struct PairArgs {
    /// The subject
    #[arg(value_enum)]
    subject: Subject,
    /// Worker threads of each proxy
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// The share of requests that become spans, 0 to 1
    #[arg(long, default_value_t = 0.01)]
    sampling: f64,
    /// Services that exist in the mesh
    #[arg(long, default_value_t = 1)]
    services_known: usize,
    /// Of those, how many are called
    #[arg(long, default_value_t = 1)]
    services_used: usize,
    /// Where `outrigger` and `outrigger-proxy` are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// Starts the pair and keeps it until standard input ends.
///
/// # Errors
/// It cannot be started, or one of its processes has ended meanwhile.
pub fn run(args: &PairArgs) -> Result<bool> {
    raise_file_limit()?;
    let binaries = match &args.bin_dir {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?.parent().context("a program is in a directory")?.to_owned(),
    };
    let setup = Setup {
        workers: args.workers,
        sampling: args.sampling,
        services_known: args.services_known,
        services_used: args.services_used,
    };
    if !args.subject.supports(&setup) {
        bail!("{:?} cannot be set up like this", args.subject);
    }
    let tools = Tools::find(&binaries, &[args.subject])?;
    let upstream = Upstream::start()?;
    let mut running = args.subject.start(&setup, &upstream.addresses(), &tools)?;
    let entry = |entry: &Entry| json!({ "address": entry.address, "authorities": entry.authority });
    let processes = running.proxies.iter().map(|proxy| (proxy.name.clone(), json!(proxy.pid)));
    let line = json!({
        "ready": true,
        "version": tools.version(args.subject),
        "readyMillis": running.ready_in.as_secs_f64() * 1000.0,
        "http1": entry(&running.http1),
        "http2": entry(&running.http2),
        "tcp": running.tcp,
        "processes": processes.collect::<serde_json::Map<_, _>>(),
        "directory": running.directory(),
    });
    println!("{line}");
    // Whatever is typed means nothing; the end of it does.
    std::io::stdin().read_to_end(&mut Vec::new()).context("standard input")?;
    running.check()?;
    if let Some(spans) = running.spans() {
        eprintln!("spans exported: {spans}");
    }
    Ok(true)
}

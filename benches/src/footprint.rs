//! What a sidecar costs: time until it serves, memory idle and busy, CPU time a request.
//!
//! Promised: ready within 150 ms of exec with the control plane up; at most 10 MiB resident idle and 32 MiB
//! with 256 busy connections; the control plane at most 40 MiB idle. On 2 cores the four parties of a request
//! (generator, two proxies, server) share what each would have alone, so requests a second say little; CPU
//! time a request and memory are what to compare.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::time::Instant;

use crate::load::http1::{Target, closed, wait_until_served};
use crate::load::{Load, raise_file_limit};
use crate::mesh::{Mesh, SERVICE};
use crate::process::{Launcher, Process};
use crate::procfs::{CpuTime, Machine, Memory};
use crate::report::checked_out;
use crate::report::promise::{Figure, Report};
use crate::upstream::Upstream;

const READY_MS: f64 = 150.0;
const PROXY_IDLE_MIB: f64 = 10.0;
const PROXY_BUSY_MIB: f64 = 32.0;
const CONTROL_PLANE_IDLE_MIB: f64 = 40.0;

/// After the last start, for what a process still has to do before it is idle: first health check, first report.
const SETTLE: Duration = Duration::from_secs(5);
/// Of a load, before it counts: connections, pools and tables reach the size they keep.
const WARM_UP: Duration = Duration::from_secs(2);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Exit status: 0 when every promise was kept; 1 when one was missed, or when nothing could be measured, which
standard error then says.

Examples:
  cargo build --release -p outrigger -p outrigger-proxy
  cargo run --release -p outrigger-benches -- footprint
  cargo run --release -p outrigger-benches -- footprint --env MALLOC_ARENA_MAX=1")]
pub struct FootprintArgs {
    /// Connections that are always busy; what is promised holds for 256
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How long the load is measured, after 2 s that are not
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Starts of a proxy, of which the median is taken
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    /// Where `outrigger` and `outrigger-proxy` are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// A variable for the processes, which get no others; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// What the binaries were built from [default: what is checked out here]
    #[arg(long)]
    commit: Option<String>,
    /// A table for people, or JSON to keep
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// Measures, prints the result, and says whether every promise was kept.
///
/// # Errors
/// A binary is missing or does not start, or a request failed: then there is no number that means anything.
pub fn run(args: &FootprintArgs) -> Result<bool> {
    raise_file_limit()?;
    // Before anything is started, so that the load average is that of the neighbours.
    let machine = Machine::this();
    let figures = measure(args)?;
    let report = Report {
        scenario: "footprint",
        commit: args.commit.clone().or_else(checked_out),
        machine,
        settings: json!({
            "connections": args.connections,
            "seconds": args.seconds,
            "starts": args.starts,
            "environment": args.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        }),
        figures,
    };
    match args.output {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(report.kept())
}

fn measure(args: &FootprintArgs) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let launcher = Launcher {
        binaries: match &args.bin_dir {
            Some(directory) => directory.clone(),
            None => std::env::current_exe()?.parent().context("a program is in a directory")?.to_owned(),
        },
        environment: args.env.clone(),
        logs: directory.path().to_owned(),
    };
    let mut figures = sizes(&launcher)?;
    let upstream = Upstream::start()?;

    progress("without proxies");
    let connections = args.connections as usize;
    let direct = busy(
        closed(Target::new(upstream.http1, &[SERVICE], "/"), connections)?,
        Duration::from_secs(3),
        &[],
    )?;

    let mesh = Mesh::start(launcher, directory.path().to_owned())?;
    figures.push(Figure::new("control plane: first ready", millis(mesh.control_plane.ready_after), "ms"));
    progress("starts of a proxy");
    figures.push(starts(&mesh, &upstream, args.starts)?);

    progress("idle");
    let service = mesh.start_service(upstream.http1)?;
    let caller = mesh.start_caller()?;
    sleep(SETTLE);
    figures.extend(memory("control plane idle", memory_of(&mesh.control_plane)?, CONTROL_PLANE_IDLE_MIB));
    figures.extend(memory("caller's proxy idle", memory_of(&caller)?, PROXY_IDLE_MIB));
    figures.extend(memory("service's proxy idle", memory_of(&service)?, PROXY_IDLE_MIB));

    progress("busy");
    let outbound = caller.address("outbound")?;
    wait_until_served(outbound, SERVICE)?;
    let load = closed(Target::new(outbound, &[SERVICE], "/"), connections)?;
    let seconds = Duration::from_secs(args.seconds.into());
    let busy = busy(load, seconds, &[("caller's proxy", &caller), ("service's proxy", &service)])?;
    for usage in &busy.usage {
        figures.extend(memory(&format!("{} busy", usage.name), usage.memory, PROXY_BUSY_MIB));
    }
    figures.extend(busy.usage.iter().flat_map(|usage| usage.cpu_figures(busy.requests)));
    figures.extend(busy.speed_figures("through both proxies"));
    figures.extend(direct.speed_figures("without proxies"));
    sleep(SETTLE);
    figures
        .push(Figure::bytes("caller's proxy after the load: resident", memory_of(&caller)?.resident_bytes));
    figures
        .push(Figure::bytes("service's proxy after the load: resident", memory_of(&service)?.resident_bytes));
    for proxy in [caller, service] {
        proxy.stop()?;
    }
    Ok(figures)
}

/// Each start is a proxy that joins with a token, gets its certificate and its policy, and leaves again.
fn starts(mesh: &Mesh, upstream: &Upstream, number: u32) -> Result<Figure> {
    let mut times = Vec::new();
    for _ in 0..number {
        let proxy = mesh.start_service(upstream.http1)?;
        times.push(millis(proxy.ready_after));
        proxy.stop()?;
    }
    Ok(Figure::median(format!("proxy: ready, median of {number}"), times, "ms").promised(READY_MS))
}

/// What one process used during a load.
struct Usage {
    name: &'static str,
    /// The greatest of the samples.
    memory: Memory,
    cpu: CpuTime,
}

impl Usage {
    fn cpu_figures(&self, requests: u64) -> [Figure; 2] {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / requests.max(1) as f64;
        let (user, system) = (each(self.cpu.user), each(self.cpu.system));
        [
            Figure::new(format!("{}: CPU a request", self.name), user + system, "us"),
            Figure::new(format!("{}: of that in the kernel", self.name), system, "us"),
        ]
    }
}

/// What a load came to.
struct Busy {
    requests: u64,
    took: Duration,
    latency: Histogram<u64>,
    usage: Vec<Usage>,
}

impl Busy {
    fn speed_figures(&self, how: &str) -> Vec<Figure> {
        let per_second = self.requests as f64 / self.took.as_secs_f64();
        let mut figures = vec![Figure::new(format!("{how}: requests"), per_second, "/s")];
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let millis = self.latency.value_at_quantile(quantile) as f64 / 1e6;
            figures.push(Figure::new(format!("{how}: {name}"), millis, "ms"));
        }
        figures
    }
}

/// Lets the load run for that long after it has warmed up, and watches the processes.
fn busy(load: Load, period: Duration, processes: &[(&'static str, &Process)]) -> Result<Busy> {
    sleep(WARM_UP);
    let cpu = |(_, process): &(_, &Process)| CpuTime::of(process.pid());
    load.measure();
    let (began, before) = (Instant::now(), load.done());
    let cpu_before = processes.iter().map(cpu).collect::<Result<Vec<_>>>()?;
    let mut most = vec![Memory::default(); processes.len()];
    while began.elapsed() < period {
        sleep(SAMPLE_EVERY);
        for (most, (_, process)) in most.iter_mut().zip(processes) {
            *most = most.max(memory_of(process)?);
        }
    }
    let (took, requests) = (began.elapsed(), load.done() - before);
    let cpu_after = processes.iter().map(cpu).collect::<Result<Vec<_>>>()?;
    let latency = load.stop()?.latency;
    let usage = processes.iter().zip(most).zip(cpu_before.into_iter().zip(cpu_after));
    let usage = usage
        .map(|((&(name, _), memory), (before, after))| Usage { name, memory, cpu: after.since(before) })
        .collect();
    Ok(Busy { requests, took, latency, usage })
}

fn memory(name: &str, memory: Memory, promised_mib: f64) -> [Figure; 2] {
    [
        Figure::bytes(format!("{name}: resident"), memory.resident_bytes).promised(promised_mib),
        Figure::bytes(format!("{name}: of that anonymous"), memory.anonymous_bytes),
    ]
}

fn memory_of(process: &Process) -> Result<Memory> {
    Memory::of(process.pid())
}

fn sizes(launcher: &Launcher) -> Result<Vec<Figure>> {
    let size = |name: &str| {
        let bytes = std::fs::metadata(launcher.binary(name)?)?.len();
        anyhow::Ok(Figure::bytes(format!("{name}: size of the binary"), bytes))
    };
    ["outrigger-proxy", "outrigger"].into_iter().map(size).collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// To standard error, so that standard output is the result alone.
fn progress(what: &str) {
    eprintln!("measuring: {what}");
}

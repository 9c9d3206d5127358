//! `outrigger demo`: a whole mesh on this machine, from one command.
//!
//! It starts a control plane, a gateway-like client and three services, every instance and every sidecar a
//! process of its own, keeps constant traffic going, and shows one after the other what a mesh is for. At the end
//! it says what it promised and what was seen; a broken promise is exit status 1.
//!
//! Reading order: [`story`] (what is shown), [`mesh`] (which processes there are), [`child`] (one process),
//! [`app`] and [`load`] (the programs that the mesh serves), [`receiver`] and [`trace`] (spans), [`report`].
//!
//! Whatever ends it, no process stays: on Ctrl-C, SIGTERM and a failure the children are killed and waited for; a
//! panic or SIGKILL of the demo itself makes the kernel kill them (see [`crate::lifeline`]).

mod announcer;
pub(crate) mod app;
mod child;
mod commands;
mod connections;
mod documents;
pub(crate) mod load;
mod mesh;
mod promise;
mod receiver;
pub(crate) mod report;
mod story;
mod stranger;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use outrigger_control_plane::resources::Period;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::announcer::Announcer;
use self::child::ChildError;
use self::mesh::{DemoMesh, Settings};
use self::receiver::{Receiver, ReceiverError};
use self::story::{Ending, PHASES, Story};
use crate::client::ApiError;
use crate::failure::Stop;
use crate::lifeline;
use crate::output::{self, BOLD, Format, OutputArgs, paint};

/// The shortest demo: less leaves the phases nothing to show.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest demo.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Arguments of `outrigger demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger demo
  outrigger demo --duration 15s --rps 50
  outrigger demo --otlp http://127.0.0.1:4317     the spans go to your collector, too
  outrigger demo -o json | jq .promises

Exit status: 0 if every promise was kept, 1 if one was broken, 130 after Ctrl-C.")]
pub(crate) struct DemoArgs {
    /// How long it takes, about; at least 10s.
    #[arg(long, env = "OUTRIGGER_DEMO_DURATION", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    /// Requests a second.
    #[arg(long, env = "OUTRIGGER_DEMO_RPS", value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rps: u32,
    /// An OTLP/gRPC collector that gets the spans, too, such as http://127.0.0.1:4317.
    #[arg(long, env = "OUTRIGGER_DEMO_OTLP", value_name = "URL")]
    otlp: Option<String>,
    /// Keep the directory with certificates, policy and the log of every process.
    #[arg(long, env = "OUTRIGGER_DEMO_KEEP")]
    keep: bool,
    #[command(flatten)]
    output: OutputArgs,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let period: Period = text.parse().map_err(|error| format!("{error}"))?;
    match period.duration() {
        duration if duration < SHORTEST => Err("must be at least 10s".to_owned()),
        duration if duration > LONGEST => Err("must be at most 24h".to_owned()),
        duration => Ok(duration),
    }
}

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("cannot make a temporary directory: {0}")]
    Directory(std::io::Error),
    #[error("no free port on loopback: {0}")]
    Port(std::io::Error),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    #[error("the demo's control plane: {0}")]
    Api(#[from] ApiError),
    #[error("{0} is not running")]
    Gone(String),
    #[error("{0}")]
    Unexpected(String),
}

/// Shows the demo.
///
/// # Errors
/// What stands in the way, a broken promise, or the signal that ended it.
pub(crate) async fn run(args: DemoArgs) -> Result<(), Stop> {
    let directory = tempfile::Builder::new().prefix("outrigger-demo-").tempdir();
    let mut directory = directory.map_err(DemoError::Directory)?;
    if args.keep {
        directory.disable_cleanup(true);
        output::note(&format!("everything is kept in {}", directory.path().display()));
    }
    let mut signals = Signals::new()?;
    let result = tokio::select! {
        result = show(&args, directory.path().to_owned()) => result,
        // The children are killed when their handles are dropped with the story.
        status = signals.next() => Err(Stop::Status(status)),
    };
    // One that still writes would keep the directory from being removed.
    lifeline::await_children();
    drop(directory);
    conclude(&args, result?)
}

fn conclude(args: &DemoArgs, ending: Ending) -> Result<(), Stop> {
    match args.output.output {
        Format::Table => output::print(&report::text(&ending))?,
        format => output::value(format, &report::json(&ending))?,
    }
    if report::is_kept(&ending) { Ok(()) } else { Err(Stop::Said) }
}

async fn show(args: &DemoArgs, directory: PathBuf) -> Result<Ending, Stop> {
    let receiver = Receiver::start(args.otlp.as_deref()).await.map_err(DemoError::from)?;
    // Short enough that certificates are renewed while one watches, and long enough to outlast the control plane's
    // absence in the middle of one's life.
    let svid_ttl = (args.duration / 3).clamp(Duration::from_secs(6), Duration::from_secs(20));
    let mut voice = Announcer::new(args.output.output, PHASES);
    voice.say(&paint(BOLD, "Outrigger: a mesh of three services on this machine"))?;
    let settings =
        Settings { directory: directory.clone(), svid_ttl, spans: receiver.address, rps: args.rps };
    let mut mesh = DemoMesh::start(settings).await?;
    let result = tell(args, &mut mesh, voice, &receiver, svid_ttl, directory).await;
    mesh.end().await;
    result
}

async fn tell(
    args: &DemoArgs,
    mesh: &mut DemoMesh,
    mut voice: Announcer,
    receiver: &Receiver,
    svid_ttl: Duration,
    directory: PathBuf,
) -> Result<Ending, Stop> {
    voice.detail("client → gateway → web → orders → payments (v1 and v2, two instances each)")?;
    mesh.wait_until_serving().await?;
    mesh.start_traffic().await?;
    let (processes, seconds) = (mesh.processes(), args.duration.as_secs());
    voice.detail(&format!("{processes} processes, {} requests a second, about {seconds} s", args.rps))?;
    let traces = receiver.traces.clone();
    Box::pin(Story::new(mesh, voice, traces, args.duration, svid_ttl, directory).tell()).await
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Stop> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one; the exit status is 128 and its number, as a shell reports it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hangup.recv() => 129,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_that_could_show_nothing_is_refused() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        for bad in ["9s", "25h", "soon", "", "60"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}

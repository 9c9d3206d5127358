//! What long-running commands log, on standard error.

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::failure::Stop;

/// What is logged where nobody says otherwise: dependencies report only what they could not do.
pub(crate) const USUAL: &str = "info,h2=warn,hyper=warn,tonic=warn,opentelemetry=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Starts the log.
///
/// # Errors
/// A filter that cannot be read.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), Stop> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Stop::Usage(format!(
            "--log {filter:?} is no filter ({error}); write a level (error, warn, info, debug, trace) or \
             TARGET=LEVEL, separated by commas"
        ))
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

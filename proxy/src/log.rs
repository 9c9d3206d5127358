//! The proxy's own log: what an operator should know, on stderr.
//!
//! Text where a person looks at it (a terminal), JSON lines where a machine does, as the access log. stdout is left
//! to the ready line and the access log, so that a parent process can parse it.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

/// The variable that [`init`]'s filter is read from, in `main`.
pub const VARIABLE: &str = "OUTRIGGER_LOG";

/// What is logged where the variable says nothing. Dependencies report what they could not do; what peers do wrong
/// is counted, not logged.
const USUAL: &str = "info,h2=warn,hyper=warn,tonic=warn,opentelemetry=warn";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "{VARIABLE}: {0:?} is not a filter; write a level (error, warn, info, debug, trace) or TARGET=LEVEL, separated by commas"
    )]
    Filter(String, #[source] ParseError),
    /// There is a log already.
    #[error("the log is already set up")]
    Twice(#[source] TryInitError),
}

/// Sets the process's log up.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn init(filter: Option<&str>) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = parse(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let done = if stderr().is_terminal() {
        lines.with_target(false).finish().try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).finish().try_init()
    };
    done.map_err(LogError::Twice)
}

fn parse(filter: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = filter.filter(|text| !text.trim().is_empty()).unwrap_or(USUAL);
    EnvFilter::builder().parse(text).map_err(|error| LogError::Filter(text.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_with_the_variable() {
        assert!(parse(None).is_ok());
        assert!(parse(Some("")).is_ok());
        assert!(parse(Some("debug,h2=trace")).is_ok());
        let error = parse(Some("outrigger_proxy=loud")).unwrap_err().to_string();
        assert!(error.starts_with("OUTRIGGER_LOG: \"outrigger_proxy=loud\""), "{error}");
    }
}

//! `outrigger stat`: the traffic on every edge.

use std::time::Duration;

use outrigger_control_plane::resources::Period;
use outrigger_control_plane::status::{EdgeDirection, EdgeStats};

use crate::client::{Api, ApiArgs};
use crate::demo::report;
use crate::failure::Stop;
use crate::output::{self, Format, OutputArgs};

/// How often `--watch` looks again.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Arguments of `outrigger stat`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger stat                                  since the proxies started
  outrigger stat --window 30s                     the last thirty seconds
  outrigger stat -n shop --watch
  outrigger stat -o json | jq '.[] | select(.successRate < 1)'

BEFORE RETRIES is the share of attempts that succeeded, AFTER that of requests, as the caller saw them.")]
pub(crate) struct StatArgs {
    /// Only calls to services of this namespace.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", value_parser = crate::path::parse_name)]
    namespace: Option<String>,
    /// Only the last while, up to a minute.
    #[arg(long, env = "OUTRIGGER_STAT_WINDOW", value_name = "DURATION", value_parser = parse_window)]
    window: Option<Duration>,
    /// What the called side counted, instead of the calling side.
    #[arg(long, env = "OUTRIGGER_STAT_INBOUND")]
    inbound: bool,
    /// Show it again every two seconds until Ctrl-C.
    #[arg(short, long, env = "OUTRIGGER_STAT_WATCH")]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

fn parse_window(text: &str) -> Result<Duration, String> {
    let window = text.parse::<Period>().map_err(|error| format!("{error}"))?.duration();
    if (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&window) {
        Ok(window)
    } else {
        Err("must be from 1s to 60s".to_owned())
    }
}

/// Shows the edges, once or again and again.
///
/// # Errors
/// The API refuses or is away.
pub(crate) async fn run(args: StatArgs) -> Result<(), Stop> {
    let api = Api::new(&args.api)?;
    loop {
        let text = show(&args, &api).await?;
        let clear = if args.watch && output::is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        output::print(&format!("{clear}{text}"))?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn show(args: &StatArgs, api: &Api) -> Result<String, Stop> {
    let path = match args.window {
        Some(window) => format!("/v1/stats?window={}s", window.as_secs()),
        None => "/v1/stats".to_owned(),
    };
    let direction = if args.inbound { EdgeDirection::Inbound } else { EdgeDirection::Outbound };
    let mut edges: Vec<EdgeStats> = api.list(&path).await?;
    edges.retain(|edge| edge.direction == direction && is_in(args.namespace.as_deref(), &edge.destination));
    match args.output.output {
        Format::Table if edges.is_empty() => Ok("no traffic has been reported yet\n".to_owned()),
        Format::Table => Ok(report::edges(&edges).render()),
        format => Ok(output::render(format, &serde_json::to_value(edges)?)?),
    }
}

/// Whether a service, `NAME.NAMESPACE`, is in the namespace.
fn is_in(namespace: Option<&str>, service: &str) -> bool {
    namespace.is_none_or(|namespace| service.split_once('.').is_some_and(|(_, its)| its == namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_compared_whole() {
        assert!(is_in(None, "web.shop"));
        assert!(is_in(Some("shop"), "web.shop"));
        assert!(!is_in(Some("shop"), "web.workshop"));
        assert!(!is_in(Some("hop"), "web.shop"));
    }

    #[test]
    fn a_window_has_bounds() {
        assert_eq!(parse_window("30s"), Ok(Duration::from_secs(30)));
        assert!(parse_window("0s").is_err() && parse_window("2m").is_err() && parse_window("x").is_err());
    }
}

//! `outrigger control-plane`: run the control plane until told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outrigger_control_plane::resources::Period;
use outrigger_control_plane::{ControlPlane, ControlPlaneConfig};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::data_dir::default_data_dir;
use crate::failure::Stop;
use crate::log::{self, LogFormat};
use crate::output;

/// Arguments of `outrigger control-plane`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger control-plane
  outrigger control-plane --data-dir /var/lib/outrigger --proxy-listen 0.0.0.0:4781
  outrigger control-plane --data-dir ./mesh --svid-ttl 10m --log debug

It prints one line of JSON when it serves. The bearer token of the API is in DIR/admin.token.")]
pub(crate) struct ControlPlaneArgs {
    /// Where documents, keys and tokens are kept. [default: ~/.local/share/outrigger]
    #[arg(long, env = "OUTRIGGER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the REST API listens.
    #[arg(long, env = "OUTRIGGER_API_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:4780")]
    api_listen: SocketAddr,
    /// Where proxies connect (gRPC over TLS).
    #[arg(long, env = "OUTRIGGER_PROXY_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:4781")]
    proxy_listen: SocketAddr,
    /// The trust domain of every identity. It cannot change once the authority has been made.
    #[arg(long, env = "OUTRIGGER_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "outrigger.local")]
    trust_domain: String,
    /// How long workload certificates last; they are renewed at half of it.
    #[arg(long, env = "OUTRIGGER_SVID_TTL", value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    svid_ttl: Duration,
    /// How long the certificate lasts that signs workload certificates.
    #[arg(long, env = "OUTRIGGER_ISSUER_TTL", value_name = "DURATION", default_value = "8760h", value_parser = parse_duration)]
    issuer_ttl: Duration,
    /// How long the root certificate lasts.
    #[arg(long, env = "OUTRIGGER_ROOT_TTL", value_name = "DURATION", default_value = "87600h", value_parser = parse_duration)]
    root_ttl: Duration,
    /// How long a workload is kept after its proxy's connection was lost.
    #[arg(long, env = "OUTRIGGER_GRACE", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    grace: Duration,
    /// Lets the keys of token issuers be fetched from loopback addresses, without TLS: for tests.
    #[arg(long, env = "OUTRIGGER_JWKS_FROM_LOOPBACK")]
    jwks_from_loopback: bool,
    /// What is logged on standard error: error, warn, info, debug, trace, or a filter such as info,h2=debug.
    #[arg(long, env = "OUTRIGGER_LOG", value_name = "FILTER", default_value = log::USUAL)]
    log: String,
    /// How log lines look.
    #[arg(long, env = "OUTRIGGER_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let period: Period = text.parse().map_err(|error| format!("{error}"))?;
    if period.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(period.duration()) }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start: a port that is taken, a directory that cannot be used, settings that contradict what is kept.
pub(crate) fn run(args: ControlPlaneArgs) -> Result<(), Stop> {
    log::start(&args.log, args.log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config(args)?))
}

fn config(args: ControlPlaneArgs) -> Result<ControlPlaneConfig, Stop> {
    let trust_domain = args
        .trust_domain
        .parse()
        .map_err(|error| Stop::Usage(format!("--trust-domain {:?}: {error}", args.trust_domain)))?;
    Ok(ControlPlaneConfig {
        data_dir: args.data_dir.unwrap_or_else(default_data_dir),
        api_listen: args.api_listen,
        proxy_listen: args.proxy_listen,
        trust_domain,
        svid_ttl: args.svid_ttl,
        issuer_ttl: args.issuer_ttl,
        root_ttl: args.root_ttl,
        grace: args.grace,
        jwks_from_loopback: args.jwks_from_loopback,
    })
}

async fn serve(config: ControlPlaneConfig) -> Result<(), Stop> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = ControlPlane::start(config).await?;
    output::line(
        &json!({
            "ready": true,
            "api": running.api.to_string(),
            "proxies": running.proxies.to_string(),
            "adminToken": running.admin_token_path.display().to_string(),
        })
        .to_string(),
    )?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.shutdown().await;
    Ok(())
}

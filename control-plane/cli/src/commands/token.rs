//! `outrigger token`: join tokens, with which workloads get their first certificate.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use outrigger_control_plane::api::{CreateTokenAnswer, CreateTokenRequest};
use outrigger_control_plane::resources::Period;
use outrigger_control_plane::token::TokenStatus;
use serde_json::Value;

use crate::client::{Api, ApiArgs, Body};
use crate::failure::Stop;
use crate::output::{self, Format, GOOD, OutputArgs, WARN};
use crate::path;
use crate::table::{Cell, Table};

/// Arguments of `outrigger token`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger token create --namespace shop --service-account web > web.token
  outrigger token list")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

/// What to do with tokens.
#[derive(Debug, Clone, Subcommand)]
enum TokenCommand {
    /// Make a token for one identity and print it, alone.
    #[command(after_help = "\
Examples:
  outrigger token create --namespace shop --service-account payments > payments.token
  outrigger token create --namespace shop --service-account web --ttl 10m --save web.token

The token carries the fingerprint of the mesh's root, so that the first connection is authenticated both ways.
Keep it like a password until it has expired.")]
    Create(CreateArgs),
    /// List the tokens; their secrets are not kept.
    #[command(after_help = "\
Examples:
  outrigger token list
  outrigger token list -o json")]
    List(ListArgs),
    /// Make a token worthless. Certificates that it brought stay valid.
    #[command(after_help = "\
Examples:
  outrigger token revoke 3f2a")]
    Revoke(RevokeArgs),
}

/// Arguments of `outrigger token create`.
#[derive(Debug, Clone, clap::Args)]
struct CreateArgs {
    /// The namespace of the workload.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", value_parser = path::parse_name)]
    namespace: String,
    /// The service account of the workload.
    #[arg(long, env = "OUTRIGGER_SERVICE_ACCOUNT", value_name = "NAME", value_parser = path::parse_name)]
    service_account: String,
    /// How long it can be used.
    #[arg(long, env = "OUTRIGGER_TOKEN_TTL", value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// Write the token to this file, which nobody else may read, instead of to standard output.
    #[arg(long, env = "OUTRIGGER_SAVE", value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Arguments of `outrigger token list`.
#[derive(Debug, Clone, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Arguments of `outrigger token revoke`.
#[derive(Debug, Clone, clap::Args)]
struct RevokeArgs {
    /// The token's id, as `outrigger token list` shows it.
    #[arg(value_parser = path::parse_name)]
    id: String,
    #[command(flatten)]
    api: ApiArgs,
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let period: Period = text.parse().map_err(|error| format!("{error}"))?;
    if period.is_zero() { Err("must be more than nothing".to_owned()) } else { Ok(period.duration()) }
}

/// Makes, lists or revokes tokens.
///
/// # Errors
/// The API refuses or is away.
pub(crate) async fn run(args: TokenArgs) -> Result<(), Stop> {
    match args.command {
        TokenCommand::Create(args) => make(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => {
            let path = format!("/v1/tokens/{}", args.id);
            let _: Value = Api::new(&args.api)?.call(Method::DELETE, &path, None).await?;
            output::line(&format!("token {} revoked", args.id))
        }
    }
}

async fn make(args: CreateArgs) -> Result<(), Stop> {
    let api = Api::new(&args.api)?;
    let answer = create(&api, &args.namespace, &args.service_account, args.ttl).await?;
    if let Some(file) = &args.save {
        outrigger_certs::files::write_atomic(file, format!("{}\n", answer.token).as_bytes(), 0o600)?;
        return output::line(&format!("{} holds the token until {}", file.display(), answer.expires_at));
    }
    match args.output.output {
        Format::Table => output::line(&answer.token),
        format => output::value(format, &serde_json::to_value(answer)?),
    }
}

/// Makes a token and returns the API's answer.
///
/// # Errors
/// The API refuses or is away.
pub(crate) async fn create(
    api: &Api,
    namespace: &str,
    service_account: &str,
    ttl: Duration,
) -> Result<CreateTokenAnswer, Stop> {
    let wanted = CreateTokenRequest {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        ttl: Some(format!("{}s", ttl.as_secs())),
    };
    let wanted = Body::json(&serde_json::to_value(wanted)?);
    Ok(api.call(Method::POST, "/v1/tokens", Some(wanted)).await?)
}

async fn list(args: ListArgs) -> Result<(), Stop> {
    let tokens: Vec<TokenStatus> = Api::new(&args.api)?.list("/v1/tokens").await?;
    match args.output.output {
        Format::Table if tokens.is_empty() => output::line("there is no token"),
        Format::Table => output::print(&table(&tokens)),
        format => output::value(format, &serde_json::to_value(tokens)?),
    }
}

fn table(tokens: &[TokenStatus]) -> String {
    let mut table = Table::new(&["ID", "NAMESPACE", "SERVICE ACCOUNT", "EXPIRES", ">USED", "STATE"]);
    for token in tokens {
        table.row(vec![
            token.id.clone().into(),
            token.namespace.clone().into(),
            token.service_account.clone().into(),
            token.expires_at.clone().into(),
            token.used.to_string().into(),
            if token.expired { Cell::styled(WARN, "expired") } else { Cell::styled(GOOD, "good") },
        ]);
    }
    table.render()
}

//! `outrigger rollback`: bring the documents of an earlier revision back.

use http::Method;
use outrigger_control_plane::api::ApplyAnswer;
use serde_json::json;

use super::apply::tell;
use crate::client::{Api, ApiArgs, Body};
use crate::failure::Stop;
use crate::output::{self, Format, OutputArgs};

/// Arguments of `outrigger rollback`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger history                               find the revision
  outrigger rollback 41 --dry-run
  outrigger rollback 41

A rollback is a new revision: it is in the history and can be rolled back itself.")]
pub(crate) struct RollbackArgs {
    /// The revision whose documents are to hold again.
    revision: u64,
    /// Say what would change and change nothing.
    #[arg(long, env = "OUTRIGGER_DRY_RUN")]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Rolls back and says what became of each document.
///
/// # Errors
/// There is no such revision, or the API refuses or is away.
pub(crate) async fn run(args: RollbackArgs) -> Result<(), Stop> {
    let api = Api::new(&args.api)?;
    let path = if args.dry_run { "/v1/rollback?dryRun=true" } else { "/v1/rollback" };
    let wanted = Body::json(&json!({"revision": args.revision}));
    let answer: ApplyAnswer = api.call(Method::POST, path, Some(wanted)).await?;
    if answer.changes.is_empty() && args.output.output == Format::Table {
        return output::line("nothing differs from that revision");
    }
    tell(&answer, args.output.output)
}

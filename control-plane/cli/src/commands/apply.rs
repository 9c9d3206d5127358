//! `outrigger apply`: create or change documents, all of them or none.

use http::Method;
use outrigger_control_plane::api::{ApplyAnswer, ChangeAnswer};
use outrigger_control_plane::resources::DEFAULT_NAMESPACE;
use outrigger_control_plane::store::Outcome;

use crate::client::{Api, ApiArgs, Body};
use crate::documents::FileArgs;
use crate::failure::Stop;
use crate::output::{self, Format, GOOD, OutputArgs, WARN, paint};
use crate::path;

/// Arguments of `outrigger apply`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger apply -f shop.yaml
  outrigger apply -f services/ -f routes/         every .yaml, .yml and .json file in the directories
  cat route.yaml | outrigger apply -f -
  outrigger apply -f route.yaml --dry-run         checked against what is there, changes nothing")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of documents that name none.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = path::parse_name)]
    namespace: String,
    /// Check everything and change nothing.
    #[arg(long, env = "OUTRIGGER_DRY_RUN")]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Sends the documents and says what became of each.
///
/// # Errors
/// A document is not valid, and nothing has changed; or the API refuses or is away.
pub(crate) async fn run(args: ApplyArgs) -> Result<(), Stop> {
    let text = args.files.read()?;
    let api = Api::new(&args.api)?;
    let dry_run = if args.dry_run { "&dryRun=true" } else { "" };
    let path = format!("/v1/apply?namespace={}{dry_run}", args.namespace);
    let answer: ApplyAnswer = api.call(Method::POST, &path, Some(Body::yaml(text))).await?;
    tell(&answer, args.output.output)
}

/// Tells what became of each document, for `apply` and `rollback`.
///
/// # Errors
/// Nobody listens.
pub(crate) fn tell(answer: &ApplyAnswer, format: Format) -> Result<(), Stop> {
    if format != Format::Table {
        return output::value(format, &serde_json::to_value(answer)?);
    }
    for warning in &answer.warnings {
        output::note(&format!("{} {warning}", paint(WARN, "warning:")));
    }
    let mut text = String::new();
    for change in &answer.changes {
        let outcome = match change.change {
            Outcome::Unchanged => change.change.to_string(),
            _ => paint(GOOD, change.change),
        };
        let trial = if answer.dry_run { " (dry run)" } else { "" };
        text.push_str(&format!("{} {outcome}{trial}\n", named(change)));
    }
    output::print(&text)
}

/// `HTTPRoute shop/payments`
pub(crate) fn named(change: &ChangeAnswer) -> String {
    match change.namespace.as_str() {
        "" => format!("{} {}", change.kind, change.name),
        namespace => format!("{} {namespace}/{}", change.kind, change.name),
    }
}

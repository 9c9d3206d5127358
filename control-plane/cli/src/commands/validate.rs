//! `outrigger validate`: check documents without a control plane.
//!
//! The same code as the control plane's reads them. What only the whole can tell, such as a route that leads to a
//! service that is not there, shows with `outrigger apply --dry-run`.

use outrigger_control_plane::resources::{
    DEFAULT_NAMESPACE, DocumentProblem, Format as Notation, Parsed, parse_in,
};
use serde_json::json;

use crate::documents::FileArgs;
use crate::failure::Stop;
use crate::output::{self, Format, GOOD, OutputArgs, WARN, paint};
use crate::path;

/// Arguments of `outrigger validate`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger validate -f shop.yaml
  outrigger validate -f deploy/ && outrigger apply -f deploy/
  cat route.yaml | outrigger validate -f -

Exit status 1 if a document is not valid; every problem is listed with its document, line and field.")]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of documents that name none.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = path::parse_name)]
    namespace: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Checks the documents.
///
/// # Errors
/// One is not valid.
pub(crate) fn run(args: &ValidateArgs) -> Result<(), Stop> {
    let parsed = parse_in(&args.files.read()?, Notation::Yaml, &args.namespace);
    if args.output.output != Format::Table {
        let answer = match &parsed {
            Ok(parsed) => json!({"valid": true, "problems": [], "warnings": warnings(parsed)}),
            Err(rejected) => json!({"valid": false, "problems": rejected.problems, "warnings": []}),
        };
        output::value(args.output.output, &answer)?;
        return parsed.map(|_| ()).map_err(|_| Stop::Said);
    }
    let parsed = parsed.map_err(|rejected| {
        let problems: Vec<String> =
            rejected.problems.iter().map(|problem| format!("\n  {problem}")).collect();
        Stop::failed(format!("the documents are not valid{}", problems.concat()))
    })?;
    for warning in warnings(&parsed) {
        output::note(&format!("{} {warning}", paint(WARN, "warning:")));
    }
    for document in &parsed.documents {
        output::line(&format!("{} {}", document.resource.key(), paint(GOOD, "is valid")))?;
    }
    Ok(())
}

fn warnings(parsed: &Parsed) -> Vec<&DocumentProblem> {
    parsed.documents.iter().flat_map(|document| &document.warnings).collect()
}

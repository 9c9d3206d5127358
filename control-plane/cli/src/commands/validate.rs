//! `outrigger validate`: check documents without a control plane.
//!
//! The same code as the control plane's reads them, and tells what is valid and most likely not meant: rules that no
//! request gets to, references to what is not among the documents, timeouts and retries that cannot work.

use outrigger_control_plane::lint;
use outrigger_control_plane::resources::{DEFAULT_NAMESPACE, DocumentProblem, Format as Notation, parse_in};
use serde_json::json;

use crate::documents::{FileArgs, Input};
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
  outrigger validate -f deploy/ --strict                warnings fail, too, as in CI

Exit status 1 if a document is not valid; every problem is listed with its file, line, document and field. Warnings
tell what is valid and most likely not meant: rules that no request gets to, weights to nothing, an attempt that may
take longer than its request, retries of what is not idempotent, policies without effect.")]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of documents that name none.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = path::parse_name)]
    namespace: String,
    /// Fail on warnings, too.
    #[arg(long, env = "OUTRIGGER_STRICT")]
    strict: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Checks the documents.
///
/// # Errors
/// One is not valid, or with `--strict` most likely not what was meant.
pub(crate) fn run(args: &ValidateArgs) -> Result<(), Stop> {
    let input = args.files.read_with_places()?;
    let parsed = parse_in(&input.text, Notation::Yaml, &args.namespace);
    let warnings = parsed.as_ref().map(lint::warnings).unwrap_or_default();
    let doubtful = args.strict && !warnings.is_empty();
    if args.output.output != Format::Table {
        let answer = match &parsed {
            Ok(_) => json!({"valid": true, "problems": [], "warnings": warnings}),
            Err(rejected) => json!({"valid": false, "problems": rejected.problems, "warnings": []}),
        };
        output::value(args.output.output, &answer)?;
        return if parsed.is_err() || doubtful { Err(Stop::Said) } else { Ok(()) };
    }
    let parsed = parsed.map_err(|rejected| {
        let problems: Vec<String> =
            rejected.problems.iter().map(|problem| format!("\n  {}", placed(&input, problem))).collect();
        Stop::failed(format!("the documents are not valid{}", problems.concat()))
    })?;
    for warning in &warnings {
        output::note(&format!("{} {}", paint(WARN, "warning:"), placed(&input, warning)));
    }
    for document in &parsed.documents {
        output::line(&format!("{} {}", document.resource.key(), paint(GOOD, "is valid")))?;
    }
    if doubtful { Err(Stop::failed("the documents are valid, and not without warnings")) } else { Ok(()) }
}

/// A problem with the file that it is in, where its line is known.
fn placed(input: &Input, problem: &DocumentProblem) -> String {
    match problem.line.and_then(|line| input.place(line)) {
        Some(place) => format!("{place}: {problem}"),
        None => problem.to_string(),
    }
}

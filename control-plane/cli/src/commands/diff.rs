//! `outrigger diff`: what apply would change.

use http::Method;
use outrigger_control_plane::api::ApplyAnswer;
use outrigger_control_plane::resources::DEFAULT_NAMESPACE;
use outrigger_control_plane::store::Outcome;

use super::apply::named;
use crate::client::{Api, ApiArgs, Body};
use crate::documents::FileArgs;
use crate::failure::Stop;
use crate::output::{self, ACCENT, BAD, BOLD, Format, GOOD, OutputArgs, WARN, paint};
use crate::path;

/// Arguments of `outrigger diff`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger diff -f shop.yaml
  outrigger diff -f deploy/ || echo 'deploy/ is not what runs'

Exit status: 0 if nothing differs, 1 if something does or the documents are refused.")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of documents that name none.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = path::parse_name)]
    namespace: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Shows the differences.
///
/// # Errors
/// There are some; or the documents are refused, or the API is away.
pub(crate) async fn run(args: DiffArgs) -> Result<(), Stop> {
    let text = args.files.read()?;
    let path = format!("/v1/diff?namespace={}", args.namespace);
    let answer: ApplyAnswer = Api::new(&args.api)?.call(Method::POST, &path, Some(Body::yaml(text))).await?;
    match args.output.output {
        Format::Table => {
            for warning in &answer.warnings {
                output::note(&format!("{} {warning}", paint(WARN, "warning:")));
            }
            output::print(&told(&answer))?;
        }
        format => output::value(format, &serde_json::to_value(&answer)?)?,
    }
    let differs = answer.changes.iter().any(|change| change.change != Outcome::Unchanged);
    if differs { Err(Stop::Said) } else { Ok(()) }
}

fn told(answer: &ApplyAnswer) -> String {
    let mut text = String::new();
    for change in answer.changes.iter().filter(|change| change.change != Outcome::Unchanged) {
        text.push_str(&paint(BOLD, format!("{} would be {}", named(change), change.change)));
        text.push('\n');
        for line in change.diff.as_deref().unwrap_or_default().lines() {
            let line = match line.as_bytes().first() {
                Some(b'+') => paint(GOOD, line),
                Some(b'-') => paint(BAD, line),
                Some(b'@') => paint(ACCENT, line),
                _ => line.to_owned(),
            };
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_control_plane::api::ChangeAnswer;

    #[test]
    fn what_stays_as_it_is_is_not_shown() {
        let change = |name: &str, change, diff: &str| ChangeAnswer {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            change,
            resource_version: None,
            diff: Some(diff.to_owned()),
        };
        let changes = vec![
            change("a", Outcome::Unchanged, ""),
            change("b", Outcome::Configured, "@@ -1 +1 @@\n-x\n+y\n"),
        ];
        let answer = ApplyAnswer { changes, ..ApplyAnswer::default() };
        let shown = anstream::adapter::strip_str(&told(&answer)).to_string();
        assert_eq!(shown, "HTTPRoute shop/b would be configured\n@@ -1 +1 @@\n-x\n+y\n");
    }
}

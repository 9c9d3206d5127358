//! `outrigger history`: who changed what, and when.

use outrigger_control_plane::resources::Kind;
use outrigger_control_plane::store::{Event, HistoryPage};

use crate::client::{Api, ApiArgs};
use crate::failure::Stop;
use crate::output::{self, Format, OutputArgs};
use crate::path;
use crate::table::Table;

/// Arguments of `outrigger history`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger history
  outrigger history httproute payments -n shop
  outrigger history --limit 500 -o json
  outrigger history --documents -o yaml           with each document before and after")]
pub(crate) struct HistoryArgs {
    /// Only changes to documents of this kind.
    kind: Option<Kind>,
    /// Only changes to the document of this name.
    #[arg(value_parser = path::parse_name)]
    name: Option<String>,
    /// Only changes in this namespace.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", value_parser = path::parse_name)]
    namespace: Option<String>,
    /// How many changes, the newest first.
    #[arg(long, env = "OUTRIGGER_HISTORY_LIMIT", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only changes before the one with this id, for the next page.
    #[arg(long, env = "OUTRIGGER_HISTORY_BEFORE", value_name = "ID")]
    before: Option<u64>,
    /// With the documents before and after.
    #[arg(long, env = "OUTRIGGER_HISTORY_DOCUMENTS")]
    documents: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Shows a page of the history.
///
/// # Errors
/// The API refuses or is away.
pub(crate) async fn run(args: HistoryArgs) -> Result<(), Stop> {
    let page: HistoryPage = Api::new(&args.api)?.get(&query(&args)).await?;
    match args.output.output {
        Format::Table if page.items.is_empty() => output::line("no change"),
        Format::Table => {
            output::print(&table(&page.items))?;
            match page.next {
                Some(next) => output::line(&format!("\nolder changes: outrigger history --before {next}")),
                None => Ok(()),
            }
        }
        format => output::value(format, &serde_json::to_value(page)?),
    }
}

fn query(args: &HistoryArgs) -> String {
    let mut query = format!("/v1/history?limit={}", args.limit);
    if let Some(kind) = args.kind {
        query.push_str(&format!("&kind={kind}"));
    }
    if let Some(namespace) = &args.namespace {
        query.push_str(&format!("&namespace={namespace}"));
    }
    if let Some(name) = &args.name {
        query.push_str(&format!("&name={name}"));
    }
    if let Some(before) = args.before {
        query.push_str(&format!("&before={before}"));
    }
    query.push_str(&format!("&documents={}", args.documents));
    query
}

fn table(events: &[Event]) -> String {
    let mut table = Table::new(&[">REVISION", "WHEN", "WHO", "BY", "KIND", "DOCUMENT", "CHANGE"]);
    for event in events {
        let name = match event.namespace.as_str() {
            "" => event.name.clone(),
            namespace => format!("{namespace}/{}", event.name),
        };
        table.row(vec![
            event.revision.to_string().into(),
            event.at.clone().into(),
            event.who.clone().into(),
            event.cause.clone().into(),
            event.kind.clone().into(),
            name.into(),
            event.change.to_string().into(),
        ]);
    }
    table.render()
}

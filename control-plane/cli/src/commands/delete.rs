//! `outrigger delete`: remove documents.

use http::{Method, StatusCode};
use outrigger_control_plane::resources::{
    DEFAULT_NAMESPACE, Format as Notation, Kind, ResourceKey, parse_in,
};
use serde_json::Value;

use crate::client::{Api, ApiArgs};
use crate::documents::FileArgs;
use crate::failure::Stop;
use crate::output;
use crate::path;

/// Arguments of `outrigger delete`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    override_usage = "outrigger delete <KIND> <NAME> [OPTIONS]\n       outrigger delete -f <FILE> [OPTIONS]",
    after_help = "\
Examples:
  outrigger delete httproute payments -n shop
  outrigger delete -f shop.yaml                   every document that the file names

Traffic goes on: without its routes a service is called directly."
)]
pub(crate) struct DeleteArgs {
    /// The kind.
    #[arg(requires = "name", conflicts_with = "files", required_unless_present = "files")]
    kind: Option<Kind>,
    /// The document.
    #[arg(value_parser = path::parse_name)]
    name: Option<String>,
    /// File whose documents are removed, directory of such files, or - for standard input.
    #[arg(short = 'f', long = "file", env = "OUTRIGGER_FILE", value_name = "FILE")]
    files: Vec<std::path::PathBuf>,
    /// The namespace of a document by its name, or of documents that name none.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = path::parse_name)]
    namespace: String,
    /// A document that is not there is no failure.
    #[arg(long, env = "OUTRIGGER_IGNORE_NOT_FOUND")]
    ignore_not_found: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Removes one document, or those that files name.
///
/// # Errors
/// A document is not there, or the API refuses or is away.
pub(crate) async fn run(args: DeleteArgs) -> Result<(), Stop> {
    let api = Api::new(&args.api)?;
    for key in keys(&args)? {
        let path = path::document(key.kind, &key.namespace, &key.name);
        match api.call::<Value>(Method::DELETE, &path, None).await {
            Ok(_) => output::line(&format!("{key} deleted"))?,
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) && args.ignore_not_found => {
                output::line(&format!("{key} was not there"))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is to be removed. From files in reverse, so that a route goes before the services that it leads to.
fn keys(args: &DeleteArgs) -> Result<Vec<ResourceKey>, Stop> {
    if let (Some(kind), Some(name)) = (args.kind, &args.name) {
        return Ok(vec![ResourceKey { kind, namespace: args.namespace.clone(), name: name.clone() }]);
    }
    let text = FileArgs { files: args.files.clone() }.read()?;
    let parsed = parse_in(&text, Notation::Yaml, &args.namespace)?;
    Ok(parsed.documents.iter().rev().map(|document| document.resource.key()).collect())
}

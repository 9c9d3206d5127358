//! `outrigger get`: show documents.

use outrigger_certs::{Clock, SystemClock};
use outrigger_control_plane::resources::{DEFAULT_NAMESPACE, Kind, Scope};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{Api, ApiArgs};
use crate::failure::Stop;
use crate::output::{self, Format, OutputArgs};
use crate::path;
use crate::table::{Cell, Table};

/// Arguments of `outrigger get`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger get services
  outrigger get httproutes -n shop
  outrigger get httproute payments -n shop -o yaml > payments.yaml

The kinds are those of the README's reference, as httproute or servicepolicy, in singular or plural.")]
pub(crate) struct GetArgs {
    /// The kind.
    kind: Kind,
    /// One document of the kind; all of them without it.
    #[arg(value_parser = path::parse_name)]
    name: Option<String>,
    /// The namespace. [default: every one, or `default` for a document by its name]
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", value_parser = path::parse_name)]
    namespace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Shows one document, or all of a kind.
///
/// # Errors
/// The document is not there, or the API refuses or is away.
pub(crate) async fn run(args: GetArgs) -> Result<(), Stop> {
    let api = Api::new(&args.api)?;
    let Some(name) = &args.name else { return list(&args, &api).await };
    let namespace = args.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let document: Value = api.get(&path::document(args.kind, namespace, name)).await?;
    match args.output.output {
        Format::Table => output::print(&table(args.kind, &[document], SystemClock.now().into())),
        format => output::value(format, &document),
    }
}

async fn list(args: &GetArgs, api: &Api) -> Result<(), Stop> {
    let items: Vec<Value> = api.list(&path::list(args.kind, args.namespace.as_deref())).await?;
    match args.output.output {
        Format::Table if items.is_empty() => output::line(&nothing(args)),
        Format::Table => output::print(&table(args.kind, &items, SystemClock.now().into())),
        format => output::value(format, &json!({"apiVersion": "v1", "kind": "List", "items": items})),
    }
}

fn nothing(args: &GetArgs) -> String {
    match (&args.namespace, args.kind.scope()) {
        (Some(namespace), Scope::Namespaced) => format!("no {} in namespace {namespace}", args.kind),
        _ => format!("no {}", args.kind),
    }
}

fn table(kind: Kind, documents: &[Value], now: OffsetDateTime) -> String {
    let mut table = match kind {
        Kind::Service => Table::new(&["NAMESPACE", "NAME", "PORTS", ">AGE"]),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => Table::new(&[
            "NAMESPACE",
            "NAME",
            "PARENTS",
            ">RULES",
            "BACKENDS",
            "ACCEPTED",
            "RESOLVED",
            ">AGE",
        ]),
        Kind::ReferenceGrant => Table::new(&["NAMESPACE", "NAME", "FROM", "TO", ">AGE"]),
        Kind::BackendTrafficPolicy => {
            Table::new(&["NAMESPACE", "NAME", "TARGETS", "SETS", "ACCEPTED", ">AGE"])
        }
        Kind::MeshConfig => Table::new(&["NAME", "SETS", ">AGE"]),
        _ => Table::new(&["NAMESPACE", "NAME", "TARGETS", "SETS", ">AGE"]),
    };
    for document in documents {
        let metadata = &document["metadata"];
        let spec = &document["spec"];
        let mut row: Vec<Cell> = Vec::new();
        if kind.scope() == Scope::Namespaced {
            row.push(text(&metadata["namespace"]).into());
        }
        row.push(text(&metadata["name"]).into());
        match kind {
            Kind::Service => row.push(ports(spec).into()),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => {
                row.push(names(&spec["parentRefs"]).into());
                row.push(list_of(&spec["rules"]).len().to_string().into());
                row.push(backends(spec).into());
                let parents = &document["status"]["parents"];
                row.push(condition(parents, "Accepted").into());
                row.push(condition(parents, "ResolvedRefs").into());
            }
            Kind::ReferenceGrant => {
                row.push(granted(&spec["from"], "namespace").into());
                row.push(granted(&spec["to"], "name").into());
            }
            Kind::BackendTrafficPolicy => {
                row.push(names(&spec["targetRefs"]).into());
                row.push(sets(spec).into());
                row.push(condition(&document["status"]["ancestors"], "Accepted").into());
            }
            Kind::MeshConfig => row.push(sets(spec).into()),
            _ => {
                row.push(names(&spec["targetRefs"]).into());
                row.push(sets(spec).into());
            }
        }
        row.push(age(&metadata["creationTimestamp"], now).into());
        table.row(row);
    }
    table.render()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ports(spec: &Value) -> String {
    let port = |port: &Value| match port["appProtocol"].as_str() {
        Some(protocol) => format!("{}/{protocol}", text(&port["port"])),
        None => text(&port["port"]),
    };
    list_of(&spec["ports"]).iter().map(port).collect::<Vec<_>>().join(",")
}

fn names(references: &Value) -> String {
    list_of(references).iter().map(|reference| text(&reference["name"])).collect::<Vec<_>>().join(",")
}

/// The backends of every rule: `payments-v1=90,payments-v2=10; other`.
fn backends(spec: &Value) -> String {
    let backend = |backend: &Value| match &backend["weight"] {
        Value::Null => text(&backend["name"]),
        weight => format!("{}={weight}", text(&backend["name"])),
    };
    let rule = |rule: &Value| list_of(&rule["backendRefs"]).iter().map(backend).collect::<Vec<_>>().join(",");
    list_of(&spec["rules"]).iter().map(rule).collect::<Vec<_>>().join("; ")
}

/// What is said of a document at its parents: `yes`, or the reasons why not. `-` where no parent of it is there.
fn condition(parents: &Value, kind: &str) -> String {
    let parents = list_of(parents);
    let conditions = parents.iter().flat_map(|parent| list_of(&parent["conditions"]));
    let unmet = conditions.filter(|condition| condition["type"] == kind && condition["status"] != "True");
    let mut reasons: Vec<String> = unmet.map(|condition| text(&condition["reason"])).collect();
    reasons.dedup();
    match (parents.is_empty(), reasons.is_empty()) {
        (true, _) => "-".to_owned(),
        (_, true) => "yes".to_owned(),
        _ => reasons.join(","),
    }
}

/// One side of a grant: `HTTPRoute/shop`, `Service/payments`, or `Service` for all of them.
fn granted(side: &Value, field: &str) -> String {
    let one = |entry: &Value| match text(&entry[field]).as_str() {
        "" => text(&entry["kind"]),
        name => format!("{}/{name}", text(&entry["kind"])),
    };
    list_of(side).iter().map(one).collect::<Vec<_>>().join(",")
}

/// The settings that a document makes, apart from what it is for.
fn sets(spec: &Value) -> String {
    let fields = spec.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    fields.filter(|name| *name != "targetRefs").collect::<Vec<_>>().join(",")
}

/// How long ago, in the largest unit of which there are two.
fn age(created: &Value, now: OffsetDateTime) -> String {
    let Some(created) = created.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok()) else {
        return String::new();
    };
    match (now - created).whole_seconds().max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: Kind, document: Value) -> String {
        let now = OffsetDateTime::parse("2026-01-02T00:00:00Z", &Rfc3339).unwrap();
        anstream::adapter::strip_str(&table(kind, &[document], now)).to_string()
    }

    #[test]
    fn a_route_is_shown_with_its_weights() {
        let route = json!({
            "metadata": {"namespace": "shop", "name": "pay", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"parentRefs": [{"name": "payments"}], "rules": [{"backendRefs": [
                {"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]}]},
            "status": {"parents": [{"conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted"},
                {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound"}]}]},
        });
        assert_eq!(
            shown(Kind::HttpRoute, route),
            "NAMESPACE  NAME  PARENTS   RULES  BACKENDS     ACCEPTED  RESOLVED         AGE\n\
             shop       pay   payments      1  v1=90,v2=10  yes       BackendNotFound  24h\n"
        );
    }

    #[test]
    fn a_grant_is_shown_from_and_to() {
        let grant = json!({"metadata": {"namespace": "shop", "name": "g"}, "spec": {
            "from": [{"kind": "HTTPRoute", "namespace": "web"}], "to": [{"kind": "Service"}, {"kind": "Service", "name": "a"}]}});
        let table = shown(Kind::ReferenceGrant, grant);
        assert!(table.contains("HTTPRoute/web  Service,Service/a"), "{table}");
    }

    #[test]
    fn a_document_without_anything_is_shown_all_the_same() {
        for kind in Kind::ALL {
            assert_eq!(shown(kind, json!({})).lines().count(), 2);
        }
    }
}

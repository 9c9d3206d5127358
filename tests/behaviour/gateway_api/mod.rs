//! The Gateway API's conformance areas for a mesh, box by box: which documents, which requests, and what must come of
//! each, over real proxies.
//!
//! A test states its documents, starts a [`conformance`] mesh and walks through a list of [`case::Case`]s; each is one line that
//! says what is sent and what must happen, and is printed as such when it does not.

mod attachment;
mod backends;
mod calls;
mod case;
mod connections;
mod defaults;
mod filters;
mod grants;
mod matching;
mod precedence;
mod protocols;
mod sessions;
mod status;
mod timeouts;

use outrigger_tests::Mesh;
use outrigger_tests::app::http::echo;
use serde_json::Value;

pub(crate) use case::{call, check, get, send};

/// `echo`, `echo-v1` and `echo-v2` in the namespace `shop`, with a caller `web` there and a caller `clerk` in `desk`.
/// Every service has an instance of its own.
pub(crate) async fn conformance(documents: &str) -> Mesh {
    Mesh::builder()
        .service("echo", echo())
        .port(8080, echo())
        .service("echo-v1", echo())
        .service("echo-v2", echo())
        .client("web")
        .namespace("desk")
        .client("clerk")
        .policy(&(ECHO.to_owned() + documents))
        .start()
        .await
}

/// The service with its two ports, named.
const ECHO: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: shop}\n\
                    spec: {ports: [{name: http, port: 80}, {name: http-alt, port: 8080}]}\n---\n";

/// A route of this kind to `echo`, with more of its parent's reference (as `, port: 80`) and these rules, each of them one
/// line of YAML in flow form.
pub(crate) fn route_of(kind: &str, (namespace, name): (&str, &str), parent: &str, rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("  - {rule}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo, namespace: shop{parent}}}]\n  rules:\n{rules}---\n"
    )
}

/// A producer HTTPRoute on all ports of `echo`.
pub(crate) fn http(name: &str, rules: &[&str]) -> String {
    route_of("HTTPRoute", ("shop", name), "", rules)
}

/// A rule that matches this and leads to that service.
pub(crate) fn rule(matches: &str, backend: &str) -> String {
    format!("{{matches: [{matches}], backendRefs: [{{name: {backend}, namespace: shop, port: 80}}]}}")
}

/// The conditions of a document of `shop` at its first parent, as `Accepted=True/Accepted`.
async fn conditions(mesh: &Mesh, kinds: &str, name: &str) -> Vec<String> {
    let document = mesh.show(&format!("/v1/namespaces/shop/{kinds}/{name}")).await;
    conditions_of(&document["status"]["parents"][0])
}

fn conditions_of(parent: &Value) -> Vec<String> {
    let said = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        format!("{}={}/{}", text("type"), text("status"), text("reason"))
    };
    parent["conditions"].as_array().into_iter().flatten().map(said).collect()
}

/// The control plane refuses the document at this field.
async fn assert_refused(mesh: &Mesh, document: &str, field: &str) {
    let answer = mesh.api("POST", "/v1/apply", document).await;
    assert!(answer.status.is_client_error(), "{}: {document}", answer.status);
    assert!(answer.text().contains(field), "{field} is not in {}", answer.text());
}

//! The OpenAPI document: the handlers' own descriptions, and the JSON schemas that documents are checked against.

use std::sync::OnceLock;

use axum::Json;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::answer::{
    ApplyAnswer, ChangeAnswer, CreateTokenAnswer, CreateTokenRequest, ErrorAnswer, ErrorContent,
    HealthAnswer, RollbackRequest, ValidateAnswer,
};
use crate::resources::{Kind, Scope, schema_of};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Outrigger control plane",
        description = "Documents, history, join tokens and the state of the mesh. Every request but health and this \
                       document carries the admin token as a bearer token.",
    ),
    paths(
        super::health,
        super::openapi::serve,
        super::documents::apply,
        super::documents::diff,
        super::documents::validate,
        super::documents::documents,
        super::documents::list_in_namespace,
        super::documents::list_everywhere,
        super::documents::get,
        super::documents::put,
        super::documents::delete,
        super::documents::history,
        super::documents::rollback,
        super::tokens::create,
        super::tokens::list,
        super::tokens::revoke,
        super::mesh::proxies,
        super::mesh::services,
        super::mesh::compiled,
        super::mesh::stats,
        super::mesh::certificates,
        super::mesh::rotate,
    ),
    components(schemas(
        ApplyAnswer,
        ChangeAnswer,
        ValidateAnswer,
        RollbackRequest,
        CreateTokenRequest,
        CreateTokenAnswer,
        HealthAnswer,
        ErrorAnswer,
        ErrorContent,
    ))
)]
struct Described;

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "openapi", tag = "about", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Value)))]
pub(crate) async fn serve() -> Json<&'static Value> {
    Json(document())
}

/// The document, made once.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document = serde_json::to_value(Described::openapi()).unwrap_or_default();
        add_kinds(&mut document);
        expand_paths(&mut document);
        add_errors(&mut document);
        document["components"]["securitySchemes"] =
            json!({ "admin": { "type": "http", "scheme": "bearer" } });
        document["security"] = json!([{ "admin": [] }]);
        document
    })
}

/// Puts the kinds' schemas among the components, their inner definitions named after the kind.
fn add_kinds(document: &mut Value) {
    for kind in Kind::ALL {
        let mut schema = schema_of(kind).clone();
        let inner = schema.as_object_mut().and_then(|schema| schema.remove("$defs")).unwrap_or_default();
        point_to_components(&mut schema, kind);
        document["components"]["schemas"][kind.name()] = schema;
        let Value::Object(inner) = inner else { continue };
        for (name, mut schema) in inner {
            point_to_components(&mut schema, kind);
            document["components"]["schemas"][format!("{kind}.{name}")] = schema;
        }
    }
}

fn point_to_components(schema: &mut Value, kind: Kind) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/components/schemas/{kind}.{name}");
            }
            object.values_mut().for_each(|inner| point_to_components(inner, kind));
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| point_to_components(inner, kind)),
        _ => {}
    }
}

/// The handlers serve every kind by one path; readers of the document see one path a kind, with its schema.
fn expand_paths(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    let generic: Vec<String> = paths.keys().filter(|path| path.contains("{kinds}")).cloned().collect();
    let templates: Vec<(String, Value)> =
        generic.into_iter().filter_map(|path| paths.remove(&path).map(|item| (path, item))).collect();
    for (path, item) in templates {
        let one = path.ends_with("/{name}");
        for kind in Kind::ALL {
            let namespaced = path.contains("{namespace}");
            // Documents of a kind without namespace are at /v1/KINDS/NAME, which the handlers share.
            let path = match (kind.scope(), namespaced, one) {
                (Scope::Namespaced, true, _) => path.replace("{kinds}", kind.plural()),
                (Scope::Cluster, true, true) => format!("/v1/{}/{{name}}", kind.plural()),
                (Scope::Cluster, true, false) => continue,
                (_, false, _) => format!("/v1/{}", kind.plural()),
            };
            if !paths.contains_key(&path) {
                let form = match (one, namespaced || kind.scope() == Scope::Cluster) {
                    (true, _) => "",
                    (false, true) => "List",
                    (false, false) => "ListEverywhere",
                };
                paths.insert(path, item_of(&item, kind, form));
            }
        }
    }
}

/// `form` ends the names of the operations; it is empty for those on one document.
fn item_of(template: &Value, kind: Kind, form: &str) -> Value {
    let one = form.is_empty();
    let reference = json!({ "$ref": format!("#/components/schemas/{kind}") });
    let list = json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "items"],
        "properties": {
            "apiVersion": { "const": kind.api_version() },
            "kind": { "const": format!("{kind}List") },
            "metadata": { "type": "object", "properties": { "resourceVersion": { "type": "string" } } },
            "items": { "type": "array", "items": reference },
        },
    });
    let mut item = template.clone();
    for (method, operation) in item.as_object_mut().into_iter().flatten() {
        operation["operationId"] = format!("{method}{kind}{form}").into();
        if let Some(Value::Array(parameters)) = operation.get_mut("parameters") {
            let absent =
                |name: &Value| name == "kinds" || (name == "namespace" && kind.scope() == Scope::Cluster);
            parameters.retain(|parameter| !absent(&parameter["name"]));
        }
        let answer = if one { &reference } else { &list };
        if let Some(Value::Object(content)) = operation.pointer_mut("/requestBody/content") {
            set_schemas(content, &reference);
        }
        for status in ["200", "201"].into_iter().filter(|_| method != "delete") {
            let content = operation.pointer_mut(&format!("/responses/{status}/content"));
            if let Some(Value::Object(content)) = content {
                set_schemas(content, answer);
            }
        }
    }
    item
}

fn set_schemas(content: &mut Map<String, Value>, schema: &Value) {
    content.values_mut().for_each(|media| media["schema"] = schema.clone());
}

/// Every operation answers errors in the one form.
fn add_errors(document: &mut Value) {
    let error = json!({
        "description": "An error",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorAnswer" } } },
    });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (_, item) in paths {
        for (_, operation) in item.as_object_mut().into_iter().flatten() {
            operation["responses"]["default"] = error.clone();
        }
    }
}

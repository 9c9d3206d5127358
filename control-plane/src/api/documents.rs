//! Documents over REST: read, put, delete; apply, diff and validate many; history and rollback.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{ApplyAnswer, RollbackRequest, ValidateAnswer};
use super::auth::Actor;
use super::error::ApiError;
use super::extract::{DocumentText, JsonBody, NoParameters, Parameters, Segments};
use super::{ApiState, off_runtime};
use crate::lint;
use crate::resources::{
    DEFAULT_NAMESPACE, DocumentProblem, Kind, Parsed, Resource, ResourceKey, Scope, is_label, parse_in,
};
use crate::store::{Applied, Change, DryRun, HistoryPage, HistoryQuery, Outcome};

/// The longest page of the history.
const MOST_EVENTS_A_PAGE: usize = 1000;
/// The length of a page where the caller does not say.
const EVENTS_A_PAGE: usize = 100;

/// The parameters of every write.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteParameters {
    /// Check everything, change nothing, and answer as if it were changed.
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// The parameters of writes of many documents.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApplyParameters {
    /// Check everything, change nothing, and answer as if it were changed.
    #[serde(default)]
    dry_run: bool,
    /// The namespace of documents that name none. Default: `default`.
    namespace: Option<String>,
}

/// The parameters of reads of many documents.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DocumentsParameters {
    /// Only of this kind, as `HTTPRoute` or `httproutes`.
    kind: Option<String>,
    /// Only in this namespace.
    namespace: Option<String>,
}

/// The parameters of the history.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryParameters {
    /// Only of this kind, as `HTTPRoute` or `httproutes`.
    kind: Option<String>,
    /// Only in this namespace.
    namespace: Option<String>,
    /// Only of documents of this name.
    name: Option<String>,
    /// At most so many events, 1 to 1000. Default: 100.
    limit: Option<usize>,
    /// Only events older than the one with this id: `next` of the page before.
    before: Option<u64>,
    /// With each document before and after. Default: true.
    documents: Option<bool>,
}

impl WriteParameters {
    fn dry_run(&self) -> DryRun {
        if self.dry_run { DryRun::Yes } else { DryRun::No }
    }
}

impl ApplyParameters {
    fn namespace(&self) -> Result<&str, ApiError> {
        match self.namespace.as_deref() {
            None => Ok(DEFAULT_NAMESPACE),
            Some(namespace) if is_label(namespace) => Ok(namespace),
            Some(namespace) => {
                Err(ApiError::invalid_field("namespace", format!("{namespace:?} is not a DNS label")))
            }
        }
    }
}

/// Creates or changes documents, all or none of them.
///
/// The body is one document, several YAML documents, a JSON array or a `List`. A `resourceVersion` in a
/// document must be current.
#[utoipa::path(post, path = "/v1/apply", tag = "documents", params(ApplyParameters),
    request_body(description = "Documents as YAML or JSON", content((Value = "application/yaml"), (Value = "application/json"))),
    responses((status = 200, description = "What became of each document", body = ApplyAnswer)))]
pub(crate) async fn apply(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    Parameters(parameters): Parameters<ApplyParameters>,
    body: DocumentText,
) -> Result<Response, ApiError> {
    let dry_run = if parameters.dry_run { DryRun::Yes } else { DryRun::No };
    let (changes, warnings) = puts(read(body, parameters.namespace()?).await?, &state).await?;
    let applied = state.store.apply(changes, &actor.0, dry_run).await?;
    log(&applied, &actor, dry_run);
    answer(applied, parameters.dry_run, warnings).await
}

/// Shows what an apply of the same body would change.
#[utoipa::path(post, path = "/v1/diff", tag = "documents", params(ApplyParameters),
    request_body(description = "Documents as YAML or JSON", content((Value = "application/yaml"), (Value = "application/json"))),
    responses((status = 200, description = "What would become of each document", body = ApplyAnswer)))]
pub(crate) async fn diff(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    Parameters(parameters): Parameters<ApplyParameters>,
    body: DocumentText,
) -> Result<Response, ApiError> {
    let (changes, warnings) = puts(read(body, parameters.namespace()?).await?, &state).await?;
    let applied = state.store.apply(changes, &actor.0, DryRun::Yes).await?;
    answer(applied, true, warnings).await
}

/// Checks documents by themselves, without looking at what is there.
#[utoipa::path(post, path = "/v1/validate", tag = "documents", params(ApplyParameters),
    request_body(description = "Documents as YAML or JSON", content((Value = "application/yaml"), (Value = "application/json"))),
    responses((status = 200, description = "Every document is valid", body = ValidateAnswer)))]
pub(crate) async fn validate(
    Parameters(parameters): Parameters<ApplyParameters>,
    body: DocumentText,
) -> Result<Json<ValidateAnswer>, ApiError> {
    let parsed = read(body, parameters.namespace()?).await?;
    let documents = parsed.documents.len();
    let warnings = off_runtime(move || lint::warnings(&parsed)).await?;
    Ok(Json(ValidateAnswer { documents, warnings }))
}

/// Lists documents of every kind, in a form that can be applied again.
#[utoipa::path(get, path = "/v1/documents", operation_id = "listDocuments", tag = "documents", params(DocumentsParameters),
    responses((status = 200, description = "A `List`", body = Value)))]
pub(crate) async fn documents(
    State(state): State<Arc<ApiState>>,
    Parameters(parameters): Parameters<DocumentsParameters>,
) -> Result<Response, ApiError> {
    let kinds = match &parameters.kind {
        Some(kind) => vec![read_kind(kind)?],
        None => Kind::ALL.to_vec(),
    };
    let namespace = parameters.namespace;
    list_of(&state, kinds, namespace, "v1".to_owned(), "List".to_owned()).await
}

/// Lists the documents of a kind in one namespace.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/{kinds}", tag = "documents",
    params(("namespace" = String, Path, description = "The namespace"), ("kinds" = String, Path, description = "The kind")),
    responses((status = 200, description = "The list", body = Value)))]
pub(crate) async fn list_in_namespace(
    State(state): State<Arc<ApiState>>,
    segments: Segments,
    _: Parameters<NoParameters>,
) -> Result<Response, ApiError> {
    let kind = kind_in_path(&segments, Scope::Namespaced)?;
    list(&state, kind, Some(segments.named("namespace").to_owned())).await
}

/// Lists the documents of a kind in all namespaces.
#[utoipa::path(get, path = "/v1/{kinds}", tag = "documents",
    params(("kinds" = String, Path, description = "The kind")),
    responses((status = 200, description = "The list", body = Value)))]
pub(crate) async fn list_everywhere(
    State(state): State<Arc<ApiState>>,
    segments: Segments,
    _: Parameters<NoParameters>,
) -> Result<Response, ApiError> {
    let plural = segments.named("kinds");
    let kind = Kind::from_plural(plural).ok_or_else(|| unknown_kind(plural))?;
    list(&state, kind, None).await
}

/// Reads one document.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/{kinds}/{name}", tag = "documents",
    params(("namespace" = String, Path, description = "The namespace"), ("kinds" = String, Path, description = "The kind"),
        ("name" = String, Path, description = "The name")),
    responses((status = 200, description = "The document; its version is the ETag", body = Value)))]
pub(crate) async fn get(
    State(state): State<Arc<ApiState>>,
    segments: Segments,
) -> Result<Response, ApiError> {
    let key = key_in_path(&segments)?;
    match state.store.current().resource(&key) {
        Some(resource) => {
            let value = with_status(&state, &resource);
            Ok(document_of(StatusCode::OK, &resource, value))
        }
        None => Err(ApiError::not_found(format!("there is no {key}"))),
    }
}

/// Creates or replaces one document.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/{kinds}/{name}", tag = "documents",
    params(("namespace" = String, Path, description = "The namespace"), ("kinds" = String, Path, description = "The kind"),
        ("name" = String, Path, description = "The name"),
        ("If-Match" = Option<String>, Header, description = "The version that the document must have"), WriteParameters),
    request_body(description = "The document as YAML or JSON", content((Value = "application/yaml"), (Value = "application/json"))),
    responses((status = 200, description = "The document as it is now", body = Value),
        (status = 201, description = "The document, new", body = Value)))]
pub(crate) async fn put(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    segments: Segments,
    Parameters(parameters): Parameters<WriteParameters>,
    headers: HeaderMap,
    body: DocumentText,
) -> Result<Response, ApiError> {
    let key = key_in_path(&segments)?;
    let namespace = if key.namespace.is_empty() { DEFAULT_NAMESPACE } else { &key.namespace };
    let mut documents = read(body, namespace).await?.documents;
    let Some(parsed) = documents.pop().filter(|_| documents.is_empty()) else {
        return Err(ApiError::bad_request("the body must be one document; POST /v1/apply takes several"));
    };
    check_place(&parsed.resource.key(), &key)?;
    let resource = with_version(parsed.resource, if_match(&headers)?)?;
    let dry_run = parameters.dry_run();
    let applied = state.store.apply(vec![Change::Put(resource)], &actor.0, dry_run).await?;
    log(&applied, &actor, dry_run);
    let change = applied.changes.into_iter().next();
    let created = change.as_ref().is_some_and(|change| change.outcome == Outcome::Created);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    match change.and_then(|change| change.new) {
        Some(resource) => Ok(document(status, &resource)),
        None => Err(ApiError::not_found(format!("there is no {key}"))),
    }
}

/// Deletes one document.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/{kinds}/{name}", tag = "documents",
    params(("namespace" = String, Path, description = "The namespace"), ("kinds" = String, Path, description = "The kind"),
        ("name" = String, Path, description = "The name"),
        ("If-Match" = Option<String>, Header, description = "The version that the document must have"), WriteParameters),
    responses((status = 200, description = "It is gone", body = ApplyAnswer)))]
pub(crate) async fn delete(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    segments: Segments,
    Parameters(parameters): Parameters<WriteParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let change = Change::Delete { key: key_in_path(&segments)?, resource_version: if_match(&headers)? };
    let dry_run = parameters.dry_run();
    let applied = state.store.apply(vec![change], &actor.0, dry_run).await?;
    log(&applied, &actor, dry_run);
    answer(applied, parameters.dry_run, Vec::new()).await
}

/// Shows what changed, newest first.
#[utoipa::path(get, path = "/v1/history", tag = "documents", params(HistoryParameters),
    responses((status = 200, description = "A page of events", body = HistoryPage)))]
pub(crate) async fn history(
    State(state): State<Arc<ApiState>>,
    Parameters(parameters): Parameters<HistoryParameters>,
) -> Result<Response, ApiError> {
    let limit = parameters.limit.unwrap_or(EVENTS_A_PAGE);
    if !(1..=MOST_EVENTS_A_PAGE).contains(&limit) {
        return Err(ApiError::invalid_field(
            "limit",
            format!("{limit} is out of range, 1 to {MOST_EVENTS_A_PAGE}"),
        ));
    }
    let query = HistoryQuery {
        kind: parameters.kind.as_deref().map(read_kind).transpose()?,
        namespace: parameters.namespace,
        name: parameters.name,
        before: parameters.before,
        limit,
        documents: parameters.documents.unwrap_or(true),
    };
    let page = state.store.history(query).await?;
    off_runtime(move || Json(page).into_response()).await
}

/// Makes the documents what they were at a revision, as a new revision.
#[utoipa::path(post, path = "/v1/rollback", tag = "documents", params(WriteParameters), request_body = RollbackRequest,
    responses((status = 200, description = "What became of each document", body = ApplyAnswer)))]
pub(crate) async fn rollback(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    Parameters(parameters): Parameters<WriteParameters>,
    JsonBody(request): JsonBody<RollbackRequest>,
) -> Result<Response, ApiError> {
    let dry_run = parameters.dry_run();
    let applied = state.store.rollback(request.revision, &actor.0, dry_run).await?;
    log(&applied, &actor, dry_run);
    answer(applied, parameters.dry_run, Vec::new()).await
}

async fn read(body: DocumentText, namespace: &str) -> Result<Parsed, ApiError> {
    let namespace = namespace.to_owned();
    Ok(off_runtime(move || parse_in(&body.text, body.format, &namespace)).await??)
}

/// What a dry run would change is shown as a diff.
async fn answer(
    applied: Applied,
    dry_run: bool,
    warnings: Vec<DocumentProblem>,
) -> Result<Response, ApiError> {
    off_runtime(move || Json(ApplyAnswer::new(&applied, dry_run, warnings)).into_response()).await
}

/// The changes that the documents ask for, and what is most likely not meant once they are made.
async fn puts(parsed: Parsed, state: &ApiState) -> Result<(Vec<Change>, Vec<DocumentProblem>), ApiError> {
    let present = state.store.current();
    off_runtime(move || {
        let warnings = lint::warnings_in(&parsed, &present);
        let changes = parsed.documents.into_iter().map(|document| Change::Put(document.resource));
        (changes.collect(), warnings)
    })
    .await
}

fn log(applied: &Applied, actor: &Actor, dry_run: DryRun) {
    let changed = applied.changes.iter().filter(|change| change.outcome != Outcome::Unchanged);
    for change in changed.filter(|_| dry_run == DryRun::No) {
        tracing::info!(revision = applied.revision, who = %actor.0, document = %change.key, change = %change.outcome, "policy changed");
    }
}

async fn list(state: &Arc<ApiState>, kind: Kind, namespace: Option<String>) -> Result<Response, ApiError> {
    list_of(state, vec![kind], namespace, kind.api_version(), format!("{kind}List")).await
}

async fn list_of(
    state: &Arc<ApiState>,
    kinds: Vec<Kind>,
    namespace: Option<String>,
    api_version: String,
    kind: String,
) -> Result<Response, ApiError> {
    let state = state.clone();
    off_runtime(move || {
        let documents = state.store.current();
        let resources = kinds.into_iter().flat_map(|kind| documents.of_kind(kind, namespace.as_deref()));
        let items: Vec<Value> = resources.map(|resource| with_status(&state, &resource)).collect();
        Json(json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": { "resourceVersion": documents.revision.to_string() },
            "items": items,
        }))
        .into_response()
    })
    .await
}

/// The document, and what became of it where its kind has such a thing.
fn with_status(state: &ApiState, resource: &Resource) -> Value {
    let mut value = resource.to_value();
    if let Some(status) = state.mesh.document_status(&resource.key()) {
        value["status"] = status;
    }
    value
}

fn document(status: StatusCode, resource: &Resource) -> Response {
    document_of(status, resource, resource.to_value())
}

fn document_of(status: StatusCode, resource: &Resource, value: Value) -> Response {
    let mut response = (status, Json(value)).into_response();
    let version = resource.metadata().resource_version.as_deref().unwrap_or_default();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn read_kind(text: &str) -> Result<Kind, ApiError> {
    text.parse::<Kind>().map_err(|error| ApiError::invalid_field("kind", error.to_string()))
}

fn unknown_kind(plural: &str) -> ApiError {
    let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
    ApiError::not_found(format!("there is nothing at {plural:?}; documents are at {}", known.join(", ")))
}

fn kind_in_path(segments: &Segments, scope: Scope) -> Result<Kind, ApiError> {
    let plural = segments.named("kinds");
    let kind = Kind::from_plural(plural).ok_or_else(|| unknown_kind(plural))?;
    match (kind.scope() == scope, scope) {
        (true, _) => Ok(kind),
        (false, Scope::Namespaced) => {
            Err(ApiError::not_found(format!("{kind} is in no namespace; see /v1/{plural}")))
        }
        (false, Scope::Cluster) => Err(ApiError::not_found(format!(
            "{kind} is in a namespace; see /v1/namespaces/NAMESPACE/{plural}"
        ))),
    }
}

/// Serves paths with a namespace and those without alike.
fn key_in_path(segments: &Segments) -> Result<ResourceKey, ApiError> {
    let namespace = segments.named("namespace");
    let scope = if namespace.is_empty() { Scope::Cluster } else { Scope::Namespaced };
    let kind = kind_in_path(segments, scope)?;
    Ok(ResourceKey { kind, namespace: namespace.to_owned(), name: segments.named("name").to_owned() })
}

/// The document must be the one that the path names.
fn check_place(found: &ResourceKey, wanted: &ResourceKey) -> Result<(), ApiError> {
    let must = |wanted: &str| format!("must be {wanted}, as in the path");
    if found.kind != wanted.kind {
        return Err(ApiError::invalid_field("kind", must(wanted.kind.name())));
    }
    if found.namespace != wanted.namespace {
        return Err(ApiError::invalid_field("metadata.namespace", must(&wanted.namespace)));
    }
    if found.name != wanted.name {
        return Err(ApiError::invalid_field("metadata.name", must(&wanted.name)));
    }
    Ok(())
}

/// The version in `If-Match`, with or without the quotes of an entity tag (RFC 9110 section 13.1.1).
fn if_match(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let version = value.to_str().unwrap_or_default().trim().trim_matches('"');
    if version.parse::<u64>().is_err() {
        return Err(ApiError::bad_request("If-Match must be the resourceVersion of the document, in quotes"));
    }
    Ok(Some(version.to_owned()))
}

fn with_version(resource: Resource, version: Option<String>) -> Result<Resource, ApiError> {
    let Some(version) = version else { return Ok(resource) };
    let mut metadata = resource.metadata().clone();
    match metadata.resource_version.replace(version) {
        Some(written) if Some(&written) != metadata.resource_version.as_ref() => {
            Err(ApiError::bad_request("If-Match and metadata.resourceVersion differ; send one of them"))
        }
        _ => Ok(resource.with_metadata(metadata)),
    }
}

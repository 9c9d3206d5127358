//! The mesh over REST: proxies, services, traffic, certificates.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use outrigger_api::ServiceName;
use serde::Deserialize;

use super::answer::ListAnswer;
use super::error::ApiError;
use super::extract::{NoParameters, Parameters, Segments};
use super::{ApiState, off_runtime};
use crate::explain::CompiledService;
use crate::mesh::Rotation;
use crate::resources::Period;
use crate::status::{CertificateStatus, EdgeStats, ProxyStatus, ServiceStatus};

/// The parameters of traffic statistics.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatsParameters {
    /// Over so much of the latest time, as in `10s`. Default: since the proxies started.
    #[param(value_type = Option<String>)]
    window: Option<Period>,
}

/// The parameters of a compiled service.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CompiledParameters {
    /// The namespace of the callers, whose own routes hold for them alone. Default: that of the service.
    client: Option<String>,
}

/// The parameters of a rotation.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RotateParameters {
    /// `issuer` or `root`.
    what: String,
    /// Check the request and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Lists the proxies, and which policy each of them runs.
#[utoipa::path(get, path = "/v1/proxies", tag = "mesh",
    responses((status = 200, description = "The proxies", body = ListAnswer<ProxyStatus>)))]
pub(crate) async fn proxies(
    State(state): State<Arc<ApiState>>,
    _: Parameters<NoParameters>,
) -> Json<ListAnswer<ProxyStatus>> {
    Json(ListAnswer { items: state.mesh.proxies() })
}

/// Lists the services of the mesh, declared or registered, with their endpoints and routes.
#[utoipa::path(get, path = "/v1/services", tag = "mesh",
    responses((status = 200, description = "The services", body = ListAnswer<ServiceStatus>)))]
pub(crate) async fn services(
    State(state): State<Arc<ApiState>>,
    _: Parameters<NoParameters>,
) -> Json<ListAnswer<ServiceStatus>> {
    Json(ListAnswer { items: state.mesh.services() })
}

/// Shows what the proxies of a service's callers are sent, and which documents say so.
#[utoipa::path(get, path = "/v1/compiled/{namespace}/{name}", tag = "mesh", params(CompiledParameters,
        ("namespace" = String, Path, description = "The namespace"), ("name" = String, Path, description = "The service")),
    responses((status = 200, description = "The service as it is called", body = CompiledService)))]
pub(crate) async fn compiled(
    State(state): State<Arc<ApiState>>,
    segments: Segments,
    Parameters(parameters): Parameters<CompiledParameters>,
) -> Result<Json<CompiledService>, ApiError> {
    let (namespace, name) = (segments.named("namespace"), segments.named("name"));
    let service = ServiceName::new(namespace, name)
        .map_err(|error| ApiError::bad_request(format!("not the name of a service: {error}")))?;
    let client = parameters.client.unwrap_or_else(|| namespace.to_owned());
    let mesh = Arc::clone(&state.mesh);
    let compiled = off_runtime(move || mesh.explain(&service, &client)).await?;
    compiled.map(Json).ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no service {name}.{namespace}: no document declares it and no proxy has registered it"
        ))
    })
}

/// Shows traffic by edge: requests, success, latency.
#[utoipa::path(get, path = "/v1/stats", tag = "mesh", params(StatsParameters),
    responses((status = 200, description = "The edges", body = ListAnswer<EdgeStats>)))]
pub(crate) async fn stats(
    State(state): State<Arc<ApiState>>,
    Parameters(parameters): Parameters<StatsParameters>,
) -> Json<ListAnswer<EdgeStats>> {
    Json(ListAnswer { items: state.mesh.stats(parameters.window.map(Period::duration)) })
}

/// Shows the certificate authority's certificates.
#[utoipa::path(get, path = "/v1/certificates", tag = "mesh",
    responses((status = 200, description = "The authority", body = CertificateStatus)))]
pub(crate) async fn certificates(
    State(state): State<Arc<ApiState>>,
    _: Parameters<NoParameters>,
) -> Json<CertificateStatus> {
    Json(state.mesh.certificates())
}

/// Starts replacing the issuer or the root, without an outage.
#[utoipa::path(post, path = "/v1/certificates/rotate", tag = "mesh", params(RotateParameters),
    responses((status = 200, description = "The authority as it is now", body = CertificateStatus)))]
pub(crate) async fn rotate(
    State(state): State<Arc<ApiState>>,
    Parameters(parameters): Parameters<RotateParameters>,
) -> Result<Json<CertificateStatus>, ApiError> {
    let what: Rotation = parameters.what.parse()?;
    if parameters.dry_run {
        return Ok(Json(state.mesh.certificates()));
    }
    let mesh = Arc::clone(&state.mesh);
    Ok(Json(off_runtime(move || mesh.rotate(what)).await??))
}

//! Join tokens over REST. The secret leaves in the answer that makes it, and is not kept.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use http::header::CACHE_CONTROL;
use outrigger_certs::JoinToken;

use super::ApiState;
use super::answer::{CreateTokenAnswer, CreateTokenRequest, ListAnswer};
use super::auth::Actor;
use super::documents::WriteParameters;
use super::error::ApiError;
use super::extract::{JsonBody, NoParameters, Parameters, Segments};
use crate::resources::Period;
use crate::token::{DEFAULT_TOKEN_TTL, TokenError, TokenRequest, TokenStatus};

/// Makes a join token for one identity.
#[utoipa::path(post, path = "/v1/tokens", operation_id = "createToken", tag = "tokens", params(WriteParameters),
    request_body = CreateTokenRequest,
    responses((status = 201, description = "The token, shown this once", body = CreateTokenAnswer),
        (status = 204, description = "A dry run: the token could be made")))]
pub(crate) async fn create(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    Parameters(parameters): Parameters<WriteParameters>,
    JsonBody(body): JsonBody<CreateTokenRequest>,
) -> Result<Response, ApiError> {
    let ttl = match body.ttl.as_deref().map(str::parse::<Period>) {
        None => DEFAULT_TOKEN_TTL,
        Some(Ok(period)) => period.duration(),
        Some(Err(error)) => return Err(ApiError::invalid_field("ttl", error.to_string())),
    };
    let request = TokenRequest { namespace: body.namespace, service_account: body.service_account, ttl };
    if parameters.dry_run {
        request.check()?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let token =
        JoinToken::generate(state.mesh.root_fingerprint()).map_err(|error| internal(&error.to_string()))?;
    let made = state.store.create_token(request, token.secret_hash(), &actor.0).await?;
    tracing::info!(
        who = %actor.0, id = %made.id, namespace = %made.namespace, service_account = %made.service_account,
        expires = %made.expires_at, "join token made"
    );
    let answer = CreateTokenAnswer {
        token: token.to_string(),
        id: made.id,
        namespace: made.namespace,
        service_account: made.service_account,
        expires_at: made.expires_at,
    };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Lists join tokens, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", operation_id = "listTokens", tag = "tokens",
    responses((status = 200, description = "The tokens, soonest to expire first", body = ListAnswer<TokenStatus>)))]
pub(crate) async fn list(
    State(state): State<Arc<ApiState>>,
    _: Parameters<NoParameters>,
) -> Result<Json<ListAnswer<TokenStatus>>, ApiError> {
    Ok(Json(ListAnswer { items: state.store.tokens().await? }))
}

/// Revokes a join token. Certificates that it was traded for stay good until they expire.
#[utoipa::path(delete, path = "/v1/tokens/{id}", operation_id = "revokeToken", tag = "tokens",
    params(("id" = String, Path, description = "The token's id"), WriteParameters),
    responses((status = 204, description = "It is worthless now")))]
pub(crate) async fn revoke(
    State(state): State<Arc<ApiState>>,
    Extension(actor): Extension<Actor>,
    segments: Segments,
    Parameters(parameters): Parameters<WriteParameters>,
) -> Result<StatusCode, ApiError> {
    let id = segments.named("id");
    if parameters.dry_run {
        let there = state.store.tokens().await?.iter().any(|token| token.id == id);
        return if there {
            Ok(StatusCode::NO_CONTENT)
        } else {
            Err(TokenError::NotFound(id.to_owned()).into())
        };
    }
    state.store.revoke_token(id).await?;
    tracing::info!(who = %actor.0, id, "join token revoked");
    Ok(StatusCode::NO_CONTENT)
}

fn internal(message: &str) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", message)
}

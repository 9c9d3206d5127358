//! The REST API under `/v1`: documents in, the state of the mesh out.
//!
//! Every request but health and the OpenAPI document needs the admin token. Every write is validated first and
//! can run dry. Whatever goes wrong is answered in one JSON form. The API holds no state of its own: documents and
//! tokens are the store's, everything else is the mesh's.

mod answer;
mod auth;
mod documents;
mod error;
mod extract;
mod mesh;
mod openapi;
mod server;
#[cfg(test)]
mod tests;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};
use http::{Method, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mesh::Mesh;
use crate::store::Store;
use error::ApiError;

pub use answer::{
    ApplyAnswer, ChangeAnswer, CreateTokenAnswer, CreateTokenRequest, ErrorAnswer, ErrorContent,
    HealthAnswer, ListAnswer, RollbackRequest, ValidateAnswer,
};
pub use auth::{ADMIN_TOKEN_FILE, AdminToken, AdminTokenError};
pub use extract::BODY_LIMIT_BYTES;

/// How long one request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the handlers share.
#[derive(Debug)]
pub struct ApiState {
    /// Documents, history and tokens.
    pub store: Arc<Store>,
    /// Proxies, services, traffic and certificates.
    pub mesh: Arc<Mesh>,
    /// What callers must bring.
    pub admin_token: AdminToken,
}

/// The API while it serves. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Serves on a listener, on the runtime that this is called in.
    ///
    /// # Errors
    /// The listener does not know its address.
    pub fn start(listener: TcpListener, state: ApiState) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(server::serve(listener, router(state), stop.clone()));
        Ok(Self { address, stop: stop.drop_guard(), task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, and returns when requests under way are answered, or after five seconds.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the API ended badly");
        }
    }
}

fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let one = get(documents::get).put(documents::put).delete(documents::delete);
    let protected = Router::new()
        .route("/v1/apply", post(documents::apply))
        .route("/v1/diff", post(documents::diff))
        .route("/v1/validate", post(documents::validate))
        .route("/v1/documents", get(documents::documents))
        .route("/v1/history", get(documents::history))
        .route("/v1/rollback", post(documents::rollback))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/proxies", get(mesh::proxies))
        .route("/v1/services", get(mesh::services))
        .route("/v1/compiled/{namespace}/{name}", get(mesh::compiled))
        .route("/v1/stats", get(mesh::stats))
        .route("/v1/certificates", get(mesh::certificates))
        .route("/v1/certificates/rotate", post(mesh::rotate))
        .route("/v1/namespaces/{namespace}/{kinds}", get(documents::list_in_namespace))
        .route("/v1/namespaces/{namespace}/{kinds}/{name}", one.clone())
        .route("/v1/{kinds}", get(documents::list_everywhere))
        .route("/v1/{kinds}/{name}", one)
        .route_layer(from_fn_with_state(Arc::clone(&state), auth::require_admin));
    Router::new()
        .route("/healthz", get(health))
        .route("/v1/openapi.json", get(openapi::serve))
        .merge(protected)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(within_time))
        .with_state(state)
}

/// Whether the control plane serves. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "about", security(()),
    responses((status = 200, description = "It serves", body = HealthAnswer)))]
async fn health() -> Json<HealthAnswer> {
    Json(HealthAnswer { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Runs work that may take long, as reading or comparing megabytes does, where it holds up nobody else.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let (status, reason) = match error.is_panic() {
            true => (StatusCode::INTERNAL_SERVER_ERROR, "Internal"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
        };
        ApiError::new(status, reason, format!("the request was not finished: {error}"))
    })
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "there is nothing at {}; GET /v1/openapi.json lists what there is",
        uri.path()
    ))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{method} is not served at {}; the Allow header lists what is", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

async fn within_time(request: Request<Body>, next: Next) -> Result<Response, ApiError> {
    let changes = may_change(request.method(), request.uri().path());
    tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await.map_err(|_| {
        let more = if changes { "; a change may have been made: read it again" } else { "" };
        let message = format!("no answer within {} s{more}", REQUEST_TIMEOUT.as_secs());
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    })
}

/// Whether a request can have changed anything.
fn may_change(method: &Method, path: &str) -> bool {
    !method.is_safe() && !matches!(path, "/v1/diff" | "/v1/validate")
}

//! Errors as the REST API tells them: one JSON form, a status, a word for programs and a sentence for people.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};

use super::answer::{ErrorAnswer, ErrorContent};
use crate::mesh::RotationError;
use crate::resources::{DocumentProblem, Rejected};
use crate::store::{ApplyError, StoreError};
use crate::token::TokenError;

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    reason: &'static str,
    message: String,
    details: Vec<DocumentProblem>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), details: Vec::new() }
    }

    /// 400: the request itself is wrong.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// 422: the request is well-formed, and a field of it is wrong; an empty field is the body as a whole.
    pub(crate) fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let whole = if field.is_empty() { message.clone() } else { format!("{field}: {message}") };
        let problem =
            DocumentProblem { document: None, line: None, resource: None, field: field.to_owned(), message };
        Self { details: vec![problem], ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", whole) }
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(reason = self.reason, message = %self.message, "the API answers with an error");
        }
        let content =
            ErrorContent { reason: self.reason.to_owned(), message: self.message, details: self.details };
        let mut response = (self.status, Json(ErrorAnswer { error: content })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Text that cannot be read is a bad request; documents that can be read and are wrong are invalid.
impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let (status, reason) = match rejected.malformed {
            true => (StatusCode::BAD_REQUEST, "BadRequest"),
            false => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
        };
        let message = match rejected.problems.as_slice() {
            [only] => only.to_string(),
            several => format!("{} problems, nothing was changed", several.len()),
        };
        Self { details: rejected.problems, ..Self::new(status, reason, message) }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", error.to_string())
            }
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", with_causes(&error)),
        }
    }
}

/// An error and what caused it, in one sentence.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let message = error.to_string();
        match error {
            ApplyError::Conflict { .. } => Self::new(StatusCode::CONFLICT, "Conflict", message),
            ApplyError::NotFound(_) => Self::not_found(message),
            // The sentence names the field by itself.
            ApplyError::Revision { .. } => {
                Self { message: message.clone(), ..Self::invalid_field("revision", message) }
            }
            ApplyError::Outdated { .. } | ApplyError::Full(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            }
            ApplyError::Store(error) => error.into(),
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let whole = error.to_string();
        match error {
            TokenError::Invalid { field, message } => Self::invalid_field(field, message),
            TokenError::NotFound(_) => Self::not_found(whole),
            TokenError::Full(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", whole),
            // Only a proxy redeems tokens, and not here.
            TokenError::Unknown | TokenError::Expired(_) => Self::unauthorized(whole),
            TokenError::Store(error) => error.into(),
        }
    }
}

impl From<RotationError> for ApiError {
    fn from(error: RotationError) -> Self {
        let message = error.to_string();
        match error {
            RotationError::Unknown(_) => Self::invalid_field("what", message),
            RotationError::Busy(_) => Self::new(StatusCode::CONFLICT, "Conflict", message),
            RotationError::Authority(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", message),
        }
    }
}

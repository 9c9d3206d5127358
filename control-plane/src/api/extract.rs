//! What handlers take out of a request: query parameters, segments of the path, documents, JSON. Whatever is wrong
//! with them becomes the API's own form of error.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams};
use axum::http::Request;
use axum::http::request::Parts;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::resources::Format;

/// The largest body that is read, bytes.
pub const BODY_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// The parameters behind the `?`. An unknown one is refused: a misspelt `dryRun` must not change anything.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(error) => Err(ApiError::bad_request(format!("query: {}", error.body_text()))),
        }
    }
}

/// No parameters: what cannot be filtered is not silently shown whole.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParameters {}

/// The variable segments of the path, in their order.
pub(crate) struct Segments(Vec<(String, String)>);

impl Segments {
    /// The segment of this name; routes name those that they have.
    pub(crate) fn named(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl<S: Sync + Send> FromRequestParts<S> for Segments {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let segments = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::bad_request(format!("path: {error}")))?;
        Ok(Self(segments.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }
}

/// A body of documents, YAML or JSON by its content type.
pub(crate) struct DocumentText {
    pub(crate) text: String,
    pub(crate) format: Format,
}

impl<S: Sync> FromRequest<S> for DocumentText {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, ApiError> {
        let format = document_format(request.headers())?;
        Ok(Self { text: read_text(request).await?, format })
    }
}

/// A JSON body of one of the API's own types.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, ApiError> {
        match media_type(request.headers()).as_deref() {
            None | Some("application/json") => {}
            Some(other) => return Err(unsupported(other, "application/json")),
        }
        let text = read_text(request).await?;
        let mut reader = serde_json::Deserializer::from_str(&text);
        match serde_path_to_error::deserialize(&mut reader) {
            Ok(value) => reader
                .end()
                .map(|()| Self(value))
                .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}"))),
            Err(error) if error.inner().is_data() => {
                let field = error.path().to_string();
                let message = error.into_inner().to_string();
                Err(ApiError::invalid_field(field.trim_matches('.'), message))
            }
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {}", error.into_inner()))),
        }
    }
}

/// The type of the body without its parameters; none where it is not said.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().unwrap_or("unreadable");
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn document_format(headers: &HeaderMap) -> Result<Format, ApiError> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(Format::Json),
        // JSON is YAML, so that a body of no stated type is read either way.
        None | Some("application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml") => {
            Ok(Format::Yaml)
        }
        Some(other) => Err(unsupported(other, "application/yaml or application/json")),
    }
}

fn unsupported(found: &str, wanted: &str) -> ApiError {
    let message = format!("the content type {found:?} is not supported; send {wanted}");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
}

fn too_large() -> ApiError {
    let message = format!("the body is longer than {} MiB", BODY_LIMIT_BYTES >> 20);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", message)
}

async fn read_text(request: Request<Body>) -> Result<String, ApiError> {
    // One that says it is too long is not read at all.
    if request.body().size_hint().lower() > BODY_LIMIT_BYTES as u64 {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), BODY_LIMIT_BYTES);
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Err(error) => return Err(ApiError::bad_request(format!("the body broke off: {error}"))),
    };
    String::from_utf8(bytes.into()).map_err(|_| ApiError::bad_request("the body is not UTF-8 text"))
}

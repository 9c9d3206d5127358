//! What callers get when nobody can answer them: the `fallback` of a `ServicePolicy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{FieldPath, Problems};

/// What a fallback's body may have at most, in bytes.
const MOST_BODY_BYTES: usize = 16 << 10;

/// Fields that the proxy itself writes.
const RESERVED: [&str; 6] = [
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "outrigger-error",
    "outrigger-fallback",
];

/// A static answer in place of 503, where no backend of a request's rule has an endpoint that could be used. gRPC
/// callers get the failure all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fallback {
    /// The status. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// The `content-type` of the body. Default: `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The body, up to 16 KiB of text. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// More fields of the answer. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<FallbackHeader>,
    /// What it is used for. Default: both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub on: Vec<FallbackReason>,
}

/// A field of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Why nobody can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FallbackReason {
    /// Nothing is ready behind the backends.
    NoEndpoints,
    /// The circuit breakers of all that is ready are open.
    BreakerOpen,
}

impl Fallback {
    /// The status, as what was written or by default.
    pub(crate) fn status(&self) -> u16 {
        self.status.unwrap_or(200)
    }

    /// Whether it is used for this reason.
    pub(crate) fn covers(&self, reason: FallbackReason) -> bool {
        self.on.is_empty() || self.on.contains(&reason)
    }

    pub(crate) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        let body = self.body.as_deref().unwrap_or_default();
        if body.len() > MOST_BODY_BYTES {
            let problem = format!("has {} bytes, more than {MOST_BODY_BYTES}", body.len());
            problems.error(&path.field("body"), problem);
        }
        if matches!(self.status(), 204 | 205 | 304) && !body.is_empty() {
            problems.error(&path.field("body"), format!("must be left out with status {}", self.status()));
        }
        if let Some(kind) = &self.content_type
            && (kind.is_empty() || http::HeaderValue::from_str(kind).is_err())
        {
            problems.error(&path.field("contentType"), format!("{kind:?} is not a header value"));
        }
        for (index, header) in self.headers.iter().enumerate() {
            let path = path.field("headers").index(index);
            let name = header.name.to_ascii_lowercase();
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                problems.error(&path.field("name"), format!("{:?} is not a name of a header", header.name));
            } else if RESERVED.contains(&&*name) {
                problems.error(&path.field("name"), format!("{name:?} is written by the proxy itself"));
            }
            if http::HeaderValue::from_str(&header.value).is_err() {
                problems.error(&path.field("value"), format!("{:?} is not a header value", header.value));
            }
        }
    }
}

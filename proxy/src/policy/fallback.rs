//! The answer where nobody can give one.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use outrigger_api::v1;

use super::problem::{Path, Problems};
use super::routes::fields;
use crate::fallback::Fallback;

/// Reads a fallback; absent is none.
pub(super) fn fallback(
    raw: Option<&v1::Fallback>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<Arc<Fallback>> {
    let raw = raw?;
    let status = u16::try_from(raw.status).ok().filter(|status| (200..=599).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    if status.is_none() {
        problems.add(&path.field("status"), format!("{} is not a status, 200 to 599", raw.status));
    }
    let headers = fields(&raw.headers, &path.field("headers"), problems);
    let policy = problems.ok(HeaderValue::try_from(&*raw.policy), &path.field("policy"));
    Some(Arc::new(Fallback {
        headers,
        body: Bytes::copy_from_slice(&raw.body),
        on_no_endpoints: raw.on_no_endpoints,
        on_breaker_open: raw.on_breaker_open,
        policy: policy?,
        status: status?,
    }))
}

//! The answers that a proxy makes itself.
//!
//! Each says which side made it, why, and what to check, in the header `outrigger-error` and in one JSON object.
//! A gRPC caller gets a trailers-only answer instead, since it reads nothing else.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::body::Body;
use crate::failure::{Failure, Side};
use crate::headers;

#[derive(Serialize)]
struct Explanation<'a> {
    error: &'a str,
    by: &'a str,
    message: &'a str,
    hint: &'a str,
    request_id: &'a str,
}

/// The value of `outrigger-error`.
pub(crate) fn error_header(failure: Failure, side: Side) -> HeaderValue {
    HeaderValue::try_from(format!("{failure}; by={side}")).expect("names are visible ASCII")
}

/// The JSON body that explains a failure.
pub(crate) fn explanation(failure: Failure, side: Side, request_id: &str) -> Bytes {
    let facts = failure.facts();
    let explanation = Explanation {
        error: facts.name,
        by: side.as_str(),
        message: facts.message,
        hint: facts.hint,
        request_id,
    };
    let mut text = serde_json::to_vec(&explanation).expect("strings always serialise");
    text.push(b'\n');
    Bytes::from(text)
}

/// The whole answer to a request that `side` could not serve.
pub(crate) fn refuse(failure: Failure, side: Side, grpc: bool, request_id: &str) -> Response<Body> {
    let facts = failure.facts();
    let mut response = if grpc {
        let mut response = Response::new(Body::Empty);
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert("grpc-status", HeaderValue::from(u16::from(facts.grpc)));
        let message = format!("{}: {}; {}", facts.name, facts.message, facts.hint);
        // The texts are printable ASCII without '%', so that percent-encoding has nothing to do.
        fields.insert("grpc-message", HeaderValue::try_from(message).expect("texts are visible ASCII"));
        response
    } else {
        let mut response = Response::new(Body::Whole(Some(explanation(failure, side, request_id))));
        *response.status_mut() = facts.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    response.headers_mut().insert(headers::ERROR, error_header(failure, side));
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The bytes of an HTTP/1 answer to a message that never became a request, after which the connection closes.
pub(crate) fn raw_http1(failure: Failure, side: Side) -> Vec<u8> {
    let facts = failure.facts();
    let body = explanation(failure, side, "");
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}: {failure}; by={side}\r\n\r\n",
        facts.status.as_u16(),
        facts.status.canonical_reason().unwrap_or("Error"),
        body.len(),
        headers::ERROR,
    )
    .into_bytes();
    text.extend_from_slice(&body);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_can_be_answered_both_ways() {
        for failure in Failure::ALL {
            for side in [Side::Inbound, Side::Outbound] {
                let http = refuse(failure, side, false, "id");
                assert_eq!(http.status(), failure.facts().status);
                let grpc = refuse(failure, side, true, "id");
                assert_eq!(grpc.status(), StatusCode::OK);
                assert_eq!(grpc.headers()["grpc-status"], failure.facts().grpc.to_string().as_str());
                assert!(raw_http1(failure, side).starts_with(b"HTTP/1.1 "));
            }
        }
    }
}

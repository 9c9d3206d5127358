//! What a request looks like as OpenTelemetry spans.
//!
//! One server span inbound, or one client span outbound with a child for each attempt. Attributes follow the
//! stable [HTTP semantic conventions]; what they have no name for is under `outrigger.`. The path goes in without
//! its query, which may hold secrets.
//!
//! [HTTP semantic conventions]: https://opentelemetry.io/docs/specs/semconv/http/http-spans/

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::{Method, Version};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::exchange::{Attempt, Exchange, NO_STATUS, is_grpc_server_error};
use crate::failure::{Failure, Side};

/// Longer texts from a request are cut.
const MAX_TEXT_BYTES: usize = 1024;

/// How many spans [`push_spans`] makes of a request.
pub(super) fn span_count(exchange: &Exchange) -> u64 {
    1 + attempts(exchange).len() as u64
}

/// Inbound, the attempt is the application's turn and has no span of its own: the application's span is the
/// server span's child.
fn attempts(exchange: &Exchange) -> &[Attempt] {
    match exchange.side {
        Side::Outbound => &exchange.attempts,
        Side::Inbound => &[],
    }
}

/// Makes the spans of one request.
pub(super) fn push_spans(exchange: Exchange, scope: &InstrumentationScope, batch: &mut Vec<SpanData>) {
    let name = name(&exchange);
    for (index, attempt) in attempts(&exchange).iter().enumerate() {
        batch.push(attempt_span(&exchange, attempt, index, &name, scope));
    }
    batch.push(exchange_span(&exchange, name, scope));
}

fn exchange_span(exchange: &Exchange, name: String, scope: &InstrumentationScope) -> SpanData {
    let kind = match exchange.side {
        Side::Outbound => SpanKind::Client,
        Side::Inbound => SpanKind::Server,
    };
    let answer = Answer {
        status: Some(exchange.status).filter(|status| *status != NO_STATUS),
        grpc_status: exchange.grpc_status,
        failure: exchange.failure,
    };
    let trace = &exchange.trace;
    let parent = trace.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_bytes()));
    SpanData {
        span_context: context(exchange, trace.span_id),
        parent_span_id: parent,
        parent_span_is_remote: trace.parent_is_remote,
        span_kind: kind.clone(),
        name: name.into(),
        start_time: exchange.started_at,
        end_time: exchange.started_at + exchange.duration,
        attributes: exchange_attributes(exchange, &answer, &kind),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: answer.span_status(&kind),
        instrumentation_scope: scope.clone(),
    }
}

fn attempt_span(
    exchange: &Exchange,
    attempt: &Attempt,
    index: usize,
    name: &str,
    scope: &InstrumentationScope,
) -> SpanData {
    let answer =
        Answer { status: attempt.status, grpc_status: attempt.grpc_status, failure: attempt.failure };
    let start_time: SystemTime =
        exchange.started_at + attempt.started.saturating_duration_since(exchange.started);
    let mut attributes = vec![KeyValue::new("http.request.method", method(&exchange.method))];
    if index > 0 {
        attributes.push(KeyValue::new("http.request.resend_count", index as i64));
    }
    if let Some(service) = &exchange.service {
        attributes.push(KeyValue::new("server.address", service.to_string()));
        attributes.push(KeyValue::new("server.port", i64::from(exchange.port)));
    }
    if let Some(endpoint) = attempt.endpoint {
        push_address(&mut attributes, "network.peer.address", "network.peer.port", endpoint);
    }
    if let Some(peer) = &attempt.peer {
        attributes.push(KeyValue::new("outrigger.peer", peer.to_string()));
    }
    answer.push_attributes(&mut attributes, &SpanKind::Client);
    SpanData {
        span_context: context(exchange, attempt.span_id),
        parent_span_id: SpanId::from_bytes(exchange.trace.span_id.to_bytes()),
        parent_span_is_remote: false,
        span_kind: SpanKind::Client,
        name: Cow::Owned(name.to_owned()),
        start_time,
        end_time: start_time + attempt.duration,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: answer.span_status(&SpanKind::Client),
        instrumentation_scope: scope.clone(),
    }
}

fn context(exchange: &Exchange, span: crate::trace::SpanId) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(exchange.trace.trace_id.to_bytes()),
        SpanId::from_bytes(span.to_bytes()),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

/// The conventions ask for few distinct names: the method and the service, never the path; gRPC's own convention
/// is the method's full name, of which a service has few.
fn name(exchange: &Exchange) -> String {
    if exchange.grpc_status.is_some() {
        return cut(exchange.uri.path().trim_start_matches('/')).to_owned();
    }
    let method = match method(&exchange.method) {
        "_OTHER" => "HTTP",
        known => known,
    };
    match &exchange.service {
        Some(service) => format!("{method} {service}"),
        None => method.to_owned(),
    }
}

/// The methods that the conventions know; another is a caller's own text.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 10] =
        ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

fn exchange_attributes(exchange: &Exchange, answer: &Answer, kind: &SpanKind) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(20);
    let mut put =
        |name: &'static str, value: opentelemetry::Value| attributes.push(KeyValue::new(name, value));
    let method = method(&exchange.method);
    put("http.request.method", method.into());
    if method == "_OTHER" {
        put("http.request.method_original", cut(exchange.method.as_str()).to_owned().into());
    }
    put("url.scheme", "http".into());
    put("url.path", cut(exchange.uri.path()).to_owned().into());
    if let Some(service) = &exchange.service {
        put("server.address", service.to_string().into());
        put("outrigger.service", service.to_string().into());
    }
    if exchange.port != 0 {
        put("server.port", i64::from(exchange.port).into());
    }
    put("network.protocol.name", "http".into());
    put("network.protocol.version", version(exchange.version).into());
    put("http.request.body.size", bytes(exchange.request_bytes).into());
    put("http.response.body.size", bytes(exchange.response_bytes).into());
    put("outrigger.direction", exchange.side.as_str().into());
    put("outrigger.mtls", exchange.mtls.into());
    put("outrigger.retries", (exchange.retries() as i64).into());
    if let Some(route) = &exchange.route {
        put("outrigger.route", route.to_string().into());
    }
    if let Some(peer) = &exchange.peer {
        put("outrigger.peer", peer.to_string().into());
    }
    if let Some(id) = &exchange.request_id {
        put("outrigger.request_id", cut(&String::from_utf8_lossy(id.as_bytes())).to_owned().into());
    }
    let policies =
        [("outrigger.policy", &exchange.policy), ("outrigger.audit_policy", &exchange.audit_policy)];
    for (key, policy) in policies {
        if let Some(policy) = policy {
            put(key, policy.to_string().into());
        }
    }
    if let Some(client) = exchange.client {
        push_address(&mut attributes, "client.address", "client.port", client);
    }
    answer.push_attributes(&mut attributes, kind);
    attributes
}

fn push_address(
    attributes: &mut Vec<KeyValue>,
    address: &'static str,
    port: &'static str,
    value: SocketAddr,
) {
    attributes.push(KeyValue::new(address, value.ip().to_string()));
    attributes.push(KeyValue::new(port, i64::from(value.port())));
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// At most [`MAX_TEXT_BYTES`] of a text that a caller chose.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

/// How a request or an attempt ended.
struct Answer {
    status: Option<u16>,
    grpc_status: Option<u8>,
    failure: Option<Failure>,
}

impl Answer {
    /// A client's span also fails on 4xx, a server's only on 5xx; gRPC likewise, by code.
    fn is_error(&self, kind: &SpanKind) -> bool {
        let client = *kind == SpanKind::Client;
        let least = if client { 400 } else { 500 };
        let grpc = self.grpc_status.is_some_and(|code| is_grpc_server_error(code) || client && code != 0);
        self.failure.is_some() || grpc || self.status.is_none_or(|status| status >= least)
    }

    fn push_attributes(&self, attributes: &mut Vec<KeyValue>, kind: &SpanKind) {
        if let Some(status) = self.status {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if let Some(code) = self.grpc_status {
            attributes.push(KeyValue::new("rpc.system", "grpc"));
            attributes.push(KeyValue::new("rpc.grpc.status_code", i64::from(code)));
        }
        if let Some(failure) = self.failure {
            attributes.push(KeyValue::new("outrigger.error", failure.name()));
        }
        if self.is_error(kind) {
            attributes.push(KeyValue::new("error.type", self.error_type()));
        }
    }

    fn error_type(&self) -> String {
        match (self.failure, self.grpc_status, self.status) {
            (Some(failure), ..) => failure.name().to_owned(),
            (None, Some(code), _) if code != 0 => code.to_string(),
            (None, _, Some(status)) => status.to_string(),
            (None, _, None) => "canceled".to_owned(),
        }
    }

    fn span_status(&self, kind: &SpanKind) -> Status {
        match (self.is_error(kind), self.failure) {
            (false, _) => Status::Unset,
            (true, Some(failure)) => Status::error(failure.facts().message),
            (true, None) => Status::error(""),
        }
    }
}

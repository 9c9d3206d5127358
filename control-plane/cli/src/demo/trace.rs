//! One request's spans, put together and drawn as a tree.

use std::collections::BTreeSet;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, span::SpanKind, status::StatusCode};
use serde_json::{Value, json};

use crate::output::{ACCENT, BAD, DIM, paint};

/// A trace's id as it is on the wire.
pub(crate) type TraceId = [u8; 16];
/// A span's id; eight zeros name no span.
pub(crate) type SpanId = [u8; 8];

/// How wide the bars are, characters.
const BAR_WIDTH: u64 = 30;

/// What is shown of a span.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    /// Whose proxy made it.
    pub(crate) service: String,
    pub(crate) id: SpanId,
    pub(crate) parent: SpanId,
    pub(crate) name: String,
    /// `server`, `client` or empty for what happens inside.
    pub(crate) kind: &'static str,
    pub(crate) start_nanos: u64,
    pub(crate) end_nanos: u64,
    /// The HTTP status, where there is one.
    pub(crate) status: Option<i64>,
    pub(crate) failed: bool,
}

impl Span {
    /// The name of the service that the spans belong to.
    pub(crate) fn service_of(resource: &ResourceSpans) -> String {
        let attributes = resource.resource.as_ref().map(|resource| resource.attributes.as_slice());
        match attributes.and_then(|attributes| find(attributes, "service.name")) {
            Some(any_value::Value::StringValue(name)) => name.clone(),
            _ => "unknown".to_owned(),
        }
    }

    /// Reads a span and the trace that it belongs to; one whose ids are malformed belongs to none.
    pub(crate) fn read(
        service: &str,
        span: &opentelemetry_proto::tonic::trace::v1::Span,
    ) -> Option<(TraceId, Self)> {
        let trace = TraceId::try_from(span.trace_id.as_slice()).ok()?;
        let id = SpanId::try_from(span.span_id.as_slice()).ok()?;
        let status = match find(&span.attributes, "http.response.status_code") {
            Some(any_value::Value::IntValue(status)) => Some(*status),
            _ => None,
        };
        let failed = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        let span = Self {
            service: service.to_owned(),
            id,
            parent: SpanId::try_from(span.parent_span_id.as_slice()).unwrap_or_default(),
            name: span.name.clone(),
            kind: match span.kind() {
                SpanKind::Server => "server",
                SpanKind::Client => "client",
                _ => "",
            },
            start_nanos: span.start_time_unix_nano,
            end_nanos: span.end_time_unix_nano.max(span.start_time_unix_nano),
            status,
            failed: failed || status.is_some_and(|status| status >= 500),
        };
        Some((trace, span))
    }

    fn duration(&self) -> Duration {
        Duration::from_nanos(self.end_nanos - self.start_nanos)
    }
}

fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

/// The spans of one request, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Trace {
    pub(crate) spans: Vec<Span>,
}

impl Trace {
    /// Whether an attempt in it failed, which makes it worth looking at.
    pub(crate) fn has_failure(&self) -> bool {
        self.spans.iter().any(|span| span.failed)
    }

    /// Whether there is one root, every parent is there, and every service took part.
    pub(crate) fn is_whole(&self, services: &[&str]) -> bool {
        let known = |id: SpanId| self.spans.iter().any(|span| span.id == id);
        let roots = self.spans.iter().filter(|span| span.parent == SpanId::default()).count();
        roots == 1
            && self.spans.iter().all(|span| span.parent == SpanId::default() || known(span.parent))
            && services.iter().all(|service| self.spans.iter().any(|span| span.service.starts_with(service)))
    }

    /// The tree, a line a span, with bars for when each happened.
    pub(crate) fn draw(&self) -> String {
        let lines = self.lines();
        let label_width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let begin = self.spans.iter().map(|span| span.start_nanos).min().unwrap_or(0);
        let end = self.spans.iter().map(|span| span.end_nanos).max().unwrap_or(0);
        let mut text = String::new();
        for (label, span) in lines {
            let room = " ".repeat(label_width - label.chars().count());
            let status = span.status.map_or_else(|| "   ".to_owned(), |status| format!("{status:>3}"));
            let style = if span.failed { BAD } else { ACCENT };
            let duration = format!("{:>9}", millis(span.duration()));
            let bar = bar(span, begin, end);
            text.push_str(&format!(
                "{label}{room}  {} {duration}  {}\n",
                paint(style, status),
                paint(style, bar)
            ));
        }
        text
    }

    /// As JSON, nested as drawn.
    pub(crate) fn to_json(&self, id: TraceId) -> Value {
        json!({
            "traceId": hex(&id),
            "spans": self.roots().map(|root| self.span_json(root, &mut BTreeSet::new())).collect::<Vec<_>>(),
        })
    }

    fn span_json(&self, span: &Span, seen: &mut BTreeSet<SpanId>) -> Value {
        // Spans come from outside: parents that go round in a circle must not go on for ever.
        let new = seen.insert(span.id);
        let children = if new { self.children(span.id) } else { Vec::new() };
        let children: Vec<Value> = children.into_iter().map(|child| self.span_json(child, seen)).collect();
        json!({
            "service": span.service, "name": span.name, "kind": span.kind, "status": span.status,
            "failed": span.failed, "startNanos": span.start_nanos,
            "micros": u64::try_from(span.duration().as_micros()).unwrap_or(u64::MAX), "children": children,
        })
    }

    fn roots(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| span.parent == SpanId::default())
    }

    fn children(&self, parent: SpanId) -> Vec<&Span> {
        let mut children: Vec<&Span> =
            self.spans.iter().filter(|span| span.parent == parent && parent != SpanId::default()).collect();
        children.sort_by_key(|span| (span.start_nanos, span.end_nanos));
        children
    }

    /// Every span under its parent, with the branches that lead to it.
    fn lines(&self) -> Vec<(String, &Span)> {
        let mut lines = Vec::new();
        let mut seen = BTreeSet::new();
        for root in self.roots() {
            self.walk(root, "", "", &label(root), &mut lines, &mut seen);
        }
        lines
    }

    fn walk<'a>(
        &'a self,
        span: &'a Span,
        branch: &str,
        trunk: &str,
        label_of_span: &str,
        lines: &mut Vec<(String, &'a Span)>,
        seen: &mut BTreeSet<SpanId>,
    ) {
        if !seen.insert(span.id) {
            return; // an id used twice, or a circle
        }
        lines.push((format!("{branch}{label_of_span}"), span));
        let children = self.children(span.id);
        let mut attempts = 0;
        for (index, child) in children.iter().enumerate() {
            let last = index + 1 == children.len();
            // A client span under a client span of the same proxy is one try at the same request.
            let is_attempt = (span.kind, child.kind) == ("client", "client") && span.service == child.service;
            let label = if is_attempt {
                attempts += 1;
                format!("attempt {attempts}")
            } else {
                label(child)
            };
            let branch = format!("{trunk}{}", if last { "└─ " } else { "├─ " });
            let below = format!("{trunk}{}", if last { "   " } else { "│  " });
            self.walk(child, &branch, &below, &label, lines, seen);
        }
    }
}

/// `web client: GET orders.shop`
fn label(span: &Span) -> String {
    let kind = if span.kind.is_empty() { String::new() } else { format!(" {}", span.kind) };
    format!("{}{kind}: {}", span.service, span.name)
}

/// Where the span lies between the trace's beginning and end.
fn bar(span: &Span, begin: u64, end: u64) -> String {
    let whole = (end - begin).max(1);
    // Clocks of several processes: a span may stick out, so everything is kept within the width.
    let place = |nanos: u64| {
        let column = u128::from(nanos.saturating_sub(begin)) * u128::from(BAR_WIDTH) / u128::from(whole);
        u64::try_from(column).unwrap_or(BAR_WIDTH).min(BAR_WIDTH)
    };
    let from = place(span.start_nanos).min(BAR_WIDTH - 1);
    let to = place(span.end_nanos).max(from + 1);
    format!("{}{}", " ".repeat(from as usize), "━".repeat((to - from) as usize))
}

/// The id as people write it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The title above the tree.
pub(crate) fn title(id: TraceId, trace: &Trace) -> String {
    let begin = trace.spans.iter().map(|span| span.start_nanos).min().unwrap_or(0);
    let end = trace.spans.iter().map(|span| span.end_nanos).max().unwrap_or(0);
    let took = millis(Duration::from_nanos(end - begin));
    format!("{} {}", hex(&id), paint(DIM, format!("{} spans, {took}", trace.spans.len())))
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::ScopeSpans;

    pub(crate) fn span(service: &str, id: u8, parent: u8) -> Span {
        let id_of = |number: u8| [number, 0, 0, 0, 0, 0, 0, 0];
        Span {
            service: service.to_owned(),
            id: id_of(id),
            parent: id_of(parent),
            name: "GET".to_owned(),
            kind: "client",
            start_nanos: u64::from(id) * 1_000_000,
            end_nanos: 10_000_000,
            status: Some(200),
            failed: false,
        }
    }

    pub(crate) fn whole_trace() -> Vec<Span> {
        vec![span("gateway", 1, 0), span("web", 2, 1), span("web", 3, 1), span("orders", 4, 2)]
    }

    pub(crate) fn export() -> ExportTraceServiceRequest {
        let text = |key: &str, value: any_value::Value| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..Default::default()
        };
        let span = opentelemetry_proto::tonic::trace::v1::Span {
            trace_id: vec![7; 16],
            span_id: vec![8; 8],
            name: "GET".to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: 5,
            end_time_unix_nano: 9,
            attributes: vec![text("http.response.status_code", any_value::Value::IntValue(503))],
            ..Default::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![text("service.name", any_value::Value::StringValue("web".to_owned()))],
                    ..Default::default()
                }),
                scope_spans: vec![ScopeSpans { spans: vec![span], ..Default::default() }],
                ..Default::default()
            }],
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_span_is_read_from_otlp() {
        let request = export();
        let resource = &request.resource_spans[0];
        let service = Span::service_of(resource);
        let (id, span) = Span::read(&service, &resource.scope_spans[0].spans[0]).unwrap();
        assert_eq!((id, span.service.as_str(), span.kind), ([7; 16], "web", "server"));
        assert_eq!((span.status, span.failed, span.parent), (Some(503), true, SpanId::default()));
        let mut broken = resource.scope_spans[0].spans[0].clone();
        broken.trace_id.pop();
        assert_eq!(Span::read(&service, &broken), None);
    }

    #[test]
    fn a_trace_is_drawn_as_a_tree_with_bars_and_attempts_are_counted() {
        let mut spans = whole_trace();
        spans.push(Span { failed: true, status: Some(503), ..span("orders", 5, 4) });
        spans.push(span("orders", 6, 4));
        let drawn = plain(&Trace { spans }.draw());
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(
            lines,
            [
                "gateway client: GET       200   9.00 ms  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
                "├─ web client: GET        200   8.00 ms     ━━━━━━━━━━━━━━━━━━━━━━━━━━━",
                "│  └─ orders client: GET  200   6.00 ms            ━━━━━━━━━━━━━━━━━━━━",
                "│     ├─ attempt 1        503   5.00 ms               ━━━━━━━━━━━━━━━━━",
                "│     └─ attempt 2        200   4.00 ms                  ━━━━━━━━━━━━━━",
                "└─ web client: GET        200   7.00 ms        ━━━━━━━━━━━━━━━━━━━━━━━━",
            ]
        );
    }

    #[test]
    fn a_trace_with_a_hole_is_not_whole() {
        let mut trace = Trace { spans: whole_trace() };
        assert!(trace.is_whole(&["gateway", "web", "orders"]));
        assert!(!trace.is_whole(&["payments"]));
        trace.spans.remove(1);
        assert!(!trace.is_whole(&["gateway"]));
        let two_roots = Trace { spans: vec![span("a", 1, 0), span("a", 2, 0)] };
        assert!(!two_roots.is_whole(&["a"]));
    }

    #[test]
    fn parents_in_a_circle_and_odd_clocks_end() {
        let mut spans = whole_trace();
        spans.push(span("x", 5, 6));
        spans.push(span("x", 6, 5));
        spans.push(span("web", 2, 4)); // an id used twice closes a circle
        spans[1].start_nanos = 0;
        spans[2].end_nanos = u64::MAX;
        let trace = Trace { spans };
        assert!(plain(&trace.draw()).lines().count() <= 7);
        assert!(trace.to_json([0; 16])["spans"].is_array());
    }
}

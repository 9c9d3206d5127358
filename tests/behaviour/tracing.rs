//! One request through three services is one trace in a real collector, whatever headers it came with.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use outrigger_tests::app::App;
use outrigger_tests::app::http::{Reply, answering, deciding, echo, full};
use outrigger_tests::collector::{Collector, Span};
use outrigger_tests::port::Port;
use outrigger_tests::{Client, Mesh, eventually, request};

use crate::documents::{mesh_config, route};

type Next = Arc<OnceLock<Client>>;

/// The headers that an application must hand on for its calls to belong to the trace of the request.
const CARRIED: [&str; 9] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// An application that calls the next one through its own proxy and hands the trace's headers on.
fn calling(next: &Next, url: &'static str) -> App {
    let next = Arc::clone(next);
    answering(move |seen| {
        let next = Arc::clone(&next);
        async move {
            let mut onward = request("GET", url, &[], full(""));
            for name in CARRIED {
                for value in seen.headers.get_all(name) {
                    onward.headers_mut().append(name, value.clone());
                }
            }
            let answer = next.get().expect("the test says whom to call").answer(onward).await;
            Reply::status(answer.status.as_u16())
        }
    })
}

/// web -> orders -> payments, all proxies exporting to one collector.
async fn chain(collector: &Collector, sampling: &str, payments: App, policies: &str) -> Mesh {
    let next = Next::default();
    let endpoint = collector.endpoint();
    let args = ["--otlp-endpoint", &endpoint, "--sampling", sampling];
    let mut builder = Mesh::builder()
        .service("payments", payments)
        .args(&args)
        .service("orders", calling(&next, "http://payments/pay"))
        .args(&args)
        .client("web")
        .args(&args);
    if !policies.is_empty() {
        builder = builder.policy(policies);
    }
    let mesh = builder.start().await;
    next.set(mesh.client("orders")).expect("set once");
    mesh
}

/// Waits until so many spans of the trace have come.
async fn spans(collector: &Collector, trace_id: &str, count: usize) -> Vec<Span> {
    eventually("the trace is complete", || async {
        let spans = collector.trace(trace_id);
        if spans.len() >= count {
            Ok(spans)
        } else {
            let names: Vec<_> =
                collector.spans().into_iter().map(|s| format!("{} {}", s.trace_id, s.name)).collect();
            Err(format!("{} of {count} spans; all: {names:?}", spans.len()))
        }
    })
    .await
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SAMPLED: (&str, &str) = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
const UNSAMPLED: (&str, &str) = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");

#[tokio::test]
async fn a_request_through_three_services_is_one_trace_with_right_parents() {
    let collector = Collector::start().await;
    let mesh = chain(&collector, "0", echo(), "").await;
    let answer = mesh.client("web").get_with("http://orders/buy?card=1234", &[SAMPLED]).await;
    assert_eq!(answer.status, 200, "{}", mesh.explain().await);
    // Two hops, each with a client span, an attempt and a server span at the far side.
    let spans = spans(&collector, TRACE, 6).await;
    let by_id: HashMap<&str, &Span> = spans.iter().map(|s| (s.span_id.as_str(), s)).collect();
    let mut roots = Vec::new();
    for span in &spans {
        match by_id.get(span.parent.as_str()) {
            Some(parent) => assert!(
                parent.start <= span.start && (span.end <= parent.end || span.kind != SpanKind::Client),
                "{span:?} is not within its parent {parent:?}"
            ),
            None => roots.push(span),
        }
    }
    assert_eq!(roots.len(), 1, "one tree: {roots:?}");
    assert_eq!((roots[0].parent.as_str(), roots[0].kind), (PARENT, SpanKind::Client), "{:?}", roots[0]);
    // From the deepest span up: payments' server span, its attempt, orders' client span, orders' server span, ...
    let mut chain: Vec<_> = spans.iter().map(|s| (depth(s, &by_id), s.kind)).collect();
    chain.sort_by_key(|(depth, _)| *depth);
    assert_eq!(chain.iter().map(|(d, _)| *d).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5], "a chain: {spans:?}");
    let servers =
        chain.iter().filter(|(_, kind)| *kind == SpanKind::Server).map(|(d, _)| *d).collect::<Vec<_>>();
    assert_eq!(servers, [2, 5], "client, attempt, server, twice: {chain:?}");
    for span in &spans {
        let text = format!("{span:?}");
        assert!(!text.contains("1234"), "a query is no attribute: {text}");
        if span.kind == SpanKind::Server {
            assert_eq!(span.attribute("http.request.method"), "GET", "{text}");
            assert_eq!(span.attribute("http.response.status_code"), "200", "{text}");
        }
    }
}

/// How many ancestors the span has in its trace.
fn depth(span: &Span, by_id: &HashMap<&str, &Span>) -> usize {
    by_id.get(span.parent.as_str()).map_or(0, |parent| 1 + depth(parent, by_id))
}

#[tokio::test]
async fn every_attempt_is_a_span_of_its_own() {
    let collector = Collector::start().await;
    let payments = deciding(|seen| if seen.number < 2 { Reply::status(503) } else { Reply::text("paid") });
    let rules =
        "- backendRefs: [{name: payments, port: 80}]\n  retry: {attempts: 3, codes: [503], backoff: 5ms}";
    let mesh = chain(&collector, "0", payments, &route("retry", "payments", rules)).await;
    assert_eq!(mesh.client("web").get_with("http://orders/", &[SAMPLED]).await.status, 200);
    // orders: client, attempt, server; payments: client, and three times attempt and server.
    let spans = spans(&collector, TRACE, 10).await;
    let calls: Vec<_> = spans
        .iter()
        .filter(|s| s.kind == SpanKind::Client && spans.iter().filter(|c| c.parent == s.span_id).count() == 3)
        .collect();
    assert_eq!(calls.len(), 1, "one client span has three attempts: {spans:?}");
    let attempts: Vec<_> = spans.iter().filter(|s| s.parent == calls[0].span_id).collect();
    let mut statuses: Vec<_> = attempts.iter().map(|s| s.attribute("http.response.status_code")).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["200", "503", "503"]);
    for attempt in attempts {
        let children: Vec<_> = spans.iter().filter(|s| s.parent == attempt.span_id).collect();
        assert_eq!(children.len(), 1, "each attempt reached the far side once: {children:?}");
        assert_eq!(children[0].kind, SpanKind::Server);
    }
}

/// The sampled flag; others may be set beside it (the random flag of Level 2).
fn is_sampled(traceparent: &str) -> bool {
    let flags = u8::from_str_radix(&traceparent[53..], 16).expect("two hex digits of flags");
    flags & 1 == 1
}

#[tokio::test]
async fn a_trace_is_started_where_there_is_none_and_all_of_them_at_100_percent() {
    let collector = Collector::start().await;
    let mesh = chain(&collector, "1", echo(), "").await;
    for _ in 0..5 {
        assert_eq!(mesh.client("web").get("http://orders/").await.status, 200);
    }
    let seen = mesh.instance("payments", 0).record().seen();
    for request in seen {
        let traceparent = request.header("traceparent").to_owned();
        assert!(is_sampled(&traceparent), "{traceparent:?}");
        spans(&collector, &traceparent[3..35], 6).await;
    }
}

#[tokio::test]
async fn at_0_percent_nothing_is_exported_and_the_headers_still_pass() {
    let collector = Collector::start().await;
    let mesh = chain(&collector, "0", echo(), "").await;
    assert_eq!(mesh.client("web").get("http://orders/").await.status, 200);
    let seen = Arc::clone(&mesh.instance("payments", 0).record().seen()[0]);
    assert!(seen.header("traceparent").len() == 55 && !is_sampled(seen.header("traceparent")), "{seen:?}");
    // A sampled one afterwards shows that the unsampled one is not merely late.
    mesh.client("web").get_with("http://orders/", &[SAMPLED]).await;
    spans(&collector, TRACE, 6).await;
    assert!(collector.spans().iter().all(|s| s.trace_id == TRACE), "{:?}", collector.spans());
}

#[tokio::test]
async fn the_parents_choice_holds_against_the_ratio() {
    let collector = Collector::start().await;
    let mesh = chain(&collector, "1", echo(), "").await;
    mesh.client("web").get_with("http://orders/", &[UNSAMPLED, ("x-request-id", "unsampled")]).await;
    let seen = Arc::clone(&mesh.instance("payments", 0).record().seen()[0]);
    let traceparent = seen.header("traceparent");
    assert!(traceparent.starts_with(&format!("00-{TRACE}-")) && !is_sampled(traceparent), "{traceparent}");
    mesh.client("web").get("http://orders/").await;
    let other = Arc::clone(&mesh.instance("payments", 0).record().seen()[1]);
    spans(&collector, &other.header("traceparent")[3..35], 6).await;
    assert!(collector.trace(TRACE).is_empty(), "{:?}", collector.trace(TRACE));
}

/// What reaches the application when the caller sends these headers.
async fn passed_on(headers: &[(&'static str, &str)], formats: &str) -> HashMap<String, String> {
    let policies = mesh_config(&format!("tracing: {{samplingRatio: 0, formats: [{formats}]}}"));
    let mesh = Mesh::builder().policy(&policies).service("api", echo()).client("web").start().await;
    assert_eq!(mesh.client("web").get_with("http://api/", headers).await.status, 200);
    let seen = Arc::clone(&mesh.instance("api", 0).record().seen()[0]);
    seen.headers.iter().map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn w3c_context_passes_with_tracestate_and_baggage_untouched() {
    let state = "vendor=opaque,other=1";
    let baggage = "user=42;ttl=3,x=%20y";
    let sent = [SAMPLED, ("tracestate", state), ("baggage", baggage)];
    let seen = passed_on(&sent, "W3C").await;
    let parts: Vec<_> = seen["traceparent"].split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"), "{seen:?}");
    assert_ne!(parts[2], PARENT, "the application's parent is the proxy's span");
    assert_eq!((seen["tracestate"].as_str(), seen["baggage"].as_str()), (state, baggage));
}

#[tokio::test]
async fn b3_in_one_header_passes_in_one_header() {
    let sent = [("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1")];
    let seen = passed_on(&sent, "W3C").await;
    let parts: Vec<_> = seen["b3"].split('-').collect();
    assert_eq!((parts[0], parts[2]), (TRACE, "1"), "{seen:?}");
    assert!(seen["traceparent"].starts_with(&format!("00-{TRACE}-")), "{seen:?}");
}

#[tokio::test]
async fn b3_in_many_headers_passes_in_many_headers() {
    let sent = [("x-b3-traceid", TRACE), ("x-b3-spanid", PARENT), ("x-b3-sampled", "1")];
    let seen = passed_on(&sent, "W3C").await;
    assert_eq!((seen["x-b3-traceid"].as_str(), seen["x-b3-sampled"].as_str()), (TRACE, "1"), "{seen:?}");
    assert_ne!(seen["x-b3-spanid"], PARENT);
}

#[tokio::test]
async fn the_mesh_writes_the_formats_that_it_is_told_to() {
    let seen = passed_on(&[SAMPLED], "W3C, B3, B3Multi").await;
    for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid"] {
        assert!(
            seen.get(name).is_some_and(|v| v.contains(TRACE) || name == "x-b3-spanid"),
            "{name}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn a_malformed_context_starts_a_new_trace() {
    for bad in [
        "",
        "00-0-0-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ] {
        let seen = passed_on(&[("traceparent", bad)], "W3C").await;
        let parts: Vec<_> = seen["traceparent"].split('-').collect();
        assert_eq!((parts[0], parts[1].len(), parts[2].len()), ("00", 32, 16), "{bad:?}: {seen:?}");
        assert!(parts[1] != TRACE && parts[1].bytes().any(|b| b != b'0'), "{bad:?}: {seen:?}");
    }
}

#[tokio::test]
async fn without_a_collector_requests_are_served_all_the_same() {
    let closed = Port::reserve();
    let args = ["--otlp-endpoint", &format!("http://{}", closed.address), "--sampling", "1"];
    let mesh = Mesh::builder().service("api", echo()).args(&args).client("web").args(&args).start().await;
    for _ in 0..50 {
        assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
    }
    eventually("lost spans are counted", || async {
        let metrics = mesh.metrics("web").await;
        match metrics.sum("outrigger_spans_dropped_total", &[]) {
            0.0 => Err(metrics.lines("outrigger_spans")),
            _ => Ok(()),
        }
    })
    .await;
}

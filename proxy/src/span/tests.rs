use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue as ProtoKeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::exchange::tests::{attempt, exchange};
use crate::failure::{Failure, Side};

/// A real OTLP/gRPC receiver that keeps what it gets.
#[derive(Debug, Clone, Default)]
struct Collector {
    got: Arc<Mutex<Vec<(ProtoResource, Span)>>>,
    messages: Arc<AtomicU64>,
    /// It refuses everything.
    refuses: bool,
    /// It never answers.
    hangs: bool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if self.refuses {
            return Err(Status::invalid_argument("no"));
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap();
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.got.lock().unwrap().push((resource.clone(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        (address, serving)
    }

    fn spans(&self) -> Vec<Span> {
        self.got.lock().unwrap().iter().map(|(_, span)| span.clone()).collect()
    }
}

/// An exporter that runs until the test stops it.
struct Running {
    spans: Spans,
    endpoint: watch::Sender<Option<String>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(endpoint: Option<SocketAddr>) -> Self {
        let source = SpanSource { name: "web".into(), namespace: "shop".into(), instance: "i-1".into() };
        let (spans, export) = Spans::new(&source);
        let (endpoint, known) = watch::channel(endpoint.map(url));
        let stop = CancellationToken::new();
        let task = tokio::spawn(export.run(known, stop.clone()));
        Self { spans, endpoint, stop, task }
    }

    async fn ready(&self) {
        let enabled = || self.spans.shared.enabled.load(Ordering::Relaxed);
        until("the exporter has taken up its endpoint", enabled).await;
    }

    async fn stop(self) -> SpanCounts {
        self.stop.cancel();
        self.task.await.unwrap();
        self.spans.counts()
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

fn texts(attributes: &[ProtoKeyValue]) -> HashMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|a| (a.key.clone(), text(&a.value))).collect()
}

#[tokio::test]
async fn a_request_arrives_at_a_collector_as_a_client_span_with_its_attempts() {
    let collector = Collector::default();
    let (address, serving) = collector.start().await;
    let running = Running::start(Some(address));
    running.ready().await;
    let mut exchange = exchange();
    let first = crate::exchange::Attempt {
        failure: Some(Failure::ConnectRefused),
        ..attempt(exchange.trace.child(&mut rng()).span_id, exchange.started, None)
    };
    exchange.attempts.insert(0, first);
    exchange.route = Some("shop/canary".into());
    let (trace, attempts) = (exchange.trace.clone(), exchange.attempts.clone());
    running.spans.record(exchange);
    let counts = running.stop().await;
    serving.abort();
    assert_eq!(counts, SpanCounts { exported: 3, ..SpanCounts::default() });

    let got = collector.got.lock().unwrap().clone();
    let resource = texts(&got[0].0.attributes);
    assert_eq!(resource["service.name"], "web");
    assert_eq!(resource["service.namespace"], "shop");
    assert_eq!(resource["service.instance.id"], "i-1");

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == trace.trace_id.to_bytes()));
    let by_id = |id: crate::trace::SpanId| spans.iter().find(|s| s.span_id == id.to_bytes()).unwrap();
    let whole = by_id(trace.span_id);
    assert_eq!((whole.name.as_str(), whole.kind()), ("GET payments.shop", SpanKind::Client));
    assert!(whole.parent_span_id.is_empty() || whole.parent_span_id == [0; 8], "it starts the trace");
    assert_eq!(whole.end_time_unix_nano - whole.start_time_unix_nano, 5_000_000);
    assert_eq!(whole.status.clone().unwrap_or_default().code(), StatusCode::Unset);
    let attributes = texts(&whole.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("server.address", "payments.shop"),
        ("server.port", "80"),
        ("url.path", "/charge"),
        ("network.protocol.version", "1.1"),
        ("outrigger.route", "shop/canary"),
        ("outrigger.peer", "spiffe://outrigger.local/ns/shop/sa/payments"),
        ("outrigger.retries", "1"),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!format!("{attributes:?}").contains("secret"), "queries stay out");

    let failed = by_id(attempts[0].span_id);
    assert_eq!(failed.parent_span_id, trace.span_id.to_bytes());
    assert_eq!(failed.status.clone().unwrap_or_default().code(), StatusCode::Error);
    assert_eq!(texts(&failed.attributes)["error.type"], "connect-refused");
    let second = by_id(attempts[1].span_id);
    assert_eq!(second.parent_span_id, trace.span_id.to_bytes());
    assert_eq!(texts(&second.attributes)["http.request.resend_count"], "1");
    assert_eq!(texts(&second.attributes)["network.peer.address"], "127.0.0.1");
}

fn rng() -> rand::rngs::StdRng {
    rand::SeedableRng::seed_from_u64(5)
}

#[tokio::test]
async fn inbound_is_one_server_span_below_its_caller() {
    let parent = exchange().trace;
    let mut exchange = exchange();
    exchange.side = Side::Inbound;
    exchange.trace = parent.child(&mut rng());
    (exchange.status, exchange.grpc_status) = (200, Some(13));
    exchange.uri = "/shop.Payments/Charge".parse().unwrap();
    let mut batch = Vec::new();
    let scope = InstrumentationScope::builder("test").build();
    assert_eq!(model::span_count(&exchange), 1);
    model::push_spans(exchange, &scope, &mut batch);
    let [span] = &batch[..] else { panic!("{batch:?}") };
    assert_eq!(span.span_kind, opentelemetry::trace::SpanKind::Server);
    assert_eq!(span.parent_span_id.to_bytes(), parent.span_id.to_bytes());
    assert_eq!(span.name, "shop.Payments/Charge");
    assert!(matches!(span.status, opentelemetry::trace::Status::Error { .. }));
    let grpc = span.attributes.iter().find(|a| a.key.as_str() == "rpc.grpc.status_code").unwrap();
    assert_eq!(grpc.value, opentelemetry::Value::I64(13));
}

#[tokio::test]
async fn a_method_that_a_caller_made_up_names_no_span() {
    let mut exchange = exchange();
    exchange.method = http::Method::from_bytes(b"BREW").unwrap();
    exchange.status = 404;
    let mut batch = Vec::new();
    model::push_spans(exchange, &InstrumentationScope::builder("test").build(), &mut batch);
    let span = batch.last().unwrap();
    assert_eq!(span.name, "HTTP payments.shop");
    let value =
        |key: &str| span.attributes.iter().find(|a| a.key.as_str() == key).map(|a| a.value.to_string());
    assert_eq!(value("http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(value("http.request.method_original").as_deref(), Some("BREW"));
    assert_eq!(value("error.type").as_deref(), Some("404"), "a client's span fails on 4xx");
}

#[tokio::test]
async fn only_sampled_requests_are_sent_and_none_without_a_collector() {
    let collector = Collector::default();
    let (address, serving) = collector.start().await;
    let running = Running::start(None);
    running.spans.record(exchange());
    running.endpoint.send(Some(url(address))).unwrap();
    running.ready().await;
    let mut unsampled = exchange();
    unsampled.trace.sampled = false;
    running.spans.record(unsampled);
    let sampled = exchange();
    let id = sampled.trace.span_id.to_bytes();
    running.spans.record(sampled);
    assert_eq!(running.stop().await.exported, 2);
    serving.abort();
    assert!(collector.spans().iter().any(|s| s.span_id == id));
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn spans_follow_the_endpoint_when_it_changes() {
    let (old, new) = (Collector::default(), Collector::default());
    let ((old_address, old_serving), (new_address, new_serving)) = (old.start().await, new.start().await);
    let running = Running::start(Some(old_address));
    running.ready().await;
    running.spans.record(exchange());
    until("the first collector has its spans", || old.spans().len() == 2).await;
    running.endpoint.send(Some(url(new_address))).unwrap();
    until("the second collector gets spans", || {
        running.spans.record(exchange());
        !new.spans().is_empty()
    })
    .await;
    running.stop().await;
    old_serving.abort();
    new_serving.abort();
}

#[tokio::test]
async fn a_full_batch_goes_at_once_and_nothing_is_lost() {
    let collector = Collector::default();
    let (address, serving) = collector.start().await;
    let running = Running::start(Some(address));
    running.ready().await;
    for _ in 0..QUEUE {
        running.spans.record(exchange());
        tokio::task::yield_now().await;
    }
    let counts = running.stop().await;
    serving.abort();
    assert_eq!(counts, SpanCounts { exported: 2 * QUEUE as u64, ..SpanCounts::default() });
    assert_eq!(collector.spans().len(), 2 * QUEUE);
    let messages = collector.messages.load(Ordering::Relaxed);
    assert!((QUEUE as u64 * 2).div_ceil(BATCH as u64 + 2) <= messages, "{messages}");
}

#[tokio::test]
async fn a_collector_that_is_away_or_refuses_costs_spans_that_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let unwilling = Collector { refuses: true, ..Collector::default() };
    let (refusing, serving) = unwilling.start().await;
    for address in [nobody, refusing] {
        let running = Running::start(Some(address));
        running.ready().await;
        running.spans.record(exchange());
        until("the loss is counted", || running.spans.counts().failed == 2).await;
        running.stop().await;
    }
    serving.abort();
}

#[tokio::test]
async fn a_collector_that_hangs_fills_the_queue_and_holds_up_nobody() {
    let stuck = Collector { hangs: true, ..Collector::default() };
    let (address, serving) = stuck.start().await;
    let running = Running::start(Some(address));
    running.ready().await;
    for _ in 0..BATCH {
        running.spans.record(exchange());
    }
    until("the collector has the first batch", || stuck.messages.load(Ordering::Relaxed) == 1).await;
    for _ in 0..2 * QUEUE {
        running.spans.record(exchange());
    }
    assert!(running.spans.counts().dropped >= QUEUE as u64, "{:?}", running.spans.counts());
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < FLUSH_TIME + Duration::from_secs(10), "the end is bounded");
    serving.abort();
}

#[tokio::test]
async fn an_endpoint_that_is_none_exports_nothing_until_it_is_mended() {
    let collector = Collector::default();
    let (address, serving) = collector.start().await;
    let running = Running::start(None);
    running.endpoint.send(Some("http://[nonsense".into())).unwrap();
    running.endpoint.send(Some(url(address))).unwrap();
    running.ready().await;
    running.spans.record(exchange());
    assert_eq!(running.stop().await.exported, 2);
    serving.abort();
}

#[tokio::test]
async fn trouble_is_told_once_a_minute_with_all_that_was_lost() {
    let mut complaint = Complaint::default();
    let start = Instant::now();
    complaint.about(2, "away", start);
    assert_eq!(complaint.lost, 0, "told at once");
    complaint.about(3, "away", start + Duration::from_secs(30));
    complaint.about(4, "away", start + Duration::from_secs(59));
    assert_eq!(complaint.lost, 7, "kept for later");
    complaint.about(5, "away", start + Duration::from_secs(60));
    assert_eq!(complaint.lost, 0, "told again");
}

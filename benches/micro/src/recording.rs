//! Recording a finished request: counters, histograms, and the decision about its span.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use http::{HeaderMap, HeaderValue};
use outrigger_api::ServiceName;
use outrigger_proxy::access_log::{AccessLog, AccessLogMode};
use outrigger_proxy::exchange::{Attempt, Exchange, Recorder};
use outrigger_proxy::failure::Side;
use outrigger_proxy::metrics::Metrics;
use outrigger_proxy::span::{SpanSource, Spans};
use outrigger_proxy::trace::TraceContext;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::step::Work;

/// A request that is not sampled, without an access log, among those of 50 services. Making a copy of what is known
/// of the request is measured, too.
pub(crate) fn request() -> Result<Work> {
    let source =
        SpanSource { name: "caller".to_owned(), namespace: "shop".to_owned(), instance: "1".to_owned() };
    let (spans, export) = Spans::new(&source);
    let recorder = Recorder {
        metrics: Metrics::default(),
        log: AccessLog::start(&AccessLogMode::Off)?.0.worker(),
        spans,
    };
    let exchanges = (0..50).map(exchange).collect::<Result<Vec<_>>>()?;
    let mut turn = 0;
    Ok(Box::new(move || {
        // The receiving half must live as long as the other is used.
        black_box(&export);
        turn = (turn + 1) % exchanges.len();
        let mut exchange = exchanges[turn].clone();
        // Latencies are never all the same.
        exchange.duration += Duration::from_micros(17 * turn as u64);
        recorder.finish(exchange, false);
    }))
}

fn exchange(service: u64) -> Result<Exchange> {
    let trace = TraceContext::extract(&HeaderMap::new(), 0.0, &mut StdRng::seed_from_u64(service));
    let started = Instant::now();
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let span_id = trace.span_id;
    let mut exchange = Exchange::new(Side::Outbound, trace, started, wall);
    let peer = format!("spiffe://outrigger.local/ns/shop/sa/payments-{service}");
    exchange.service = Some(ServiceName::new("shop", &format!("payments-{service}"))?);
    exchange.port = 80;
    exchange.route = Some(Arc::from("shop/payments"));
    exchange.peer = Some(peer.parse()?);
    exchange.mtls = true;
    exchange.uri = "/charge?card=17".parse()?;
    exchange.authority = Some(HeaderValue::from_static("payments.shop"));
    exchange.status = 200;
    exchange.duration = Duration::from_micros(1500);
    exchange.upstream = Duration::from_micros(1300);
    exchange.response_bytes = 128;
    exchange.attempts.push(Attempt {
        span_id,
        started,
        duration: Duration::from_micros(1300),
        endpoint: Some(SocketAddr::from(([10, 0, 0, 1], 4143))),
        peer: exchange.peer.clone(),
        status: Some(200),
        grpc_status: None,
        failure: None,
    });
    Ok(exchange)
}

//! Faults on purpose, and what callers get when nobody can answer them.

use std::time::Duration;

use outrigger_tests::app::grpc::talk;
use outrigger_tests::app::http::{echo, full, saying};
use outrigger_tests::{Client, Mesh, eventually, request};
use tokio::time::Instant;

use crate::documents::{fault, policy, route, service};

const FAULTY: &str = "
- matches: [{path: {value: /faulty}}]
  filters: [{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: FaultInjection, name: trouble}}]
  backendRefs: [{name: api, port: 80}]
- backendRefs: [{name: api, port: 80}]";

/// `api`, whose `/faulty` is as the document says, and `web` that calls it.
async fn with_fault(fields: &str, rules: &str) -> Mesh {
    let policy = fault("trouble", fields) + &route("faults", "api", rules);
    Mesh::builder().service("api", echo()).policy(&policy).client("web").start().await
}

async fn injected(mesh: &Mesh, kind: &str) -> f64 {
    mesh.metrics("web").await.sum("outrigger_faults_injected_total", &[("kind", kind)])
}

#[tokio::test]
async fn an_abort_answers_in_place_of_the_application_and_blames_nobody() {
    let mesh = with_fault("abort: {httpStatus: 418}", FAULTY).await;
    let web = mesh.client("web");
    for _ in 0..20 {
        web.get("http://api/faulty").await.assert_failure(418, "fault-injected", "outbound");
    }
    assert_eq!(mesh.attempts("api"), 0);
    assert_eq!(web.get("http://api/").await.status, 200, "twenty failures in a row opened no breaker");
    assert_eq!(injected(&mesh, "abort").await, 20.0);
    let metrics = mesh.metrics("web").await;
    assert_eq!(
        metrics.sum("outrigger_requests_total", &[("error", "fault-injected"), ("status", "418")]),
        20.0
    );
    assert_eq!(metrics.sum("outrigger_breaker_transitions_total", &[]), 0.0);
}

#[tokio::test]
async fn an_abort_is_a_share_of_requests() {
    let mesh = with_fault("abort: {percent: 25, httpStatus: 503}", FAULTY).await;
    let web = mesh.client("web").http2();
    let mut failed = 0;
    for _ in 0..40 {
        let answers = futures_util::future::join_all((0..50).map(|_| web.get("http://api/faulty"))).await;
        failed += answers.iter().filter(|answer| answer.status == 503).count();
    }
    // Five standard deviations of 2,000 are 97.
    assert!((400..=600).contains(&failed), "{failed} of 2000");
}

#[tokio::test]
async fn a_grpc_caller_gets_the_status_in_its_own_way() {
    let policy = fault("trouble", "abort: {grpcStatus: 8}")
        + &route("faults", "talk", &FAULTY.replace("name: api", "name: talk").replace("/faulty", "/talk"));
    let mesh = Mesh::builder().service("talk", talk()).policy(&policy).client("web").start().await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let call = request("POST", "http://talk/talk/Say", &headers, full(""));
    let answer = mesh.client("web").http2().answer(call).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "8"), "{answer:?}");
    let plain = mesh.client("web").get("http://talk/talk").await;
    plain.assert_failure(429, "fault-injected", "outbound");
}

#[tokio::test]
async fn a_delay_holds_requests_back_and_counts_in_their_timeout() {
    let rules = FAULTY.replacen("  backendRefs", "  timeouts: {request: 50ms}\n  backendRefs", 1);
    let mesh = with_fault("delay: {fixed: 10m}", &rules).await;
    let began = Instant::now();
    mesh.client("web").get("http://api/faulty").await.assert_failure(504, "request-timeout", "outbound");
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(mesh.attempts("api"), 0, "nothing is sent past the deadline");

    let mesh = with_fault("delay: {uniform: {min: 100ms, max: 150ms}}", FAULTY).await;
    let began = Instant::now();
    assert_eq!(mesh.client("web").get("http://api/faulty").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(injected(&mesh, "delay").await, 1.0);
}

#[tokio::test]
async fn a_gate_lets_only_requests_through_that_ask_for_the_fault() {
    let gate = "abort: {httpStatus: 500}\nmatch: {headers: [{type: RegularExpression, name: x-chaos, value: 'on|yes'}]}";
    let mesh = with_fault(gate, FAULTY).await;
    let web = mesh.client("web");
    for (value, status) in [("on", 500), ("yes", 500), ("off", 200)] {
        let answer = web.get_with("http://api/faulty", &[("x-chaos", value)]).await;
        assert_eq!(answer.status, status, "{value}");
    }
    assert_eq!(web.get("http://api/faulty").await.status, 200);
}

#[tokio::test]
async fn no_more_than_so_many_requests_are_held_back_at_once() {
    let mesh = with_fault("delay: {fixed: 10m}\nmaxConcurrent: 2", FAULTY).await;
    let hold = |client: Client| tokio::spawn(async move { client.get("http://api/faulty").await });
    let held = [hold(mesh.client("web")), hold(mesh.client("web"))];
    eventually("both are held back", || async {
        let delayed = injected(&mesh, "delay").await;
        if delayed == 2.0 { Ok(()) } else { Err(delayed) }
    })
    .await;
    assert_eq!(mesh.client("web").get("http://api/faulty").await.status, 200, "the third goes on untouched");
    assert_eq!(injected(&mesh, "omitted").await, 1.0);
    held.iter().for_each(tokio::task::JoinHandle::abort);
    // The callers are gone, and so are their places.
    eventually("there is room again", || async {
        let web = mesh.client("web");
        let next = request("GET", "http://api/faulty", &[], outrigger_tests::app::http::empty());
        match tokio::time::timeout(Duration::from_millis(100), web.send(next)).await {
            Err(_) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_fault_whose_time_is_over_injects_nothing() {
    let mesh = with_fault("abort: {httpStatus: 500}\nuntil: \"2020-01-01T00:00:00Z\"", FAULTY).await;
    assert_eq!(mesh.client("web").get("http://api/faulty").await.status, 200);
}

// ---- fallback ----

const SORRY: &str = "fallback:
  status: 203
  contentType: application/json
  body: '{\"items\": []}'
  headers: [{name: cache-control, value: no-store}]";

#[tokio::test]
async fn a_fallback_answers_while_nothing_is_ready_and_no_longer() {
    let policies = service("api") + &policy("api", SORRY);
    let mut mesh = Mesh::builder().policy(&policies).client("web").start().await;
    let web = mesh.client("web");
    let answer = web.get("http://api/").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (203, "{\"items\": []}"), "{answer:?}");
    let fields = ["outrigger-fallback", "content-type", "cache-control", "outrigger-error"];
    assert_eq!(fields.map(|name| answer.header(name)), ["shop/api", "application/json", "no-store", ""]);
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let call = web.http2().answer(request("POST", "http://api/a/B", &headers, full(""))).await;
    assert_eq!(call.header("grpc-status"), "14", "gRPC callers get the failure: {call:?}");
    let metrics = mesh.metrics("web").await;
    assert_eq!(metrics.sum("outrigger_fallbacks_total", &[("error", "no-endpoints")]), 1.0);
    assert_eq!(metrics.sum("outrigger_requests_total", &[("status", "203"), ("error", "")]), 1.0);

    mesh.join("api", saying("up"), &[], false).await;
    eventually("the application answers", || async {
        let answer = web.get("http://api/").await;
        if answer.text() == "up" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_fallback_is_never_used_while_a_backend_of_the_rule_is_ready() {
    let rules = "- backendRefs: [{name: gone, port: 80, weight: 99}, {name: v2, port: 80, weight: 1}]";
    let policies = service("pay") + &service("gone") + &route("split", "pay", rules) + &policy("pay", SORRY);
    let mut mesh = Mesh::builder().policy(&policies).service("v2", saying("two")).client("web").start().await;
    let web = mesh.client("web");
    for _ in 0..200 {
        assert_eq!(web.get("http://pay/").await.text(), "two");
    }
    mesh.instance_mut("v2", 0).drain().await;
    eventually("all backends are out", || async {
        let answer = web.get("http://pay/").await;
        if answer.header("outrigger-fallback") == "shop/pay" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_rule_may_have_a_fallback_of_its_own() {
    let rules = "
- matches: [{path: {value: /own}}]
  filters: [{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: ServicePolicy, name: sorry}}]
  backendRefs: [{name: gone, port: 80}]
- backendRefs: [{name: gone, port: 80}]";
    let sorry = policy("sorry", SORRY)
        .replace("targetRefs: [{group: \"\", kind: Service, name: sorry}]", "targetRefs: []");
    let policies = service("pay") + &service("gone") + &route("own", "pay", rules) + &sorry;
    let mesh = Mesh::builder().policy(&policies).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://pay/own").await.header("outrigger-fallback"), "shop/sorry");
    web.get("http://pay/").await.assert_failure(503, "no-endpoints", "outbound");
}

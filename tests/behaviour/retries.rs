//! What fails is tried again where that is safe, exactly as it was, within a budget and within the time allowed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_tests::app::http::{Reply, always, answering, deciding, empty, full};
use outrigger_tests::app::{App, tcp};
use outrigger_tests::{Client, Mesh, request, soon};
use tokio::time::Instant;

use crate::documents::{policy, route};

/// Fails the first so many requests with this status.
fn failing_first(count: u64, code: u16) -> App {
    deciding(move |seen| if seen.number < count { Reply::status(code) } else { Reply::text("at last") })
}

/// Route rules for port 80 of `api` with this retry stanza.
fn retrying(stanza: &str) -> String {
    route("retry", "api", &format!("- backendRefs: [{{name: api, port: 80}}]\n  retry: {stanza}"))
}

async fn mesh(app: App, policies: &str) -> Mesh {
    let builder = Mesh::builder().service("api", app).client("web");
    if policies.is_empty() { builder } else { builder.policy(policies) }.start().await
}

const THREE_503: &str = "{attempts: 3, codes: [503], backoff: 5ms}";

#[tokio::test]
async fn an_answer_is_not_tried_again_without_policy() {
    let mesh = mesh(always(503), "").await;
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!((answer.status.as_u16(), answer.failure(), mesh.attempts("api")), (503, "", 1));
}

#[tokio::test]
async fn a_listed_status_is_tried_again_until_it_is_well() {
    let mesh = mesh(failing_first(2, 503), &retrying(THREE_503)).await;
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "at last"));
    let attempts: Vec<_> = mesh
        .instance("api", 0)
        .record()
        .seen()
        .iter()
        .map(|s| s.header("outrigger-attempt").to_owned())
        .collect();
    assert_eq!(attempts, ["1", "2", "3"], "the application is told which attempt it is");
}

#[tokio::test]
async fn the_caller_gets_the_last_answer_when_attempts_run_out() {
    let app = deciding(|seen| Reply::status(503).header("x-number", &seen.number.to_string()));
    let mesh = mesh(app, &retrying("{attempts: 2, codes: [503], backoff: 5ms}")).await;
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-number"), answer.failure()), (503, "2", ""));
    assert_eq!(mesh.attempts("api"), 3);
}

#[tokio::test]
async fn a_status_that_is_not_listed_is_not_tried_again() {
    let mesh = mesh(always(500), &retrying(THREE_503)).await;
    assert_eq!(mesh.client("web").get("http://api/").await.status, 500);
    assert_eq!(mesh.attempts("api"), 1);
}

#[tokio::test]
async fn only_idempotent_methods_are_tried_again() {
    for (method, expected) in
        [("GET", 4), ("HEAD", 4), ("PUT", 4), ("DELETE", 4), ("OPTIONS", 4), ("POST", 1), ("PATCH", 1)]
    {
        let mesh = mesh(always(503), &retrying(THREE_503)).await;
        let answer = mesh.client("web").answer(request(method, "http://api/", &[], empty())).await;
        assert_eq!((answer.status.as_u16(), mesh.attempts("api")), (503, expected), "{method}");
    }
}

#[tokio::test]
async fn a_post_is_tried_again_where_policy_asks_for_it() {
    let policies =
        policy("api", "defaults: {retry: {attempts: 3, codes: [503], backoff: 5ms, nonIdempotent: true}}");
    let mesh = mesh(failing_first(1, 503), &policies).await;
    assert_eq!(mesh.client("web").post("http://api/", full("order")).await.status, 200);
    assert_eq!(mesh.attempts("api"), 2);
}

#[tokio::test]
async fn a_body_is_replayed_exactly() {
    let mesh = mesh(failing_first(3, 503), &retrying(THREE_503)).await;
    let body: Vec<u8> = (0..60_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let answer = mesh.client("web").answer(request("PUT", "http://api/", &[], full(body.clone()))).await;
    assert_eq!(answer.status, 200);
    let seen = mesh.instance("api", 0).record().seen();
    assert_eq!(seen.len(), 4);
    for attempt in seen {
        assert!(attempt.body == body, "attempt {} had {} other bytes", attempt.number, attempt.body.len());
        assert_eq!((attempt.method.as_str(), attempt.header("content-length")), ("PUT", "60000"));
    }
}

#[tokio::test]
async fn a_body_too_large_to_keep_streams_and_is_not_tried_again() {
    let mesh = mesh(always(503), &retrying(THREE_503)).await;
    let answer = mesh.client("web").answer(request("PUT", "http://api/", &[], full(vec![7; 200_000]))).await;
    assert_eq!((answer.status.as_u16(), mesh.attempts("api")), (503, 1));
    assert_eq!(mesh.instance("api", 0).record().seen()[0].body.len(), 200_000);
}

#[tokio::test]
async fn a_reset_connection_is_tried_again_with_policy_and_only_if_idempotent() {
    let reset_first =
        || deciding(|seen| if seen.number == 0 { Reply::reset() } else { Reply::text("at last") });
    let with_policy = mesh(reset_first(), &retrying("{attempts: 2}")).await;
    assert_eq!(with_policy.client("web").get("http://api/").await.text(), "at last");
    assert_eq!(with_policy.attempts("api"), 2);

    let post = mesh(reset_first(), &retrying("{attempts: 2}")).await;
    let answer = post.client("web").post("http://api/", full("order")).await;
    assert_eq!((answer.status.as_u16(), post.attempts("api")), (502, 1), "{answer:?}");

    let without = mesh(reset_first(), "").await;
    let answer = without.client("web").get("http://api/").await;
    assert_eq!((answer.status.as_u16(), without.attempts("api")), (502, 1), "{answer:?}");
}

#[tokio::test]
async fn an_application_that_always_resets_is_named() {
    let mesh = mesh(tcp::resetting(), "").await;
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.failure().starts_with("upstream-reset; by="), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_named() {
    let mesh = mesh(tcp::replying(b"I speak no HTTP, sorry.\r\n\r\n"), "").await;
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.failure().starts_with("upstream-protocol; by="), "{answer:?}");
}

#[tokio::test]
async fn attempts_back_off() {
    let mesh = mesh(always(503), &retrying("{attempts: 3, codes: [503], backoff: 100ms}")).await;
    let started = Instant::now();
    mesh.client("web").get("http://api/").await;
    let took = started.elapsed();
    // A backoff is a minimum: 100 ms, 200 ms and 400 ms, or more with jitter on top.
    let at: Vec<_> = mesh.instance("api", 0).record().seen().iter().map(|s| s.at - started).collect();
    assert_eq!(at.len(), 4);
    assert!(at[1] - at[0] >= Duration::from_millis(99), "{at:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn retry_after_is_respected() {
    let app = deciding(|seen| match seen.number {
        0 => Reply::status(503).header("retry-after", "1"),
        _ => Reply::text("at last"),
    });
    let mesh = mesh(app, &retrying("{attempts: 1, codes: [503], backoff: 5ms}")).await;
    assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
    let seen = mesh.instance("api", 0).record().seen();
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= Duration::from_millis(990), "tried again after {waited:?}");
}

#[tokio::test]
async fn another_endpoint_is_preferred_for_another_attempt() {
    let app =
        deciding(|seen| if seen.instance == "api-0" { Reply::status(503) } else { Reply::text("well") });
    let policies = retrying("{attempts: 1, codes: [503], backoff: 5ms}")
        + &policy("api", "loadBalancer: {type: RoundRobin}\ncircuitBreaker: {disabled: true}");
    let mesh = Mesh::builder().service("api", app).instances(2).client("web").policy(&policies).start().await;
    let web = mesh.client("web");
    for i in 0..20 {
        assert_eq!(web.get("http://api/").await.status, 200, "request {i}: {}", mesh.explain().await);
    }
}

#[tokio::test]
async fn the_budget_holds_under_a_full_outage() {
    let policies = retrying("{attempts: 5, codes: [503], backoff: 1ms}")
        + &policy("api", "circuitBreaker: {disabled: true}");
    let mesh = mesh(always(503), &policies).await;
    let web = mesh.client("web").http2();
    let started = Instant::now();
    let requests = 1000;
    let mut spent = 0;
    for _ in 0..requests / 20 {
        for answer in futures_util::future::join_all((0..20).map(|_| web.get("http://api/"))).await {
            assert_eq!(answer.status, 503);
            if answer.failure() == "retry-budget; by=outbound" {
                spent += 1;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let extra = mesh.attempts("api") - requests;
    let allowed = 0.2 * requests as f64 + 10.0 * (seconds + 1.0);
    assert!(extra as f64 <= allowed, "{extra} retries of {requests} requests in {seconds:.1} s");
    assert!(extra >= 100, "the budget allows some: {extra}");
    assert!(spent > 0, "a spent budget is named");
}

#[tokio::test]
async fn one_slow_attempt_is_cut_short_and_tried_again() {
    let app = deciding(|seen| if seen.number == 0 { Reply::hang() } else { Reply::text("quick") });
    let rules =
        "- backendRefs: [{name: api, port: 80}]\n  timeouts: {backendRequest: 200ms}\n  retry: {attempts: 1}";
    let mesh = mesh(app, &route("slow", "api", rules)).await;
    let started = Instant::now();
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!(answer.text(), "quick", "{answer:?}");
    assert!(started.elapsed() >= Duration::from_millis(199), "after {:?}", started.elapsed());
    assert_eq!(mesh.attempts("api"), 2);
}

#[tokio::test]
async fn attempts_that_are_all_too_slow_are_a_try_timeout() {
    let app = answering(|_| async { Reply::hang() });
    let rules = "- backendRefs: [{name: api, port: 80}]\n  timeouts: {backendRequest: 100ms}\n  retry: {attempts: 1, backoff: 5ms}";
    let mesh = mesh(app, &route("slow", "api", rules)).await;
    mesh.client("web").get("http://api/").await.assert_failure(504, "try-timeout", "outbound");
    assert_eq!(mesh.attempts("api"), 2);
}

#[tokio::test]
async fn the_request_timeout_spans_all_attempts() {
    let app = answering(|_| async { Reply::hang() });
    let rules = "- backendRefs: [{name: api, port: 80}]\n  timeouts: {request: 500ms, backendRequest: 200ms}\n  retry: {attempts: 9, backoff: 5ms}";
    let mesh = mesh(app, &route("slow", "api", rules)).await;
    let started = Instant::now();
    mesh.client("web").get("http://api/").await.assert_failure(504, "request-timeout", "outbound");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(499) && took < Duration::from_secs(5), "{took:?}");
    assert!((2..=4).contains(&mesh.attempts("api")), "{} attempts", mesh.attempts("api"));
}

#[tokio::test]
async fn the_callers_own_deadline_holds() {
    let mesh = mesh(answering(|_| async { Reply::hang() }), "").await;
    let started = Instant::now();
    let answer = mesh.client("web").get_with("http://api/", &[("outrigger-deadline-ms", "300")]).await;
    answer.assert_failure(504, "deadline", "outbound");
    assert!(started.elapsed() >= Duration::from_millis(299), "{:?}", started.elapsed());
    let before = mesh.attempts("api");
    let answer = mesh.client("web").get_with("http://api/", &[("outrigger-deadline-ms", "0")]).await;
    answer.assert_failure(504, "deadline", "outbound");
    assert_eq!(mesh.attempts("api"), before, "past its deadline nothing is sent");
}

/// A service that fails its first request after a while, and for the second calls another through its own proxy.
fn calling(next: Arc<OnceLock<(Client, &'static str)>>, after: Duration) -> App {
    answering(move |seen| {
        let next = Arc::clone(&next);
        async move {
            if seen.number == 0 {
                return Reply::status(503).after(after);
            }
            let (client, url) = next.get().expect("the test says whom to call");
            let deadline = seen.header("outrigger-deadline-ms").to_owned();
            let answer = client.get_with(url, &[("outrigger-deadline-ms", &deadline)]).await;
            Reply::status(answer.status.as_u16())
        }
    })
}

#[tokio::test]
async fn a_deadline_shrinks_across_two_hops() {
    let next = Arc::<OnceLock<(Client, &'static str)>>::default();
    let rules = "- backendRefs: [{name: orders, port: 80}]\n  timeouts: {request: 10s}\n  retry: {attempts: 1, codes: [503], backoff: 5ms}";
    let mesh = Mesh::builder()
        .service("payments", always(200))
        .service("orders", calling(Arc::clone(&next), Duration::from_millis(250)))
        .client("web")
        .policy(&route("orders", "orders", rules))
        .start()
        .await;
    next.set((mesh.client("orders"), "http://payments/")).unwrap();
    assert_eq!(mesh.client("web").get("http://orders/").await.status, 200);
    let deadline = |service: &str, number: usize| -> u64 {
        let seen = Arc::clone(&mesh.instance(service, 0).record().seen()[number]);
        seen.header("outrigger-deadline-ms")
            .parse()
            .unwrap_or_else(|_| panic!("{service} has no deadline: {seen:?}"))
    };
    let (first, second, payments) = (deadline("orders", 0), deadline("orders", 1), deadline("payments", 0));
    assert!(first <= 10_000 && first > 5_000, "the first attempt has {first} ms");
    assert!(second + 250 <= first, "the second attempt has {second} ms of {first} ms, less 250 ms");
    assert!(payments <= second && payments > 0, "payments has {payments} ms of {second} ms");
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_without_policy() {
    // The instance vanishes without a word; its endpoint stays for the grace.
    let mut mesh = Mesh::builder()
        .service("api", always(200))
        .instances(2)
        .as_process()
        .client("web")
        .policy(&policy("api", "loadBalancer: {type: RoundRobin}"))
        .start()
        .await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api/").await.status, 200);
    mesh.instance_mut("api", 0).kill().await;
    for i in 0..10 {
        // A POST as well: what was refused never reached anybody.
        let answer = web.post("http://api/", full("order")).await;
        assert_eq!(answer.status, 200, "request {i}: {answer:?}");
    }
}

#[tokio::test]
async fn a_streaming_body_reaches_the_application_before_it_ends() {
    let counted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&counted);
    let app = outrigger_tests::app::http::streaming(move |request, _call| {
        let counter = Arc::clone(&counter);
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
                counter.fetch_add(frame.data_ref().map_or(0, |d| d.len()) as u64, Ordering::SeqCst);
            }
            Ok(http::Response::new(empty()))
        }
    });
    let mesh = mesh(app, &retrying(THREE_503)).await;
    let (sender, body) = outrigger_tests::app::http::channel(1);
    let web = mesh.client("web");
    let asking = tokio::spawn(async move { web.answer(request("PUT", "http://api/", &[], body)).await });
    sender.send(Ok(http_body::Frame::data("first".into()))).await.unwrap();
    outrigger_tests::eventually("the first piece arrives while the rest is not yet sent", || async {
        match counted.load(Ordering::SeqCst) {
            5 => Ok(()),
            n => Err(format!("{n} bytes")),
        }
    })
    .await;
    drop(sender);
    assert_eq!(soon("the answer", asking).await.unwrap().status, 200);
}

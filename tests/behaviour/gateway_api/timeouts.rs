//! 2.6: how long requests may take, and what is tried again.

use std::time::Duration;

use outrigger_tests::Mesh;
use outrigger_tests::app::App;
use outrigger_tests::app::http::{Reply, deciding};

use super::{assert_refused, call, check, conformance, get, http, route_of};
use crate::documents::policy;

/// Answers as the request's own `x-delay-ms` and `x-status` say; the first `x-fails` attempts with 503.
fn obliging() -> App {
    deciding(|seen| {
        let number = |name: &str| seen.header(name).parse::<u64>().unwrap_or_default();
        let attempt = number("outrigger-attempt");
        let status = match number("x-status") {
            0 => 200,
            code if number("x-fails") == 0 || attempt <= number("x-fails") => code as u16,
            _ => 200,
        };
        let reset = number("x-resets") >= attempt && number("x-resets") > 0;
        let reply = if reset { Reply::reset() } else { Reply::status(status) };
        reply.header("x-attempt", &attempt.to_string()).after(Duration::from_millis(number("x-delay-ms")))
    })
}

async fn mesh(documents: &str) -> Mesh {
    Mesh::builder()
        .service("echo", obliging())
        .client("web")
        .policy(&(super::ECHO.to_owned() + documents))
        .start()
        .await
}

/// A rule for `echo` itself with these fields before its backends.
fn timed(fields: &str) -> String {
    http("r", &[&format!("{{{fields}, backendRefs: [{{name: echo, port: 80}}]}}")])
}

const SLOW: &str = "20000";

#[tokio::test]
async fn a_request_timeout_covers_all_attempts_and_is_504() {
    let mesh = mesh(&timed("timeouts: {request: 500ms}")).await;
    check(
        &mesh,
        vec![get("http://echo/"), get("http://echo/").with("x-delay-ms", SLOW).fails(504, "request-timeout")],
    )
    .await;
}

#[tokio::test]
async fn a_backend_timeout_is_for_each_attempt_and_counts_as_retriable() {
    let mesh = mesh(&timed("timeouts: {backendRequest: 200ms}, retry: {attempts: 2, backoff: 5ms}")).await;
    check(&mesh, vec![get("http://echo/").with("x-delay-ms", SLOW).fails(504, "try-timeout")]).await;
    assert_eq!(mesh.attempts("echo"), 3);
}

#[tokio::test]
async fn a_request_timeout_during_retries_is_504_at_once() {
    let fields = "timeouts: {request: 600ms, backendRequest: 400ms}, retry: {attempts: 10, backoff: 5ms}";
    let mesh = mesh(&timed(fields)).await;
    check(&mesh, vec![get("http://echo/").with("x-delay-ms", SLOW).fails(504, "request-timeout")]).await;
    assert!(mesh.attempts("echo") < 11, "{}", mesh.attempts("echo"));
}

#[tokio::test]
async fn nought_switches_a_timeout_off_and_what_is_not_written_is_the_policys() {
    let defaults = policy("echo", "defaults: {timeouts: {request: 300ms}}");
    let mesh1 = mesh(&(defaults.clone() + &timed("name: r"))).await;
    check(&mesh1, vec![get("http://echo/").with("x-delay-ms", SLOW).fails(504, "request-timeout")]).await;
    let mesh2 = mesh(&(defaults + &timed("timeouts: {request: 0s}"))).await;
    check(&mesh2, vec![get("http://echo/").with("x-delay-ms", "700").status(200)]).await;
}

#[tokio::test]
async fn a_grpc_route_has_the_policys_timeouts_and_the_callers() {
    let route = route_of("GRPCRoute", ("shop", "r"), "", &["{backendRefs: [{name: echo, port: 80}]}"]);
    let mesh = mesh(&(policy("echo", "defaults: {timeouts: {request: 400ms}}") + &route)).await;
    let slow = || call("http://echo/a.B/C").with("x-delay-ms", SLOW);
    check(
        &mesh,
        vec![slow().ends(4, "request-timeout"), slow().with("grpc-timeout", "100m").ends(4, "deadline")],
    )
    .await;
}

#[tokio::test]
async fn durations_are_of_the_gateway_api_and_an_attempt_is_not_longer_than_its_request() {
    let mesh = conformance("").await;
    for wrong in ["1d", "1.5s", "-1s", "123456s", "1h1h1h1h1h"] {
        assert_refused(
            &mesh,
            &timed(&format!("timeouts: {{request: '{wrong}'}}")),
            "spec.rules[0].timeouts.request",
        )
        .await;
    }
    let longer = timed("timeouts: {request: 1s, backendRequest: 2s}");
    assert_refused(&mesh, &longer, "spec.rules[0].timeouts.backendRequest").await;
    mesh.apply(&timed("timeouts: {request: 1h2m3s4ms, backendRequest: 0s}")).await;
}

#[tokio::test]
async fn listed_codes_are_tried_again_and_the_last_answer_is_given() {
    let budget = policy("echo", "retryBudget: {minPerSecond: 1000}");
    let retry = timed("retry: {attempts: 2, backoff: 5ms, codes: [500, 502, 503, 504]}");
    let mesh = mesh(&(budget + &retry)).await;
    let failing = |code: &str, times: &str| get("http://echo/").with("x-status", code).with("x-fails", times);
    let mut cases = vec![get("http://echo/").with("x-status", "501").status(501).answers("x-attempt", "1")];
    for code in [500, 502, 503, 504] {
        cases.push(failing(&code.to_string(), "2").status(200).answers("x-attempt", "3"));
        cases.push(
            failing(&code.to_string(), "3")
                .status(code)
                .answers("x-attempt", "3")
                .answers("outrigger-error", ""),
        );
    }
    check(&mesh, cases).await;
}

#[tokio::test]
async fn resets_are_tried_again_with_any_retry_stanza() {
    let mesh = mesh(&timed("retry: {attempts: 1, backoff: 5ms, codes: [503]}")).await;
    check(
        &mesh,
        vec![
            get("http://echo/").with("x-resets", "1").answers("x-attempt", "2"),
            get("http://echo/").with("x-resets", "9").status(502),
        ],
    )
    .await;
}

#[tokio::test]
async fn over_the_budget_of_a_backend_traffic_policy_the_client_gets_503() {
    let budget = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
                  metadata: {name: p, namespace: shop}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: echo}]\n  \
                  retryConstraint: {budget: {percent: 20, interval: 1h}, minRetryRate: {count: 1, interval: 1h}}\n---\n";
    let retry = timed("retry: {attempts: 1, backoff: 1ms, codes: [500]}");
    let mesh = mesh(&(budget.to_owned() + &retry)).await;
    let web = mesh.client("web");
    let mut refused = 0;
    for _ in 0..100 {
        let answer = web.get_with("http://echo/", &[("x-status", "500")]).await;
        match answer.status.as_u16() {
            500 => {}
            503 => {
                assert_eq!(answer.failure(), "retry-budget; by=outbound");
                refused += 1;
            }
            other => panic!("{other}: {answer:?}"),
        }
    }
    // Of 100 requests one always and a fifth may be tried again.
    assert!(refused >= 79, "{refused} of 100 were refused a retry");
    assert!(mesh.attempts("echo") <= 121, "{} attempts for 100 requests", mesh.attempts("echo"));
    let policy = mesh.show("/v1/namespaces/shop/xbackendtrafficpolicies/p").await;
    let ancestor = &policy["status"]["ancestors"][0];
    assert_eq!(super::conditions_of(ancestor), ["Accepted=True/Accepted"]);
    assert_eq!(
        (&ancestor["ancestorRef"]["name"], &ancestor["ancestorRef"]["kind"]),
        (&"echo".into(), &"Service".into())
    );
}

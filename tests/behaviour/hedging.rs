//! A late attempt is overtaken by another, within the budget.

use std::time::Duration;

use outrigger_tests::app::App;
use outrigger_tests::app::http::{Reply, answering, deciding, empty, full};
use outrigger_tests::{Mesh, eventually, request};

use crate::documents::policy;

/// The first instance never answers, the others at once with what they were sent.
fn one_hangs() -> App {
    answering(|seen| async move {
        match seen.instance.as_str() {
            "api-0" => Reply::hang(),
            _ => Reply::text(String::from_utf8_lossy(&seen.body).into_owned()),
        }
    })
}

async fn hedged(app: App, instances: usize, fields: &str) -> Mesh {
    // Round robin, and no breaker, so that the instance that hangs is asked again and again.
    let fields = format!("loadBalancer: {{type: RoundRobin}}\ncircuitBreaker: {{disabled: true}}\n{fields}");
    Mesh::builder()
        .service("api", app)
        .instances(instances)
        .client("web")
        .policy(&policy("api", &fields))
        .start()
        .await
}

async fn hedges(mesh: &Mesh, result: &str) -> f64 {
    mesh.metrics("web").await.sum("outrigger_hedges_total", &[("service", "api"), ("result", result)])
}

const RICH: &str = "retryBudget: {percent: 100, minPerSecond: 1000}";

#[tokio::test]
async fn an_instance_that_hangs_is_overtaken_by_another() {
    let mesh = hedged(one_hangs(), 2, &format!("hedging: {{delay: 50ms}}\n{RICH}")).await;
    let web = mesh.client("web");
    for _ in 0..10 {
        let answer = web.get("http://api/").await;
        assert_eq!((answer.status.as_u16(), answer.instance()), (200, "api-1"), "{}", mesh.explain().await);
    }
    assert!(mesh.instance("api", 0).record().attempts() >= 3, "every other request began there");
    assert!(hedges(&mesh, "won").await >= 3.0);
    let late = [("reason", "late")];
    assert!(mesh.metrics("web").await.sum("outrigger_retries_total", &late) >= 3.0);
}

#[tokio::test]
async fn a_body_that_has_come_whole_goes_with_it() {
    let mesh = hedged(one_hangs(), 2, &format!("hedging: {{delay: 100ms}}\n{RICH}")).await;
    let web = mesh.client("web");
    for number in 0..6 {
        let words = format!("words {number}");
        let answer = web.answer(request("PUT", "http://api/", &[], full(words.clone()))).await;
        assert_eq!((answer.text(), answer.instance()), (words, "api-1"));
    }
}

#[tokio::test]
async fn what_may_not_be_repeated_is_sent_once() {
    let slow = |millis| deciding(move |_| Reply::text("x").after(Duration::from_millis(millis)));
    let mesh = hedged(slow(200), 2, &format!("hedging: {{delay: 10ms}}\n{RICH}")).await;
    let web = mesh.client("web");
    for _ in 0..3 {
        web.post("http://api/", empty()).await;
    }
    assert_eq!(mesh.attempts("api"), 3);
    let asked = format!("hedging: {{delay: 10ms}}\n{RICH}\ndefaults: {{retry: {{nonIdempotent: true}}}}");
    let mesh = hedged(slow(2000), 2, &asked).await;
    mesh.client("web").post("http://api/", empty()).await;
    assert_eq!(mesh.attempts("api"), 2, "unless the policy says that it may");
}

#[tokio::test]
async fn a_service_that_is_slow_as_a_whole_is_asked_no_more_than_the_budget_allows() {
    let slow = deciding(|_| Reply::text("x").after(Duration::from_millis(100)));
    let fields = "hedging: {delay: 10ms}\nretryBudget: {percent: 10, minPerSecond: 0}";
    let mesh = hedged(slow, 3, fields).await;
    let web = mesh.client("web");
    for _ in 0..40 {
        assert_eq!(web.get("http://api/").await.status, 200);
    }
    assert!((41..=44).contains(&mesh.attempts("api")), "{} attempts for 40 requests", mesh.attempts("api"));
    assert!(hedges(&mesh, "refused").await >= 30.0);
}

#[tokio::test]
async fn a_quick_service_is_asked_once() {
    let quick = deciding(|_| Reply::text("x"));
    let mesh = hedged(quick, 2, &format!("hedging: {{delay: 10s}}\n{RICH}")).await;
    let web = mesh.client("web");
    for _ in 0..20 {
        web.get("http://api/").await;
    }
    assert_eq!(mesh.attempts("api"), 20);
}

#[tokio::test]
async fn late_is_what_is_slower_than_most_have_been() {
    let mesh = hedged(
        deciding(|seen| {
            let slow = seen.header("x-slow") == "yes" && seen.instance == "api-0";
            if slow { Reply::hang() } else { Reply::text("x") }
        }),
        2,
        &format!("hedging: {{percentile: 90}}\n{RICH}"),
    )
    .await;
    let web = mesh.client("web");
    for _ in 0..40 {
        web.get("http://api/").await; // until it is known how long requests take
    }
    for _ in 0..6 {
        let answer = web.get_with("http://api/", &[("x-slow", "yes")]).await;
        assert_eq!(answer.status, 200);
    }
    eventually("it is counted", || async {
        match hedges(&mesh, "won").await {
            won if won >= 3.0 => Ok(()),
            won => Err(format!("{won} won")),
        }
    })
    .await;
}

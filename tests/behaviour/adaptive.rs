//! An application that is given more than it can work on gets less of it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrigger_tests::app::App;
use outrigger_tests::app::http::{Reply, answering};
use outrigger_tests::{Mesh, eventually};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::documents::policy;

/// Works on four requests at once, each for 20 ms; the others wait.
fn four_at_once() -> App {
    let places = Arc::new(Semaphore::new(4));
    answering(move |_| {
        let places = places.clone();
        async move {
            let _place = places.acquire_owned().await;
            sleep(Duration::from_millis(20)).await;
            Reply::text("done")
        }
    })
}

#[tokio::test]
async fn an_overloaded_instance_is_given_less_and_the_rest_is_refused_at_once() {
    let policy = policy("api", "adaptiveConcurrency: {minLimit: 2, maxLimit: 200}");
    let mesh = Mesh::builder().policy(&policy).service("api", four_at_once()).client("web").start().await;
    let web = mesh.client("web").http2();
    // A few first, so that the proxy sees how long an answer takes without a queue.
    for _ in 0..30 {
        assert_eq!(web.get("http://api/").await.status, StatusCode::OK);
    }
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let web = web.clone();
            tokio::spawn(async move {
                loop {
                    let answer = web.get("http://api/").await;
                    if answer.status != StatusCode::OK {
                        answer.assert_failure(503, "overloaded", "inbound");
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    eventually("the limit is near what the application works on", || async {
        let metrics = mesh.metrics("api").await;
        let limit = metrics.sum("outrigger_concurrency_limit", &[("port", "80")]);
        let refused = metrics.sum("outrigger_limit_reached_total", &[("limit", "concurrency")]);
        if limit > 0.0 && limit < 16.0 && refused > 0.0 { Ok(()) } else { Err(format!("{limit} {refused}")) }
    })
    .await;
    callers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn without_the_policy_nothing_is_refused() {
    let mesh = Mesh::builder().service("api", four_at_once()).client("web").start().await;
    let web = mesh.client("web").http2();
    let answers: Vec<_> = (0..60)
        .map(|_| {
            let web = web.clone();
            tokio::spawn(async move { web.get("http://api/").await.status })
        })
        .collect();
    for answer in answers {
        assert_eq!(answer.await.unwrap(), StatusCode::OK);
    }
}

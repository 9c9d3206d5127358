//! A limit with scope Mesh is one budget for all proxies that enforce it: parts of it go where they are asked for, and
//! without the control plane to equal parts.

use std::ops::Range;
use std::time::Duration;

use outrigger_tests::app::http::echo;
use outrigger_tests::{Load, Mesh, within};
use tokio::time::{Instant, sleep};

use crate::documents::{limits, policy};

/// Requests a second that all may admit together. So many at once, too: what is asked with many keys comes in bursts.
const LIMIT: f64 = 30.0;

/// So many instances of a service under one limit; a request's `k` decides which of them gets it.
async fn instances(count: usize) -> Mesh {
    let limit = format!("- {{name: all, requests: {LIMIT}, scope: Mesh}}");
    let by_key = policy("api", "loadBalancer: {type: Hash, hash: {queryParameter: k}}");
    let documents = limits("api", &limit) + &by_key;
    Mesh::builder().policy(&documents).service("api", echo()).instances(count).client("web").start().await
}

/// At least three times as many requests as the limit allows, with these keys.
fn ask(mesh: &Mesh, keys: Range<u32>) -> Vec<Load> {
    let web = mesh.client("web").http2();
    let each = ((LIMIT * 3.0) as u32).div_ceil(keys.len() as u32);
    keys.map(|key| Load::start(&web, &format!("http://api/?k={key}"), each)).collect()
}

/// Ends them all at once: each sends so seldom that one after the other would take half a minute.
async fn stop(loads: Vec<Load>) {
    let stopping: Vec<_> = loads.into_iter().map(|load| tokio::spawn(load.stop())).collect();
    for stopped in stopping {
        stopped.await.unwrap();
    }
}

/// Waits for a second in which nearly all of the limit is used.
async fn used_up(mesh: &Mesh) {
    within(Duration::from_secs(30), "the limit is used up", || async {
        let (began, before) = (Instant::now(), mesh.attempts("api"));
        sleep(Duration::from_secs(1)).await;
        let rate = (mesh.attempts("api") - before) as f64 / began.elapsed().as_secs_f64();
        if rate > LIMIT * 0.9 { Ok(()) } else { Err(format!("{rate} a second")) }
    })
    .await;
}

/// What the limit allows since `began`, and 5 %.
fn allowed(began: Instant, proxies: usize) -> f64 {
    // However small its part, a bucket holds one request.
    LIMIT * began.elapsed().as_secs_f64() * 1.05 + LIMIT + proxies as f64
}

#[tokio::test]
async fn twenty_proxies_keep_one_budget_while_demand_moves_between_them() {
    const PROXIES: usize = 20;
    let mesh = instances(PROXIES).await;
    stop(ask(&mesh, 0..60)).await;
    let (began, before) = (Instant::now(), mesh.attempts("api"));
    for keys in [0..1, 1..3, 100..160, 7..9] {
        let loads = ask(&mesh, keys);
        used_up(&mesh).await;
        stop(loads).await;
    }
    let admitted = (mesh.attempts("api") - before) as f64;
    let most = allowed(began, PROXIES);
    assert!(admitted <= most, "{admitted} of {most}\n{}", mesh.explain().await);
}

#[tokio::test]
async fn without_the_control_plane_the_budget_holds_in_equal_parts() {
    const PROXIES: usize = 4;
    let mut mesh = instances(PROXIES).await;
    let one = ask(&mesh, 0..1);
    used_up(&mesh).await;
    mesh.kill_control_plane().await;
    let (began, before) = (Instant::now(), mesh.attempts("api"));
    within(Duration::from_secs(45), "the one that is asked has an equal part", || async {
        let (began, before) = (Instant::now(), mesh.attempts("api"));
        sleep(Duration::from_secs(1)).await;
        let rate = (mesh.attempts("api") - before) as f64 / began.elapsed().as_secs_f64();
        if rate < LIMIT / PROXIES as f64 * 1.4 { Ok(()) } else { Err(format!("{rate} a second")) }
    })
    .await;
    stop(one).await;
    let all = ask(&mesh, 0..60);
    used_up(&mesh).await;
    let admitted = (mesh.attempts("api") - before) as f64;
    let most = allowed(began, PROXIES);
    assert!(admitted <= most, "{admitted} of {most}");
    stop(all).await;
}

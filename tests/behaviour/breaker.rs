//! An instance that fails is left alone, asked once in a while, and taken back when it is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use outrigger_tests::app::App;
use outrigger_tests::app::http::{Reply, always, answering, deciding};
use outrigger_tests::{Load, Mesh, eventually};

use crate::documents::{policy, route};

const WELL: u8 = 0;
const FAILING: u8 = 1;
const HANGING: u8 = 2;

/// Instance 0 is as `mood` says, the others are well.
fn moody(mood: Arc<AtomicU8>) -> App {
    answering(move |seen| {
        let mood = if seen.instance == "api-0" { mood.load(Ordering::SeqCst) } else { WELL };
        async move {
            match mood {
                FAILING => Reply::status(503),
                HANGING => Reply::hang(),
                _ => Reply::text("well"),
            }
        }
    })
}

/// Round robin, so that the balancer's own caution does not hide what the breaker does.
async fn three(mood: &Arc<AtomicU8>, breaker: &str) -> Mesh {
    let policy = policy("api", &format!("loadBalancer: {{type: RoundRobin}}\ncircuitBreaker: {breaker}"));
    Mesh::builder()
        .service("api", moody(Arc::clone(mood)))
        .instances(3)
        .client("web")
        .policy(&policy)
        .start()
        .await
}

async fn transitions(mesh: &Mesh, state: &str) -> f64 {
    mesh.metrics("web")
        .await
        .sum("outrigger_breaker_transitions_total", &[("service", "api"), ("state", state)])
}

#[tokio::test]
async fn it_opens_after_so_many_failures_in_a_row() {
    let mood = Arc::new(AtomicU8::new(FAILING));
    let mesh = three(&mood, "{consecutiveFailures: 5, minOpen: 60s, maxOpen: 60s}").await;
    let web = mesh.client("web");
    let mut failed = 0;
    for _ in 0..90 {
        failed += u32::from(web.get("http://api/").await.status != 200);
    }
    assert_eq!(failed, 5, "{}", mesh.explain().await);
    assert_eq!(mesh.instance("api", 0).record().attempts(), 5, "an open breaker lets nothing through");
    assert_eq!(transitions(&mesh, "open").await, 1.0);
    assert_eq!(mesh.metrics("web").await.sum("outrigger_breaker_open", &[("service", "api")]), 1.0);
    eventually("the control plane knows which", || async {
        let proxies = mesh.list("/v1/proxies").await;
        let ejected: Vec<_> =
            proxies.iter().filter_map(|proxy| proxy["ejected"].as_array()).flatten().collect();
        match &ejected[..] {
            [one] if one["service"] == "api.shop" && one["reason"] == "failures in a row" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_success_in_between_keeps_it_closed() {
    let app = deciding(|seen| if seen.number % 4 == 3 { Reply::text("well") } else { Reply::status(503) });
    let policy = policy("api", "circuitBreaker: {consecutiveFailures: 5, minOpen: 60s, maxOpen: 60s}");
    let mesh = Mesh::builder().service("api", app).client("web").policy(&policy).start().await;
    let web = mesh.client("web");
    for _ in 0..40 {
        assert_eq!(web.get("http://api/").await.failure(), "");
    }
    assert_eq!(mesh.attempts("api"), 40);
}

#[tokio::test]
async fn it_probes_with_exactly_one_request() {
    let mood = Arc::new(AtomicU8::new(FAILING));
    let mesh = three(&mood, "{consecutiveFailures: 3, minOpen: 500ms, maxOpen: 60s}").await;
    let web = mesh.client("web").http2();
    let sick = Arc::clone(mesh.instance("api", 0).record());
    while sick.attempts() < 3 {
        web.get("http://api/").await;
    }
    // From here on a request to the sick instance never ends, so a second probe would be seen as a third.
    mood.store(HANGING, Ordering::SeqCst);
    let probing = {
        let web = web.clone();
        let sick = Arc::clone(&sick);
        tokio::spawn(async move {
            while sick.attempts() < 4 {
                let web = web.clone();
                tokio::spawn(async move {
                    web.send(outrigger_tests::request(
                        "GET",
                        "http://api/",
                        &[],
                        outrigger_tests::app::http::empty(),
                    ))
                    .await
                });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    outrigger_tests::soon("the probe", probing).await.unwrap();
    for _ in 0..60 {
        let answers = web.get("http://api/").await;
        assert_eq!(answers.status, 200, "while the probe is under way the others serve: {answers:?}");
    }
    assert_eq!(sick.attempts(), 4, "one probe and no more");
}

#[tokio::test]
async fn a_probe_that_succeeds_closes_it() {
    let mood = Arc::new(AtomicU8::new(FAILING));
    let mesh = three(&mood, "{consecutiveFailures: 3, minOpen: 200ms, maxOpen: 1s}").await;
    let web = mesh.client("web");
    let sick = Arc::clone(mesh.instance("api", 0).record());
    while sick.attempts() < 3 {
        web.get("http://api/").await;
    }
    mood.store(WELL, Ordering::SeqCst);
    eventually("it takes its share again", || async {
        let answer = web.get("http://api/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        match sick.attempts() {
            0..20 => Err(format!("{} requests", sick.attempts())),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(
        transitions(&mesh, "closed").await,
        1.0,
        "{}",
        mesh.metrics("web").await.lines("outrigger_breaker")
    );
}

#[tokio::test]
async fn a_probe_that_fails_opens_it_for_longer() {
    let mood = Arc::new(AtomicU8::new(FAILING));
    let mesh = three(&mood, "{consecutiveFailures: 3, minOpen: 100ms, maxOpen: 10s}").await;
    let web = mesh.client("web");
    let sick = Arc::clone(mesh.instance("api", 0).record());
    eventually("three probes have failed", || async {
        web.get("http://api/").await;
        if sick.attempts() >= 6 { Ok(()) } else { Err(format!("{} attempts", sick.attempts())) }
    })
    .await;
    let at: Vec<_> = sick.seen().iter().map(|s| s.at).collect();
    // Open times double from 100 ms, and jitter takes less than half of it.
    assert!(at[3] - at[2] >= Duration::from_millis(50), "{:?}", at[3] - at[2]);
    assert!(at[5] - at[4] >= Duration::from_millis(200), "{:?}", at[5] - at[4]);
}

#[tokio::test]
async fn never_more_than_half_are_left_alone_and_in_panic_all_are_used() {
    let policy = policy(
        "api",
        "loadBalancer: {type: RoundRobin}\ncircuitBreaker: {consecutiveFailures: 3, minOpen: 60s, maxOpen: 60s}",
    );
    let mesh =
        Mesh::builder().service("api", always(503)).instances(4).client("web").policy(&policy).start().await;
    let web = mesh.client("web");
    for _ in 0..200 {
        let answer = web.get("http://api/").await;
        assert_eq!((answer.status.as_u16(), answer.failure()), (503, ""), "an instance answers: {answer:?}");
    }
    let out = mesh.metrics("web").await.sum("outrigger_breaker_open", &[("service", "api")]);
    assert!(out <= 2.0, "{out} of 4 are left alone");
}

#[tokio::test]
async fn an_endpoint_killed_under_load_costs_no_request() {
    let mut mesh =
        Mesh::builder().service("api", always(200)).instances(3).as_process().client("web").start().await;
    let web = mesh.client("web");
    let load = Load::start(&web, "http://api/", 500);
    sent(&load, 200).await;
    mesh.instance_mut("api", 1).kill().await;
    let at_kill = load.sent();
    sent(&load, at_kill + 700).await;
    let tally = load.stop().await;
    tally.assert_nothing_lost(900);
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_nothing_once_it_is_found_out() {
    let rules = "- backendRefs: [{name: api, port: 80}]\n  timeouts: {backendRequest: 500ms}\n  retry: {attempts: 2, backoff: 5ms}";
    let policies = route("hanging", "api", rules)
        + &policy(
            "api",
            "loadBalancer: {type: RoundRobin}\ncircuitBreaker: {minOpen: 60s, maxOpen: 60s}\nretryBudget: {percent: 100, minPerSecond: 1000}",
        );
    let mut mesh = Mesh::builder()
        .service("api", always(200))
        .instances(3)
        .as_process()
        .client("web")
        .policy(&policies)
        .start()
        .await;
    let web = mesh.client("web");
    let load = Load::start(&web, "http://api/", 200);
    sent(&load, 100).await;
    // A stopped process keeps its connections and answers nothing: the worst kind of failure.
    mesh.instance_mut("api", 1).process().signal(rustix::process::Signal::STOP);
    eventually("it is found out", || async {
        match mesh.metrics("web").await.sum("outrigger_breaker_open", &[("service", "api")]) {
            1.0 => Ok(()),
            n => Err(format!("{n} open")),
        }
    })
    .await;
    let found_out = load.sent();
    sent(&load, found_out + 400).await;
    let tally = load.stop().await;
    mesh.instance_mut("api", 1).process().signal(rustix::process::Signal::CONT);
    tally.assert_nothing_lost(500);
    // What was under way when it was found out has ended by now: the last 200 came quickly.
    let late = &tally.latencies[tally.latencies.len() - 200..];
    let slowest = late.iter().max().unwrap();
    assert!(*slowest < Duration::from_millis(450), "after it was found out a request took {slowest:?}");
}

#[tokio::test]
async fn a_slow_instance_is_avoided() {
    // A second is much, also beside what the others take on a machine that has a lot to do.
    let app = deciding(|seen| match &*seen.instance {
        "api-0" => Reply::text("late").after(Duration::from_secs(1)),
        _ => Reply::text("at once"),
    });
    let mesh = Mesh::builder().service("api", app).instances(3).client("web").start().await;
    // So few at a time that they do not queue up anywhere, and it does not matter how fast they come.
    let callers = (0..4).map(|_| {
        let web = mesh.client("web");
        tokio::spawn(async move {
            for _ in 0..50 {
                assert_eq!(web.get("http://api/").await.status, 200);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let slow = mesh.instance("api", 0).record().attempts();
    let all = mesh.attempts("api");
    assert!(slow * 10 < all, "the slow one of three got {slow} of {all}");
}

#[tokio::test]
async fn over_its_bulkhead_a_service_is_overloaded_at_once() {
    let policy = policy("api", "limits: {maxActiveRequests: 5}");
    let app = answering(|_| async { Reply::hang() });
    let mesh = Mesh::builder().service("api", app).client("web").policy(&policy).start().await;
    let web = mesh.client("web").http2();
    let hanging: Vec<_> = (0..5)
        .map(|_| {
            let web = web.clone();
            tokio::spawn(async move { web.get("http://api/").await })
        })
        .collect();
    eventually("five are under way", || async {
        match mesh.attempts("api") {
            5 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    for _ in 0..3 {
        web.get("http://api/").await.assert_failure(503, "overloaded", "outbound");
    }
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("what ended makes room", || async {
        let asking = web.get_with("http://api/", &[("outrigger-deadline-ms", "50")]).await;
        if asking.failure() == "deadline; by=outbound" { Ok(()) } else { Err(format!("{asking:?}")) }
    })
    .await;
}

async fn sent(load: &Load, count: u64) {
    eventually("the load goes on", || async {
        if load.sent() >= count { Ok(()) } else { Err(format!("{} of {count} sent", load.sent())) }
    })
    .await;
}

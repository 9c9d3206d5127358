//! The numbers are right to the last request, and nothing that a caller sends makes them grow.

use std::time::Duration;

use outrigger_tests::app::http::{Reply, deciding, empty, full};
use outrigger_tests::dns::Dns;
use outrigger_tests::{Mesh, eventually, request};
use tokio::time::Instant;

use crate::documents::route;

/// Answers with the status that the path names.
async fn mesh() -> Mesh {
    let app = deciding(|seen| Reply::status(seen.uri.path()[1..].parse().unwrap_or(200)));
    Mesh::builder().service("api", app).instances(2).client("web").start().await
}

#[tokio::test]
async fn counters_match_what_the_client_counted() {
    let mesh = mesh().await;
    let web = mesh.client("web").http2();
    let sent = [("200", 120.0), ("204", 30.0), ("404", 20.0), ("500", 10.0)];
    for (status, count) in sent {
        let url = format!("http://api/{status}");
        for _ in 0..count as usize {
            web.get(&url).await;
        }
    }
    for _ in 0..7 {
        web.get("http://nobody/").await;
    }
    let labels =
        |status| [("direction", "outbound"), ("service", "api"), ("namespace", "shop"), ("status", status)];
    eventually("every request is counted once", || async {
        let metrics = mesh.metrics("web").await;
        for (status, count) in sent {
            if metrics.sum("outrigger_requests_total", &labels(status)) != count {
                return Err(metrics.lines("outrigger_requests_total"));
            }
        }
        match metrics.sum("outrigger_requests_total", &[("error", "no-route")]) {
            7.0 => Ok(()),
            _ => Err(metrics.lines("outrigger_requests_total")),
        }
    })
    .await;
    // And at the far side: both instances together, with the caller's identity.
    let peer = mesh.instance("web", 0).identity();
    let mut inbound = 0.0;
    for number in [0, 1] {
        let metrics = mesh.metrics_of("api", number).await;
        inbound += metrics
            .sum("outrigger_requests_total", &[("direction", "inbound"), ("peer", &peer), ("tls", "true")]);
    }
    assert_eq!(inbound, 180.0);
    let metrics = mesh.metrics("web").await;
    assert_eq!(metrics.sum("outrigger_requests_active", &[]), 0.0);
    let histogram = metrics.histogram("outrigger_request_duration_seconds", &[("service", "api")]);
    assert_eq!(histogram.last().unwrap().1, 180.0, "a histogram counts what its counter counts");
}

#[tokio::test]
async fn bytes_are_counted_as_bodies_have_them() {
    let mesh = mesh().await;
    for _ in 0..10 {
        mesh.client("web").post("http://api/200", full(vec![1; 1000])).await;
    }
    let labels = [("service", "api")];
    eventually("ten bodies are counted", || async {
        let metrics = mesh.metrics("web").await;
        let sent = metrics.sum("outrigger_request_body_bytes_total", &labels);
        let received = metrics.sum("outrigger_response_body_bytes_total", &labels);
        if (sent, received) == (10_000.0, 30.0) { Ok(()) } else { Err(format!("{sent} {received}")) }
    })
    .await;
}

#[tokio::test]
async fn quantiles_match_the_clients_within_a_bucket() {
    // Nine in ten answers take 5 ms and one takes 60 ms, so that p50 and p99 are apart.
    let app = deciding(|seen| {
        Reply::text("x").after(Duration::from_millis(if seen.number % 10 == 9 { 60 } else { 5 }))
    });
    let mesh = Mesh::builder().service("api", app).client("web").alone().start().await;
    let web = mesh.client("web");
    web.get("http://api/").await; // the first one pays for connections
    let before =
        mesh.metrics("web").await.histogram("outrigger_request_duration_seconds", &[("service", "api")]);
    let mut took = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        web.get("http://api/").await;
        took.push(started.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    let after = eventually("all are counted", || async {
        let after =
            mesh.metrics("web").await.histogram("outrigger_request_duration_seconds", &[("service", "api")]);
        match after.last().map(|(_, n)| *n) {
            Some(201.0) => Ok(after),
            n => Err(format!("{n:?}")),
        }
    })
    .await;
    for share in [0.5, 0.99] {
        let mine = took[(200.0 * share) as usize - 1];
        let rank = 200.0 * share;
        let counted = |i: usize| after[i].1 - before.get(i).map_or(0.0, |b| b.1);
        let index = (0..after.len()).find(|&i| counted(i) >= rank).unwrap();
        // The client's clock starts a little earlier and stops a little later than the proxy's.
        let position = after.iter().position(|(bound, _)| mine <= *bound).unwrap();
        assert!(
            index <= position && position - index <= 1,
            "p{}: the client saw {mine:.4} s, the histogram has the bucket up to {} s",
            share * 100.0,
            after[index].0
        );
    }
}

#[tokio::test]
async fn time_in_the_proxy_is_told_apart_from_time_upstream() {
    let app = deciding(|_| Reply::text("x").after(Duration::from_millis(100)));
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    for _ in 0..10 {
        mesh.client("web").get("http://api/").await;
    }
    let metrics = mesh.metrics("web").await;
    let total = metrics.sum("outrigger_request_duration_seconds_sum", &[("service", "api")]);
    let overhead = metrics.sum("outrigger_proxy_overhead_seconds_sum", &[("service", "api")]);
    assert!(total >= 1.0, "{total}");
    assert!(overhead < total / 2.0, "{overhead} s of {total} s");
}

#[tokio::test]
async fn retries_are_counted_with_their_reason() {
    let app = deciding(|seen| if seen.number % 2 == 0 { Reply::status(503) } else { Reply::text("well") });
    let rules = "- backendRefs: [{name: api, port: 80}]\n  retry: {attempts: 1, codes: [503], backoff: 1ms}";
    let mesh =
        Mesh::builder().service("api", app).client("web").policy(&route("r", "api", rules)).start().await;
    for _ in 0..10 {
        assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
    }
    let metrics = mesh.metrics("web").await;
    let labels = [("service", "api"), ("route", "shop/r")];
    assert_eq!(
        metrics.sum("outrigger_retries_total", &labels),
        10.0,
        "{}",
        metrics.lines("outrigger_retries")
    );
    assert_eq!(metrics.sum("outrigger_attempts_total", &[("service", "api"), ("success", "false")]), 10.0);
    assert_eq!(metrics.sum("outrigger_attempts_total", &[("service", "api"), ("success", "true")]), 10.0);
    assert_eq!(metrics.sum("outrigger_requests_total", &[("service", "api"), ("status", "200")]), 10.0);
}

#[tokio::test]
async fn labels_stay_bounded_under_ten_thousand_paths_and_hosts() {
    let dns = Dns::start().await; // says at once that there is no such host
    let answers = || deciding(|_| Reply::status(200));
    let mesh = Mesh::builder().service("api", answers()).client("web");
    let mesh = mesh.args(&["--dns", &dns.address.to_string()]).start().await;
    let web = mesh.client("web").http2();
    web.get("http://api/warm").await;
    web.get("http://nobody-0/").await;
    let before = mesh.metrics("web").await.series();
    for round in 0..200 {
        let requests = (0..50).map(|i| {
            let n = round * 50 + i;
            let web = &web;
            async move {
                // Half to one service with ever new paths, methods and headers, half to hosts that nobody knows.
                let (method, url) = match n % 2 {
                    0 => ("GET", format!("http://api/path-{n}?query={n}")),
                    _ => ("POST", format!("http://host-{n}.example/{n}")),
                };
                let method = if n % 100 == 0 { format!("M{n}") } else { method.to_owned() };
                let headers = [("user-agent", format!("agent-{n}"))];
                let headers = headers.each_ref().map(|(k, v)| (*k, v.as_str()));
                web.send(request(&method, &url, &headers, empty())).await.expect("an answer")
            }
        });
        futures_util::future::join_all(requests).await;
    }
    let metrics = mesh.metrics("web").await;
    let after = metrics.series();
    assert!(after < before + 200, "{before} series became {after}");
    for part in ["path-", "host-", "agent-", "M100"] {
        assert!(!metrics.text.contains(part), "{part} is in a label");
    }
    let all = metrics.sum("outrigger_requests_total", &[("direction", "outbound")]);
    assert_eq!(all, 10_002.0, "every request is counted, wherever");
}

#[tokio::test]
async fn open_metrics_are_served_where_they_are_asked_for() {
    let mesh = mesh().await;
    mesh.client("web").get("http://api/200").await;
    let admin = mesh.instance("web", 0).sidecar().admin;
    let client = outrigger_tests::Client::via(admin);
    let accept = [("accept", "application/openmetrics-text;version=1.0.0")];
    let answer = client.get_with(&format!("http://{admin}/metrics"), &accept).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"), "{answer:?}");
    assert!(answer.text().trim_end().ends_with("# EOF"), "OpenMetrics ends with # EOF");
    let plain = client.get(&format!("http://{admin}/metrics")).await;
    assert!(plain.header("content-type").starts_with("text/plain"), "{plain:?}");
}

#[tokio::test]
async fn the_admin_server_tells_what_it_has_and_what_it_has_not() {
    let mesh = mesh().await;
    for (path, status) in [("/live", 200), ("/ready", 200), ("/config", 200), ("/nothing", 404)] {
        assert_eq!(mesh.admin("web", 0, path).await.status, status, "{path}");
    }
    let admin = mesh.instance("web", 0).sidecar().admin;
    let client = outrigger_tests::Client::via(admin);
    let answer = client.post(&format!("http://{admin}/metrics"), empty()).await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn the_access_log_has_one_line_a_request_with_what_matters() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let app = deciding(|_| Reply::text("x"));
    let mesh = Mesh::builder()
        .service("api", app)
        .client("web")
        .args(&["--access-log", path.to_str().unwrap()])
        .start()
        .await;
    for i in 0..5 {
        mesh.client("web").get_with(&format!("http://api/{i}"), &[("x-request-id", "rid-7")]).await;
    }
    mesh.client("web").get("http://nobody/").await;
    let lines = eventually("six lines", || async {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<serde_json::Value> =
            text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        if lines.len() == 6 { Ok(lines) } else { Err(text) }
    })
    .await;
    let text = lines[0].to_string();
    for part in ["rid-7", "/0", "api", "200", "GET"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(lines[5].to_string().contains("no-route"), "{}", lines[5]);
}

#[tokio::test]
async fn the_control_plane_shows_the_edges_of_the_mesh() {
    let mesh = mesh().await;
    for _ in 0..25 {
        mesh.client("web").get("http://api/200").await;
    }
    eventually("the edge is reported", || async {
        let edges = mesh.list("/v1/stats").await;
        let found = edges.iter().any(|e| {
            e["direction"] == "outbound"
                && e["destination"] == "api.shop"
                && e["requests"] == 25
                && e["mtls"] == true
        });
        if found { Ok(()) } else { Err(format!("{edges:?}")) }
    })
    .await;
}

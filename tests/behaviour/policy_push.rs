//! A change of policy is everywhere at once, costs nobody anything, and without the control plane all goes on.

use std::path::Path;
use std::time::Duration;

use outrigger_tests::app::http::{echo, saying};
use outrigger_tests::{Client, Load, Mesh, eventually, within};
use tokio::time::{Instant, sleep};

use crate::documents::{policy, route, service};

/// A route that lets answers carry this version.
fn versioned(version: usize) -> String {
    route(
        "version",
        "api",
        &format!(
            "- filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
             {{set: [{{name: x-version, value: v{version}}}]}}}}]\n  backendRefs: [{{name: api, port: 80}}]"
        ),
    )
}

#[tokio::test]
async fn a_change_reaches_twenty_proxies_in_under_100_ms() {
    const PROXIES: usize = 20;
    const CHANGES: usize = 100;
    let mut mesh = Mesh::builder().policy(&versioned(0)).service("api", echo());
    for i in 0..PROXIES {
        mesh = mesh.client(&format!("web-{i}"));
    }
    let mesh = mesh.alone().start().await;
    let clients: Vec<_> = (0..PROXIES).map(|i| mesh.client(&format!("web-{i}"))).collect();
    for client in &clients {
        assert_eq!(client.get("http://api/").await.header("x-version"), "v0");
    }
    let mut took = Vec::new();
    for version in 1..=CHANGES {
        took.push(change_everywhere(&mesh, &clients, version).await);
    }
    took.sort_unstable();
    let p99 = took[CHANGES - 2];
    assert!(p99 < Duration::from_millis(100), "p99 {p99:?}, median {:?}, all {took:?}", took[CHANGES / 2]);
    for client in &clients {
        assert_eq!(client.connections(), 1, "no change closes a connection");
    }
}

/// Applies this version and returns how long it took until every proxy had acknowledged it.
async fn change_everywhere(mesh: &Mesh, clients: &[Client], version: usize) -> Duration {
    let started = Instant::now();
    let revision = mesh.apply(&versioned(version)).await;
    let revision = revision["revision"].as_u64().expect("apply tells the store's revision");
    eventually("every proxy has acknowledged the change", || async {
        let proxies = mesh.list("/v1/proxies").await;
        let acked = proxies.iter().filter_map(|p| p["services"]["api.shop"]["acked"].as_u64());
        match acked.filter(|&acked| acked >= revision).count() {
            n if n == clients.len() => Ok(()),
            n => Err(format!("{n} of {}", clients.len())),
        }
    })
    .await;
    let took = started.elapsed();
    // An acknowledgement means that the very next request is served under it.
    if version.is_multiple_of(10) {
        for client in clients {
            assert_eq!(client.get("http://api/").await.header("x-version"), format!("v{version}"));
        }
    }
    took
}

#[tokio::test]
async fn changes_under_load_lose_no_request_and_close_no_connection() {
    let mesh = Mesh::builder().policy(&versioned(0)).service("api", echo()).client("web").start().await;
    let web = mesh.client("web").http2();
    let load = Load::start(&web, "http://api/", 300);
    for change in 1..=20 {
        let seen = load.sent();
        mesh.apply(&versioned(change)).await;
        eventually("traffic flows under the change", || async {
            if load.sent() > seen + 10 { Ok(()) } else { Err("not yet") }
        })
        .await;
    }
    load.stop().await.assert_nothing_lost(200);
    assert_eq!(web.connections(), 1);
    let dialed = mesh.metrics("web").await.sum("outrigger_connections_opened_total", &[("role", "dialed")]);
    let open = mesh.metrics("web").await.sum("outrigger_connections_open", &[("role", "dialed")]);
    assert_eq!(dialed, open, "no change closes a connection to the far side");
}

#[tokio::test]
async fn an_invalid_document_is_refused_with_the_fields_path_and_changes_nothing() {
    let mesh = Mesh::builder().policy(&versioned(1)).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api/").await.header("x-version"), "v1");
    let good = versioned(2);
    let bad = route("bad", "api", "- backendRefs: [{name: api, port: 80, weight: -1}]");
    let answer = mesh.api("POST", "/v1/apply", &(good + &bad)).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("spec.rules[0].backendRefs[0].weight"), "{}", answer.text());
    let answer = mesh.api("GET", "/v1/namespaces/shop/httproutes/bad", "").await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    for _ in 0..20 {
        assert_eq!(web.get("http://api/").await.header("x-version"), "v1", "all or nothing");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let mesh = Mesh::builder().service("api", echo()).client("web").start().await;
    let answer = mesh.api("POST", "/v1/apply?dryRun=true", &versioned(1)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(mesh.api("GET", "/v1/namespaces/shop/httproutes/version", "").await.status, 404);
    assert_eq!(mesh.client("web").get("http://api/").await.header("x-version"), "");
}

#[tokio::test]
async fn a_rollback_brings_back_what_was() {
    let mesh = Mesh::builder().policy(&versioned(1)).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    let before = mesh.apply(&versioned(2)).await["revision"].as_u64().unwrap();
    mesh.apply(&versioned(3)).await;
    let answer = mesh.api("POST", "/v1/rollback", &format!("{{\"revision\": {before}}}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("the earlier policy is in use", || async {
        match web.get("http://api/").await.header("x-version") {
            "v2" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    let history = mesh.list("/v1/history").await;
    assert!(history.len() >= 4, "every change is an event: {history:?}");
}

#[tokio::test]
async fn a_deleted_route_gives_its_service_back() {
    let policies = service("api")
        + &route("only", "api", "- matches: [{path: {value: /in}}]\n  backendRefs: [{name: api, port: 80}]");
    let mesh = Mesh::builder().policy(&policies).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    web.get("http://api/out").await.assert_failure(404, "no-route", "outbound");
    let answer = mesh.api("DELETE", "/v1/namespaces/shop/httproutes/only", "").await;
    assert!(answer.status.is_success(), "{}", answer.text());
    eventually("plain forwarding", || async {
        let answer = web.get("http://api/out").await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_control_plane_away_for_a_minute_is_not_noticed() {
    let mut mesh = Mesh::builder().service("api", echo()).instances(2).client("web").start().await;
    let web = mesh.client("web");
    let load = Load::start(&web, "http://api/", 50);
    eventually("traffic flows", || async { if load.sent() > 10 { Ok(()) } else { Err("not yet") } }).await;
    mesh.kill_control_plane().await;
    sleep(Duration::from_secs(60)).await;
    mesh.start_control_plane().await;
    within(Duration::from_secs(40), "every proxy is back", || async {
        let proxies = mesh.list("/v1/proxies").await;
        match proxies.iter().filter(|p| p["connected"] == true).count() {
            3 => Ok(()),
            n => Err(format!("{n} of 3")),
        }
    })
    .await;
    let back = load.sent();
    eventually("traffic goes on", || async {
        if load.sent() > back + 100 { Ok(()) } else { Err("not yet") }
    })
    .await;
    load.stop().await.assert_nothing_lost(2_000);
}

#[tokio::test]
async fn a_restarted_control_plane_never_empties_an_endpoint_set() {
    // By requests under way: one slow answer on a busy machine must not keep an instance out of the test.
    let policy = policy("api", "loadBalancer: {type: LeastRequest}");
    let mut mesh =
        Mesh::builder().service("api", echo()).instances(3).client("web").policy(&policy).start().await;
    let web = mesh.client("web");
    let load = Load::start(&web, "http://api/", 100);
    for _ in 0..5 {
        mesh.kill_control_plane().await;
        mesh.start_control_plane().await;
        mesh.settled().await;
        mesh.pushed().await;
    }
    load.stop().await.assert_nothing_lost(50);
    for instance in mesh.instances_of("api") {
        let before = instance.record().attempts();
        eventually("every instance still gets its share", || async {
            web.get("http://api/").await;
            if instance.record().attempts() > before { Ok(()) } else { Err(instance.number.to_string()) }
        })
        .await;
    }
}

#[tokio::test]
async fn policy_changed_after_a_restart_reaches_the_proxies() {
    let mut mesh = Mesh::builder().policy(&versioned(1)).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api/").await.header("x-version"), "v1");
    mesh.kill_control_plane().await;
    mesh.start_control_plane().await;
    mesh.apply(&versioned(2)).await;
    eventually("the change is in use", || async {
        match web.get("http://api/").await.header("x-version") {
            "v2" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_proxy_restarted_without_the_control_plane_serves_at_once_from_its_state() {
    let directory = tempfile::tempdir().unwrap();
    let state = |name: &str| directory.path().join(name).display().to_string();
    let (of_api, of_web) = (state("api"), state("web"));
    let mut mesh = Mesh::builder()
        .policy(&versioned(7))
        .service("api", saying("hello"))
        .args(&["--state-dir", &of_api, "--persist-identity"])
        .client("web")
        .args(&["--state-dir", &of_web, "--persist-identity"])
        .as_process()
        .start()
        .await;
    assert_eq!(mesh.client("web").get("http://api/").await.header("x-version"), "v7");
    mesh.pushed().await;
    eventually("policy, bundle, and certificate with key are kept", || async {
        let kept = |name: &&str| Path::new(&of_web).join(name).exists();
        let missing: Vec<_> =
            ["policy.bin", "bundle.pem", "svid.pem"].into_iter().filter(|n| !kept(n)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?}")) }
    })
    .await;
    mesh.kill_control_plane().await;
    mesh.instance_mut("web", 0).drain().await;
    mesh.instance_mut("web", 0).restart(true).await;
    let answer = mesh.client("web").get("http://api/").await;
    assert_eq!((answer.text().as_str(), answer.header("x-version")), ("hello", "v7"), "{answer:?}");
    for name in ["api", "web"] {
        for entry in walk(&directory.path().join(name)) {
            if entry.to_string_lossy().contains("bundle.pem") {
                continue; // what everybody may know, or its next version on the way
            }
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&entry).unwrap().permissions());
            assert_eq!(mode & 0o077, 0, "{entry:?} can be read by others");
        }
    }
}

#[tokio::test]
async fn no_key_is_written_unless_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("web").display().to_string();
    let mesh =
        Mesh::builder().service("api", echo()).client("web").args(&["--state-dir", &state]).start().await;
    assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
    eventually("the policy is kept", || async {
        if walk(directory.path()).is_empty() { Err("no file yet") } else { Ok(()) }
    })
    .await;
    for entry in walk(directory.path()) {
        let text = String::from_utf8_lossy(&std::fs::read(&entry).unwrap()).into_owned();
        assert!(!text.contains("PRIVATE KEY"), "{entry:?} holds a private key");
    }
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}

#[tokio::test]
async fn many_routes_at_once_are_served() {
    let policies: String = (0..200)
        .map(|i| {
            let rules =
                format!("- matches: [{{path: {{value: /p{i}}}}}]\n  backendRefs: [{{name: api, port: 80}}]");
            route(&format!("route-{i}"), "api", &rules)
        })
        .collect();
    let mesh = Mesh::builder().policy(&policies).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    for i in [0, 99, 199] {
        assert_eq!(web.get(&format!("http://api/p{i}")).await.status, 200);
    }
    web.get("http://api/p200").await.assert_failure(404, "no-route", "outbound");
}

//! Who may call what: rules hold whatever a caller writes, and what is revoked ends.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use outrigger_tests::app::http::{channel, echo, empty, streaming};
use outrigger_tests::app::{App, tcp, websocket};
use outrigger_tests::raw::{closes_within, exchange, read_to_end};
use outrigger_tests::{Mesh, eventually, request, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::documents::{access, limits, mesh_config};

/// A service `api`, and callers `web` of its namespace and `batch` of another.
async fn mesh(policy: &str) -> Mesh {
    let builder = if policy.is_empty() { Mesh::builder() } else { Mesh::builder().policy(policy) };
    builder.service("api", echo()).client("web").namespace("night").client("batch").start().await
}

#[tokio::test]
async fn without_a_policy_any_identity_of_the_mesh_may_call() {
    let mesh = mesh("").await;
    for caller in ["web", "batch"] {
        assert_eq!(mesh.client(caller).get("http://api.shop/").await.status, 200);
    }
}

#[tokio::test]
async fn an_allow_list_lets_in_whom_it_names_and_tells_others_no_name() {
    let mesh = mesh(&access("callers", "rules: [{from: [{serviceAccounts: [web]}]}]")).await;
    assert_eq!(mesh.client("web").get("http://api.shop/").await.status, 200, "{}", mesh.explain().await);
    let refused = mesh.client("batch").get("http://api.shop/").await;
    refused.assert_failure(403, "denied", "inbound");
    assert!(!refused.text().contains("callers") && !refused.text().contains("web"), "{}", refused.text());
    assert_eq!(mesh.attempts("api"), 1);
    for (policy, verdict) in [("shop/callers", "allowed"), ("(no match)", "denied")] {
        let labels = [("policy", policy), ("verdict", verdict), ("audit", "false")];
        let counted = mesh.metrics("api").await.sum("outrigger_access_total", &labels);
        assert_eq!(counted, 1.0, "{policy}: {}", mesh.explain().await);
    }
}

#[tokio::test]
async fn a_denying_policy_wins_over_one_that_allows() {
    let documents = access("all", "rules: [{}]")
        + &access("but-admin", "action: Deny\nrules: [{to: [{paths: [{value: /admin}]}]}]");
    let mesh = mesh(&documents).await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api.shop/user").await.status, 200);
    web.get("http://api.shop/admin/users").await.assert_failure(403, "denied", "inbound");
}

#[tokio::test]
async fn a_default_mode_holds_where_no_policy_allows() {
    let mode = "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: mode, namespace: shop}\n\
                spec: {targetRefs: [{kind: Namespace, name: shop}], defaultMode: SameNamespace}\n---\n";
    let mesh = mesh(&format!("{mode}{}", mesh_config("access: {defaultMode: Deny}"))).await;
    assert_eq!(
        mesh.client("web").get("http://api.shop/").await.status,
        200,
        "the namespace's mode, not the mesh's"
    );
    mesh.client("batch").get("http://api.shop/").await.assert_failure(403, "denied", "inbound");
    mesh.api("DELETE", "/v1/namespaces/shop/accesspolicies/mode", "").await;
    eventually("the mesh's mode holds", || async {
        let answer = mesh.client("web").get("http://api.shop/").await;
        if answer.failure() == "denied; by=inbound" { Ok(()) } else { Err(answer.status) }
    })
    .await;
}

#[tokio::test]
async fn an_audited_policy_refuses_nothing_and_is_counted() {
    let mesh = mesh(&access("trial", "audit: true\nrules: [{from: [{serviceAccounts: [web]}]}]")).await;
    for caller in ["web", "batch"] {
        assert_eq!(mesh.client(caller).get("http://api.shop/").await.status, 200);
    }
    let labels = [("policy", "shop/trial"), ("verdict", "denied"), ("audit", "true")];
    assert_eq!(mesh.metrics("api").await.sum("outrigger_access_total", &labels), 1.0);
}

/// Every spelling of a path that some server somewhere takes for `/admin`.
const SPELLINGS: &[&str] = &[
    "/admin",
    "/admin/",
    "//admin",
    "/./admin",
    "/a/../admin",
    "/a/../../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%2e/admin",
    "/a/%2e%2e/admin",
    "/a/.%2E/admin",
    "/a/..%2fadmin",
    "/a%2f..%2fadmin",
    "/admin%2f",
    "/admin%2fx",
    "/a/..%5cadmin",
    "/a/..\\admin",
    "\\admin",
    "/admin%00",
    "/admin/%0a",
    "/admin//x",
    "/admin/.",
    "/a/..;/admin",
    "/a/..;x=1/admin",
    "/a/..%3b/admin",
    "http://api.shop/admin",
    "http://api.shop//admin",
    "http://api.shop/a/../admin",
    "/admin?x=/user",
    "/admin#/user",
    "/admin/%ff",
    "/%zz/../admin",
];

#[tokio::test]
async fn no_spelling_of_a_path_slips_past_a_rule() {
    for normalization in ["Full", "None"] {
        let documents = access("but-admin", "action: Deny\nrules: [{to: [{paths: [{value: /admin}]}]}]")
            + &mesh_config(&format!("pathNormalization: {normalization}"));
        let mesh = mesh(&documents).await;
        let proxy = mesh.client("web").proxy();
        for target in SPELLINGS {
            let message = format!("GET {target} HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n");
            let answer = exchange(proxy, message.as_bytes()).await;
            assert!(
                answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"),
                "{normalization} {target}: {answer}"
            );
            assert_eq!(mesh.attempts("api"), 0, "{normalization} {target} reached the application");
        }
        assert_eq!(mesh.client("web").get("http://api.shop/administrator").await.status, 200);
        let user = mesh.client("web").get("http://api.shop/user%20name?next=//x/../y").await;
        assert_eq!(user.header("x-path"), "/user%20name?next=//x/../y", "what is in order passes as it is");
    }
}

#[tokio::test]
async fn routes_and_applications_see_the_normal_form() {
    let mesh = mesh("").await;
    for (sent, seen) in
        [("/a/../b//c/%7e?q=%7e/..", "/b/c/~?q=%7e/.."), ("/x%2fy\\z", "/x%2Fy%5Cz"), ("/", "/")]
    {
        let message = format!("GET {sent} HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n");
        let answer = exchange(mesh.client("web").proxy(), message.as_bytes()).await;
        assert!(answer.contains(&format!("x-path: {seen}\r\n")), "{sent}: {answer}");
    }
    mesh.apply(&mesh_config("pathNormalization: None")).await;
    let message = b"GET /a/../b//c HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n";
    eventually("paths pass as they were sent", || async {
        let answer = exchange(mesh.client("web").proxy(), message).await;
        if answer.contains("x-path: /a/../b//c\r\n") { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn hosts_and_repeated_fields_count_in_every_spelling() {
    let documents = access(
        "but-these",
        "action: Deny\nrules: [{to: [{hosts: [api]}, {headers: [{name: x-role, values: [admin]}]}]}]",
    );
    let mesh = mesh(&documents).await;
    let proxy = mesh.client("web").proxy();
    for head in [
        "Host: api",
        "Host: API",
        "Host: api:80",
        "Host: Api:80",
        "Host: api.shop\r\nX-Role: admin",
        "Host: api.shop\r\nx-role: guest\r\nX-ROLE: admin",
        "Host: api.shop\r\nX-Role: admin\r\nX-Role: guest",
        "Host: api.shop\r\nX-Role: guest, admin",
        "Host: api.shop\r\nX_Role: admin",
    ] {
        let message = format!("GET / HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n");
        let answer = exchange(proxy, message.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{head}: {answer}");
    }
    assert_eq!(mesh.attempts("api"), 0);
    assert_eq!(mesh.client("web").get_with("http://api.shop/", &[("x-role", "guest")]).await.status, 200);
}

/// A service `db` that carries opaque bytes, and a caller with a local port that leads to it.
async fn joined(policy: &str) -> (Mesh, TcpStream) {
    let mesh = Mesh::builder()
        .policy(policy)
        .service("db", tcp::echo())
        .on_port(5432)
        .client("web")
        .args(&["--listen", "127.0.0.1:0=db.shop:5432"])
        .start()
        .await;
    let stream = TcpStream::connect(mesh.instance("web", 0).sidecar().listens[0]).await.unwrap();
    (mesh, stream)
}

/// A policy of the namespace `shop` for `db`.
fn of_db(fields: &str) -> String {
    access("db", fields).replace("name: api}", "name: db}")
}

#[tokio::test]
async fn an_opaque_connection_is_let_in_by_who_calls_and_by_nothing_else() {
    for (fields, passes) in [
        ("rules: [{from: [{serviceAccounts: [web]}], to: [{ports: [5432]}]}]", true),
        ("rules: [{from: [{cidrs: [127.0.0.0/8]}]}]", true),
        ("rules: [{from: [{serviceAccounts: [other]}]}]", false),
        ("rules: [{to: [{ports: [80]}]}]", false),
        ("rules: [{to: [{methods: [GET]}]}]", false),
        ("action: Deny\nrules: [{to: [{methods: [GET]}]}]", false),
        ("action: Deny\nrules: [{from: [{serviceAccounts: [other]}], to: [{methods: [GET]}]}]", true),
    ] {
        let (mesh, mut stream) = joined(&of_db(fields)).await;
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
        let back = read_to_end(&mut stream).await;
        assert_eq!(back == b"hello", passes, "{fields}: {back:?} {}", mesh.explain().await);
    }
}

/// What comes of it in so much time.
async fn within<T>(time: Duration, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(time, what).await.expect("access that is revoked ends within a second")
}

/// Refuses everybody.
const NOBODY: &str = "action: Deny\nrules: [{}]";

/// Access that is revoked must be gone after this long.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn revoked_access_closes_an_opaque_connection_within_a_second() {
    let (mesh, mut stream) = joined(&of_db("rules: [{from: [{serviceAccounts: [web]}]}]")).await;
    let mut five = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    soon("the echo", stream.read_exact(&mut five)).await.unwrap();
    mesh.apply(&access("other", NOBODY)).await;
    mesh.pushed().await;
    stream.write_all(b"again").await.unwrap();
    soon("the echo", stream.read_exact(&mut five))
        .await
        .expect("a change that does not concern it leaves it alone");
    mesh.apply(&of_db("rules: [{from: [{serviceAccounts: [other]}]}]")).await;
    assert!(closes_within(&mut stream, AT_ONCE).await, "{}", mesh.explain().await);
    let labels = [("direction", "inbound"), ("error", "denied")];
    eventually("its end is counted", || async {
        let closed = mesh.metrics("db").await.sum("outrigger_tcp_connections_closed_total", &labels);
        if closed == 1.0 { Ok(()) } else { Err(closed) }
    })
    .await;
}

#[tokio::test]
async fn revoked_access_ends_an_upgraded_stream_within_a_second() {
    let builder = Mesh::builder().service("api", websocket::echo()).client("web");
    let mesh = builder.start().await;
    let stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let connecting = tokio_tungstenite::client_async("ws://api.shop/room", stream);
    let (mut socket, _) = soon("the handshake", connecting).await.expect("the handshake succeeds");
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    mesh.apply(&access("elsewhere", "action: Deny\nrules: [{to: [{paths: [{value: /attic}]}]}]")).await;
    mesh.pushed().await;
    socket.send(Message::text("again")).await.unwrap();
    assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), Message::text("again"));
    mesh.apply(&access("elsewhere", "action: Deny\nrules: [{to: [{paths: [{value: /room}]}]}]")).await;
    let ended = within(AT_ONCE, socket.next()).await;
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

/// Answers `/stream` with a piece that nothing follows, and anything else never.
fn lingering() -> App {
    let kept = Arc::new(Mutex::new(Vec::new()));
    streaming(move |request, _| {
        let kept = kept.clone();
        async move {
            let (sender, body) = channel(1);
            if request.uri().path() == "/stream" {
                sender.try_send(Ok(Frame::data("piece".into()))).unwrap();
                kept.lock().unwrap().push(sender);
                return Ok(Response::new(body));
            }
            std::future::pending().await
        }
    })
}

#[tokio::test]
async fn revoked_access_ends_what_streams_and_what_waits_and_spares_the_connection() {
    let mesh = Mesh::builder().service("api", lingering()).client("web").start().await;
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        let stream = eventually("it is let in", || async {
            let stream = client.open(request("GET", "http://api.shop/stream", &[], empty())).await.unwrap();
            if stream.status() == 200 { Ok(stream) } else { Err(stream.status()) }
        })
        .await;
        let mut body = stream.into_body();
        let piece = soon("the piece", body.frame()).await.unwrap().unwrap();
        assert_eq!(piece.into_data().unwrap(), "piece");
        let attempts = mesh.attempts("api");
        let waiting = {
            let client = client.fresh();
            tokio::spawn(async move { client.get("http://api.shop/wait").await })
        };
        eventually("it waits", || async {
            if mesh.attempts("api") > attempts { Ok(()) } else { Err("not yet") }
        })
        .await;
        mesh.apply(&access("nobody", NOBODY)).await;
        let ended = within(AT_ONCE, body.frame()).await;
        assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
        soon("the answer", waiting).await.unwrap().assert_failure(403, "denied", "inbound");
        mesh.api("DELETE", "/v1/namespaces/shop/accesspolicies/nobody", "").await;
    }
}

#[tokio::test]
async fn a_change_of_policy_is_told_to_the_proxies_beside_the_service_alone() {
    let mesh = mesh("").await;
    assert_eq!(mesh.client("web").get("http://api.shop/").await.status, 200);
    let updates = |name: &'static str| {
        let mesh = &mesh;
        async move { mesh.metrics(name).await.sum("outrigger_control_updates_total", &[]) }
    };
    let before = [updates("web").await, updates("batch").await, updates("api").await];
    mesh.apply(&access("nobody", "action: Deny\nrules: [{}]")).await;
    eventually("the policy is in force", || async {
        let answer = mesh.client("web").get("http://api.shop/").await;
        if answer.status == 403 { Ok(()) } else { Err(answer.status) }
    })
    .await;
    let after = [updates("web").await, updates("batch").await, updates("api").await];
    assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], [0.0, 0.0, 1.0]);
}

#[tokio::test]
async fn a_grpc_caller_is_told_that_it_has_no_permission() {
    let mesh = mesh(&access("nobody", "action: Deny\nrules: [{}]")).await;
    let call = request("POST", "http://api.shop/a.B/C", &[("content-type", "application/grpc")], empty());
    let answer = soon("the answer", mesh.client("web").http2().answer(call)).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "7"));
}

#[tokio::test]
async fn plaintext_callers_of_a_permissive_mesh_are_nobody() {
    let documents = access("members", "rules: [{from: [{namespaces: [shop, night]}]}]")
        + &mesh_config("mtls: {mode: Permissive}");
    let mesh = mesh(&documents).await;
    let inbound = mesh.instance("api", 0).sidecar().inbound;
    let answer = exchange(inbound, b"GET / HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(mesh.client("web").get("http://api.shop/").await.status, 200);
    let (mut read, mut write) = TcpStream::connect(inbound).await.unwrap().into_split();
    write.write_all(b"\x00\x01 not http").await.unwrap();
    write.shutdown().await.unwrap();
    let mut back = Vec::new();
    let _ = soon("the end", read.read_to_end(&mut back)).await;
    assert_eq!(back, b"", "nothing of it reached the application");
}

#[tokio::test]
async fn the_admin_server_tells_which_rules_hold_and_none_of_their_secrets() {
    let rules = access(
        "keyed",
        "rules: [{from: [{serviceAccounts: [web]}], to: [{headers: [{name: x-api-key, values: [hidden]}]}]}]",
    );
    let mesh = Mesh::builder()
        .policy(&(rules + &limits("api", "- {name: few, requests: 5, per: 1h}")))
        .service("api", echo())
        .start()
        .await;
    let config: serde_json::Value =
        serde_json::from_str(&mesh.admin("api", 0, "/config").await.text()).unwrap();
    let port = &config["mesh"]["own"][0];
    assert_eq!(port["access"]["policies"][0]["name"], "shop/keyed", "{config}");
    assert_eq!(port["rateLimits"][0]["quota"], "\"few\";q=5;w=3600", "{config}");
    assert!(!config.to_string().contains("hidden"), "{config}");
}

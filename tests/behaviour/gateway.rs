//! A gateway: callers outside the mesh come in through a proxy of its own.

use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use outrigger_tests::app::http::{Reply, deciding, echo};
use outrigger_tests::app::websocket;
use outrigger_tests::raw::{exchange, read_head};
use outrigger_tests::{Builder, Mesh, eventually, soon};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

use crate::documents;
use crate::jwt::{ISSUER, Issuer};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: outrigger
  listeners:
    - {name: web, port: 80, protocol: HTTP}
    - {name: secure, port: 443, protocol: HTTPS, hostname: '*.example.com', tls: {certificateRefs: [{name: wild}]}}
    - {name: exact, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {certificateRefs: [{name: exact}]}}
---
";

/// A route of the gateway, with these lines of its spec.
fn route(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{name: edge, namespace: shop}}], {spec}}}\n---\n"
    )
}

/// Writes a certificate for these names, as Kubernetes mounts a Secret.
fn certify(directory: &Path, name: &str, hosts: &[&str]) {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).expect("a test gives valid names");
    let place = directory.join(name);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(place.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}

/// A service `web` and a gateway in front of it, which listens for port 80 and then for port 443.
fn gateway(certificates: &Path) -> Builder {
    let directory = certificates.display().to_string();
    let ports = ["--gateway-listen", "127.0.0.1:0=80", "--gateway-listen", "127.0.0.1:0=443"];
    let app = deciding(|seen| {
        let said = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-client-cert"];
        Reply::text(said.map(|name| seen.header(name)).join("|"))
    });
    Mesh::builder()
        .policy(GATEWAY)
        .service("web", app)
        .client("edge")
        .args(&["--gateway", "edge", "--certificates", &directory])
        .args(&ports)
}

fn get(path: &str, host: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n")
}

/// What the plain listener answers.
async fn plain(mesh: &Mesh, request: &str) -> String {
    let address = mesh.instance("edge", 0).sidecar().listens[0];
    soon("an answer", exchange(address, request.as_bytes())).await
}

/// What the listener with TLS answers a client that trusts this certificate and no other.
async fn secure(mesh: &Mesh, trusted: &Path, host: &str, request: &str) -> Result<String, std::io::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted.join("tls.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let io = TcpStream::connect(mesh.instance("edge", 0).sidecar().listens[1]).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, io).await?;
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    let mut body = String::new();
    let _ = stream.read_to_string(&mut body).await; // the end may come without TLS's own
    Ok(head + &body)
}

#[tokio::test]
async fn what_comes_from_outside_takes_the_gateways_routes_to_services_over_mutual_tls() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = gateway(directory.path())
        .policy(&route(
            "shop",
            "web",
            "rules: [{matches: [{path: {value: /shop}}], backendRefs: [{name: web, port: 80}]}]",
        ))
        .start()
        .await;
    let forged = "X_Forwarded_For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Client-Cert: URI=spiffe://x/y\r\n";
    let answer = plain(&mesh, &get("/shop/x", "www.example.com", forged)).await;
    let said = "www.example.com|127.0.0.1|http|URI=spiffe://outrigger.test/ns/shop/sa/edge";
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with(said),
        "{answer}\n{}",
        mesh.explain().await
    );
    let answer = plain(&mesh, &get("/other", "www.example.com", "")).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no-route"), "{answer}");
    let answer =
        plain(&mesh, "CONNECT web.shop:80 HTTP/1.1\r\nHost: web.shop:80\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "a gateway is no forward proxy: {answer}");
    let metrics = mesh.metrics("edge").await;
    let labels =
        [("service", "gateway--edge"), ("namespace", "shop"), ("route", "shop/web"), ("tls", "true")];
    assert_eq!(metrics.sum("outrigger_requests_total", &labels), 1.0);
}

#[tokio::test]
async fn whatever_comes_to_a_port_for_http_is_answered_as_http() {
    let directory = tempfile::tempdir().unwrap();
    let to_web = "rules: [{backendRefs: [{name: web, port: 80}]}]";
    let mesh = gateway(directory.path()).policy(&route("shop", "web", to_web)).start().await;
    let long = |length: usize| get(&format!("/{}", "x".repeat(length)), "www.example.com", "");
    for (what, sent, status) in [
        ("a long target", long(40 << 10), "200"),
        ("too long a target", long(70 << 10), "431"),
        ("a target with a backslash before it", get(r"\x", "www.example.com", ""), "400"),
        ("another protocol", "*1\r\n$4\r\nPING\r\n".to_owned(), "400"),
        ("a handshake", "\x16\x03\x01\x02\x00\x01".to_owned(), "400"),
        ("a version that is not there", "GET / HTTP/3\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = plain(&mesh, &sent).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer:?}");
        assert_eq!(answer.contains("outrigger-error: "), status != "200", "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_host_takes_the_routes_that_are_meant_for_it_the_most_specific_first() {
    let directory = tempfile::tempdir().unwrap();
    let to = |name: &str, spec: &str| {
        let filter = format!(
            "filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-took, value: {name}}}]}}}}]"
        );
        route("shop", name, &format!("{spec}rules: [{{{filter}, backendRefs: [{{name: web, port: 80}}]}}]"))
    };
    let routes = [
        to("any", ""),
        to("wild", "hostnames: ['*.example.com'], "),
        to("exact", "hostnames: [a.example.com, b.example.com], "),
    ];
    let mesh = gateway(directory.path()).policy(&routes.concat()).start().await;
    for (host, expected) in [
        ("a.example.com", "exact"),
        ("B.Example.com:80", "exact"),
        ("c.example.com", "wild"),
        ("x.a.example.com", "wild"),
        ("example.com", "any"),
        ("other.org", "any"),
    ] {
        let answer = plain(&mesh, &get("/", host, "")).await;
        assert!(answer.contains(&format!("x-took: {expected}\r\n")), "{host}: {answer}");
    }
}

#[tokio::test]
async fn tls_is_ended_with_the_certificate_of_the_host_and_follows_its_file() {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path(), "wild", &["*.example.com"]);
    certify(directory.path(), "shop/exact", &["a.example.com"]);
    let (wild, exact) = (directory.path().join("wild"), directory.path().join("shop/exact"));
    let mesh = gateway(directory.path())
        .policy(&route(
            "shop",
            "web",
            "hostnames: ['*.example.com'], rules: [{backendRefs: [{name: web, port: 80}]}]",
        ))
        .start()
        .await;
    for (host, trusted) in [("a.example.com", &exact), ("b.example.com", &wild)] {
        let answer = secure(&mesh, trusted, host, &get("/", host, "")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}\n{}", mesh.explain().await);
        assert!(answer.contains(&format!("{host}|127.0.0.1|https|")), "{answer}");
    }
    let other = secure(&mesh, &wild, "www.example.org", &get("/", "www.example.org", "")).await;
    assert!(other.is_err(), "no listener is for that host: {other:?}");
    certify(directory.path(), "wild", &["*.example.com"]);
    eventually("the new certificate is shown", || async {
        secure(&mesh, &wild, "b.example.com", &get("/", "b.example.com", "")).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn other_namespaces_need_to_be_let_in_and_to_grant() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = route("bank", "web", "rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]");
    let mesh = gateway(directory.path()).policy(&foreign).start().await;
    let answer = plain(&mesh, &get("/", "www.example.com", "")).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "its route is not let in: {answer}");
    let open =
        GATEWAY.replace("protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}");
    mesh.apply(&open).await;
    let status = |wanted: &'static str| {
        let mesh = &mesh;
        eventually(wanted, move || async move {
            let answer = plain(mesh, &get("/", "www.example.com", "")).await;
            if answer.starts_with(wanted) { Ok(()) } else { Err(answer) }
        })
    };
    status("HTTP/1.1 500").await;
    mesh.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: bank, namespace: shop}\n\
         spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank}], \
         to: [{group: '', kind: Service}]}\n",
    )
    .await;
    status("HTTP/1.1 200").await;
}

/// The key of the caller `phone`, and its SHA-256 sum.
const KEY: &str = "b3a1f0c2d4e5968778695a4b3c2d1e0f";
const KEY_SUM: &str = "46bff3a198ff470d2affc5f90e1876d5f168ad45f937f85e91e52330c64b799c";

/// Everything goes to the service `web`.
fn everything() -> String {
    route("shop", "web", "rules: [{backendRefs: [{name: web, port: 80}]}]")
}

/// A policy of the namespace `shop` for the gateway.
fn for_gateway(kind: &str, name: &str, fields: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}]\n  {fields}\n---\n"
    )
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn a_policy_that_names_the_gateway_decides_who_comes_in_whatever_the_path_looks_like() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = gateway(directory.path())
        .policy(&everything())
        .policy(&for_gateway(
            "AccessPolicy",
            "closed",
            "action: Deny\n  rules: [{to: [{paths: [{value: /admin}]}]}, {from: [{cidrs: [192.0.2.0/24]}]}, \
             {to: [{hosts: [closed.example.com]}]}]",
        ))
        .start()
        .await;
    for (path, host, expected) in [
        ("/", "www.example.com", "200"),
        ("/admins", "www.example.com", "200"),
        ("/admin", "www.example.com", "403"),
        ("/x/..//%61dmin/y", "www.example.com", "403"),
        ("/admin;x=1", "www.example.com", "403"),
        ("/x%2f..%2fadmin", "www.example.com", "400"),
        ("/", "CLOSED.example.com.:80", "403"),
    ] {
        let answer = plain(&mesh, &get(path, host, "X-Forwarded-For: 192.0.2.1\r\n")).await;
        assert_eq!(status(&answer), expected, "{path} {host}: {answer}");
    }
    let answer = plain(&mesh, &get("/admin", "a.example.com", "")).await;
    assert!(answer.contains("outrigger-error: denied; by=outbound"), "{answer}");
    assert!(!answer.contains("closed"), "callers are not told which policy it was: {answer}");
    assert_eq!(mesh.attempts("web"), 2, "what is refused reaches no service");
    mesh.apply(&for_gateway("AccessPolicy", "closed", "rules: [{from: [{cidrs: [192.0.2.0/24]}]}]")).await;
    eventually("the new rules hold", || async {
        let answer = plain(&mesh, &get("/", "www.example.com", "")).await;
        if status(&answer) == "403" { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn policies_for_the_mesh_and_its_namespaces_do_not_hold_for_callers_from_outside() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = gateway(directory.path())
        .policy(&everything())
        .policy(
            "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: all, namespace: shop}\n\
             spec: {targetRefs: [{kind: Namespace, name: shop}], defaultMode: SameNamespace}\n---\n",
        )
        .start()
        .await;
    let answer = plain(&mesh, &get("/", "www.example.com", "")).await;
    assert_eq!(status(&answer), "200", "the gateway itself is of the namespace: {answer}");
    let nobody = "rules: [{from: [{namespaces: [shop]}]}, {from: [{notNamespaces: [bank]}]}]";
    mesh.apply(&for_gateway("AccessPolicy", "workloads", nobody)).await;
    eventually("nobody outside is a workload", || async {
        let answer = plain(&mesh, &get("/", "www.example.com", "")).await;
        if status(&answer) == "403" { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn who_comes_in_is_known_by_a_token_or_by_a_key_and_services_are_told_who_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = Issuer::new();
    let policy = for_gateway(
        "AccessPolicy",
        "known",
        &format!(
            "rules:\n  - to: [{{paths: [{{value: /key}}]}}]\n    from: [{{apiKeys: [phone]}}]\n  \
             - to: [{{paths: [{{value: /token}}]}}]\n    when: [{{claim: sub, values: [ann]}}]\n  \
             jwt:\n    issuers:\n    - {{issuer: '{ISSUER}', audiences: [shop], jwks: {{inline: '{}'}}, \
             claimsToHeaders: [{{claim: sub, header: x-user}}]}}\n  \
             apiKeys: {{required: false, keys: [{{name: phone, sha256: {KEY_SUM}}}]}}",
            issuer.keys("one")
        ),
    );
    let mesh = gateway(directory.path()).policy(&everything()).policy(&policy).start().await;
    let token = |more| format!("Authorization: Bearer {}\r\n", issuer.token("one", more));
    let key = |key: &str| format!("X-Api-Key: {key}\r\nX-User: root\r\n");
    for (path, fields, expected) in [
        ("/key", key(KEY), "200"),
        ("/key", key("something else"), "401"),
        ("/key", key(KEY) + &key(KEY), "401"),
        ("/key", String::new(), "403"),
        ("/key", token(json!({})), "403"),
        ("/token", token(json!({})), "200"),
        ("/token", token(json!({ "sub": "bob" })), "403"),
        ("/token", token(json!({ "exp": 1 })), "401"),
        ("/token", key(KEY), "403"),
    ] {
        let answer = plain(&mesh, &get(path, "www.example.com", &fields)).await;
        assert_eq!(status(&answer), expected, "{path} {fields}: {answer}");
        if expected == "401" {
            let scheme = if path == "/key" { "ApiKey header=\"x-api-key\"" } else { "Bearer error=" };
            assert!(answer.contains(&format!("www-authenticate: {scheme}")), "{answer}");
        }
    }
    let seen = mesh.instance("web", 0).record().seen();
    let told: Vec<_> = seen.iter().map(|seen| (seen.uri.path(), seen.header("x-user"))).collect();
    assert_eq!(told, [("/key", ""), ("/token", "ann")], "nobody else can say it");
    for seen in &seen {
        assert_eq!((seen.header("x-api-key"), seen.header("authorization")), ("", ""), "they stay here");
    }
}

#[tokio::test]
async fn a_key_is_required_unless_it_is_said_otherwise_at_a_service_as_well() {
    let keys = format!("apiKeys: {{header: X-Key, keys: [{{name: phone, sha256: {KEY_SUM}}}]}}");
    let mesh = Mesh::builder()
        .policy(&documents::access("keys", &keys))
        .service("api", echo())
        .client("web")
        .start()
        .await;
    let web = mesh.client("web");
    let answer = web.get("http://api.shop/").await;
    answer.assert_failure(401, "unauthenticated", "inbound");
    assert_eq!(answer.header("www-authenticate"), "ApiKey header=\"x-key\"");
    assert_eq!(web.get_with("http://api.shop/", &[("x-key", KEY), ("x_key", "y")]).await.status, 200);
    let seen = mesh.instance("api", 0).record().seen();
    assert_eq!((seen[0].header("x-key"), seen[0].header("x_key")), ("", ""));
}

#[tokio::test]
async fn a_browser_may_ask_without_a_key_and_gets_no_further() {
    let directory = tempfile::tempdir().unwrap();
    let keys = format!("apiKeys: {{keys: [{{name: phone, sha256: {KEY_SUM}}}]}}");
    let cors = "{type: CORS, cors: {allowOrigins: ['https://shop.example'], allowMethods: [PUT]}}";
    let rule = |path: &str, filters: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{filters}], backendRefs: [{{name: web, port: 80}}]}}"
        )
    };
    let deaf = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [origin]}}";
    let rules =
        [rule("/asked", cors), rule("/deaf", &format!("{deaf}, {cors}")), rule("/plain", "")].join(", ");
    let mesh = gateway(directory.path())
        .policy(&route("shop", "pages", &format!("rules: [{rules}]")))
        .policy(&for_gateway("AccessPolicy", "keys", &keys))
        .start()
        .await;
    let question = "Origin: https://shop.example\r\nAccess-Control-Request-Method: PUT\r\n";
    for (path, expected) in [("/asked", "204"), ("/deaf", "401"), ("/plain", "401")] {
        let message = get(path, "www.example.com", question).replacen("GET", "OPTIONS", 1);
        let answer = plain(&mesh, &message).await;
        assert_eq!(status(&answer), expected, "{path}: {answer}");
        assert_eq!(answer.contains("access-control-allow-methods: PUT"), expected == "204", "{answer}");
    }
    let refused = plain(&mesh, &get("/asked", "www.example.com", question)).await;
    assert_eq!(status(&refused), "401", "{refused}");
    assert_eq!(mesh.attempts("web"), 0);
}

#[tokio::test]
async fn what_comes_in_too_often_is_refused_before_it_is_routed() {
    let directory = tempfile::tempdir().unwrap();
    let policy = for_gateway(
        "RateLimitPolicy",
        "edge",
        "limits: [{name: callers, requests: 2, per: 1h, by: [{type: ApiKey}, {type: ClientAddress}]}]",
    );
    let other = "5f1c".repeat(8);
    let keys = format!(
        "apiKeys: {{required: false, keys: [{{name: phone, sha256: {KEY_SUM}}}, {{name: other, sha256: {}}}]}}",
        "b991faf5d6b30630e966c0c9fc00b0200e0a7c9b929260ac7248dd0689a037e8"
    );
    let policy = policy + &for_gateway("AccessPolicy", "keys", &keys);
    let mesh = gateway(directory.path()).policy(&policy).start().await;
    for (key, expected) in
        [(KEY, ["404", "404", "429"]), (other.as_str(), ["404", "404", "429"]), ("", ["404", "404", "429"])]
    {
        let key = if key.is_empty() { String::new() } else { format!("X-Api-Key: {key}\r\n") };
        for expected in expected {
            let answer = plain(&mesh, &get("/", "www.example.com", &key)).await;
            assert_eq!(status(&answer), expected, "{key}: {answer}");
            assert_eq!(answer.contains("retry-after: "), expected == "429", "{answer}");
        }
    }
    let metrics = mesh.metrics("edge").await;
    let labels = [("direction", "outbound"), ("policy", "shop/edge"), ("limit", "callers")];
    assert_eq!(metrics.sum("outrigger_rate_limited_total", &labels), 3.0);
}

#[tokio::test]
async fn a_listener_keeps_to_its_own_routes_and_its_own_connections() {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path(), "wild", &["*.example.com"]);
    certify(directory.path(), "exact", &["a.example.com"]);
    let to = |section: &str| {
        let parent = format!("{{name: edge, namespace: shop, sectionName: {section}}}");
        let filter = format!(
            "{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-took, value: {section}}}]}}}}"
        );
        route("shop", section, &format!("rules: [{{matches: [{{path: {{value: /{section}}}}}], filters: [{filter}], backendRefs: [{{name: web, port: 80}}]}}]"))
            .replace("{name: edge, namespace: shop}", &parent)
    };
    let redirect = "{matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]}";
    let redirect = route("shop", "old", &format!("rules: [{redirect}]"));
    let mesh = gateway(directory.path()).policy(&(to("secure") + &to("exact") + &redirect)).start().await;
    let (wild, exact) = (directory.path().join("wild"), directory.path().join("exact"));
    for (trusted, name, host, path, expected) in [
        (&exact, "a.example.com", "a.example.com", "/exact", "200"),
        (&wild, "b.example.com", "c.example.com", "/secure", "200"),
        (&exact, "a.example.com", "a.example.com", "/secure", "404"),
        (&wild, "b.example.com", "b.example.com", "/exact", "404"),
        (&wild, "b.example.com", "a.example.com", "/exact", "421"),
        (&exact, "a.example.com", "b.example.com", "/secure", "421"),
        (&exact, "a.example.com", "www.example.org", "/exact", "404"),
    ] {
        let answer = secure(&mesh, trusted, name, &get(path, host, "")).await.unwrap();
        assert_eq!(status(&answer), expected, "{name} {host}{path}: {answer}");
        assert_eq!(answer.contains("outrigger-error: misdirected"), expected == "421", "{answer}");
    }
    let answer = secure(&mesh, &exact, "a.example.com", &get("/old", "a.example.com", "")).await.unwrap();
    assert!(answer.contains("location: https://a.example.com/new"), "it came over TLS: {answer}");
}

#[tokio::test]
async fn access_that_is_revoked_ends_what_had_come_in() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = gateway(directory.path())
        .service("chat", websocket::echo())
        .policy(&route("shop", "chat", "rules: [{backendRefs: [{name: chat, port: 80}]}]"))
        .start()
        .await;
    let stream = TcpStream::connect(mesh.instance("edge", 0).sidecar().listens[0]).await.unwrap();
    let connecting = tokio_tungstenite::client_async("ws://www.example.com/room", stream);
    let (mut socket, _) = soon("the handshake", connecting).await.expect("the handshake succeeds");
    for (text, denied) in [("hello", "/attic"), ("again", "/room")] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), Message::text(text));
        let rules = format!("action: Deny\n  rules: [{{to: [{{paths: [{{value: {denied}}}]}}]}}]");
        mesh.apply(&for_gateway("AccessPolicy", "closed", &rules)).await;
        mesh.pushed().await;
    }
    let ended = soon("the end", socket.next()).await;
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
}

#[tokio::test]
async fn a_gateways_status_says_whether_a_proxy_serves_it() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = gateway(directory.path()).policy(&everything()).start().await;
    const PATH: &str = "/v1/namespaces/shop/gateways/edge";
    let programmed = |status: &Value| {
        let of = |one: &Value| one["conditions"][1]["status"].as_str().unwrap_or_default().to_owned();
        let listeners = status["listeners"].as_array().into_iter().flatten().map(of);
        std::iter::once(of(status)).chain(listeners).collect::<Vec<_>>()
    };
    eventually("the proxy has it, before anybody has called", || async {
        let status = mesh.show(PATH).await["status"].clone();
        if programmed(&status) == ["True"; 4] { Ok(()) } else { Err(status) }
    })
    .await;
    let other = GATEWAY.replace("name: edge", "name: other").replace("port: 443", "port: 8443");
    mesh.apply(&other).await;
    eventually("nobody serves that one, and it is said", || async {
        let status = mesh.show(&PATH.replace("edge", "other")).await["status"].clone();
        if programmed(&status) == ["False"; 4] { Ok(()) } else { Err(status) }
    })
    .await;
    mesh.apply(&GATEWAY.replace("port: 443", "port: 8443")).await;
    eventually("the proxy listens for port 80 alone", || async {
        let status = mesh.show(PATH).await["status"].clone();
        if programmed(&status) == ["True", "True", "False", "False"] { Ok(()) } else { Err(status) }
    })
    .await;
    let route = mesh.show("/v1/namespaces/shop/httproutes/web").await;
    assert_eq!(route["status"]["parents"][0]["conditions"][0]["reason"], "Accepted", "{route}");
}

#[tokio::test]
async fn an_application_is_spoken_to_as_it_likes_whatever_the_browser_speaks() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = gateway(directory.path()).policy(&everything()).start().await;
    let address = mesh.instance("edge", 0).sidecar().listens[0];
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://www.example.com/").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(soon("the answer", answer).await.unwrap().status(), 200, "{}", mesh.explain().await);
    let listed = get("/", "www.example.com", "Connection: x-forwarded-for, x-forwarded-proto\r\n");
    plain(&mesh, &listed).await;
    let seen = mesh.instance("web", 0).record().seen();
    assert_eq!(seen[0].version, http::Version::HTTP_11, "nothing says that it speaks HTTP/2");
    for seen in seen {
        assert_eq!((seen.header("x-forwarded-for"), seen.header("x-forwarded-proto")), ("127.0.0.1", "http"));
    }
}

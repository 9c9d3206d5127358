//! A gateway: callers outside the mesh come in through a proxy of its own.

use std::path::Path;
use std::sync::Arc;

use outrigger_tests::app::http::Reply;
use outrigger_tests::app::http::deciding;
use outrigger_tests::raw::{exchange, read_head};
use outrigger_tests::{Builder, Mesh, eventually, soon};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
    let forged = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Client-Cert: URI=spiffe://x/y\r\n";
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

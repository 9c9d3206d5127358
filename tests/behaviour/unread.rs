//! HTTP that comes where nobody reads: the caller says that a connection is opaque, and it must gain nothing by that.

use std::sync::Arc;

use outrigger_tests::app::http::echo;
use outrigger_tests::app::tcp;
use outrigger_tests::raw::{read_head, read_to_end, tls};
use outrigger_tests::{Mesh, eventually, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::documents::{access, limits};

/// What a proxy of the mesh asks for when it calls port 80 of `api.shop`.
const API: &str = "p80.api.shop.outrigger";

/// A request that claims to come from somebody else.
const FORGED: &str = "GET /forged HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\
    x-forwarded-client-cert: URI=spiffe://outrigger.test/ns/ops/sa/boss\r\n\r\n";

/// What requests without a token are refused with.
const TOKENS: &str = "jwt: {required: true, issuers: [{issuer: https://issuer.example, audiences: [shop], \
    jwks: {inline: '{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\
    \"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}'}}]}\nrules: [{}]";

/// A caller's tunnel to `api`.
async fn tunnel(mesh: &Mesh) -> TcpStream {
    let mut stream = TcpStream::connect(mesh.instance("web", 0).sidecar().outbound).await.unwrap();
    stream.write_all(b"CONNECT api.shop:80 HTTP/1.1\r\nHost: api.shop:80\r\n\r\n").await.unwrap();
    let head = soon("the tunnel", read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

/// A connection to the proxy of `api` with the credentials of `web`, which says that it is opaque.
async fn opaque(mesh: &Mesh) -> tokio_rustls::client::TlsStream<TcpStream> {
    let credentials = mesh.credentials("shop", "web").await;
    tls(mesh.instance("api", 0).sidecar().inbound, API, Some(credentials), &[b"outrigger-tcp"]).await.unwrap()
}

async fn end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut back = Vec::new();
    // A connection that is refused may end in a reset.
    let _ = soon("the end", stream.read_to_end(&mut back)).await;
    String::from_utf8_lossy(&back).into_owned()
}

#[tokio::test]
async fn http_on_an_opaque_connection_is_served_as_http() {
    let mesh = Mesh::builder().service("api", echo()).client("web").start().await;
    let mut stream = opaque(&mesh).await;
    stream.write_all(FORGED.as_bytes()).await.unwrap();
    let answer = end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer} {}", mesh.explain().await);
    let seen = Arc::clone(&mesh.instance("api", 0).record().seen()[0]);
    let peer = seen.header("x-forwarded-client-cert");
    assert!(peer.contains("URI=spiffe://outrigger.test/ns/shop/sa/web") && !peer.contains("boss"), "{peer}");
}

#[tokio::test]
async fn what_a_generous_server_takes_for_a_request_does_not_pass_unread() {
    let mesh = Mesh::builder().service("api", echo()).client("web").start().await;
    let long = "A".repeat(25);
    for line in [
        "GET / HTTP/1.9".to_owned(),
        "GET / HTTP/1.1 ".to_owned(),
        "GET\t/\tHTTP/1.1".to_owned(),
        format!("{long} / HTTP/1.1"),
        "GET /".to_owned(),
        "POST /".to_owned(),
        "GET / XTTP/1.1".to_owned(),
        "\0GET / HTTP/1.1".to_owned(),
    ] {
        for through_tunnel in [true, false] {
            let message = FORGED.replace("GET /forged HTTP/1.1", &line);
            let answer = if through_tunnel {
                let mut stream = tunnel(&mesh).await;
                stream.write_all(message.as_bytes()).await.unwrap();
                end(&mut stream).await
            } else {
                let mut stream = opaque(&mesh).await;
                stream.write_all(message.as_bytes()).await.unwrap();
                end(&mut stream).await
            };
            let seen = mesh.instance("api", 0).record().seen();
            assert!(!answer.starts_with("HTTP/1.1 200") || line.starts_with(&long), "{line}: {answer}");
            for request in seen {
                let peer = request.header("x-forwarded-client-cert").to_owned();
                assert!(!peer.contains("boss"), "{line}: {peer}");
            }
        }
    }
}

#[tokio::test]
async fn http_that_comes_later_ends_an_opaque_connection() {
    let mesh = Mesh::builder().service("api", tcp::echo()).client("web").start().await;
    let mut stream = opaque(&mesh).await;
    stream.write_all(b"GET a").await.unwrap();
    let mut five = [0; 5];
    soon("the echo", stream.read_exact(&mut five)).await.unwrap();
    stream.write_all(b" HTTP/1.1\r\n").await.unwrap();
    assert_eq!(end(&mut stream).await, "", "the rest of the line did not arrive");
    let labels = [("direction", "inbound"), ("error", "denied")];
    eventually("its end is counted", || async {
        let closed = mesh.metrics("api").await.sum("outrigger_tcp_connections_closed_total", &labels);
        if closed == 1.0 { Ok(()) } else { Err(closed) }
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_declared_to_speak_http_takes_no_opaque_connection() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\n\
        spec: {ports: [{port: 80, appProtocol: http}]}\n";
    let mesh = Mesh::builder().policy(service).service("api", tcp::echo()).client("web").start().await;
    let mut stream = opaque(&mesh).await;
    let _ = stream.write_all(b"hello\n").await;
    assert_eq!(end(&mut stream).await, "");
}

#[tokio::test]
async fn a_required_token_cannot_be_left_out_by_saying_nothing_of_requests() {
    let policy = access("tokens", TOKENS);
    let mesh = Mesh::builder().policy(&policy).service("api", echo()).client("web").start().await;
    assert_eq!(mesh.client("web").get("http://api.shop/").await.status, 401, "{}", mesh.explain().await);
    let mut stream = opaque(&mesh).await;
    let _ = stream.write_all(FORGED.as_bytes()).await;
    assert_eq!(end(&mut stream).await, "");
    assert_eq!(mesh.attempts("api"), 0);
}

#[tokio::test]
async fn a_limit_on_requests_counts_those_that_come_on_opaque_connections() {
    let policy = limits("api", "- {requests: 1, per: 1h}");
    let mesh = Mesh::builder().policy(&policy).service("api", echo()).client("web").start().await;
    assert_eq!(mesh.client("web").get("http://api.shop/").await.status, 200);
    let mut stream = opaque(&mesh).await;
    stream.write_all(FORGED.as_bytes()).await.unwrap();
    let answer = String::from_utf8_lossy(&read_to_end(&mut stream).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
}

//! Every connection between proxies proves who is at both ends, and what cannot prove it is refused by name.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_certs::{Clock as _, SystemClock};
use outrigger_tests::app::http::{echo, saying};
use outrigger_tests::credentials::{Stranger, identity_of};
use outrigger_tests::raw::{Credentials, exchange, read_to_end, tls, tls_server};
use outrigger_tests::{Mesh, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::documents::mesh_config;

/// What a proxy of the mesh asks for when it calls port 80 of `api.shop`.
const API: &str = "p80.api.shop.outrigger";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n";

async fn mesh() -> Mesh {
    Mesh::builder().service("api", saying("secret words")).client("web").start().await
}

/// What comes back for a request over TLS with these credentials; `Err` where the connection is refused.
async fn ask_with(inbound: SocketAddr, credentials: Option<Credentials>) -> Result<String, std::io::Error> {
    let mut stream = tls(inbound, API, credentials, &[b"http/1.1"]).await?;
    stream.write_all(GET).await?;
    let mut answer = Vec::new();
    // In TLS 1.3 the client's handshake is done before the server has seen its certificate.
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn refused(mesh: &Mesh) -> f64 {
    mesh.metrics("api").await.sum("outrigger_tls_refused_total", &[("direction", "inbound")])
}

/// Asserts that these credentials get nothing from the application, and that the refusal is counted by name.
async fn assert_refused(mesh: &Mesh, credentials: Option<Credentials>, error: &str) {
    let result = ask_with(mesh.instance("api", 0).sidecar().inbound, credentials).await;
    assert!(result.is_err(), "refused on the connection, not {result:?}");
    eventually("the refusal is counted by its name", || async {
        let metrics = mesh.metrics("api").await;
        let labels = [("direction", "inbound"), ("error", error)];
        match metrics.sum("outrigger_tls_refused_total", &labels) {
            1.0 => Ok(()),
            _ => Err(metrics.lines("outrigger_tls_refused")),
        }
    })
    .await;
    assert_eq!(mesh.attempts("api"), 0, "the application saw nothing of it");
}

#[tokio::test]
async fn a_caller_of_the_mesh_is_served_over_tls_1_3_and_both_identities_are_shown() {
    let mesh = mesh().await;
    let api = mesh.instance("api", 0);
    let credentials = mesh.credentials("shop", "web").await;
    let mut stream = tls(api.sidecar().inbound, API, Some(credentials), &[b"http/1.1"]).await.unwrap();
    let connection = stream.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = connection.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let server = connection.peer_certificates().unwrap().to_vec();
    assert_eq!(identity_of(&server[0]), [api.identity()]);
    stream.write_all(GET).await.unwrap();
    let answer = String::from_utf8_lossy(&read_to_end(&mut stream).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("secret words"), "{answer}");
    let seen = Arc::clone(&api.record().seen()[0]);
    let peer = seen.header("x-forwarded-client-cert");
    assert!(peer.contains("URI=spiffe://outrigger.test/ns/shop/sa/web"), "{peer}");
}

/// Passes bytes between two sockets and keeps a copy of each direction.
async fn wiretap(towards: Arc<Mutex<Option<SocketAddr>>>) -> (SocketAddr, Arc<Mutex<[Vec<u8>; 2]>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<[Vec<u8>; 2]>>::default();
    let keep = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let target = towards.lock().unwrap().expect("the target is known before the first call");
            let callee = TcpStream::connect(target).await.unwrap();
            let ((from_caller, to_caller), (from_callee, to_callee)) =
                (caller.into_split(), callee.into_split());
            tokio::spawn(copy(from_caller, to_callee, Arc::clone(&keep), 0));
            tokio::spawn(copy(from_callee, to_caller, Arc::clone(&keep), 1));
        }
    });
    (address, heard)
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    keep: Arc<Mutex<[Vec<u8>; 2]>>,
    side: usize,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        keep.lock().unwrap()[side].extend_from_slice(&buffer[..n]);
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn nothing_of_a_request_can_be_read_on_the_wire() {
    let target = Arc::<Mutex<Option<SocketAddr>>>::default();
    let (tap, heard) = wiretap(Arc::clone(&target)).await;
    let advertise = ["--advertise", &tap.to_string()];
    let mesh = Mesh::builder().service("api", echo()).args(&advertise).client("web").start().await;
    *target.lock().unwrap() = Some(mesh.instance("api", 0).sidecar().inbound);
    let answer = mesh.client("web").get_with("http://api/findme-path", &[("x-a", "findme-header")]).await;
    assert_eq!(answer.status, 200, "{}", mesh.explain().await);
    let heard = heard.lock().unwrap().clone();
    // A handshake record of a ClientHello, and in the ServerHello the version: 1.3 (RFC 8446 §4.2.1).
    assert_eq!(heard[0][0], 0x16, "not TLS: {:?}", &heard[0][..16]);
    let server_hello = &heard[1][..heard[1].len().min(2000)];
    assert!(server_hello.windows(6).any(|w| w == [0x00, 0x2b, 0x00, 0x02, 0x03, 0x04]), "not TLS 1.3");
    for side in &heard {
        assert!(!side.windows(6).any(|w| w == b"findme"), "the request is readable on the wire");
    }
}

#[tokio::test]
async fn a_caller_without_certificate_is_refused() {
    let mesh = mesh().await;
    assert_refused(&mesh, None, "tls-identity").await;
}

#[tokio::test]
async fn a_caller_of_another_trust_domain_is_refused() {
    let mesh = mesh().await;
    let stranger = Stranger::of("elsewhere.test").credentials("shop", "web");
    assert_refused(&mesh, Some(stranger), "tls-identity").await;
}

#[tokio::test]
async fn a_caller_whose_certificate_another_ca_made_is_refused() {
    let mesh = mesh().await;
    let stranger = Stranger::of("outrigger.test").credentials("shop", "web");
    assert_refused(&mesh, Some(stranger), "tls-identity").await;
}

/// Waits until the certificate is out of date.
async fn expired(credentials: &Credentials) {
    // Validity is in whole seconds.
    let end = Stranger::not_after(&credentials.0[0]) + Duration::from_secs(1);
    eventually("the certificate expires", || async {
        let left = end.duration_since(SystemClock.now()).unwrap_or_default();
        if left.is_zero() { Ok(()) } else { Err(format!("{left:?} left")) }
    })
    .await;
}

#[tokio::test]
async fn a_caller_whose_certificate_has_expired_is_refused() {
    let mesh = Mesh::builder()
        .svid_ttl(Duration::from_secs(3))
        .service("api", saying("secret words"))
        .client("web")
        .start()
        .await;
    let credentials = mesh.credentials("shop", "web").await;
    expired(&credentials).await;
    assert_refused(&mesh, Some(credentials), "tls-identity").await;
}

#[tokio::test]
async fn a_caller_in_plain_text_is_refused() {
    let mesh = mesh().await;
    let answer = exchange(mesh.instance("api", 0).sidecar().inbound, GET).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
    assert!(answer.to_lowercase().contains("outrigger-error: denied; by=inbound"), "{answer}");
    assert_eq!(mesh.attempts("api"), 0);
    assert_eq!(refused(&mesh).await, 1.0);
}

#[tokio::test]
async fn opaque_bytes_in_plain_text_are_refused() {
    let mesh = mesh().await;
    let answer =
        exchange(mesh.instance("api", 0).sidecar().inbound, b"\x00\x01\x02\x03 not HTTP\r\n\r\n").await;
    assert!(!answer.contains("secret"), "{answer}");
    assert_eq!(mesh.attempts("api"), 0);
}

#[tokio::test]
async fn permissive_mode_serves_plain_text_and_counts_it() {
    let mesh = Mesh::builder()
        .policy(&mesh_config("mtls: {mode: Permissive}"))
        .service("api", saying("secret words"))
        .client("web")
        .start()
        .await;
    let inbound = mesh.instance("api", 0).sidecar().inbound;
    let answer = exchange(inbound, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("secret words"), "{answer}");
    let metrics = mesh.metrics("api").await;
    let plain = metrics.sum("outrigger_requests_total", &[("direction", "inbound"), ("tls", "false")]);
    assert_eq!(plain, 1.0, "{}", metrics.lines("outrigger_requests_total"));
    // The others still come with their identity.
    assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
    assert_eq!(mesh.metrics("api").await.sum("outrigger_requests_total", &[("tls", "true")]), 1.0);
}

/// A mesh in which the endpoint of `api` is this server instead of its proxy.
async fn impostor(server: SocketAddr) -> Mesh {
    impostor_of(server, Duration::from_secs(3600)).await
}

/// The same with certificates that last so long.
async fn impostor_of(server: SocketAddr, svid_ttl: Duration) -> Mesh {
    let advertise = ["--advertise", &server.to_string()];
    let builder = Mesh::builder().svid_ttl(svid_ttl).service("api", saying("the real one")).args(&advertise);
    builder.client("web").start().await
}

async fn assert_not_trusted(mesh: &Mesh, name: &str) {
    let answer = mesh.client("web").get("http://api/").await;
    answer.assert_failure(503, name, "outbound");
    let metrics = mesh.metrics("web").await;
    let labels = [("direction", "outbound"), ("error", name)];
    let counted = metrics.sum("outrigger_requests_total", &labels);
    assert_eq!(counted, 1.0, "{}", metrics.lines("outrigger_requests_total"));
}

#[tokio::test]
async fn a_server_with_another_identity_of_the_mesh_is_refused() {
    // The impostor needs a certificate of the mesh that it stands in: its own identity, not the one expected.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = impostor(listener.local_addr().unwrap()).await;
    let credentials = mesh.credentials("shop", "mallory").await;
    let _server = tls_server(listener, credentials);
    assert_not_trusted(&mesh, "tls-identity").await;
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused_though_it_claims_the_right_identity() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = impostor(listener.local_addr().unwrap()).await;
    let _server = tls_server(listener, Stranger::of("outrigger.test").credentials("shop", "api"));
    assert_not_trusted(&mesh, "tls-identity").await;
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = impostor_of(listener.local_addr().unwrap(), Duration::from_secs(3)).await;
    let credentials = mesh.credentials("shop", "api").await;
    expired(&credentials).await;
    let _server = tls_server(listener, credentials);
    assert_not_trusted(&mesh, "tls-identity").await;
}

#[tokio::test]
async fn a_server_of_another_trust_domain_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = impostor(listener.local_addr().unwrap()).await;
    let _server = tls_server(listener, Stranger::of("elsewhere.test").credentials("shop", "api"));
    assert_not_trusted(&mesh, "tls-identity").await;
}

#[tokio::test]
async fn a_server_that_speaks_plain_text_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = impostor(listener.local_addr().unwrap()).await;
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen").await;
            let _ = stream.shutdown().await;
        }
    });
    assert_not_trusted(&mesh, "tls-handshake").await;
    server.abort();
}

#[tokio::test]
async fn a_join_token_gives_one_identity_and_no_other() {
    let mesh = mesh().await;
    let token = mesh.token("shop", "web").await;
    let error = mesh.issue("shop", "admin", &token).await.expect_err("a token for web is not one for admin");
    assert_eq!(error.code(), tonic::Code::Unauthenticated, "{error:?}");
    let other = if token.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{other}", &token[..token.len() - 1]);
    assert!(mesh.issue("shop", "web", &forged).await.is_err(), "a changed token is no token");
    let used = mesh.issue("shop", "web", &token).await;
    assert!(used.is_ok(), "{used:?}");
}

#[tokio::test]
async fn the_rest_api_asks_for_the_admins_token() {
    let mesh = mesh().await;
    let api = mesh.api_address();
    let client = outrigger_tests::Client::via(api);
    for (path, headers, status) in [
        ("/v1/services", &[][..], 401),
        ("/v1/services", &[("authorization", "Bearer wrong")][..], 401),
        ("/healthz", &[][..], 200),
    ] {
        let answer = client.get_with(&format!("http://{api}{path}"), headers).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    let mode = std::fs::metadata(mesh.data_dir().join("admin.token")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn no_file_of_the_control_plane_can_be_read_by_others() {
    let mesh = mesh().await;
    let mut folders = vec![mesh.data_dir()];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            if entry.file_name().to_string_lossy().contains("bundle.pem") {
                continue; // what everybody may know
            }
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
            looked_at += 1;
        }
    }
    assert!(looked_at > 2, "there are a token, keys and a store");
}

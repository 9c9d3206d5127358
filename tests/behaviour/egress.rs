//! What is outside the mesh is called like what is inside, where the mesh allows it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use outrigger_tests::app::grpc::{talk, words};
use outrigger_tests::app::http::{Reply, answering, deciding, empty, full, saying};
use outrigger_tests::app::{App, RunningApp, tcp};
use outrigger_tests::dns::Dns;
use outrigger_tests::host::Host;
use outrigger_tests::raw::read_head;
use outrigger_tests::tls_front::TlsFront;
use outrigger_tests::{Builder, Mesh, eventually, request, skip, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "api.example.com";

/// A service `api` that stands for a host, with this port.
fn api(port: u16, target: u16, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop}}\n\
         spec: {{type: ExternalName, externalName: {HOST}, \
         ports: [{{name: web, port: {port}, targetPort: {target}{more}}}]}}\n---\n"
    )
}

const TLS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
     metadata: {name: api, namespace: shop}\n\
     spec: {targetRefs: [{group: '', kind: Service, name: api}], \
     validation: {hostname: api.example.com, wellKnownCACertificates: System}}\n---\n";

const LISTED_ONLY: &str = "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
     spec: {egress: {mode: ListedOnly}}\n---\n";

/// A server outside, and the names that lead to it.
struct Outside {
    app: RunningApp,
    dns: Dns,
    _host: Host,
}

impl Outside {
    async fn start(app: App) -> Self {
        let host = Host::start("outside");
        let app = app.start("outside-0", host.handle()).await;
        let dns = Dns::start().await;
        dns.set(HOST, &[Ipv4Addr::LOCALHOST], 60);
        Self { app, dns, _host: host }
    }

    /// A mesh with one workload, `web`, which asks this name server.
    fn mesh(&self) -> Builder {
        Mesh::builder().client("web").args(&["--dns", &self.dns.address.to_string()])
    }

    fn port(&self) -> u16 {
        self.app.address.port()
    }
}

/// Waits until so many requests have been counted under these labels.
async fn counted(mesh: &Mesh, labels: &[(&str, &str)], expected: f64) {
    eventually("every request is counted", || async {
        let metrics = mesh.metrics("web").await;
        let count = metrics.sum("outrigger_requests_total", labels);
        if count == expected { Ok(()) } else { Err(metrics.lines("outrigger_requests_total")) }
    })
    .await;
}

#[tokio::test]
async fn a_service_outside_is_called_by_its_own_name_and_by_its_hosts() {
    let outside = Outside::start(deciding(|seen| {
        Reply::text(seen.header("host").to_owned()).header("outrigger-error", "denied; by=inbound")
    }))
    .await;
    let port = outside.port();
    let mesh = outside.mesh().policy(&api(80, port, "")).start().await;
    let web = mesh.client("web");
    for url in
        ["http://api.shop/x", "http://api/x", "http://api.example.com/x", "http://API.example.com.:80/x"]
    {
        for client in [web.clone(), web.http2()] {
            let answer = client.get(url).await;
            assert_eq!(answer.status, 200, "{url}: {answer:?}\n{}", mesh.explain().await);
            assert_eq!(answer.text(), format!("{HOST}:{port}"), "the host is told its own name: {url}");
            assert_eq!(answer.failure(), "", "only a proxy may say that");
        }
    }
    let posted = web.post("http://api.shop/x", full("body")).await;
    assert_eq!(posted.status, 200);
    for seen in outside.app.record.seen() {
        let ours: Vec<_> =
            seen.headers.keys().filter(|name| name.as_str().starts_with("outrigger")).collect();
        assert!(ours.is_empty(), "{ours:?} concern the mesh alone");
        assert_eq!(seen.version, http::Version::HTTP_11);
    }
    let connections = outside.app.record.connections();
    assert!(connections <= 4, "{connections} connections: they are kept");
    let labels = [("direction", "outbound"), ("service", "api"), ("namespace", "shop"), ("tls", "false")];
    counted(&mesh, &labels, 9.0).await;
    let answer = web.get("http://api.example.com:81/x").await;
    answer.assert_failure(404, "no-route", "outbound");
}

#[tokio::test]
async fn policy_holds_outside_as_it_does_inside() {
    let outside = Outside::start(answering(|seen| async move {
        if seen.number % 2 == 0 { Reply::status(503) } else { Reply::text("at last") }
    }))
    .await;
    let policy = "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\n\
         metadata: {name: api, namespace: shop}\n\
         spec: {targetRefs: [{name: api}], defaults: {retry: {attempts: 2, codes: [503]}}}\n";
    let route = "---\napiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: shop}\n\
         spec: {ports: [{port: 80}]}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: front, namespace: shop}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: front}], \
         rules: [{backendRefs: [{name: api, port: 80}], retry: {attempts: 2, codes: [503]}}]}\n";
    let mesh =
        outside.mesh().policy(&format!("{}{policy}{route}", api(80, outside.port(), ""))).start().await;
    let web = mesh.client("web");
    for url in ["http://api.shop/", "http://front.shop/"] {
        assert_eq!(web.get(url).await.text(), "at last", "{url}\n{}", mesh.explain().await);
    }
    assert_eq!(outside.app.record.attempts(), 4, "one retry each");
}

#[tokio::test]
async fn addresses_follow_the_name_and_stay_while_it_cannot_be_resolved() {
    let outside = Outside::start(saying("first")).await;
    let port = outside.port();
    // The same port at another address of loopback.
    let second = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = second.accept().await {
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_ok_and(|head| !head.is_empty()) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    outside.dns.set(HOST, &[Ipv4Addr::LOCALHOST], 1);
    let mesh = outside.mesh().policy(&api(80, port, "")).start().await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api.shop/").await.text(), "first", "{}", mesh.explain().await);
    outside.dns.set(HOST, &[Ipv4Addr::new(127, 0, 0, 2)], 0);
    eventually("the new address is called", || async {
        let text = web.get("http://api.shop/").await.text();
        if text == "second" { Ok(()) } else { Err(text) }
    })
    .await;
    outside.dns.remove(HOST);
    let asked = outside.dns.questions(HOST);
    eventually("the name is asked for again, in vain", || async {
        let more = outside.dns.questions(HOST) - asked;
        if more >= 2 { Ok(()) } else { Err(format!("{more} more questions")) }
    })
    .await;
    assert_eq!(web.get("http://api.shop/").await.text(), "second", "the last address stays in use");
}

#[tokio::test]
async fn a_service_outside_that_cannot_be_resolved_is_503_until_it_can() {
    let outside = Outside::start(saying("here")).await;
    outside.dns.remove(HOST);
    let mesh = outside.mesh().policy(&api(80, outside.port(), "")).start().await;
    let web = mesh.client("web");
    web.get("http://api.shop/").await.assert_failure(503, "no-endpoints", "outbound");
    outside.dns.set(HOST, &[Ipv4Addr::LOCALHOST], 60);
    eventually("it is called", || async {
        let answer = web.get("http://api.shop/").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.failure().to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn the_proxy_begins_tls_for_callers_that_speak_plain() {
    let outside = Outside::start(saying("secure")).await;
    let front = TlsFront::start(outside.app.address, &[HOST]).await;
    let roots = front.root().display().to_string();
    let documents = format!("{}{TLS}", api(80, front.address.port(), ""));
    let mesh = outside.mesh().args(&["--outside-roots", &roots]).policy(&documents).start().await;
    let web = mesh.client("web");
    for url in ["http://api.shop/x", "http://api.example.com/x"] {
        let answer = web.get(url).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (200, "secure"),
            "{}",
            mesh.explain().await
        );
    }
    let greeted = front.greeted();
    assert_eq!(greeted[0].name.as_deref(), Some(HOST));
    assert_eq!(greeted[0].protocol.as_deref(), Some("http/1.1"));
    counted(&mesh, &[("service", "api"), ("tls", "true")], 2.0).await;
}

#[tokio::test]
async fn http2_is_spoken_to_a_port_that_declares_it() {
    let outside = Outside::start(saying("secure")).await;
    let front = TlsFront::start(outside.app.address, &[HOST]).await;
    let roots = front.root().display().to_string();
    let documents = format!("{}{TLS}", api(80, front.address.port(), ", appProtocol: kubernetes.io/h2c"));
    let mesh = outside.mesh().args(&["--outside-roots", &roots]).policy(&documents).start().await;
    let answer = mesh.client("web").http2().get("http://api.shop/x").await;
    assert_eq!(answer.text(), "secure", "{answer:?}\n{}", mesh.explain().await);
    assert_eq!(front.greeted()[0].protocol.as_deref(), Some("h2"));
    let seen = &outside.app.record.seen()[0];
    assert_eq!(seen.uri.scheme_str(), Some("https"));
    assert_eq!(seen.uri.host(), Some(HOST));
}

#[tokio::test]
async fn a_server_that_does_not_prove_its_name_is_sent_nothing() {
    let outside = Outside::start(saying("an impostor")).await;
    let front = TlsFront::start(outside.app.address, &["other.example.com"]).await;
    let documents = format!("{}{TLS}", api(80, front.address.port(), ""));
    let roots = front.root().display().to_string();
    let mut mesh = outside.mesh().args(&["--outside-roots", &roots]).policy(&documents).start().await;
    mesh.client("web").get("http://api.shop/").await.assert_failure(503, "tls-identity", "outbound");
    // Its name is not what is asked for, and without its root nothing that it says counts.
    let dns = outside.dns.address.to_string();
    let doubter = mesh.join_client("doubter", &["--dns", &dns]).await;
    doubter.get("http://api.shop/").await.assert_failure(503, "tls-identity", "outbound");
    assert_eq!(outside.app.record.attempts(), 0);
    // Where the policy says so, another name will do.
    let other =
        TLS.replace("System}}", "System, subjectAltNames: [{type: Hostname, hostname: other.example.com}]}}");
    mesh.apply(&other).await;
    let web = mesh.client("web");
    eventually("the other name is accepted", || async {
        let answer = web.get("http://api.shop/").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.failure().to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn grpc_goes_out_over_http2_unasked() {
    let outside = Outside::start(talk()).await;
    let mesh = outside.mesh().policy(&api(80, outside.port(), "")).start().await;
    let mut client = crate::grpc::call(&mesh, "api.shop").await;
    let answer = soon("the answer", client.say(words("hello"))).await.expect("the call succeeds");
    assert_eq!(answer.into_inner().text, "hello");
}

#[tokio::test]
async fn tunnels_and_local_ports_lead_outside() {
    let outside = Outside::start(tcp::echo()).await;
    let mesh = outside
        .mesh()
        .args(&["--listen", "127.0.0.1:0=api.shop:7000"])
        .policy(&api(7000, outside.port(), ", appProtocol: tcp"))
        .start()
        .await;
    let sidecar = mesh.instance("web", 0).sidecar();
    let mut tunnel = TcpStream::connect(sidecar.outbound).await.unwrap();
    tunnel
        .write_all(b"CONNECT api.example.com:7000 HTTP/1.1\r\nHost: api.example.com:7000\r\n\r\n")
        .await
        .unwrap();
    let head = soon("the tunnel", read_head(&mut tunnel)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let listen = TcpStream::connect(sidecar.listens[0]).await.unwrap();
    for mut stream in [tunnel, listen] {
        stream.write_all(b"\x01opaque").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        soon("the echo", stream.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"\x01opaque");
    }
}

/// An address of this machine that is not loopback's, if it has one.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => Some(address),
        _ => None,
    }
}

#[tokio::test]
async fn a_host_that_nobody_lists_is_called_unless_only_listed_ones_may_be() {
    let Some(address) = own_address() else {
        return skip("hosts that nobody lists", "this machine has no address but loopback");
    };
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let at: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = read_head(&mut stream).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi")
                .await;
        }
    });
    let outside = Outside::start(saying("listed")).await;
    outside.dns.set("www.example.org", &[address], 60);
    outside.dns.set("trap.example.org", &[Ipv4Addr::LOCALHOST], 60);
    let mesh = outside.mesh().policy(&api(80, outside.port(), "")).start().await;
    let web = mesh.client("web");
    let (url, trap) =
        (format!("http://www.example.org:{}/", at.port()), format!("http://trap.example.org:{}/", at.port()));
    assert_eq!(web.get(&url).await.text(), "hi", "{}", mesh.explain().await);
    assert_eq!(web.get(&format!("http://{at}/")).await.text(), "hi", "by its address");
    web.get("http://nobody.example.org/").await.assert_failure(404, "no-route", "outbound");
    web.get(&trap).await.assert_failure(404, "no-route", "outbound");
    counted(&mesh, &[("service", "external"), ("port", "")], 2.0).await;

    mesh.apply(LISTED_ONLY).await;
    eventually("the host is refused", || async {
        let answer = web.get(&url).await;
        if answer.status == 403 { Ok(answer) } else { Err(answer.status) }
    })
    .await
    .assert_failure(403, "denied", "outbound");
    let at_text = at.to_string();
    let tunnel = web.send(request("CONNECT", &at_text, &[("host", &at_text)], empty())).await.unwrap();
    tunnel.assert_failure(403, "denied", "outbound");
    assert_eq!(web.get("http://api.example.com/").await.text(), "listed");

    let listed = LISTED_ONLY.replace("ListedOnly", &format!("ListedOnly, cidrs: [{address}/32]"));
    mesh.apply(&listed).await;
    let by_address = format!("http://{at}/");
    eventually("an address of a listed network is called", || async {
        let answer = web.get(&by_address).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status) }
    })
    .await;
    web.get(&url).await.assert_failure(403, "denied", "outbound");
}

#[tokio::test]
async fn a_misspelt_service_of_a_namespace_that_is_known_is_looked_up_nowhere() {
    let outside = Outside::start(saying("outside")).await;
    let known = "apiVersion: v1\nkind: Service\nmetadata: {name: known, namespace: other}\n\
                 spec: {ports: [{port: 80}]}\n---\n";
    let mesh = outside.mesh().policy(known).start().await;
    let web = mesh.client("web");
    web.get("http://known.other/").await.assert_failure(503, "no-endpoints", "outbound");
    for _ in 0..2 {
        web.get("http://unknown.other/").await.assert_failure(404, "no-route", "outbound");
        web.get("http://unknown.example/").await.assert_failure(404, "no-route", "outbound");
    }
    assert_eq!(outside.dns.questions("unknown.other"), 0);
    assert!(outside.dns.questions("unknown.example") > 0, "what may be a host is asked for");
}

#[tokio::test]
async fn a_host_is_found_again_when_it_is_listed_and_gone_when_it_is_not() {
    let outside = Outside::start(saying("listed")).await;
    let mesh = outside.mesh().policy(LISTED_ONLY).start().await;
    let web = mesh.client("web");
    web.get("http://api.example.com/").await.assert_failure(403, "denied", "outbound");
    mesh.apply(&api(80, outside.port(), "")).await;
    eventually("the host is called", || async {
        let answer = web.get("http://api.example.com/").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.failure().to_owned()) }
    })
    .await;
    assert_eq!(mesh.api("DELETE", "/v1/namespaces/shop/services/api", "").await.status, 200);
    eventually("the host is refused", || async {
        let answer = web.get("http://api.example.com/").await;
        if answer.status == 403 { Ok(()) } else { Err(answer.status) }
    })
    .await;
}

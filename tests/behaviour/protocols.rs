//! What a caller says in HTTP reaches the application as it was said, and the answer as well.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Response, Version};
use http_body::Frame;
use http_body_util::BodyExt as _;
use outrigger_tests::app::http::{
    Reply, always, answering, channel, deciding, echo, empty, full, headers, saying, streaming, zeros,
};
use outrigger_tests::app::{App, websocket};
use outrigger_tests::raw::{exchange, read_head};
use outrigger_tests::{Mesh, eventually, request, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio_tungstenite::tungstenite::Message;

async fn echoing() -> Mesh {
    Mesh::builder().service("api", echo()).client("web").start().await
}

#[tokio::test]
async fn keep_alive_serves_many_requests_on_one_connection() {
    let mesh = echoing().await;
    let web = mesh.client("web");
    for i in 0..50 {
        let answer = web.post("http://api/", full(format!("{i}"))).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, i.to_string()), "{}", mesh.explain().await);
    }
    assert_eq!(web.connections(), 1);
}

#[tokio::test]
async fn a_service_is_found_by_each_form_of_its_name() {
    let mesh = echoing().await;
    let web = mesh.client("web");
    for host in
        ["api", "api.shop", "api.shop.svc.cluster.local", "api:80", "api.shop:80", "API.Shop", "api.shop."]
    {
        let answer = web.get(&format!("http://{host}/x")).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-path")), (200, "/x"), "{host}: {answer:?}");
    }
    web.get("http://nobody.shop/").await.assert_failure(404, "no-route", "outbound");
    web.get("http://api.elsewhere/").await.assert_failure(404, "no-route", "outbound");
}

#[tokio::test]
async fn the_proxy_form_of_a_request_leads_to_the_same_service() {
    let mesh = echoing().await;
    let proxy = mesh.client("web").proxy();
    let absolute = "GET http://api.shop/x?y HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n";
    let answer = exchange(proxy, absolute.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("x-path: /x?y"), "the application sees the path alone: {answer}");
    assert_eq!(mesh.instance("api", 0).record().seen()[0].header("host"), "api.shop");
}

#[tokio::test]
async fn connect_opens_a_tunnel_to_a_service_port() {
    let mesh = echoing().await;
    let mut tunnel = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    tunnel.write_all(b"CONNECT api.shop:80 HTTP/1.1\r\nHost: api.shop:80\r\n\r\n").await.unwrap();
    let head = read_head(&mut tunnel).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    tunnel.write_all(b"GET /in HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n").await.unwrap();
    let head = read_head(&mut tunnel).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("x-path: /in"), "{head}");
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let mesh = echoing().await;
    let (sender, body) = channel(1);
    let web = mesh.client("web");
    let asking = tokio::spawn(async move { web.post("http://api/", body).await });
    for piece in ["one ", "two ", "three"] {
        sender.send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).await.unwrap();
    }
    drop(sender);
    let answer = asking.await.unwrap();
    assert_eq!(answer.text(), "one two three");
    let seen = Arc::clone(&mesh.instance("api", 0).record().seen()[0]);
    assert_eq!((seen.version, seen.header("transfer-encoding")), (Version::HTTP_11, "chunked"), "{seen:?}");
}

#[tokio::test]
async fn a_body_of_known_length_keeps_its_length() {
    let mesh = echoing().await;
    let answer = mesh.client("web").post("http://api/", full("twelve bytes")).await;
    assert_eq!((answer.header("content-length"), answer.text().as_str()), ("12", "twelve bytes"));
    let seen = Arc::clone(&mesh.instance("api", 0).record().seen()[0]);
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), ("12", ""), "{seen:?}");
}

#[tokio::test]
async fn an_answer_streams_while_the_request_still_does() {
    let app = streaming(|request, _call| async move {
        Ok(Response::new(request.into_body().map_err(std::io::Error::other).boxed()))
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        let (sender, body) = channel(1);
        sender.send(Ok(Frame::data(Bytes::from_static(b"ping")))).await.unwrap();
        let answer = soon("the head", client.open(request("POST", "http://api/", &[], body))).await.unwrap();
        let mut body = answer.into_body();
        for _ in 0..3 {
            let frame = soon("the echo of what was sent so far", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "ping");
            sender.send(Ok(Frame::data(Bytes::from_static(b"ping")))).await.unwrap();
        }
    }
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body() {
    let mesh = echoing().await;
    let mut stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let head = "PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let interim = read_head(&mut stream).await.unwrap();
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    stream.write_all(b"body").await.unwrap();
    let answer = read_head(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut body = [0; 4];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"body");
}

#[tokio::test]
async fn an_application_may_refuse_before_the_body_is_sent() {
    let refuse = streaming(|_request, _call| async move {
        let mut response = Response::new(full("no"));
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        Ok(response)
    });
    let mesh = Mesh::builder().service("api", refuse).client("web").start().await;
    let mut stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let head = "PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = read_head(&mut stream).await.unwrap();
    if answer.starts_with("HTTP/1.1 100") {
        // A proxy between may ask for the body before the application has looked at the head.
        answer = read_head(&mut stream).await.unwrap();
    }
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let mesh = Mesh::builder().service("api", saying("five!")).client("web").start().await;
    for web in [mesh.client("web"), mesh.client("web").http2()] {
        for _ in 0..3 {
            let answer = web.answer(request("HEAD", "http://api/", &[], empty())).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-length"), answer.body.len()),
                (200, "5", 0),
                "{answer:?}"
            );
        }
        assert_eq!(web.get("http://api/").await.text(), "five!");
        let own = web.answer(request("HEAD", "http://nobody/", &[], empty())).await;
        assert_eq!(
            (own.status.as_u16(), own.body.len()),
            (404, 0),
            "the proxy's own answer has no body either"
        );
        assert_eq!(web.connections(), 1, "a HEAD leaves the connection usable");
    }
}

#[tokio::test]
async fn no_content_and_not_modified_have_no_body_and_keep_the_connection() {
    let app = deciding(|seen| {
        let mut response = Response::new(empty());
        *response.status_mut() = seen.uri.path()[1..].parse().unwrap();
        response.headers_mut().insert("etag", http::HeaderValue::from_static("\"v1\""));
        Reply::with(response)
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    for web in [mesh.client("web"), mesh.client("web").http2()] {
        for status in [204, 304, 204, 304] {
            let answer = web.get(&format!("http://api/{status}")).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("etag"), answer.body.len()),
                (status, "\"v1\"", 0),
                "{answer:?}"
            );
            assert_eq!(answer.header("transfer-encoding"), "");
        }
        assert_eq!(web.connections(), 1);
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mesh = echoing().await;
    for web in [mesh.client("web"), mesh.client("web").http2()] {
        // Of unknown length, since HTTP/1 has trailers only after chunks.
        let (sender, body) = channel(2);
        sender.send(Ok(Frame::data(Bytes::from_static(b"words")))).await.unwrap();
        sender.send(Ok(Frame::trailers(headers(&[("x-checksum", "abc")])))).await.unwrap();
        drop(sender);
        let sent = [("te", "trailers"), ("trailer", "x-checksum")];
        let answer = web.answer(request("POST", "http://api/", &sent, body)).await;
        assert_eq!(answer.text(), "words");
        let seen = mesh.instance("api", 0).record().seen().pop().unwrap();
        let at_app = seen.trailers.as_ref().map(|t| t["x-checksum"].clone());
        assert_eq!(at_app.unwrap(), "abc", "by {web:?}: the application sees the trailers: {seen:?}");
        let back =
            answer.trailers.as_ref().unwrap_or_else(|| panic!("by {web:?}: no trailers back: {answer:?}"));
        assert_eq!(back["x-checksum"], "abc");
    }
}

#[tokio::test]
async fn hop_by_hop_headers_end_at_the_proxy() {
    let mesh = echoing().await;
    let message = "GET / HTTP/1.1\r\nHost: api\r\nConnection: close, x-private\r\nX-Private: 1\r\n\
                   Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Public: 1\r\n\r\n";
    let answer = exchange(mesh.client("web").proxy(), message.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = Arc::clone(&mesh.instance("api", 0).record().seen()[0]);
    for gone in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.header(gone), "", "{gone} went on: {seen:?}");
    }
    assert_eq!(seen.header("x-public"), "1");
}

#[tokio::test]
async fn http_1_0_is_answered_in_kind() {
    let mesh = Mesh::builder().service("api", saying("old")).client("web").start().await;
    let answer = exchange(mesh.client("web").proxy(), b"GET / HTTP/1.0\r\nHost: api\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("old") && !answer.contains("chunked"), "{answer}");
}

#[tokio::test]
async fn a_websocket_client_talks_to_a_websocket_server() {
    let mesh = Mesh::builder().service("chat", websocket::echo()).client("web").start().await;
    let stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let connecting = tokio_tungstenite::client_async("ws://chat.shop/room", stream);
    let (mut socket, response) = soon("the handshake", connecting).await.expect("the handshake succeeds");
    assert_eq!(response.status(), 101);
    let large = "x".repeat(300_000);
    for message in [Message::text("hello"), Message::binary(vec![0u8, 255, 7]), Message::text(large)] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    assert_eq!(soon("the pong", socket.next()).await.unwrap().unwrap(), Message::Pong("there?".into()));
    socket.close(None).await.unwrap();
    // The server's close frame, then the end of the stream.
    while let Some(Ok(message)) = soon("the end", socket.next()).await {
        assert!(message.is_close(), "{message:?}");
    }
}

/// Accepts an upgrade to `lines/1` by hand, and then sends back what it gets.
fn upgrading() -> App {
    App::new(|mut accepted| async move {
        let Ok(head) = read_head(&mut accepted.stream).await else { return };
        if !head.to_lowercase().contains("upgrade: lines/1") {
            let _ = accepted.stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }
        let switching =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: lines/1\r\n\r\nfirst\n";
        if accepted.stream.write_all(switching).await.is_ok() {
            let (mut read, mut write) = accepted.stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    })
}

#[tokio::test]
async fn any_upgrade_passes_with_the_first_bytes_in_order() {
    let mesh = Mesh::builder().service("lines", upgrading()).client("web").start().await;
    let mut stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let head = "GET / HTTP/1.1\r\nHost: lines\r\nConnection: upgrade\r\nUpgrade: lines/1\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.to_lowercase().contains("upgrade: lines/1"), "{answer}");
    stream.write_all(b"second\n").await.unwrap();
    let mut both = [0; 13];
    soon("both lines", stream.read_exact(&mut both)).await.unwrap();
    assert_eq!(&both, b"first\nsecond\n");
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("the end", stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn two_hundred_streams_are_in_flight_at_once() {
    let all_there = Arc::new(Barrier::new(200));
    let app = answering(move |_| {
        let all_there = Arc::clone(&all_there);
        async move {
            // No stream is answered until all of them have reached the application.
            all_there.wait().await;
            Reply::status(200)
        }
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    for web in [mesh.client("web").http2(), mesh.client("web")] {
        let answers = join_all((0..200).map(|i| {
            let web = web.clone();
            async move { web.get(&format!("http://api/{i}")).await.status.as_u16() }
        }))
        .await;
        assert!(answers.iter().all(|&s| s == 200), "{web:?}: {answers:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_does_not_stall_its_neighbours() {
    let app = streaming(|request, _call| async move {
        let large = request.uri().path() == "/large";
        Ok(Response::new(if large { zeros(64 << 20) } else { full("small") }))
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    let web = mesh.client("web").http2();
    let unread = web.open(request("GET", "http://api/large", &[], empty())).await.unwrap();
    for _ in 0..100 {
        assert_eq!(web.get("http://api/small").await.text(), "small", "{}", mesh.explain().await);
    }
    assert_eq!(web.connections(), 1);
    let rest = unread.into_body().collect().await.expect("the slow reader gets all of it").to_bytes();
    assert_eq!(rest.len(), 64 << 20);
}

#[tokio::test]
async fn a_gibibyte_passes_in_flat_memory() {
    const GIB: u64 = 1 << 30;
    const MOST: u64 = 48 << 20;
    let app = streaming(|request, _call| async move {
        if request.method() == "GET" {
            return Ok(Response::new(zeros(GIB)));
        }
        let mut body = request.into_body();
        let mut total = 0;
        while let Some(Ok(frame)) = body.frame().await {
            total += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok(Response::new(full(total.to_string())))
    });
    let mut mesh = Mesh::builder().processes().service("api", app).client("web").start().await;
    let web = mesh.client("web");
    let put = web.open(request("PUT", "http://api/", &[], zeros(GIB))).await.unwrap();
    let received = put.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(received, GIB.to_string());
    let mut body = web.open(request("GET", "http://api/", &[], empty())).await.unwrap().into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame.expect("the body comes whole").data_ref().map_or(0, Bytes::len) as u64;
    }
    assert_eq!(total, GIB);
    for service in ["web", "api"] {
        let (now, peak) = mesh.instance_mut(service, 0).process().memory();
        assert!(peak < MOST, "{service}'s proxy had {peak} bytes resident, {now} at the end");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let app = streaming(|_request, _call| async move {
        let (sender, body) = channel(1);
        tokio::spawn(async move {
            let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"half")))).await;
            let _ = sender.send(Err(std::io::Error::other("broken on purpose"))).await;
        });
        Ok(Response::new(body))
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    for web in [mesh.client("web"), mesh.client("web").http2()] {
        // Where the end overtakes the head, the proxy may still say so in an answer of its own.
        match web.send(request("GET", "http://api/", &[], empty())).await {
            Err(_) => {}
            Ok(answer) => assert_eq!(answer.status, 502, "half an answer passed for a whole one: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_request_at_the_application() {
    let app = answering(|_| async { Reply::hang() });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        let before = mesh.attempts("api");
        let asking = tokio::spawn(async move { client.get("http://api/").await });
        eventually("the request arrives", || async {
            if mesh.attempts("api") == before + 1 { Ok(()) } else { Err("not there") }
        })
        .await;
        asking.abort();
        for service in ["web", "api"] {
            eventually("nothing is under way", || async {
                let metrics = mesh.metrics(service).await;
                match metrics.sum("outrigger_requests_active", &[]) {
                    0.0 => Ok(()),
                    n => Err(format!("{n} under way at {service}'s proxy")),
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_proxys_own_answer_says_what_why_and_what_to_do() {
    let mesh = Mesh::builder().service("api", always(200)).client("web").start().await;
    let answer = mesh.client("web").get_with("http://nobody.shop/", &[("x-request-id", "abc-123")]).await;
    answer.assert_failure(404, "no-route", "outbound");
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("the body is JSON");
    let text = body.to_string();
    for part in ["no-route", "message", "hint", "abc-123"] {
        assert!(text.contains(part), "{part:?} is missing from {text}");
    }
}

#[tokio::test]
async fn identity_and_request_id_reach_the_application_and_cannot_be_forged() {
    let mesh = echoing().await;
    let forged =
        [("x-forwarded-client-cert", "URI=spiffe://evil/ns/shop/sa/admin"), ("outrigger-error", "x")];
    let answer = mesh.client("web").get_with("http://api/", &forged).await;
    assert_eq!(answer.status, 200);
    let seen = Arc::clone(&mesh.instance("api", 0).record().seen()[0]);
    let peer = seen.header("x-forwarded-client-cert");
    assert!(peer.contains(&mesh.instance("web", 0).identity()) && !peer.contains("evil"), "{seen:?}");
    assert_ne!(seen.header("x-request-id"), "");
    assert_eq!(seen.header("outrigger-error"), "");
}

#[tokio::test]
async fn an_idle_client_connection_stays_open() {
    let mesh = echoing().await;
    let web = mesh.client("web");
    web.get("http://api/").await;
    tokio::time::sleep(Duration::from_secs(3)).await; // longer than the time for detection
    web.get("http://api/").await;
    assert_eq!(web.connections(), 1);
}

/// Connections that the caller's proxy has made to others, by what is spoken on them.
async fn dialed(mesh: &Mesh) -> (f64, f64) {
    let metrics = mesh.metrics("web").await;
    let opened = |protocol| {
        let labels = [("direction", "outbound"), ("role", "dialed"), ("protocol", protocol)];
        metrics.sum("outrigger_connections_opened_total", &labels)
    };
    (opened("http1"), opened("http2"))
}

#[tokio::test]
async fn a_request_alone_has_a_connection_of_its_own_and_many_share_one() {
    const MANY: usize = 40;
    let meeting = Arc::new(Barrier::new(MANY));
    let app = answering(move |seen| {
        let meeting = Arc::clone(&meeting);
        async move {
            if seen.uri.path() == "/meet" {
                meeting.wait().await;
            }
            Reply::status(200)
        }
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    let web = mesh.client("web");
    for _ in 0..10 {
        assert_eq!(web.get("http://api/").await.status, 200);
    }
    assert_eq!(dialed(&mesh).await, (1.0, 0.0));
    assert_eq!(web.post("http://api/", full("x")).await.status, 200);
    assert_eq!(dialed(&mesh).await, (1.0, 1.0), "what may not be sent twice shares");
    let answers = join_all((0..MANY).map(|_| {
        let web = web.clone();
        async move { web.get("http://api/meet").await.status }
    }));
    assert!(answers.await.into_iter().all(|status| status == 200));
    let (own, shared) = dialed(&mesh).await;
    assert!(own <= 4.0 && shared == 1.0, "{MANY} at once took {own} of their own and {shared} shared");
}

#[tokio::test]
async fn a_body_that_was_cut_off_is_not_passed_on_as_a_whole_one() {
    let (tell, mut told) = tokio::sync::mpsc::channel(8);
    let app = streaming(move |request, _call| {
        let tell = tell.clone();
        async move {
            let mut body = request.into_body();
            loop {
                let frame = body.frame().await.map(|frame| frame.is_ok());
                let _ = tell.send(frame).await;
                if frame != Some(true) {
                    return Ok(Response::new(empty()));
                }
            }
        }
    });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    let io = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let upload = http::Request::post("http://api/").body(()).unwrap();
    let (_answer, mut stream) = client.ready().await.unwrap().send_request(upload, false).unwrap();
    stream.send_data(Bytes::from_static(b"the first half"), false).unwrap();
    assert_eq!(soon("the first half", told.recv()).await, Some(Some(true)));
    stream.send_reset(h2::Reason::NO_ERROR);
    assert_eq!(soon("its end", told.recv()).await, Some(Some(false)), "cut off, and not ended");
}

#[tokio::test]
async fn a_post_without_a_body_says_so_to_the_application() {
    let mesh = echoing().await;
    let post = "POST / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n";
    let answer = exchange(mesh.client("web").proxy(), post.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(mesh.instance("api", 0).record().seen()[0].header("content-length"), "0");
}

#[tokio::test]
async fn fields_of_the_connection_among_the_trailers_stay_behind_and_hold_nothing_up() {
    let mesh = echoing().await;
    let post = "POST / HTTP/1.1\r\nHost: api\r\nTE: trailers\r\nTrailer: keep-alive\r\nConnection: close, te\r\n\
                Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nkeep-alive: x\r\n\r\n";
    let answer = soon("an answer", exchange(mesh.client("web").proxy(), post.as_bytes())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

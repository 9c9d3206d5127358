//! Whatever arrives, the proxy answers by name or closes, and the next caller is served as if nothing had been.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_tests::Mesh;
use outrigger_tests::app::http::{echo, empty, streaming, zeros};
use outrigger_tests::raw::{
    Frames, closes_within, exchange, frame, get_block, header_block, read_head, read_to_end, tls,
};
use outrigger_tests::{eventually, request};
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

async fn mesh() -> Mesh {
    Mesh::builder().service("api", echo()).client("web").start().await
}

/// Requests that two parsers could read in two ways, or that none should read at all.
const MALFORMED: &[(&str, &str)] = &[
    (
        "both lengths",
        "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths", "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5, 6\r\n\r\nabcdef"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: +5\r\n\r\nabcde"),
    ("a length that is none", "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0x5\r\n\r\nabcde"),
    (
        "a length beyond counting",
        "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("an unknown coding", "POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked in 1.0", "POST / HTTP/1.0\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a folded field", "GET / HTTP/1.1\r\nHost: api\r\nX-A: b\r\n c\r\n\r\n"),
    ("bare line feeds", "GET / HTTP/1.1\nHost: api\n\n"),
    ("one bare line feed", "GET / HTTP/1.1\r\nHost: api\nX-A: b\r\n\r\n"),
    ("a bare carriage return", "GET / HTTP/1.1\r\nHost: api\r\nX-A: b\rc\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost: api\r\nContent-Length : 0\r\n\r\n"),
    ("a field without a colon", "GET / HTTP/1.1\r\nHost: api\r\nnonsense\r\n\r\n"),
    ("a field without a name", "GET / HTTP/1.1\r\nHost: api\r\n: x\r\n\r\n"),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: api\r\nX-A: b\0c\r\n\r\n"),
    ("a NUL in the target", "GET /\0 HTTP/1.1\r\nHost: api\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: api\r\nHost: other\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\nX-A: b\r\n\r\n"),
    ("a version that is none", "GET / HTTP/1.9x\r\nHost: api\r\n\r\n"),
    ("another scheme", "GET https://api/ HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"),
    ("a scheme that is not of HTTP", "GET ftp://api/ HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"),
    ("a target without a slash", "GET \\admin HTTP/1.1\r\nHost: api\r\n\r\n"),
    ("a target with what none may have", "GET /a<b> HTTP/1.1\r\nHost: api\r\n\r\n"),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: api\r\n\r\n"),
];

/// Messages whose body breaks its own framing: the head may have gone on, the message must not end well.
const BROKEN_CHUNKS: &[(&str, &str)] = &[
    ("no number", "zz\r\nabc\r\n0\r\n\r\n"),
    ("a negative number", "-1\r\nabc\r\n0\r\n\r\n"),
    ("a number beyond counting", "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    ("more than it says", "3\r\nabcdef\r\n0\r\n\r\n"),
    ("bare line feeds", "3\nabc\n0\n\n"),
];

async fn still_serves(mesh: &Mesh, after: &str) {
    let answer = mesh.client("web").get("http://api/still").await;
    assert_eq!(answer.status, 200, "after {after}: {}", mesh.explain().await);
}

#[tokio::test]
async fn a_malformed_request_is_answered_400_and_reaches_nobody() {
    let mesh = mesh().await;
    let proxy = mesh.client("web").proxy();
    for (what, message) in MALFORMED {
        let answer = exchange(proxy, message.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
            "{what}: {answer:?}"
        );
        assert!(
            answer.to_lowercase().contains("outrigger-error: bad-request; by=outbound"),
            "{what}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.").count(),
            1,
            "{what}: what follows is no second request: {answer}"
        );
        assert_eq!(mesh.attempts("api"), 0, "{what}: it reached the application");
    }
    still_serves(&mesh, "malformed requests").await;
}

#[tokio::test]
async fn a_request_hidden_behind_another_is_not_served() {
    let mesh = mesh().await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: api\r\n\r\n";
    let smuggling = format!(
        "POST /first HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
        hidden.len() + 5
    );
    exchange(mesh.client("web").proxy(), smuggling.as_bytes()).await;
    assert_eq!(mesh.attempts("api"), 0);
}

#[tokio::test]
async fn broken_chunks_never_pass_for_a_whole_body() {
    let mesh = mesh().await;
    for (what, body) in BROKEN_CHUNKS {
        let message = format!("POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let answer = exchange(mesh.client("web").proxy(), message.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        assert_eq!(
            mesh.instance("api", 0).record().seen().len(),
            0,
            "{what}: the application took it for whole"
        );
    }
    still_serves(&mesh, "broken chunks").await;
}

#[tokio::test]
async fn nothing_is_written_into_an_answer_that_is_under_way() {
    let app = streaming(|_request, _call| async move { Ok(http::Response::new(zeros(64 << 20))) });
    let mesh = Mesh::builder().service("api", app).client("web").start().await;
    let mut stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").await.unwrap();
    assert!(read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    stream.write_all(b"NON\0SENSE\n\n").await.unwrap();
    let rest = read_to_end(&mut stream).await;
    assert!(rest.len() < 64 << 20, "nonsense ends the connection");
    let refusal = b"HTTP/1.1";
    assert!(
        !rest.windows(refusal.len()).any(|window| window == refusal),
        "a refusal would be taken for a part of the answer"
    );
}

#[tokio::test]
async fn a_head_of_too_many_bytes_or_fields_is_answered_431() {
    let mesh = mesh().await;
    let proxy = mesh.client("web").proxy();
    let large = format!("GET / HTTP/1.1\r\nHost: api\r\nX-A: {}\r\n\r\n", "a".repeat(61 * 1024));
    let many: String = (0..101).map(|i| format!("X-{i}: a\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: api\r\n{many}\r\n");
    for (what, message) in [("bytes", &large), ("fields", &many)] {
        let answer = exchange(proxy, message.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "too many {what}: {answer:?}");
        assert!(answer.contains("head-too-large; by=outbound"), "{answer}");
    }
    let fits =
        format!("GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\nX-A: {}\r\n\r\n", "a".repeat(50 * 1024));
    let answer = exchange(proxy, fits.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "50 KiB are allowed: {}", &answer[..answer.len().min(300)]);
}

#[tokio::test]
async fn one_byte_a_second_ends_in_a_close_within_the_time_for_a_head() {
    let mesh = mesh().await;
    let mut stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let started = tokio::time::Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api\r\nX-Slow: ").await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    assert!(
        closes_within(&mut read, Duration::from_secs(16)).await,
        "still open after {:?}",
        started.elapsed()
    );
    assert!(started.elapsed() > Duration::from_secs(5), "closed already after {:?}", started.elapsed());
    dripping.abort();
    let metrics = mesh.metrics("web").await;
    assert_eq!(
        metrics.sum("outrigger_limit_reached_total", &[("direction", "outbound")]),
        1.0,
        "{}",
        metrics.lines("outrigger_limit")
    );
    still_serves(&mesh, "a slow head").await;
}

/// Where a flood may come from: a workload, and another proxy's place with a certificate of the mesh.
async fn flood_targets(mesh: &Mesh) -> [(SocketAddr, bool); 2] {
    [(mesh.client("web").proxy(), false), (mesh.instance("api", 0).sidecar().inbound, true)]
}

/// Floods the target with what `write` sends, until the proxy closes the connection; panics if it never does.
async fn flood(mesh: &Mesh, what: &str, frames: impl Fn(u32) -> Vec<(u8, u8, u32, Vec<u8>)>) {
    for (address, inside_tls) in flood_targets(mesh).await {
        if inside_tls {
            let credentials = mesh.credentials("shop", "web").await;
            let stream = tls(address, "p80.api.shop.outrigger", Some(credentials), &[b"h2"]).await.unwrap();
            assert_floods_end(Frames::over(stream).await, what, &frames).await;
        } else {
            assert_floods_end(Frames::connect(address).await, what, &frames).await;
        }
        still_serves(mesh, what).await;
    }
}

async fn assert_floods_end<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut connection: Frames<S>,
    what: &str,
    frames: &impl Fn(u32) -> Vec<(u8, u8, u32, Vec<u8>)>,
) {
    for i in 0..200_000 {
        for (kind, flags, stream, payload) in frames(i) {
            let sent =
                tokio::time::timeout(Duration::from_secs(10), connection.send(kind, flags, stream, &payload));
            match sent.await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return,
                // The proxy stopped reading and we stopped writing: it has to be closing.
                Err(_) => {
                    connection.goaway_and_close().await;
                    return;
                }
            }
        }
        if i % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    panic!("{what}: 200,000 of them and the connection is still open");
}

#[tokio::test]
async fn a_flood_of_resets_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "rapid reset", |i| {
        let stream = 2 * i + 1;
        let headers = get_block("api.shop", "/");
        let end = frame::END_HEADERS | frame::END_STREAM;
        vec![(frame::HEADERS, end, stream, headers), (frame::RST_STREAM, 0, stream, vec![0, 0, 0, 8])]
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_continuations_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "continuation", |i| match i {
        0 => vec![(frame::HEADERS, frame::END_STREAM, 1, get_block("api.shop", "/"))],
        _ => vec![(frame::CONTINUATION, 0, 1, header_block(&[("x-more", "value")]))],
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_empty_continuations_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "empty continuation", |i| match i {
        0 => vec![(frame::HEADERS, frame::END_STREAM, 1, get_block("api.shop", "/"))],
        _ => vec![(frame::CONTINUATION, 0, 1, Vec::new())],
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_settings_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "settings", |_| vec![(frame::SETTINGS, 0, 0, vec![0, 3, 0, 0, 0, 100])]).await;
}

#[tokio::test]
async fn a_flood_of_pings_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "ping", |i| vec![(frame::PING, 0, 0, u64::from(i).to_be_bytes().to_vec())]).await;
}

#[tokio::test]
async fn a_flood_of_priorities_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "priority", |i| vec![(frame::PRIORITY, 0, 2 * i + 1, vec![0, 0, 0, 0, 16])]).await;
}

#[tokio::test]
async fn a_flood_of_window_updates_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "window update", |_| vec![(frame::WINDOW_UPDATE, 0, 0, vec![0, 0, 0, 1])]).await;
}

#[tokio::test]
async fn a_flood_of_empty_data_closes_the_connection() {
    let mesh = mesh().await;
    flood(&mesh, "empty data", |i| match i {
        0 => {
            let block = header_block(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", "api.shop"),
                (":path", "/"),
            ]);
            vec![(frame::HEADERS, frame::END_HEADERS, 1, block)]
        }
        _ => vec![(frame::DATA, 0, 1, Vec::new())],
    })
    .await;
}

#[tokio::test]
async fn a_small_block_that_unfolds_into_a_large_head_is_refused() {
    let mesh = mesh().await;
    let mut connection = Frames::connect(mesh.client("web").proxy()).await;
    // One literal of 4,000 bytes into the dynamic table, then 200 references of one byte to it: 800 KB of head.
    let mut block = get_block("api.shop", "/");
    block.push(0x40);
    block.extend(header_block(&[("x-bomb", &"b".repeat(3900))]).into_iter().skip(1));
    block.extend(std::iter::repeat_n(0x80 | 62, 200));
    connection.send(frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 1, &block).await.unwrap();
    let refused = loop {
        match connection.receive().await {
            Ok(f) if f.kind == frame::RST_STREAM || f.kind == frame::GOAWAY => break true,
            // A whole answer: 431 as the first field is 0x08-prefixed or literal; the application must not see it.
            Ok(f) if f.kind == frame::HEADERS => break mesh.attempts("api") == 0,
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    assert!(refused && mesh.attempts("api") == 0, "a head of 800 KB reached the application");
    still_serves(&mesh, "a header bomb").await;
}

#[tokio::test]
async fn http2_requests_that_http1_could_misread_are_refused() {
    let mesh = mesh().await;
    let base = [(":method", "GET"), (":scheme", "http"), (":authority", "api.shop"), (":path", "/")];
    let bad: &[(&str, &[(&str, &str)])] = &[
        ("a line break in a value", &[("x-a", "b\r\nx-c: d")]),
        ("a NUL in a value", &[("x-a", "b\0c")]),
        ("upper case", &[("X-Upper", "b")]),
        ("a connection field", &[("connection", "close")]),
        ("a transfer coding", &[("transfer-encoding", "chunked")]),
        ("a pseudo field at the end", &[("x-a", "b"), (":path", "/other")]),
        ("an unknown pseudo field", &[(":unknown", "b")]),
        ("a space in a name", &[("x a", "b")]),
    ];
    for (what, more) in bad {
        let mut connection = Frames::connect(mesh.client("web").proxy()).await;
        let fields: Vec<_> = base.iter().chain(more.iter()).copied().collect();
        let end = frame::END_HEADERS | frame::END_STREAM;
        connection.send(frame::HEADERS, end, 1, &header_block(&fields)).await.unwrap();
        // A reset, an error of the connection, or an answer of the proxy's own: all are fine, as long as the
        // application sees nothing of it.
        loop {
            match connection.receive().await {
                Ok(f) if f.stream == 1 || f.kind == frame::GOAWAY => break,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        assert_eq!(mesh.attempts("api"), 0, "{what} reached the application");
    }
    still_serves(&mesh, "bad HTTP/2 requests").await;
}

#[tokio::test]
async fn a_body_that_differs_from_its_length_is_not_passed_off_as_whole() {
    let mesh = mesh().await;
    let mut connection = Frames::connect(mesh.client("web").proxy()).await;
    let block = header_block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "api.shop"),
        (":path", "/"),
        ("content-length", "10"),
    ]);
    connection.send(frame::HEADERS, frame::END_HEADERS, 1, &block).await.unwrap();
    connection.send(frame::DATA, frame::END_STREAM, 1, b"four").await.unwrap();
    loop {
        match connection.receive().await {
            Ok(f) if f.stream == 1 || f.kind == frame::GOAWAY => break,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert_eq!(mesh.instance("api", 0).record().seen().len(), 0);
    still_serves(&mesh, "a body of the wrong length").await;
}

#[tokio::test]
async fn noise_on_every_port_does_no_harm() {
    let mesh = mesh().await;
    let seed = 20_261_120;
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let ports = [
        mesh.client("web").proxy(),
        mesh.instance("web", 0).sidecar().inbound,
        mesh.instance("web", 0).sidecar().admin,
        mesh.instance("api", 0).sidecar().inbound,
        mesh.api_address(),
        mesh.control_address(),
    ];
    let starts: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"POST /v1/apply HTTP/1.1\r\n",
    ];
    for round in 0..60 {
        let mut bytes = starts[round % starts.len()].to_vec();
        bytes.extend((0..rng.random_range(1..3000)).map(|_| rng.random::<u8>()));
        for port in ports {
            let mut stream = TcpStream::connect(port).await.unwrap_or_else(|e| panic!("{port} is gone: {e}"));
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Let it go without reading to the end: some of it looks like the start of something long.
            let _ = tokio::time::timeout(Duration::from_millis(1), read_to_end(&mut stream)).await;
        }
    }
    still_serves(&mesh, &format!("noise from the seed {seed}")).await;
    assert_eq!(mesh.list("/v1/services").await.len(), 1);
}

#[tokio::test]
async fn an_unread_answer_does_not_pile_up_in_the_proxies() {
    let app = streaming(|_request, _call| async move { Ok(http::Response::new(zeros(4 << 30))) });
    let mut mesh = Mesh::builder().processes().service("api", app).client("web").start().await;
    let web = mesh.client("web");
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(web.open(request("GET", "http://api/", &[], empty())).await.unwrap());
    }
    // What can be buffered has been when nothing more moves.
    let cpu = || async { mesh.metrics("web").await.sum("process_cpu_seconds_total", &[]) };
    eventually("the streams stand still", || async {
        let before = cpu().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let spent = cpu().await - before;
        if spent < 0.05 { Ok(()) } else { Err(format!("{spent} s of CPU in 300 ms")) }
    })
    .await;
    for service in ["web", "api"] {
        let (now, _) = mesh.instance_mut(service, 0).process().memory();
        assert!(now < 64 << 20, "{service}'s proxy holds {now} bytes for 20 answers that nobody reads");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mesh = mesh().await;
    let mut stream = TcpStream::connect(mesh.client("web").proxy()).await.unwrap();
    let three: String = (0..3).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: api\r\n\r\n")).collect();
    stream.write_all(three.as_bytes()).await.unwrap();
    for i in 0..3 {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("x-path: /{i}")), "{head}");
    }
}

#[tokio::test]
async fn an_upgrade_that_only_some_servers_would_read_as_http_2_is_not_passed_on() {
    let mesh = mesh().await;
    for protocol in [&b"h2c"[..], b"h2c\xa0", b"\x85h2c", b"h2c,\xff"] {
        let mut message = b"GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
            HTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: "
            .to_vec();
        message.extend_from_slice(protocol);
        message.extend_from_slice(b"\r\n\r\n");
        let answer = exchange(mesh.client("web").proxy(), &message).await;
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let seen = mesh.instance("api", 0).record().seen();
    assert!(!seen.is_empty(), "{}", mesh.explain().await);
    for seen in seen {
        assert_eq!((seen.header("upgrade"), seen.header("http2-settings")), ("", ""));
    }
}

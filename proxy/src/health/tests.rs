use http_body_util::Full;
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket};

use super::*;

#[test]
fn a_workload_is_unhealthy_until_it_answers_and_after_two_failures() {
    let mut tracker = Tracker::new();
    assert_eq!(tracker.record(false), Duration::from_millis(100));
    assert_eq!(tracker.record(false), Duration::from_millis(200));
    assert!((0..20).map(|_| tracker.record(false)).all(|wait| wait <= INTERVAL_FAILING));
    assert!(!tracker.healthy);
    assert_eq!(tracker.record(true), INTERVAL);
    assert!(tracker.healthy);
    assert_eq!(tracker.record(false), INTERVAL_FAILING, "one failure is confirmed soon");
    assert!(tracker.healthy, "one failure is not a verdict");
    assert_eq!(tracker.record(false), INTERVAL_FAILING);
    assert!(!tracker.healthy);
    tracker.record(true);
    assert!(tracker.healthy, "one success is a recovery");
}

async fn http_server(status: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                let status = if request.uri().path() == "/ok" { 200 } else { status };
                http::Response::builder().status(status).body(Full::new(Bytes::from_static(b"hello")))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

async fn grpc_server(serving_status: u8, grpc_status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let trailers = http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    http::HeaderValue::from_static(grpc_status),
                )]);
                let frames = [
                    Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![
                        0,
                        0,
                        0,
                        0,
                        2,
                        8,
                        serving_status,
                    ]))),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
                http::Response::builder().header("content-type", "application/grpc").body(body)
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

#[tokio::test]
async fn tcp_asks_for_a_connection_and_nothing_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let check = Check { address: listener.local_addr().unwrap(), kind: CheckKind::Tcp };
    assert_eq!(probe::ask(&check).await, Ok(()));
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let check = Check { address: bound.local_addr().unwrap(), kind: CheckKind::Tcp };
    assert!(probe::ask(&check).await.is_err());
}

#[tokio::test]
async fn http_goes_by_the_status() {
    let address = http_server(503).await;
    let ask = |path: &str| Check { address, kind: CheckKind::Http { path: path.to_owned() } };
    assert_eq!(probe::ask(&ask("/ok")).await, Ok(()));
    assert_eq!(
        probe::ask(&ask("/broken")).await,
        Err("GET /broken was answered with 503 Service Unavailable".to_owned())
    );
    let moved = Check { address: http_server(302).await, kind: CheckKind::Http { path: "/".to_owned() } };
    assert_eq!(probe::ask(&moved).await, Ok(()));
}

#[tokio::test]
async fn grpc_goes_by_the_serving_status_and_the_trailers() {
    let ask = |address| Check { address, kind: CheckKind::Grpc };
    assert_eq!(probe::ask(&ask(grpc_server(1, "0").await)).await, Ok(()));
    let not_serving = probe::ask(&ask(grpc_server(2, "0").await)).await.unwrap_err();
    assert!(not_serving.contains("not SERVING"), "{not_serving}");
    let unimplemented = probe::ask(&ask(grpc_server(1, "12").await)).await.unwrap_err();
    assert!(unimplemented.contains("grpc-status 12"), "{unimplemented}");
    assert!(probe::ask(&ask(http_server(200).await)).await.is_err(), "an HTTP/1 server is no gRPC server");
}

#[tokio::test]
async fn every_application_port_must_accept() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Bound and not listening: connections are refused, and nobody else can take the port.
    let second = TcpSocket::new_v4().unwrap();
    second.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let check = |address| Check { address, kind: CheckKind::Tcp };
    let (mut health, _tasks) =
        watch(vec![check(first.local_addr().unwrap()), check(second.local_addr().unwrap())]);
    assert!(!health.borrow().healthy, "unhealthy until asked");
    let second = second.listen(16).unwrap();
    tokio::time::timeout(Duration::from_secs(10), health.wait_for(|h| h.healthy)).await.unwrap().unwrap();
    drop(second);
    let sick = tokio::time::timeout(Duration::from_secs(20), health.wait_for(|h| !h.healthy))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(sick.detail.contains("refused"), "{}", sick.detail);
}

#[tokio::test]
async fn a_proxy_without_applications_is_healthy() {
    let (health, _tasks) = watch(Vec::new());
    assert!(health.borrow().healthy);
}

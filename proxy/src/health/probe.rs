//! One question to the application, and whether it was answered well.

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Check, CheckKind};

/// A health answer is a few bytes; more than this is not one.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Asks once. The error is for people.
pub(super) async fn ask(check: &Check) -> Result<(), String> {
    let stream = TcpStream::connect(check.address).await.map_err(|e| e.to_string())?;
    match &check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http { path } => Box::pin(ask_http(stream, &check.address.to_string(), path)).await,
        CheckKind::Grpc => Box::pin(ask_grpc(stream, &check.address.to_string())).await,
    }
}

async fn ask_http(stream: TcpStream, host: &str, path: &str) -> Result<(), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "outrigger-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("the path {path:?} cannot be asked for: {e}"))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(describe)?;
        match response.status() {
            status if (200..400).contains(&status.as_u16()) => Ok(()),
            status => Err(format!("GET {path} was answered with {status}")),
        }
    };
    drive(connection, exchange).await
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// A gRPC frame with an empty `HealthCheckRequest`: the server as a whole.
const REQUEST: &[u8] = &[0, 0, 0, 0, 0];

async fn ask_grpc(stream: TcpStream, host: &str) -> Result<(), String> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(describe)?;
    let uri = Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query("/grpc.health.v1.Health/Check")
        .build()
        .map_err(|e| e.to_string())?;
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "outrigger-health")
        .body(Full::new(Bytes::from_static(REQUEST)))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(describe)?;
        read_grpc(response).await
    };
    drive(connection, exchange).await
}

async fn read_grpc(response: http::Response<Incoming>) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("the health service was answered with {}", head.status));
    }
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?;
    let status = body
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status"))
        .or_else(|| head.headers.get("grpc-status"))
        .map_or("none", |value| value.to_str().unwrap_or("unreadable"))
        .to_owned();
    if status != "0" {
        return Err(format!("the health service ended with grpc-status {status}"));
    }
    let bytes = body.to_bytes();
    let message = bytes.get(5..).ok_or("the health service sent no message")?;
    match <HealthCheckResponse as prost::Message>::decode(message) {
        Ok(answer) if answer.status == SERVING => Ok(()),
        Ok(answer) => Err(format!("the health service says status {}, not SERVING (1)", answer.status)),
        Err(error) => Err(format!("the health service's answer cannot be read: {error}")),
    }
}

/// Runs an exchange while its connection is driven beside it; dropped together, nothing is left running.
async fn drive<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // An ended connection ends the exchange too, with the better error of the two.
        _ = connection => exchange.await,
    }
}

fn describe(error: hyper::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

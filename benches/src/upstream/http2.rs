//! The application of HTTP/2: it answers every call with one small message and the status nought.
//!
//! Prior knowledge, without TLS, shaped like a gRPC server: head, message, trailers.

use std::future::poll_fn;

use anyhow::Result;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

/// The message of each answer: its prefix of five bytes, and ninety-five more.
const MESSAGE: [u8; 100] = {
    let mut message = [b'.'; 100];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 95);
    message
};
const WINDOW_BYTES: u32 = 1 << 20;

/// Answers the calls of one connection, until it ends.
pub(super) async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(1024)
        .handshake(stream)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        // The caller sees how its call ended.
        drop(tokio::spawn(answer(request, respond)));
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut body = request.into_body();
    while let Some(data) = poll_fn(|context| body.poll_data(context)).await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(&MESSAGE), false)?;
    let status = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    stream.send_trailers(HeaderMap::from_iter([status]))?;
    Ok(())
}

//! Streams that are never idle on a few HTTP/2 connections.
//!
//! Closed loop, and shaped like a unary call of gRPC: a POST with a small message, an answer with a small message, and
//! the status in the trailers. Prior knowledge, without TLS, as an application speaks to its sidecar.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::http1::{connect, patiently};
use super::{Load, Recorder, all};
use crate::subject::Entry;

/// The message of each call: its prefix of five bytes, and twenty more.
pub(crate) const MESSAGE: &[u8] = b"\x00\x00\x00\x00\x14call of the benchmar";
/// Windows are never what is measured.
const WINDOW_BYTES: u32 = 1 << 20;

/// Keeps this many streams busy on each of the connections.
///
/// # Errors
/// An authority is none; no thread can be made. Whatever fails later is told when the load is stopped.
pub(crate) fn closed(entry: &Entry, connections: usize, streams: usize) -> Result<Load> {
    let calls = entry.authority.iter().map(|authority| call(authority)).collect::<Result<Vec<_>>>()?;
    if calls.is_empty() {
        bail!("no authority to call");
    }
    let address = entry.address;
    Load::start(move |recorder| async move {
        let calls = Rc::new(calls);
        let mut running = JoinSet::new();
        let mut drivers = JoinSet::new();
        for first in 0..connections {
            let sender = open(address, &mut drivers).await?;
            for stream in 0..streams {
                let (sender, calls, recorder) = (sender.clone(), Rc::clone(&calls), Rc::clone(&recorder));
                running.spawn_local(keep_busy(sender, calls, first * streams + stream, recorder));
            }
        }
        // The connections end with this, and not before.
        all(running, "streams").await
    })
}

/// The head of a call, which is the same every time.
pub(super) fn call(authority: &str) -> Result<Request<()>> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}/bench.Bench/Call"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "outrigger-benches")
        .body(())
        .with_context(|| format!("{authority} is no authority"))
}

pub(super) async fn open(address: SocketAddr, drivers: &mut JoinSet<()>) -> Result<SendRequest<Bytes>> {
    let stream = connect(address).await.context("a connection")?;
    let handshake = Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .enable_push(false)
        .handshake(stream);
    let (sender, connection) = handshake.await.context("a connection")?;
    drivers.spawn_local(async move {
        // Its end shows in every stream on it.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn keep_busy(
    sender: SendRequest<Bytes>,
    calls: Rc<Vec<Request<()>>>,
    first: usize,
    recorder: Rc<Recorder>,
) -> io::Result<()> {
    let mut began = Instant::now();
    for number in first.. {
        if recorder.stopping() {
            break;
        }
        patiently(exchange(&sender, &calls[number % calls.len()])).await?;
        let ended = Instant::now();
        recorder.answered(began, ended);
        began = ended;
    }
    Ok(())
}

/// One call and its whole answer.
pub(super) async fn exchange(sender: &SendRequest<Bytes>, call: &Request<()>) -> io::Result<()> {
    let mut sender = sender.clone().ready().await.map_err(io::Error::other)?;
    let (response, mut body) = sender.send_request(call.clone(), false).map_err(io::Error::other)?;
    body.send_data(Bytes::from_static(MESSAGE), true).map_err(io::Error::other)?;
    let (head, body) = response.await.map_err(io::Error::other)?.into_parts();
    if head.status != 200 {
        return Err(io::Error::other(format!("answered {}: {:?}", head.status, head.headers)));
    }
    if head.headers.contains_key("grpc-status") {
        // An answer of the trailers alone is a failure that something in between has made.
        return Err(io::Error::other(format!("answered without a message: {:?}", head.headers)));
    }
    finished(body).await
}

/// Reads the message, and looks for the status behind it.
async fn finished(mut body: RecvStream) -> io::Result<()> {
    let mut length = 0;
    while let Some(data) = poll_fn(|context| body.poll_data(context)).await {
        let data = match data {
            // All that was to be said has been said: how h2 names an early but complete answer.
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            data => data.map_err(io::Error::other)?,
        };
        length += data.len();
        body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
    }
    let trailers = poll_fn(|context| body.poll_trailers(context)).await.map_err(io::Error::other)?;
    complete(length, trailers.as_ref())
}

fn complete(length: usize, trailers: Option<&HeaderMap>) -> io::Result<()> {
    let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
    if length == 0 || status.is_none_or(|status| status != "0") {
        return Err(io::Error::other(format!("answered with {length} bytes and the trailers {trailers:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn calls_are_answered_on_every_stream() {
        let upstream = Upstream::start().unwrap();
        let entry = Entry { address: upstream.http2, authority: vec!["a".to_owned(), "b".to_owned()] };
        let load = closed(&entry, 2, 3).unwrap();
        load.measure();
        let began = Instant::now();
        while load.done() < 100 && !load.has_ended() {
            assert!(began.elapsed() < Duration::from_secs(20), "{} answers", load.done());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(load.stop().unwrap().latency.len() >= 94, "100 less 6 under way");
    }

    #[test]
    fn only_a_message_and_the_status_nought_make_an_answer() {
        let trailers = |status: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())])
        };
        assert!(complete(5, Some(&trailers("0"))).is_ok());
        assert!(complete(0, Some(&trailers("0"))).is_err());
        assert!(complete(5, Some(&trailers("14"))).is_err());
        assert!(complete(5, None).is_err());
    }

    #[test]
    fn what_is_no_authority_is_refused_before_anything_is_sent() {
        let entry = Entry { address: ([127, 0, 0, 1], 1).into(), authority: vec!["a b".to_owned()] };
        assert!(closed(&entry, 1, 1).unwrap_err().to_string().contains("a b"));
    }
}

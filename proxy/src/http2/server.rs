//! The side that answers requests.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::select;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::pulse::Pulse;
use super::{CONNECTION_WINDOW, Pipe, Received, SEND_BUFFER, STREAM_WINDOW, Tunnel};
use crate::body::Body;
use crate::headers;
use crate::incoming::Incoming;
use crate::notable::Notable;
use crate::strict::MAX_HEAD_BYTES;
use crate::upgrade::Offer;

/// PING towards silent callers, so that connections of dead hosts end.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(15);

/// How long a caller may take to begin, and how long once the proxy leaves: what was accepted may be on its way already.
const PREFACE_PATIENCE: Duration = Duration::from_secs(10);
const LAST_CALL: Duration = Duration::from_secs(1);

/// What one connection may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests at once.
    pub(crate) streams: u32,
    /// Streams that were reset before anybody looked at them.
    pub(crate) resets: usize,
}

/// Serves requests until the caller or an error ends the connection. Once `leaving` is done no new ones are taken, and
/// it ends with the last one under way.
///
/// # Errors
/// The connection broke, or the caller broke the protocol.
pub(crate) async fn serve<F>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    limits: Limits,
    leaving: impl Future<Output = ()>,
    respond: impl Fn(Request<Incoming>) -> F + 'static,
) -> Result<(), h2::Error>
where
    F: Future<Output = Response<Body>> + 'static,
{
    let mut leaving = pin!(leaving);
    let mut builder = Builder::new();
    let handshake = builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.resets)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(io);
    let mut handshake = pin!(handshake);
    let mut leaves = false;
    let connection = select! {
        biased;
        connection = timeout(PREFACE_PATIENCE, &mut handshake) => connection,
        () = &mut leaving => {
            leaves = true;
            timeout(LAST_CALL, &mut handshake).await
        }
    };
    let Ok(connection) = connection else { return Ok(()) };
    let mut connection = connection?;
    if leaves {
        connection.graceful_shutdown();
    }
    let pings = connection.ping_pong().expect("asked for once");
    let mut pulse = Pulse::new(pings, KEEP_ALIVE_EVERY, KEEP_ALIVE_PATIENCE);
    let respond = Rc::new(respond);
    loop {
        let accepted = poll_fn(|cx| {
            if !leaves && leaving.as_mut().poll(cx).is_ready() {
                leaves = true;
                connection.graceful_shutdown();
            }
            if pulse.poll(cx).is_ready() {
                return Poll::Ready(None); // nobody is there to be told
            }
            connection.poll_accept(cx)
        });
        match accepted.await {
            Some(accepted) => {
                let (request, reply) = accepted?;
                spawn_local(answer(respond.clone(), request, reply));
            }
            None => return Ok(()),
        }
    }
}

/// One request and its answer. A reset by the caller drops what is under way.
async fn answer<F>(
    respond: Rc<impl Fn(Request<Incoming>) -> F>,
    request: Request<RecvStream>,
    mut reply: SendResponse<Bytes>,
) where
    F: Future<Output = Response<Body>>,
{
    let (mut head, stream) = request.into_parts();
    let received = Received::new(stream, &head.headers);
    let (request, tunnel) = if head.method == Method::CONNECT {
        let (give, offer) = oneshot::channel();
        Offer::put(&mut head.extensions, offer);
        (Request::from_parts(head, Incoming::Empty), Some((give, received)))
    } else {
        (Request::from_parts(head, Incoming::Http2(received)), None)
    };
    let response = {
        let mut response = pin!(respond(request));
        let first = poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => reply.poll_reset(cx).map(|_| None),
        });
        match first.await {
            Some(response) => response,
            None => return, // the caller has gone
        }
    };
    if let Err(error) = send(response, reply, tunnel).await {
        tracing::debug!(%error, "an answer could not be sent");
    }
}

async fn send(
    response: Response<Body>,
    mut reply: SendResponse<Bytes>,
    tunnel: Option<(oneshot::Sender<Tunnel>, Received)>,
) -> Result<(), h2::Error> {
    let (mut head, body) = response.into_parts();
    if Notable::of(&head.headers).has(Notable::HOP_BY_HOP) {
        headers::strip_hop_by_hop(&mut head.headers); // HTTP/2 has none (RFC 9113 section 8.2.2)
        head.headers.remove(header::TE);
    }
    if let Some((give, received)) = tunnel.filter(|_| head.status.is_success()) {
        head.headers.remove(header::CONTENT_LENGTH); // what follows is no body (RFC 9110 section 9.3.6)
        let stream = reply.send_response(Response::from_parts(head, ()), false)?;
        let _ = give.send(Tunnel::new(stream, received.into_stream())); // it may not be wanted any more
        return Ok(());
    }
    let bodiless = body.is_end_stream();
    if let (false, Some(length)) = (bodiless, body.size_hint().exact()) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let stream = reply.send_response(Response::from_parts(head, ()), bodiless)?;
    if !bodiless {
        Pipe::new(body, stream).await;
    }
    Ok(())
}

//! The side that sends requests.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use h2::client::{Builder, Connection, SendRequest};
use http::{Method, Request, Response, header};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::pulse::Pulse;
use super::{Pipe, Received, SEND_BUFFER, Tunnel};
use crate::body::Body;
use crate::incoming::Incoming;
use crate::snapshot::Http2Policy;
use crate::stream::Stream;
use crate::strict::MAX_HEAD_BYTES;
use crate::upgrade::Offer;

/// A peer that answers no PING for this long is gone.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(5);

/// One connection to a peer, shared by many requests.
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
}

struct State {
    closed: Cell<bool>,
    /// How many requests the peer takes at once.
    streams: Cell<usize>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The connection takes no more requests; this one was not sent.
    Unsent(h2::Error),
    /// It was sent, or part of it.
    Lost(h2::Error),
}

/// Begins HTTP/2 on `stream`. The second part drives the connection and is to be spawned. Until the peer says how many
/// requests it takes at once, that is assumed to be as many as the policy sends.
///
/// # Errors
/// The connection broke.
pub(crate) async fn handshake(
    stream: Stream,
    policy: Http2Policy,
) -> Result<(Client, impl Future<Output = Result<(), h2::Error>> + 'static), h2::Error> {
    let streams = policy.max_streams as usize;
    let (sender, connection) = Builder::new()
        .initial_window_size(policy.stream_window_bytes)
        .initial_connection_window_size(policy.connection_window_bytes)
        .initial_max_send_streams(streams)
        .max_send_buffer_size(SEND_BUFFER)
        // An answer's head may be as big as a request's.
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await?;
    let state = Rc::new(State { closed: Cell::new(false), streams: Cell::new(streams) });
    Ok((Client { sender, state: state.clone() }, drive(connection, state)))
}

async fn drive(mut connection: Connection<Stream, Bytes>, state: Rc<State>) -> Result<(), h2::Error> {
    let pings = connection.ping_pong().expect("asked for once");
    let mut pulse = Pulse::new(pings, KEEP_ALIVE_EVERY, KEEP_ALIVE_PATIENCE);
    let ended = poll_fn(|cx| {
        if pulse.poll(cx).is_ready() {
            tracing::debug!("the peer of a multiplexed connection is gone");
            return std::task::Poll::Ready(Ok(()));
        }
        let ended = Pin::new(&mut connection).poll(cx);
        state.streams.set(connection.max_concurrent_send_streams());
        ended
    });
    let ended = ended.await;
    state.closed.set(true);
    ended
}

impl Client {
    /// Takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        // A GOAWAY shows here before the connection ends.
        let mut context = Context::from_waker(noop_waker_ref());
        self.state.closed.get()
            || matches!(self.sender.clone().poll_ready(&mut context), std::task::Poll::Ready(Err(_)))
    }

    /// How many requests the peer takes at once.
    pub(crate) fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// Sends a request at once, and waits for the head of its answer. Dropping the future resets the stream. What is left of the
    /// request's body when the answer begins goes on in a task of its own, which keeps what `place` makes.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) fn send<P: 'static>(
        &self,
        request: Request<Body>,
        place: impl FnOnce() -> P,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> {
        let mut sender = self.sender.clone();
        let (mut head, body) = request.into_parts();
        let connects = head.method == Method::CONNECT;
        let bodiless = !connects && http_body::Body::is_end_stream(&body);
        if !connects
            && (!bodiless || matches!(head.method, Method::POST | Method::PUT | Method::PATCH))
            && let Some(length) = http_body::Body::size_hint(&body).exact()
        {
            head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        let sent = sender.send_request(Request::from_parts(head, ()), bodiless);
        let sent = sent.map_err(|error| {
            if error.is_go_away() || error.is_io() {
                SendError::Unsent(error)
            } else {
                SendError::Lost(error)
            }
        });
        // The request is with the connection by now, and is not carried along.
        async move {
            let (answer, stream) = sent?;
            if connects {
                let (mut head, receive) = answer.await.map_err(SendError::Lost)?.into_parts();
                if !head.status.is_success() {
                    let body = Incoming::Http2(Received::new(receive, &head.headers));
                    return Ok(Response::from_parts(head, body));
                }
                let (give, offer) = oneshot::channel();
                let _ = give.send(Tunnel::new(stream, receive)); // the other half is right here
                Offer::put(&mut head.extensions, offer);
                return Ok(Response::from_parts(head, Incoming::Empty));
            }
            let mut answer = pin!(answer);
            let mut pipe = (!bodiless).then(|| Pipe::new(body, stream));
            let response = poll_fn(|cx| {
                if pipe.as_mut().is_some_and(|pipe| Pin::new(pipe).poll(cx).is_ready()) {
                    pipe = None;
                }
                answer.as_mut().poll(cx)
            });
            let response = response.await.map_err(SendError::Lost)?;
            if let Some(pipe) = pipe {
                let place = place();
                spawn_local(async move {
                    pipe.await;
                    drop(place);
                });
            }
            let (head, stream) = response.into_parts();
            let body = Incoming::Http2(Received::new(stream, &head.headers));
            Ok(Response::from_parts(head, body))
        }
    }
}

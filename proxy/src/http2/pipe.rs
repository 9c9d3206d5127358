//! A body on its way into a stream.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use crate::body::Body;

/// Sends a body as fast as the peer takes it, one frame at a time. Ends when all has been sent, or when it is of no
/// use to send more; where the body fails, the stream is reset.
pub(crate) struct Pipe {
    body: Body,
    stream: SendStream<Bytes>,
    /// What the peer has no room for yet.
    waiting: Bytes,
    /// The last frame has gone.
    ended: bool,
}

impl Pipe {
    /// Sends `body`, of which nothing has been sent, over `stream`.
    pub(crate) fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: Bytes::new(), ended: false }
    }

    /// Sends what waits; ready when nothing does.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while !self.waiting.is_empty() {
            self.stream.reserve_capacity(self.waiting.len());
            let room = match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(room) => room?,
                    None => return Poll::Ready(Err(Reason::CANCEL.into())),
                },
                room => room,
            };
            let data = self.waiting.split_to(room.min(self.waiting.len()));
            self.ended = self.waiting.is_empty() && self.body.is_end_stream();
            self.stream.send_data(data, self.ended)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            ready!(self.poll_waiting(cx))?;
            if self.ended || self.stream.poll_reset(cx)?.is_ready() {
                return Poll::Ready(Ok(())); // all is sent, or the peer wants no more
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.waiting = data,
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.reserve_capacity(0);
                            return Poll::Ready(self.stream.send_trailers(trailers));
                        }
                    }
                },
                Some(Err(error)) => {
                    self.stream.send_reset(reason_of(&error));
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true)),
            }
        }
    }
}

impl Future for Pipe {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_all(cx).map(|sent| {
            if let Err(error) = sent {
                tracing::debug!(%error, "a body could not be sent to its end");
            }
        })
    }
}

/// Why a body failed, as it is told to the next hop: with the reason of the hop before, if there is one.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}

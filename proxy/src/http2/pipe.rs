//! A body on its way into a stream.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::header;
use http_body::Body as _;

use crate::body::Body;
use crate::headers;
use crate::notable::Notable;

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
            if self.body.is_superseded() {
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_waiting(cx))?;
            if self.ended || self.stream.poll_reset(cx)?.is_ready() {
                return Poll::Ready(Ok(())); // all is sent, or the peer wants no more
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.waiting = data,
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            if Notable::of(&trailers).has(Notable::HOP_BY_HOP) {
                                headers::strip_hop_by_hop(&mut trailers);
                                trailers.remove(header::TE);
                            }
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

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.poll_all(cx)) {
            tracing::debug!(%error, "a body could not be sent to its end");
            self.stream.send_reset(Reason::INTERNAL_ERROR); // the peer must not wait for the rest
        }
        Poll::Ready(())
    }
}

/// Why a body failed, as it is told to the next hop: with the reason of the hop before, if there is one.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason)
            && reason != Reason::NO_ERROR
        {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}

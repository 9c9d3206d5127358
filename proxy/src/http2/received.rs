//! A body that comes in DATA frames.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

/// A stream's body and trailers. Each frame that is given out makes room for the next.
#[derive(Debug)]
pub(crate) struct Received {
    stream: RecvStream,
    data_done: bool,
    /// What Content-Length promises of what has not been given out.
    left: Option<u64>,
}

impl Received {
    /// The body of a message with these fields.
    pub(crate) fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let length = fields.get(header::CONTENT_LENGTH);
        let left = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let left = left.or_else(|| stream.is_end_stream().then_some(0));
        Self { stream, data_done: false, left }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.and_then(|left| left.checked_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    // Whatever the reason: where the peer had ended the stream before, the library says so instead.
                    self.data_done = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|fields| fields.map(Frame::trailers)).transpose())
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }

    /// The stream itself, for what it turns into.
    pub(super) fn into_stream(self) -> RecvStream {
        self.stream
    }
}

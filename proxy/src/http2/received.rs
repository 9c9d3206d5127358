//! A body that comes in DATA frames.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
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
                    self.data_done = true;
                    return Poll::Ready(unless_it_has_ended_well(error));
                }
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|fields| Ok(Frame::trailers(fields)))),
            Err(error) => Poll::Ready(unless_it_has_ended_well(error)),
        }
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

/// A reset without an error says that the rest is not wanted (RFC 9113 section 8.1): the body ends there.
fn unless_it_has_ended_well<T>(error: h2::Error) -> Option<Result<T, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

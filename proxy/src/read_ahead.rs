//! An answer's body, and what was read of it to see whether another attempt is better.
//!
//! A failed gRPC call says so in its trailers, which a server may send after an empty or short message. Where a route
//! retries gRPC codes, the answer is therefore read ahead as long as it comes in one go. What turns out to be a
//! stream is passed on after a few milliseconds; only routes that ask for it wait at all.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::timeout;

use crate::headers;
use crate::incoming::{Incoming, IncomingError};

/// How long the message of a short answer may come after its head, and its trailers after that.
const PATIENCE: Duration = Duration::from_millis(20);

/// The most that is read ahead.
const LIMIT_BYTES: usize = 64 * 1024;

/// A body whose beginning may have been read.
pub(crate) struct ReadAhead {
    early: VecDeque<Frame<Bytes>>,
    rest: Incoming,
}

impl From<Incoming> for ReadAhead {
    fn from(rest: Incoming) -> Self {
        Self { early: VecDeque::new(), rest }
    }
}

impl ReadAhead {
    /// The gRPC status in the trailers, if the answer is short and complete. Waits a moment for each frame, the first
    /// included: the caller of a stream may have nothing more to say before it has seen the head. Everything read will
    /// be given out again.
    pub(crate) async fn grpc_status(&mut self) -> Option<u8> {
        let mut size = 0;
        while size <= LIMIT_BYTES {
            let next = poll_fn(|cx| self.rest.poll_frame(cx));
            // An error shows again when the body is read on.
            let frame = timeout(PATIENCE, next).await.ok()??.ok()?;
            size += frame.data_ref().map_or(0, Bytes::len);
            let status = frame.trailers_ref().map(headers::grpc_status);
            self.early.push_back(frame);
            if let Some(status) = status {
                return status;
            }
        }
        None
    }

    /// The next frame, those read ahead first.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        if let Some(frame) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        Poll::Ready(ready!(self.rest.poll_frame(cx)))
    }

    /// Nothing is left.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.early.is_empty() && self.rest.is_end_stream()
    }

    /// What is left.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let mut hint = self.rest.size_hint();
        let early: u64 = self.early.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + early);
        }
        hint
    }
}

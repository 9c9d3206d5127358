//! The one body type of the request path.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::flight::Tracked;
use crate::incoming::{Incoming, IncomingError};
use crate::replay::Attempt;

/// The body of a request to an upstream or of a response to a caller.
pub(crate) enum Body {
    /// None.
    Empty,
    /// Made by the proxy.
    Whole(Option<Bytes>),
    /// A request body that goes through once.
    Once(Incoming),
    /// A request body that may be sent again.
    Attempt(Attempt),
    /// A response body, watched to its end.
    Tracked(Box<Tracked>),
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The caller closed or reset its side.
    #[error("the request body failed")]
    Caller(#[source] IncomingError),
    /// The upstream closed or reset its side.
    #[error("the response body failed")]
    Upstream(#[source] IncomingError),
    /// Another attempt has taken over.
    #[error("another attempt has taken over")]
    Superseded,
    /// Nothing moved for the idle time.
    #[error("the stream was idle for too long")]
    Idle,
    /// The caller may not have it any more.
    #[error("the caller may not have it any more")]
    Revoked,
    /// The route's time for the whole request has passed.
    #[error("the request took longer than the route allows")]
    TimedOut,
}

impl Body {
    /// Another attempt has taken over: this one's stream is of no use any more.
    pub(crate) fn is_superseded(&self) -> bool {
        matches!(self, Self::Attempt(attempt) if attempt.is_superseded())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::Once(incoming) => incoming.poll_frame(cx).map_err(BodyError::Caller),
            Self::Attempt(attempt) => attempt.poll_frame(cx),
            Self::Tracked(tracked) => tracked.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(data) => data.is_none(),
            Self::Once(incoming) => incoming.is_end_stream(),
            Self::Attempt(attempt) => attempt.is_end_stream(),
            Self::Tracked(tracked) => tracked.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Self::Once(incoming) => incoming.size_hint(),
            Self::Attempt(attempt) => attempt.size_hint(),
            Self::Tracked(tracked) => tracked.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}
